"""docs/operations.md and docs/security.md: each command is run, each setting read."""

import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import Server
from tollway.daemon.connection import EdgeLimits

pytestmark = pytest.mark.whole

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("operations", "security")}


def blocks(page: str, language: str) -> list[str]:
    """Return a page's blocks of code in a language; there must be some."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)
    assert found
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a gateway.toml at a free port; whatever runs there is stopped."""
    made = Home(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made.write(
        f'[server]\nlisten = "127.0.0.1:{port}"\nsingle_user = true\nadmin_socket = "t.sock"\n'
    )
    yield made
    made.tollway("down", "--now")


SETTINGS = [(page, block) for page in PAGES for block in blocks(page, "toml")]


@pytest.mark.parametrize(("page", "block"), SETTINGS, ids=[str(at) for at in range(len(SETTINGS))])
def test_every_setting_is_taken_as_it_stands(page: str, block: str) -> None:
    """What people copy must work."""
    assert parse(block, path=Path("gateway.toml")).server != Server()
    assert block in PAGES[page]


def test_every_command_does_what_the_page_says_in_its_order(home: Home) -> None:
    """From `up` to the last `logs`; a service is written and removed, but there is no manager."""
    for block in blocks("operations", "sh") + blocks("security", "sh"):
        for line in block.splitlines():
            words = shlex.split(line)[1:]
            running = home.tollway("status").returncode == 0
            if words[0] != "up" and words[0] != "service" and not running:
                assert home.tollway("up").returncode == 0
            if words[:2] == ["service", "install"]:
                home.tollway("down")
                words += ["--user"] if "--print" in words else ["--user", "--no-start"]
            elif words[0] == "service":
                words += ["--user"]
            ended = home.tollway(*words)
            if words[:2] == ["service", "status"]:
                # The files are there; the manager that would know more is not.
                assert "service install` makes one" not in ended.stderr
            else:
                assert ended.returncode == 0, (line, ended.stdout, ended.stderr)
    assert not (home.path / ".config/systemd/user/tollway.service").exists()


def test_the_bounds_on_the_pages_are_the_code_s() -> None:
    """A number that is told is one that holds."""
    server, edge = Server(), EdgeLimits()
    text = PAGES["operations"]
    assert f"`server.max_queue` ({server.max_queue})" in text
    assert f"`server.max_wait` ({server.max_wait:g} s)" in text
    assert f"`server.max_connections` ({server.max_connections:,}," in text
    assert f"`server.max_connections_per_client` ({server.max_connections_per_client})" in text
    assert f"`server.max_body` ({server.max_body >> 20} MiB" in text
    slow = (
        f"a head has {edge.head_s:g} s, a body {edge.body_idle_s:g} s between two pieces, "
        f"an answer nobody reads {edge.unread_s:g} s"
    )
    assert slow in PAGES["security"]
