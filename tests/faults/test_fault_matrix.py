"""Every fault of an upstream, in every pair of dialects, streamed and whole.

A right answer, by the next target where nothing had been shown yet, or a right error in the
caller's dialect, in bounded time; the right row, the right bill, and nothing left over.

All cells run with `-m long`; every run has a sample with each fault, each pair, and both modes.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import msgspec
import pytest
import pytest_asyncio
from broken_streams import EVERY_PAIR as PAIRS
from fault_world import (
    ANSWERED,
    FAULTS,
    Fault,
    FaultWorld,
    data_of,
    error_of,
    fault_world,
    name_of,
)
from shell import until

from tollway.daemon.gate.attempt import Attempt
from tollway.daemon.gate.send import Exchange
from tollway.daemon.ledger.calls import CallDetail, one
from tollway.daemon.ledger.verify import verify
from tollway.providers.canon import Call
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.http.client import HttpTransport
from tollway.providers.sse import Splitter

Cell = tuple[str, str, str, bool]
WITHIN_S = 15.0  # far more than any cell takes; a call that hangs is what it is to catch


def cells() -> Iterator[Any]:
    """Yield every cell; those that are in no sample are for `-m long`."""
    for number, fault in enumerate(FAULTS):
        sample = {(PAIRS[(number + stream * 7) % len(PAIRS)], bool(stream)) for stream in (0, 1)}
        for client, source in PAIRS:
            for stream in (False, True):
                marks = () if ((client, source), stream) in sample else (pytest.mark.long,)
                mode = "stream" if stream else "whole"
                name = f"{fault}-{client}-{source}-{mode}"
                yield pytest.param(fault, client, source, stream, marks=marks, id=name)


def test_the_sample_has_every_fault_pair_and_mode() -> None:
    """What runs each time leaves no row and no column of the matrix out."""
    sample = [one.values for one in cells() if not one.marks]
    assert {one[0] for one in sample} == set(FAULTS)
    assert {(one[1], one[2]) for one in sample} == set(PAIRS)
    assert {one[3] for one in sample} == {False, True}
    assert len(list(cells())) == len(FAULTS) * len(PAIRS) * 2


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultWorld]:
    """Yield one world for all cells; at the end nothing of their calls is left in memory."""
    async with fault_world(tmp_path_factory.mktemp("tls")) as world:
        before = len(world.daemon.server.daemon.tasks)
        yield world
        daemon = world.daemon.server.daemon
        await until(lambda: verify(daemon.ledger.path) == [])
        assert len(daemon.tasks) == before
        gc.collect()
        left = [one for one in gc.get_objects() if isinstance(one, Attempt | Exchange)]
        assert left == []


@pytest.mark.parametrize(("fault", "client", "source", "stream"), list(cells()))
@pytest.mark.asyncio(loop_scope="module")
async def test_a_fault_is_a_right_answer_or_a_right_error(
    behind: FaultWorld, fault: str, client: str, source: str, stream: bool
) -> None:
    """Alone its error is told; with another target behind it that one answers."""
    expected = FAULTS[fault](source, stream)
    behind.now_does(expected)
    provider = name_of(expected.at, source)
    async with asyncio.timeout(WITHIN_S):
        alone, both = await asyncio.gather(
            behind.ask(client, f"alone/{provider}", stream),
            behind.ask(client, f"next/{provider}", stream),
        )
        row = await row_of(behind, alone)
        if expected.ending == ANSWERED:
            answered(client, stream, alone)
        else:
            failed(client, stream, alone, row, expected)
        billed(row, expected)
        row = await row_of(behind, both)
        first = row.attempts[0]
        if expected.shows and first.first_ms is not None:
            assert len(row.attempts) == 1  # there is no way back
            failed(client, stream, both, row, expected)
        elif expected.passes_on:
            answered(client, stream, both)
            assert [one.ending for one in row.attempts[1:]] == [ANSWERED]
            assert both.headers["x-tollway-attempts"] == "2"
            assert both.headers["x-tollway-target"].startswith("good-")
            assert row.call.cost_nanousd == sum(one.cost_nanousd for one in row.attempts)
        else:
            answered(client, stream, both)
        billed(row, expected)
    await nothing_left(behind)


async def row_of(world: FaultWorld, reply: httpx2.Response) -> CallDetail:
    """Return a call's row once it is settled."""
    path = world.daemon.server.daemon.ledger.path
    call_id = reply.headers["x-tollway-request-id"]
    await until(lambda: one(path, call_id).call.state != "open")
    return one(path, call_id)


def answered(client: str, stream: bool, reply: httpx2.Response) -> None:
    """Check that a reply is a whole answer in the client's dialect."""
    assert reply.status_code == 200, reply.content
    kind = "text/event-stream" if stream else "application/json"
    assert reply.headers["content-type"].startswith((kind, "text/event-stream"))
    call = Call("chat", client, "m", b"{}", stream=stream, wants_usage=True)
    reader = DIALECTS[client].dialect.reader(call, frozenset())
    if stream:
        for event in Splitter().feed(reply.content):
            reader.event(event)
        assert reader.ended, reply.content
    else:
        reader.whole(reply.content)
    assert reader.begun and not reader.failed


def failed(
    client: str, stream: bool, reply: httpx2.Response, row: CallDetail, expected: Fault
) -> None:
    """Check that a reply is the error that it must be, and its row with it."""
    shown = expected.shows and row.attempts[0].first_ms is not None
    if shown and stream:
        assert reply.status_code == 200
        assert error_of(client, data_of(reply.content)[-1]), reply.content
        assert b"[DONE]" not in reply.content
    else:
        assert reply.status_code in expected.statuses, reply.content
        assert reply.headers["content-type"].startswith("application/json")
        assert error_of(client, msgspec.json.decode(reply.content)), reply.content
    if "error" in reply.text and expected.ending == "upstream_refused":
        assert "Oh" in reply.text
    assert len(row.attempts) == 1


def billed(row: CallDetail, expected: Fault) -> None:
    """Check the first attempt's ending and what it costs."""
    first = row.attempts[0]
    shown = expected.shows and first.first_ms is not None
    endings = {expected.ending, expected.or_ending}
    if expected.shows and not shown:
        endings |= {"garbage", "upstream_broke", "upstream_refused"}
    assert first.ending in endings
    match expected.bill:
        case "nothing":
            assert (first.cost_nanousd, first.estimated) == (0, False)
        case "hold":
            assert first.cost_nanousd == first.hold_nanousd > 0
            assert first.estimated
        case "some" if shown:
            assert 0 < first.cost_nanousd <= first.hold_nanousd
            assert first.estimated
        case "answer":
            assert first.cost_nanousd > 0
            assert not first.estimated
    assert first.overrun_nanousd == 0


async def nothing_left(world: FaultWorld) -> None:
    """Return once nothing is held, under way or open but what waits to be used again."""
    daemon = world.daemon.server.daemon
    await until(lambda: daemon.active == 0 and not daemon.exchanges)
    assert all(state.held_nanousd == 0 for state in daemon.gate.purse.states())
    transport = daemon.transport
    assert isinstance(transport, HttpTransport)
    await until(lambda: transport.open_connections == transport.idle_connections)


logging.getLogger("httpx2").setLevel(logging.WARNING)
