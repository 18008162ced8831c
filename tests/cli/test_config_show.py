"""`config check` and `config show`, on real files."""

import json
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
import tomli_w
from program import run
from tomlkit import TOMLDocument

from tollway.cli.config import in_force
from tollway.daemon.config.edit import edit
from tollway.daemon.config.load import parse

GOOD = """\
# Kept: people write comments.
[server]
listen = "[::1]:4141"
budget = ["100/month"]
drain = "1500ms"

[providers.openai]
kind = "openai"
api_key = "keyring:openai"
timeout = { connect = "5s" }
discount = 0.9
commit = { usd = 500.5, per = "quarter" }

[models.small]
gguf = "~/small.gguf"
price = "free"

[groups.most]
models = ["*"]
except = ["openai/o1-pro"]

[teams.ml]
groups = ["most"]
budget = ["0.5/day"]

[users.ada]
team = "ml"

[keys.laptop]
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
user = "ada"
expires = 2027-01-31

[prices."openai/gpt-4o-mini"]
input = 0.15
output = 0.6
"""


def tollway(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the real program in a folder that is also its home."""
    return run(*words, env={"PATH": os.environ["PATH"], "HOME": str(cwd), **env}, cwd=cwd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a good file."""
    (tmp_path / "gateway.toml").write_text(GOOD)
    return tmp_path


def test_a_right_file_is_said_to_be_right(folder: Path) -> None:
    """Exit code 0, and the file that was meant."""
    ended = tollway("config", "check", cwd=folder)
    assert (ended.returncode, ended.stdout) == (0, f"{folder}/gateway.toml is right\n")
    data = json.loads(tollway("config", "check", "--json", cwd=folder).stdout)
    assert data["ok"] is True
    assert data["path"] == f"{folder}/gateway.toml"


def test_a_secret_that_cannot_be_had_is_a_warning(folder: Path) -> None:
    """The file is right all the same: the daemon may be started with other variables."""
    (folder / "gateway.toml").write_text(
        '[providers.a]\nkind = "openai"\napi_key = "env:NO_SUCH_KEY"\n'
    )
    said = "gateway.toml:3: providers.a.api_key: The environment variable `NO_SUCH_KEY` is not set"
    ended = tollway("config", "check", cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, f"warning: {said}\n")
    data = json.loads(tollway("config", "check", "--json", cwd=folder).stdout)
    assert (data["ok"], data["warnings"]) == (True, [said])
    set_here = tollway("config", "check", cwd=folder, NO_SUCH_KEY="sk")
    assert (set_here.returncode, set_here.stderr) == (0, "")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_each_mistake_is_a_line_and_the_exit_code_is_two(folder: Path, more: list[str]) -> None:
    """On stderr, with --json too."""
    (folder / "gateway.toml").write_text('[server]\nlisen = "x"\n\n[providers.a]\nkind = "opnai"\n')
    ended = tollway("config", "check", *more, cwd=folder)
    assert ended.returncode == 2
    assert bool(ended.stdout) is bool(more)
    first, second = ended.stderr.splitlines()[:2]
    assert first.startswith("error: gateway.toml:2: server.lisen: ")
    assert second.startswith("error: gateway.toml:5: providers.a.kind: ")


@pytest.mark.parametrize(
    ("text", "where", "key", "message"),
    [
        ("[server]\nlisen = 1\n", "gateway.toml:2", "server.lisen", "unknown key"),
        ('\n[prices]\n"a: b/c.d" = 1\n', "gateway.toml:3", 'prices."a: b/c.d"', ""),
        ("[server\n", "gateway.toml:1", None, "not valid TOML: "),
        ("\ufeff", "gateway.toml:1", None, "begins with a byte order mark"),
    ],
    ids=["key", "quoted key", "no TOML", "unreadable"],
)
def test_each_mistake_is_an_object_for_programs(
    folder: Path, text: str, where: str, key: str | None, message: str
) -> None:
    """Place, key and reason apart; no key where the file as a whole is wrong."""
    (folder / "gateway.toml").write_text(text)
    ended = tollway("config", "check", "--json", cwd=folder)
    data = json.loads(ended.stdout)
    assert (ended.returncode, data["ok"]) == (2, False)
    problem = data["problems"][0]
    assert (problem["where"], problem["key"]) == (where, key)
    assert problem["message"].startswith(message)


@pytest.mark.parametrize(
    "words",
    [["--config", "there.toml", "config", "check"], ["config", "check", "--config", "there.toml"]],
)
def test_config_may_stand_before_the_command_or_after(folder: Path, words: list[str]) -> None:
    """Both spellings mean the same, and win over what lies in the folder."""
    (folder / "there.toml").write_text("")
    ended = tollway(*words, cwd=folder, TOLLWAY_CONFIG="nowhere.toml")
    assert ended.stdout == f"{folder}/there.toml is right\n"


def test_the_environment_names_a_file(folder: Path) -> None:
    """And a name that leads nowhere is an error, not a reason to take another file."""
    (folder / "there.toml").write_text("")
    named = tollway("config", "check", cwd=folder, TOLLWAY_CONFIG=str(folder / "there.toml"))
    assert named.stdout == f"{folder}/there.toml is right\n"
    wrong = tollway("config", "check", cwd=folder, TOLLWAY_CONFIG="nowhere.toml")
    assert wrong.returncode == 2
    assert "$TOLLWAY_CONFIG" in wrong.stderr


def test_the_file_is_shown_as_it_stands(folder: Path) -> None:
    """Comments and order are the person's."""
    assert tollway("config", "show", cwd=folder).stdout == GOOD


def test_what_is_in_force_reads_back_as_the_same_configuration(folder: Path) -> None:
    """`show --effective` is a whole gateway.toml, defaults spelt out."""
    shown = tollway("config", "show", "--effective", cwd=folder).stdout
    path = folder / "gateway.toml"
    again, first = (parse(text, path=path, home=folder) for text in (shown, GOOD))
    # Warnings name lines, which differ.
    assert msgspec.structs.replace(again, warnings=first.warnings, stated=first.stated) == first
    assert 'max_body = "32MiB"' in shown
    as_json = json.loads(tollway("config", "show", "--json", cwd=folder).stdout)
    assert as_json["server"]["listen"] == "[::1]:4141"
    assert as_json["providers"]["openai"]["api_key"] == "keyring:openai"


def test_a_route_s_cases_survive_being_shown(tmp_path: Path) -> None:
    """Only the conditions that there are: an empty list of names would be refused."""
    path = tmp_path / "gateway.toml"
    text = (
        GOOD
        + """
[routes."claude-*"]
to = [{ target = "openai/a", weight = 0 }, "openai/b"]
aliases = ["x"]
strategy = "weighted"
system_prefix = "Two\\nlines"
max_temperature = 0.5
when = [
    { between = ["22:00", "24:00"], days = "mon", header.X-Tier = "b*", to = ["openai/c"] },
    { budget_over = 0.8, input_over = 0, stream = false, tag.a = ["b", "c"], max_output = 5 },
]
"""
    )
    config = parse(text, path=path, home=tmp_path)
    again = parse(tomli_w.dumps(in_force(config)), path=path, home=tmp_path)
    assert again.routes == config.routes
    assert len(config.routes["claude-*"].when) == 2


def test_a_rotated_key_and_a_soft_budget_survive_being_shown(tmp_path: Path) -> None:
    """The longer spellings are used where the short one would lose something."""
    digest = "sha256:" + "1" * 64
    text = (
        f'[keys.k]\nhash = "{digest}"\nuser = "u"\n'
        f'previous = [{{ hash = "{digest[:-1]}2", until = 2027-01-31T12:00:00Z }}]\n'
        "[users.u]\n"
    )
    path = tmp_path / "gateway.toml"
    config = parse(text, path=path, home=tmp_path)
    assert config.keys["k"].previous
    again = parse(tomli_w.dumps(in_force(config)), path=path, home=tmp_path)
    assert msgspec.structs.replace(again, stated=config.stated) == config


def test_history_lists_versions_and_rollback_brings_one_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was replaced can be had again, also when the file is broken meanwhile."""
    path = folder / "gateway.toml"
    assert "No version is kept yet" in tollway("config", "history", cwd=folder).stderr
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / ".local/share"))

    def without_keys(document: TOMLDocument) -> None:
        document.remove("keys")

    edit(
        path,
        without_keys,
        what="remove the laptop",
        who="grace",
    )
    data = json.loads(tollway("config", "history", "--json", cwd=folder).stdout)
    assert (data[0]["number"], data[0]["who"], data[0]["what"]) == (2, "grace", "remove the laptop")
    path.write_text("[server\n")
    assert "remove the laptop" in tollway("config", "history", cwd=folder).stdout
    refused = tollway("config", "rollback", "1", cwd=folder)
    assert (refused.returncode, path.read_text()) == (2, "[server\n")
    assert "of the keys `laptop`" in refused.stderr
    ended = tollway("config", "rollback", "1", "--yes", cwd=folder)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (
        0,
        "gateway.toml is version 1 again",
    )
    assert path.read_text() == GOOD
    assert tollway("config", "rollback", "99", cwd=folder).returncode == 1
