"""Coding agents as people run them, each through Tollway on an upstream of another dialect.

They are given a task of two turns: call a tool that makes a file, then say that it is done.
Each has a home of its own, and nothing to reach but the gateway.
"""

from pathlib import Path
from typing import Any

import pytest
from agents import claude, codex, codex_home, config, gemini, run
from brains import Chat, Messages
from gateway import KEY
from shell import Running, running
from upstreams import upstream

from tollway.daemon.ledger.calls import recent


def check(daemon: Running, home: Path, said: str, asked: list[dict[str, Any]]) -> None:
    """Check the file that the agent made, its last words, and the ledger's rows."""
    assert (home / "work/hello.txt").read_text() == "hi\n"
    assert "It is done." in said
    rows = recent(daemon.server.daemon.ledger.path, limit=50)
    answered = [row for row in rows if row.ending == "answered"]
    assert len(answered) == len(rows) == len(asked) >= 2
    for row in answered:
        assert (row.key, row.user, row.route, row.provider) == ("laptop", "ann", "smart", "up")
        assert (row.input_total, row.output_total) == (100, 20)
        assert row.cost_nanousd == 100 * 1_000 + 20 * 2_000
        assert not row.estimated


@pytest.mark.whole
async def test_claude_code_works_on_a_chat_completions_server(tmp_path: Path) -> None:
    """`claude -p` against a server that knows nothing of Anthropic's API."""
    brain = Chat("Write", {"file_path": str(tmp_path / "work/hello.txt"), "content": "hi\n"})
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "openai-compatible"), server="") as daemon,
    ):
        said = await run(
            tmp_path,
            *(claude(), "-p", "Create hello.txt", "--permission-mode", "acceptEdits"),
            ANTHROPIC_BASE_URL=f"http://127.0.0.1:{daemon.port}",
            ANTHROPIC_AUTH_TOKEN=KEY,
            ANTHROPIC_MODEL="smart",
            ANTHROPIC_SMALL_FAST_MODEL="smart",
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            DISABLE_AUTOUPDATER="1",
            DISABLE_TELEMETRY="1",
        )
        check(daemon, tmp_path, said, brain.asked)


@pytest.mark.whole
@pytest.mark.parametrize(("kind", "brain"), [("anthropic", Messages), ("openai-compatible", Chat)])
async def test_codex_works_on_servers_without_the_responses_api(
    tmp_path: Path,
    kind: str,
    brain: type[Messages] | type[Chat],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`codex exec` against Anthropic's API, and against chat completions."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    model = brain("exec_command", {"cmd": "echo hi > hello.txt"})
    async with (
        upstream([model.answer]) as up,
        running(config(up.port, kind), server="") as daemon,
    ):
        codex_home(tmp_path, daemon.port)
        said = await run(
            tmp_path,
            *(codex(), "exec", "--skip-git-repo-check"),
            *("--dangerously-bypass-approvals-and-sandbox", "Create hello.txt"),
            TOLLWAY_KEY=KEY,
        )
        check(daemon, tmp_path, said, model.asked)


@pytest.mark.whole
@pytest.mark.parametrize(("kind", "brain"), [("anthropic", Messages), ("openai-compatible", Chat)])
async def test_gemini_cli_works_on_servers_without_googles_api(
    tmp_path: Path,
    kind: str,
    brain: type[Messages] | type[Chat],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`gemini -p` against Anthropic's API, and against chat completions."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    path = str(tmp_path / "work/hello.txt")
    model = brain("write_file", {"file_path": path, "content": "hi\n"})
    program = gemini(tmp_path, security={"auth": {"selectedType": "gemini-api-key"}})
    async with (
        upstream([model.answer]) as up,
        running(config(up.port, kind), server="") as daemon,
    ):
        said = await run(
            tmp_path,
            *(program, "--approval-mode", "auto_edit", "--skip-trust", "-p", "Create hello.txt"),
            GOOGLE_GEMINI_BASE_URL=f"http://127.0.0.1:{daemon.port}",
            GEMINI_API_KEY=KEY,
            GEMINI_MODEL="smart",
        )
        check(daemon, tmp_path, said, model.asked)
