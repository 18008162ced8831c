"""What agents log of calls that passed the gateway: `import` finds all of them in the ledger."""

import asyncio
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from agents import claude, codex, codex_home, config, run
from brains import Chat
from gateway import KEY
from shell import Running, running
from upstreams import upstream

from tollway.cli import claude_logs, codex_logs
from tollway.cli.agent_calls import Logs
from tollway.cli.imports import seen
from tollway.daemon.ledger.calls import recent
from tollway.daemon.ledger.imports import passed
from tollway.daemon.ledger.spend import By, report


async def check(daemon: Running, logs: Logs, session: str) -> None:
    """Check that every call of the logs passed, and that the ledger knows their session."""
    path = daemon.server.daemon.ledger.path
    assert logs.calls and not logs.unreadable
    found = await asyncio.to_thread(passed, path, [seen(call) for call in logs.calls])
    assert found == {call.key for call in logs.calls}
    assert {row.session for row in recent(path, limit=50)} == {session}
    span: dict[str, Any] = {"since_ms": 0, "until_ms": 2**53, "tz": ZoneInfo("UTC")}
    rows = await asyncio.to_thread(report, path, by=[By.SESSION], **span)
    assert [row.group for row in rows] == [(session,)]


def silent(done: int, of: int) -> None:
    """Say nothing of how far a reading has come."""


@pytest.mark.whole
async def test_calls_of_claude_code_are_not_counted_twice(tmp_path: Path) -> None:
    """Its session is its log's, and its answers' ids are those of the upstream."""
    brain = Chat("Write", {"file_path": str(tmp_path / "work/hello.txt"), "content": "hi\n"})
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "openai-compatible"), server="") as daemon,
    ):
        await run(
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
        where = [tmp_path / ".claude/projects"]
        (log,) = where[0].rglob("*.jsonl")
        await check(daemon, claude_logs.read(where, 0, silent), log.stem)


@pytest.mark.whole
async def test_calls_of_codex_are_not_counted_twice(tmp_path: Path) -> None:
    """The gateway gave translated answers ids of its own: session, time and tokens tell."""
    brain = Chat("exec_command", {"cmd": "echo hi > hello.txt"})
    async with (
        upstream([brain.answer]) as up,
        running(config(up.port, "openai-compatible"), server="") as daemon,
    ):
        codex_home(tmp_path, daemon.port)
        await run(
            tmp_path,
            *(codex(), "exec", "--skip-git-repo-check"),
            *("--dangerously-bypass-approvals-and-sandbox", "Create hello.txt"),
            TOLLWAY_KEY=KEY,
        )
        logs = codex_logs.read([tmp_path / ".codex/sessions"], 0, silent)
        assert len(logs.calls) == 2
        await check(daemon, logs, logs.calls[0].session)
