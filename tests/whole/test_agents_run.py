"""Agents and scripts started by `tollway run`, and agents on a login of their own."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from agents import PATIENCE_S, claude, codex, config, gemini, installed, refuses
from brains import Chat, Messages
from gateway import KEY
from shell import Running, running
from upstreams import Upstream, upstream

from tollway.cli.run_gemini import ITS_MODELS
from tollway.daemon.ledger.calls import recent

pytestmark = pytest.mark.whole

QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
         "DISABLE_TELEMETRY": "1"}  # fmt: skip
CLAUDE = ("-p", "Create hello.txt", "--permission-mode", "acceptEdits")
CODEX = ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
         "Create hello.txt")  # fmt: skip

GEMINI = ("--approval-mode", "auto_edit", "--skip-trust", "-p", "Create hello.txt")


async def run(
    daemon: Running, home: Path, options: tuple[str, ...], command: tuple[str, ...], **env: str
) -> tuple[int, str, str]:
    """Run an agent by `tollway run` in `home/shop`; return its exit code and what was said."""
    words = ("--config", str(daemon.config), "run", *options, "--", *command)
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tollway.cli", *words),
        cwd=_shop(home),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), **QUIET, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await agent.communicate()
    except TimeoutError:
        agent.terminate()
        out, err = await agent.communicate()
        pytest.fail(f"the agent did not end: {(out + err).decode()[-2000:]}")
    assert agent.returncode is not None
    return agent.returncode, out.decode(), err.decode()


def _shop(home: Path) -> Path:
    folder = home / "shop"
    folder.mkdir()
    return folder


def check(daemon: Running, home: Path, ended: tuple[int, str, str], calls: int) -> None:
    """Check what the agent made, what the ledger has of it, and what was told of its cost."""
    code, out, err = ended
    assert code == 0, err[-2000:]
    assert (home / "shop/hello.txt").read_text() == "hi\n"
    assert "It is done." in out
    rows = recent(daemon.server.daemon.ledger.path, limit=50)
    assert len(rows) == calls >= 2
    assert {json.loads(row.tags)["project"] for row in rows} == {"shop"}
    assert len({json.loads(row.tags)["run"] for row in rows}) == 1
    assert {(row.key, row.user, row.route) for row in rows} == {("laptop", "ann", "smart")}
    assert f"· {calls} calls · {calls * 100} tokens in, {calls * 20} out" in err
    assert "up/m" in err


async def test_claude_code_runs_with_nothing_set(tmp_path: Path) -> None:
    """`tollway run -- claude`: no variable, no file; the model is a route of chat completions."""
    brain = Chat("Write", {"file_path": str(tmp_path / "shop/hello.txt"), "content": "hi\n"})
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "openai-compatible"), server="") as daemon,
    ):
        options = ("--as", "laptop", "--model", "smart", "--budget", "5")
        # A person's own key is in the environment: it must not be what is sent.
        own = {"ANTHROPIC_API_KEY": "sk-ant-own"}
        ended = await run(daemon, tmp_path, options, (str(claude()), *CLAUDE), **own)
        check(daemon, tmp_path, ended, len(brain.asked))
        assert b"sk-ant-own" not in b"".join(up.requests)


async def test_claude_code_without_a_model_to_ask_for_is_told_which_there_are(
    tmp_path: Path,
) -> None:
    """It says itself that there is "an issue with the selected model" and no word of ours."""
    async with (
        upstream([refuses]) as up,
        running(config(up.port, "openai-compatible"), server="") as daemon,
    ):
        ended = await run(daemon, tmp_path, ("--as", "laptop"), (str(claude()), *CLAUDE))
        code, _, err = ended
        assert code != 0 and up.requests == []
        way = "none of claude's own models: `tollway run --model smart -- claude`\n"
        assert f"warning: this run may call `smart` and {way}" in err
        assert f"hint: this run may call `smart` and {way}" in err


async def test_codex_runs_with_nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tollway run -- codex exec`: its own files are not touched, and not needed."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    brain = Messages("exec_command", {"cmd": "echo hi > hello.txt"})
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "anthropic"), server="") as daemon,
    ):
        options = ("--as", "laptop", "--model", "smart", "--budget", "5")
        ended = await run(daemon, tmp_path, options, (str(codex()), *CODEX))
        check(daemon, tmp_path, ended, len(brain.asked))
        assert not (tmp_path / ".codex/config.toml").exists()


async def test_gemini_cli_runs_with_nothing_set(tmp_path: Path) -> None:
    """`tollway run -- gemini -p`: also where somebody has signed in to Google with it before."""
    brain = Chat("write_file", {"file_path": str(tmp_path / "shop/hello.txt"), "content": "hi\n"})
    own = gemini(tmp_path, security={"auth": {"selectedType": "oauth-personal"}})
    settings = (tmp_path / ".gemini/settings.json").read_text()
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "openai-compatible"), server="") as daemon,
    ):
        options = ("--as", "laptop", "--model", "smart", "--budget", "5")
        ended = await run(daemon, tmp_path, options, (str(own), *GEMINI))
        check(daemon, tmp_path, ended, len(brain.asked))
        assert (tmp_path / ".gemini/settings.json").read_text() == settings


def test_gemini_cli_s_own_names_of_models_are_all_led_to_the_run_s() -> None:
    """Those of its program: a name that is not led is asked for again without end."""
    named = set()
    for file in (installed() / "node_modules/@google/gemini-cli/bundle").glob("chunk-*.js"):
        text = file.read_text()
        named |= set(
            re.findall(r'^var [A-Z0-9_]+_MODEL = "(gemini-[\w.-]+|flash|pro)";', text, re.M)
        )
    assert {"gemini-3-flash-preview", "flash"} < named
    assert {name for name in named if "embedding" not in name} <= set(ITS_MODELS)


SCRIPT = """
from openai import OpenAI
said = [{"role": "user", "content": "Hi"}]
tool = {"name": "note", "parameters": {"type": "object"}}
for message in range(2):
    answer = OpenAI().chat.completions.create(
        model="smart", messages=said, tools=[{"type": "function", "function": tool}])
    choice = answer.choices[0].message
    for call in choice.tool_calls or ():
        open("hello.txt", "w").write(__import__("json").loads(call.function.arguments)["text"])
        said += [choice, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
print(choice.content)
"""


async def test_a_script_runs_with_nothing_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tollway run -- python script.py`: OpenAI's library, on a server of Anthropic's API."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    (tmp_path / "script.py").write_text(SCRIPT)
    brain = Messages("note", {"text": "hi\n"})
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "anthropic"), server="") as daemon,
    ):
        words = (sys.executable, str(tmp_path / "script.py"))
        ended = await run(daemon, tmp_path, ("--as", "laptop"), words)
        check(daemon, tmp_path, ended, len(brain.asked))


async def test_an_agent_that_reaches_its_budget_ends_and_says_why(tmp_path: Path) -> None:
    """402 is no error to try again: Claude Code shows the gateway's words and stops."""
    brain = Chat("Write", {"file_path": str(tmp_path / "shop/hello.txt"), "content": "hi\n"})
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "openai-compatible"), server="") as daemon,
    ):
        options = ("--as", "laptop", "--model", "smart", "--budget", "0.001")
        code, out, err = await run(daemon, tmp_path, options, (str(claude()), *CLAUDE))
        assert code != 0
        assert "The budget 0.001/total of tag `run=" in out + err
        assert "refused or failed; the last one: The budget 0.001/total of" in err
        assert brain.asked == []


def subscription(up: Upstream, kind: str) -> str:
    """Return a configuration whose provider its callers pay."""
    table = f'kind = "{kind}"\nauth = "caller"\nserves = ["*"]\nbase_url = '
    text = config(up.port, kind).replace('api_key = "env:UP_KEY"\n', "")
    begin, end = text.index("kind ="), text.index("[prices.")
    return f'{text[:begin]}{table}"http://127.0.0.1:{up.port}/v1"\n{text[end:]}'


async def test_claude_code_keeps_its_subscription(tmp_path: Path) -> None:
    """Its login goes to the provider, the Tollway key in a header of its own to the gateway."""
    brain = Messages("Write", {"file_path": str(tmp_path / "shop/hello.txt"), "content": "hi\n"})
    async with (
        upstream([brain.answer]) as up,
        running(subscription(up, "anthropic"), server="") as daemon,
    ):
        options = ("--as", "laptop", "--model", "smart")
        login = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-subscription"}
        ended = await run(daemon, tmp_path, options, (str(claude()), *CLAUDE), **login)
        check(daemon, tmp_path, ended, len(brain.asked))
        for request in up.requests:
            assert b"Authorization: Bearer sk-ant-oat01-subscription".lower() in request.lower()
            assert b"tw-" not in request
        assert "your own account; $" in ended[2]
        assert "tollway: $0.00 ·" in ended[2]


async def test_codex_keeps_its_login(tmp_path: Path) -> None:
    """What stands in its auth.json goes to the provider, under Codex's own headers."""
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex/auth.json").write_text('{"OPENAI_API_KEY": "sk-own-login"}')
    async with (
        upstream([refuses]) as up,
        running(subscription(up, "openai"), server="") as daemon,
    ):
        options = ("--as", "laptop", "--model", "smart")
        _, _, err = await run(daemon, tmp_path, options, (str(codex()), *CODEX))
        asked = [one for one in up.requests if one.startswith(b"POST /v1/responses")]
        assert asked, err[-2000:]
        assert all(b"bearer sk-own-login" in one.lower() for one in asked)
        assert not [one for one in asked if KEY.encode() in one or b"tw-" in one]
