"""Which session a call belongs to, as the ledger and reports have it; refused calls too."""

import asyncio
import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from gateway import KEY, Gateway, body, gateway, whole
from program import Home
from shell import until
from upstreams import reads, says

from tollway.daemon.gate.session import session_of
from tollway.daemon.gate.tags import read
from tollway.daemon.ledger.spend import By, report

ALWAYS: dict[str, Any] = {"since_ms": 0, "until_ms": 2**53, "tz": ZoneInfo("UTC")}


@pytest.mark.parametrize(
    ("headers", "tags", "run", "session"),
    [
        ({"x-tollway-session": "mine", "session_id": "codex"}, "session=tag", "r1", "mine"),
        ({"session_id": "codex"}, "session=tag,run=r1", "r1", "tag"),
        ({"session_id": "codex"}, "run=r1", "r1", "codex"),
        ({"session-id": "codex"}, "", "", "codex"),
        ({"x-claude-code-session-id": "claude", "session_id": "x"}, "", "", "claude"),
        ({}, "run=r1", "r1", "r1"),
        ({}, "sessions=x", "", ""),
        ({"x-tollway-session": "a\u00e4\x07" + "b" * 200}, "", "", "a??" + "b" * 97),
    ],
)
def test_the_first_that_names_a_session_does(
    headers: dict[str, str], tags: str, run: str, session: str
) -> None:
    """A caller's own word first, then its tag, its agent's name for it, and its run."""
    assert session_of(headers, read([tags]), run) == session


async def by_session(gate: Gateway) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the calls and the refused ones by session and run."""
    path = gate.daemon.server.daemon.ledger.path
    rows = await asyncio.to_thread(report, path, by=[By.SESSION, "tag:run"], **ALWAYS)
    return {row.group: (row.calls, row.refused) for row in rows}


async def test_calls_and_refused_calls_have_their_session_and_tags() -> None:
    """By the headers of the call, whether it was sent or not."""
    async with gateway([[reads(), says(whole())]]) as gate:
        headers: dict[str, Any] = {"x-tollway-session": "s1", "x-tollway-tags": "run=7"}
        row = await gate.row(await gate.ask(**headers))
        assert (row.call.session, row.call.tags) == ("s1", '{"run":"7"}')
        missing = await gate.ask(body(model="nobody/has-it"), **headers)
        assert missing.status == 404
        await gate.row(await gate.ask())
        path = gate.daemon.server.daemon.ledger.path

        def counted() -> bool:
            rows = report(path, by=[By.SESSION], **ALWAYS)
            return sum(one.refused for one in rows if one.group == ("s1",)) == 1

        await until(counted)
        found = await by_session(gate)
        assert found["s1", "7"] == (1, 1)
        assert found["", ""] == (1, 0)


async def test_a_member_sees_the_numbers_of_the_report(tmp_path: Path) -> None:
    """`usage` over HTTP and `spend` of the ledger: the same calls, tokens and dollars."""
    async with gateway([[reads(), says(whole())]], budget="5/day") as gate:
        for _ in range(3):
            await gate.row(await gate.ask())
        home = Home(tmp_path)
        url = f"http://127.0.0.1:{gate.daemon.port}"
        shown = await asyncio.to_thread(
            lambda: home.tollway("usage", "--json", TOLLWAY_KEY=KEY, TOLLWAY_URL=url)
        )
        used = json.loads(shown.stdout)["usage"]
        words = ("--config", str(gate.daemon.config), "spend", "--by", "user,provider,model")
        for word in ("today", "month"):
            told = await asyncio.to_thread(home.tollway, *words, "--since", word, "--json")
            (row,) = json.loads(told.stdout)["rows"]
            assert row["group"] == {"user": "ann", "provider": "up", "model": "m"}
            (model,) = used[word]["models"]
            for name in ("calls", "refused", "unpriced", "cost_usd", "input_tokens"):
                assert model[name] == row[name]
            assert model["output_tokens"] == row["output_tokens"] == 9
