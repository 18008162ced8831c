"""The settings of docs/agents.md, taken from the page and run as they stand."""

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agents import PATIENCE_S, claude, codex, config, gemini, python, refuses
from brains import Chat, Messages
from gateway import KEY
from shell import Running, running
from upstreams import upstream

from tollway.daemon.config.load import parse
from tollway.daemon.ledger.calls import recent

pytestmark = pytest.mark.whole

PAGE = (Path(__file__).parents[2] / "docs/agents.md").read_text()
QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
         "DISABLE_TELEMETRY": "1"}  # fmt: skip


def blocks(heading: str, language: str) -> list[str]:
    """Return a section's blocks of code in a language; there must be some."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found


def at(text: str, port: int) -> str:
    """Return settings with this gateway's address and key in the place of the page's."""
    assert "4141" in text
    return text.replace("127.0.0.1:4141", f"127.0.0.1:{port}").replace("tw-your-key", KEY)


def exported(text: str) -> dict[str, str]:
    """Return the variables that a block of shell sets; it does nothing else."""
    found = {}
    for line in filter(None, text.splitlines()):
        word, pair = shlex.split(line)
        assert word == "export"
        name, _, value = pair.partition("=")
        found[name] = value
    return found


@asynccontextmanager
async def server(brain: Chat | Messages, kind: str) -> AsyncIterator[Running]:
    """Yield a gateway whose route `smart` leads to a scripted upstream."""
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, kind), server="") as daemon,
    ):
        yield daemon


async def run(home: Path, *command: str | Path, env: dict[str, str], fails: bool = False) -> str:
    """Run a program in an environment that has nothing else; return what it said."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), **QUIET, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode != 0) is fails, said.decode()[-2000:]
    return said.decode()


async def test_claude_code_s_settings_work(tmp_path: Path) -> None:
    """The block under its heading is all that it needs."""
    async with server(Chat("none", {}), "openai-compatible") as daemon:
        (text,) = blocks("Claude Code", "sh")
        said = await run(tmp_path, claude(), "-p", "Hi", env=exported(at(text, daemon.port)))
        assert "It is done." in said
        assert {row.key for row in recent(daemon.server.daemon.ledger.path, limit=9)} == {"laptop"}


async def test_codex_s_settings_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file under its heading is a whole one."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    async with server(Messages("none", {}), "anthropic") as daemon:
        (text,) = blocks("Codex", "toml")
        _codex_home(tmp_path, at(text, daemon.port))
        words = ("exec", "--skip-git-repo-check", "Hi")
        assert "It is done." in await run(tmp_path, codex(), *words, env={"TOLLWAY_KEY": KEY})


def _codex_home(home: Path, text: str) -> None:
    (home / ".codex").mkdir()
    (home / ".codex/config.toml").write_text(f"check_for_update_on_startup = false\n{text}")


async def test_gemini_cli_s_settings_work(tmp_path: Path) -> None:
    """The variables and the file under its heading are all that it needs."""
    async with server(Chat("none", {}), "openai-compatible") as daemon:
        (text,), (settings,) = blocks("Gemini CLI", "sh"), blocks("Gemini CLI", "json")
        program = gemini(tmp_path, **json.loads(settings))
        words = (program, "--skip-trust", "-p", "Hi")
        assert "It is done." in await run(tmp_path, *words, env=exported(at(text, daemon.port)))
        rows = recent(daemon.server.daemon.ledger.path, limit=9)
        assert {(row.key, row.route) for row in rows} == {("laptop", "smart")}


async def test_llm_s_settings_work(tmp_path: Path) -> None:
    """The file under its heading makes the route one of its models."""
    async with server(Chat("none", {}), "openai-compatible") as daemon:
        (text,) = blocks("llm", "yaml")
        (tmp_path / "extra-openai-models.yaml").write_text(at(text, daemon.port))
        (tmp_path / "keys.json").write_text(json.dumps({"tollway": KEY}))
        env = {"LLM_USER_PATH": str(tmp_path)}
        said = await run(tmp_path, python(), "-m", "llm", "-m", "smart", "Hi", env=env)
        assert said == "It is done.\n"


@pytest.mark.parametrize("heading", ["Libraries", "Gemini CLI"])
async def test_the_libraries_settings_work(tmp_path: Path, heading: str) -> None:
    """Each library finds the gateway and its key by the variables alone."""
    async with server(Chat("none", {}), "openai-compatible") as daemon:
        (text,) = blocks(heading, "sh")
        (program,) = blocks("Libraries", "python")
        env = exported(at(text, daemon.port))
        wanted = 4
        if heading == "Gemini CLI":
            lines = program.splitlines()
            program = "\n".join(line for line in lines if "genai" in line or "google." in line)
            assert env.pop("GEMINI_MODEL") == "smart"
            wanted = 1
        said = await run(tmp_path, sys.executable, "-c", program, env=env)
        assert said.splitlines() == ["It is done."] * wanted
        rows = recent(daemon.server.daemon.ledger.path, limit=9)
        assert len(rows) == wanted
        assert {(row.key, row.ending) for row in rows} == {("laptop", "answered")}


async def test_the_settings_of_a_subscription_work(tmp_path: Path) -> None:
    """The provider's table is accepted; Claude Code and Codex send both credentials."""
    providers, own = blocks("On your own subscription", "toml")
    loaded = parse(providers, path=Path("gateway.toml"))
    assert not loaded.warnings
    assert {one.auth for one in loaded.providers.values()} == {"caller"}
    brain = Messages("none", {})
    async with upstream([brain.answer]) as up:
        text = config(up.port, "anthropic").replace('api_key = "env:UP_KEY"', 'auth = "caller"')
        async with running(text, server="") as daemon:
            (shell,) = blocks("On your own subscription", "sh")
            env = exported(at(shell, daemon.port))
            env |= {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-mine", "ANTHROPIC_MODEL": "smart"}
            env["ANTHROPIC_SMALL_FAST_MODEL"] = "smart"
            assert "It is done." in await run(tmp_path, claude(), "-p", "Hi", env=env)
            assert all(b"bearer sk-ant-oat01-mine" in one.lower() for one in up.requests)
    async with upstream([refuses]) as up:
        text = config(up.port, "openai").replace("base_url", 'auth = "caller"\nbase_url')
        async with running(text, server="") as daemon:
            _codex_home(tmp_path, at(own, daemon.port))
            (tmp_path / ".codex/auth.json").write_text('{"OPENAI_API_KEY": "sk-own-login"}')
            words = ("exec", "--skip-git-repo-check", "-m", "smart", "Hi")
            await run(tmp_path, codex(), *words, fails=True, env={"TOLLWAY_KEY": KEY})
            asked = [one for one in up.requests if one.startswith(b"POST /v1/responses")]
            assert asked and all(b"bearer sk-own-login" in one.lower() for one in asked)
