"""The lines before targets with slots, through the whole gateway on real sockets."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from gateway import (
    DONE,
    HEAD,
    KEY,
    USED,
    WHOLE,
    Gateway,
    body,
    chunk,
    error,
    gateway,
    whole,
)
from shell import Reply, until
from upstreams import Peer, Step, answer, notes, reads, resets, says, stalls, waits

from tollway.daemon.config.load import parse
from tollway.daemon.errors import ConfigError
from tollway.daemon.gate.queue import QueueState
from tollway.daemon.ledger.calls import recent
from tollway.daemon.ledger.verify import verify

OTHER = "tw-" + "o" * 40
USERS = f"""
[teams.other]
groups = ["all"]
[users.bob]
team = "other"
[keys.bob]
hash = "sha256:{sha256(OTHER.encode()).hexdigest()}"
user = "bob"
"""
SLOT = "slots = 1"


class Turns:
    """An upstream that answers call after call, each when the test says so."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self._go = asyncio.Semaphore(0)

    def script(self) -> list[Step]:
        """Return what each connection does."""

        async def step(peer: Peer) -> None:
            request = await peer.read_request()
            self.begun.append(request)
            await self.turn()
            await peer.say(whole())

        return [step]

    async def turn(self) -> None:
        """Return when the test lets one more call be answered."""
        await self._go.acquire()

    def go(self, times: int = 1) -> None:
        """Let so many calls be answered."""
        for _ in range(times):
            self._go.release()

    def names(self) -> list[str]:
        """Return the `user` field of each call that has begun, in their order."""
        bodies = [request.partition(b"\r\n\r\n")[2] for request in self.begun]
        return [msgspec.json.decode(one).get("user", "") for one in bodies]


def queue(gate: Gateway, target: str = "up") -> QueueState:
    """Return a target's line."""
    states = gate.daemon.server.daemon.queue.states()
    return next(state for state in states if state.target == target)


async def waiting(gate: Gateway, count: int, target: str = "up") -> None:
    """Return when so many wait."""
    await until(lambda: queue(gate, target).waiting == count)


@contextlib.asynccontextmanager
async def asking(*calls: Awaitable[Reply]) -> AsyncIterator[list["asyncio.Task[Reply]"]]:
    """Yield calls under way, and give them up afterwards."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def clean(gate: Gateway) -> None:
    """Check that nothing is held and no slot taken."""
    assert gate.held() == 0
    for state in gate.daemon.server.daemon.queue.states():
        assert (state.running, state.waiting) == (0, 0)


async def test_a_call_over_the_slots_waits_and_is_told_for_how_long() -> None:
    """It is no 429: it is queued with a row and no hold, and served in its turn."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT) as gate:
        path = gate.daemon.server.daemon.ledger.path
        async with asking(gate.ask(), gate.ask()) as (one, other):
            await waiting(gate, 1)
            await until(lambda: len(turns.begun) == 1)
            await until(
                lambda: {call.state for call in recent(path, limit=50)} == {"open", "queued"}
            )
            held = gate.held()
            turns.go(2)
            first, second = sorted(
                [await one, await other], key=lambda reply: int(reply.headers["x-tollway-queue-ms"])
            )
        assert (first.status, second.status) == (200, 200)
        assert first.headers["x-tollway-queue-ms"] == "0"
        rows = [await gate.row(reply) for reply in (first, second)]
        assert held == rows[0].attempts[0].hold_nanousd == rows[1].attempts[0].hold_nanousd
        with contextlib.closing(sqlite3.connect(path)) as db:
            told = dict(db.execute("SELECT id, queue_ms FROM calls").fetchall())
        for reply, row in zip((first, second), rows, strict=True):
            assert (row.call.state, row.call.ending) == ("settled", "answered")
            assert told[row.call.id] == int(reply.headers["x-tollway-queue-ms"])
        clean(gate)
        assert verify(path) == []


async def test_a_target_without_slots_has_no_line() -> None:
    """Who asks for no queue gets none, and no header that speaks of one."""
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask()
        assert "x-tollway-queue-ms" not in reply.headers
        assert gate.daemon.server.daemon.queue.states() == []


async def test_leaving_the_line_costs_nothing_and_frees_the_place() -> None:
    """The client hangs up while it waits: a row at $0, and the next one's turn comes."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT) as gate:
        async with asking(gate.ask()) as (one,):
            await until(lambda: len(turns.begun) == 1)
            async with asking(gate.ask(body(user="left"))):
                await waiting(gate, 1)
            await waiting(gate, 0)
            async with asking(gate.ask(body(user="next"))) as (third,):
                await waiting(gate, 1)
                turns.go(2)
                assert ((await one).status, (await third).status) == (200, 200)
        assert turns.names() == ["", "next"]
        path = gate.daemon.server.daemon.ledger.path
        left = [call for call in recent(path, limit=50) if call.ending == "client_left"]
        assert [(call.state, call.cost_nanousd) for call in left] == [("settled", 0)]
        clean(gate)
        assert verify(path) == []


async def test_the_wait_is_bounded_and_the_refusal_says_so() -> None:
    """After `server.max_wait` a 503 with Retry-After, and a row at $0."""
    turns = Turns()
    server = 'max_wait = "50ms"'
    async with gateway([turns.script()], provider=SLOT, server=server) as gate:
        async with asking(gate.ask()) as (one,):
            await until(lambda: len(turns.begun) == 1)
            reply = await gate.ask()
            turns.go()
            assert (await one).status == 200
        told = error(reply)
        assert (reply.status, told["code"], told["source"]) == (503, "queue_timeout", "gateway")
        assert "for 0.05 s: 1 call at once" in told["message"]
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        row = await gate.row(reply)
        assert (row.call.state, row.call.error, row.call.cost_nanousd) == (
            "refused",
            "queue_timeout",
            0,
        )
        clean(gate)
        assert verify(gate.daemon.server.daemon.ledger.path) == []


async def test_a_route_goes_on_to_its_next_target_when_the_wait_is_over() -> None:
    """The order of a route is a preference: first the line of the first, then the second."""
    turns = Turns()
    route = '[routes.r]\nto = ["up/m", "up1/m"]'
    scripts = [turns.script()], [[reads(), says(whole())]]
    server = 'max_wait = "50ms"'
    async with gateway(*scripts, provider=SLOT, more=route, server=server) as gate:
        async with asking(gate.ask()) as (one,):
            await until(lambda: len(turns.begun) == 1)
            reply = await gate.ask(body(model="r"))
            turns.go()
            await one
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "up1/m")
        assert int(reply.headers["x-tollway-queue-ms"]) >= 50
        row = await gate.row(reply)
        assert [attempt.provider for attempt in row.attempts] == ["up1"]
        clean(gate)


async def test_a_full_line_refuses_who_fills_it_and_not_who_comes_now_and_then() -> None:
    """The user with most calls waiting gives one up (429); another still gets a place."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT, more=USERS, server="max_queue = 2") as gate:
        async with asking(gate.ask()) as running:
            await until(lambda: len(turns.begun) == 1)
            async with asking(*[gate.ask() for _ in range(2)]) as flood:
                await waiting(gate, 2)
                refused = await gate.ask()
                assert (refused.status, error(refused)["code"]) == (429, "queue_full")
                assert int(refused.headers["retry-after"]) >= 1
                async with asking(gate.ask(authorization=f"Bearer {OTHER}")) as (light,):
                    done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
                    assert [task.result().status for task in done] == [429]
                    assert queue(gate).waiting == 2
                    turns.go(3)
                    assert (await light).status == 200
                replies = [await task for task in [*running, *flood]]
        assert sorted(reply.status for reply in replies) == [200, 200, 429]
        clean(gate)
        assert verify(gate.daemon.server.daemon.ledger.path) == []


async def test_the_calls_of_a_light_user_come_next() -> None:
    """One script's thirty calls do not stand before another user's one."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT, more=USERS) as gate:
        async with asking(*[gate.ask(body(user="flood")) for _ in range(10)]) as flood:
            await waiting(gate, 9)
            light = gate.ask(body(user="light"), authorization=f"Bearer {OTHER}")
            async with asking(light) as (reply,):
                await waiting(gate, 10)
                turns.go(11)
                assert (await reply).status == 200
            await asyncio.gather(*flood)
        assert turns.names()[:2] == ["flood", "light"]
        assert len(turns.begun) == 11
        clean(gate)


async def test_batch_calls_let_interactive_ones_go_first() -> None:
    """`x-tollway-priority: batch` waits behind whoever waits too."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT, more=USERS) as gate:
        async with asking(gate.ask()) as (first,):
            await until(lambda: len(turns.begun) == 1)
            batch = gate.ask(
                body(user="batch"), x_tollway_priority="batch", authorization=f"Bearer {OTHER}"
            )
            async with asking(batch) as (later,):
                await waiting(gate, 1)
                async with asking(gate.ask(body(user="prompt"))) as (prompt,):
                    await waiting(gate, 2)
                    turns.go(3)
                    replies = [await first, await later, await prompt]
        assert [reply.status for reply in replies] == [200, 200, 200]
        assert turns.names() == ["", "prompt", "batch"]


async def test_another_priority_is_refused() -> None:
    """A misspelt one must not silently be interactive."""
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(x_tollway_priority="low")
        assert (reply.status, error(reply)["code"]) == (400, "invalid_request")


async def test_a_call_that_no_wait_can_admit_is_refused_before_it_waits() -> None:
    """A budget that is spent already: 402 at once, though the slot is taken."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT, more=USERS) as gate:
        async with asking(gate.ask()) as (one,):
            await until(lambda: len(turns.begun) == 1)
            reply = await gate.ask(body(max_tokens=1_000_000))
            assert (reply.status, error(reply)["code"]) == (402, "insufficient_quota")
            assert queue(gate).waiting == 0
            turns.go()
            await one
        row = await gate.row(reply)
        assert (row.call.state, row.call.error) == ("refused", "insufficient_quota")
        clean(gate)


async def test_slot_and_hold_are_taken_together_or_the_slot_passes_on() -> None:
    """At its turn the budget has no room any more: 402, and the next one is served at once."""
    spends = whole(WHOLE.replace(b'"completion_tokens":3', b'"completion_tokens":4000'))
    turns = Turns()

    async def expensive(peer: Peer) -> None:
        turns.begun.append(await peer.read_request())
        await turns.turn()
        await peer.say(spends)

    scripts: list[list[Step]] = [[expensive], turns.script()]
    # A call holds 8 to 12 of the 12 thousandths of a dollar, and the first one then costs 8.
    async with gateway(scripts, provider=SLOT, more=USERS, budget="0.012/day") as gate:
        async with asking(gate.ask(body(max_tokens=4000))) as (first,):
            await until(lambda: len(turns.begun) == 1)
            async with asking(gate.ask(body(max_tokens=4000))) as (second,):
                await waiting(gate, 1)
                light = gate.ask(body(user="light"), authorization=f"Bearer {OTHER}")
                async with asking(light) as (third,):
                    await waiting(gate, 2)
                    turns.go(2)
                    replies = [await first, await second, await third]
        assert [reply.status for reply in replies] == [200, 402, 200]
        assert turns.names() == ["", "light"]
        row = await gate.row(replies[1])
        assert (row.call.state, row.call.error) == ("refused", "insufficient_quota")
        clean(gate)
        assert verify(gate.daemon.server.daemon.ledger.path) == []


BAD: dict[str, Sequence[Step]] = {
    "reset": [reads(), resets()],
    "closed": [reads()],
    "refused": [reads(), says(whole(b"{}", status="500 Oh"))],
    "garbage": [reads(), says(answer(b"<html>", "Content-Type: text/html"))],
    "cut": [reads(), says(HEAD + chunk("Hel"))],
}


@pytest.mark.parametrize("script", BAD.values(), ids=BAD)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_ending_gives_the_slot_back(script: Sequence[Step], stream: bool) -> None:
    """Whatever became of the call before, the next one is served."""
    good = [reads(), says(HEAD + chunk("Hi", "stop") + USED + DONE)]
    if not stream:
        good = [reads(), says(whole())]
    async with gateway([script, good], provider=SLOT) as gate:
        await gate.ask(body(stream))
        assert (await gate.ask(body(stream))).status == 200
        await until(lambda: queue(gate).running == 0)
        clean(gate)


async def test_a_client_that_leaves_a_running_call_gives_its_slot_to_the_next() -> None:
    """The upstream's connection is closed, and its slot is free."""
    asked = asyncio.Event()
    scripts = [[reads(), notes(asked), stalls()], [reads(), says(whole())]]
    async with gateway(scripts, provider=SLOT) as gate:
        async with asking(gate.ask(), gate.ask()) as (first, second):
            await asked.wait()
            await waiting(gate, 1)
            first.cancel()  # it hangs up
            assert (await second).status == 200
        await until(lambda: queue(gate).running == 0)
        clean(gate)


async def test_a_stream_is_kept_alive_while_it_waits() -> None:
    """SSE comments go out during the wait, and then the answer."""
    go = asyncio.Event()
    good = [reads(), says(HEAD + chunk("Hi", "stop") + USED + DONE)]
    scripts = [[reads(), waits(go), says(whole())], good]
    server = 'keepalive = "20ms"'
    async with gateway(scripts, provider=SLOT, server=server) as gate:
        async with asking(gate.ask()) as (one,):
            await until(lambda: gate.ups[0].requests != [])
            client = await gate.daemon.connect()
            said = body(stream=True)
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: {gate.daemon.host.decode()}\r\n"
                f"authorization: Bearer {KEY}\r\nconnection: close\r\nx-tollway-report: cost\r\n"
                f"content-type: application/json\r\ncontent-length: {len(said)}\r\n\r\n"
            )
            await client.send(head.encode() + said)
            assert b"200 OK" in await client.reader.readuntil(b"\r\n\r\n")
            seen = await client.reader.readuntil(b": keep-alive\n\n")
            assert queue(gate).waiting == 1
            go.set()
            rest = await client.all()
            assert (await one).status == 200
        assert b"data:" not in seen
        assert b"Hi" in rest and b"[DONE]" in rest
        # Its head left before anybody knew, so what it waited is told before the end.
        assert re.search(rb": tollway cost_usd=[0-9.]+ queue_ms=[1-9][0-9]*\n\n", rest)
        clean(gate)


async def test_stopping_sends_those_who_wait_away_and_lets_the_running_end() -> None:
    """No new work: a 503 at once, so that the client can try elsewhere."""
    turns = Turns()
    async with (
        gateway([turns.script()], provider=SLOT) as gate,
        asking(gate.ask(), gate.ask()) as both,
    ):
        await waiting(gate, 1)
        server = gate.daemon.server
        server.stop()
        draining = asyncio.ensure_future(server.drain())
        done, left = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        reply = done.pop().result()
        assert (reply.status, error(reply)["code"]) == (503, "draining")
        assert reply.headers["retry-after"]
        turns.go()
        assert (await left.pop()).status == 200
        await draining


async def test_a_reload_changes_the_slots_for_those_who_wait() -> None:
    """More slots serve at once who waits; none at all, everybody."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT) as gate:
        async with asking(*[gate.ask() for _ in range(5)]) as calls:
            await waiting(gate, 4)
            file = gate.daemon.config
            file.write_text(file.read_text().replace("slots = 1", "slots = 3"))
            await gate.daemon.server.reloader.reload()
            assert (queue(gate).running, queue(gate).waiting) == (3, 2)
            file.write_text(file.read_text().replace("slots = 3", ""))
            await gate.daemon.server.reloader.reload()
            assert queue(gate).waiting == 0
            await until(lambda: len(turns.begun) == 5)
            turns.go(5)
            assert {(await call).status for call in calls} == {200}
        await until(lambda: gate.daemon.server.daemon.queue.states() == [])


async def test_status_and_explain_say_who_waits() -> None:
    """The owner sees each line, and whose calls stand in it."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT, more=USERS) as gate:
        asks = [gate.ask(), gate.ask(), gate.ask(authorization=f"Bearer {OTHER}")]
        async with asking(*asks) as calls:
            await waiting(gate, 2)
            status = (await gate.daemon.ask("GET", "/control/status", admin=True)).json()
            (line,) = status["queues"]
            assert (line["target"], line["slots"], line["running"]) == ("up", 1, 1)
            assert line["waiting"] == sum(team["waiting"] for team in line["teams"]) == 2
            assert {team["team"] for team in line["teams"]} == {"ml", "other"}
            question = msgspec.json.encode({"model": "up/m"})
            told = (await gate.daemon.ask("POST", "/control/explain", question, admin=True)).json()
            assert told["targets"][0]["slots"] == 1
            assert told["targets"][0]["waiting"] == 2
            turns.go(3)
            await asyncio.gather(*calls)


async def test_a_broken_ledger_refuses_at_once_who_would_have_to_wait() -> None:
    """What could not be admitted at its turn must not stand in the line."""
    turns = Turns()
    async with gateway([turns.script()], provider=SLOT) as gate:
        async with asking(gate.ask()) as (one,):
            await until(lambda: len(turns.begun) == 1)
            path = gate.daemon.server.daemon.ledger.path
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                probe = gate.daemon.server.daemon.ledger
                async with asking(gate.ask(body(model="up/x"))) as (waits_,):
                    await until(lambda: probe.problem is not None)
                    reply = await gate.ask()
                    assert (reply.status, error(reply)["code"]) == (503, "ledger_unavailable")
                    db.execute("ROLLBACK")
                    await until(lambda: probe.problem is None)
                    turns.go(2)
                    assert (await waits_).status in {200, 503}
            await one
        await until(lambda: queue(gate).running == 0)
        clean(gate)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("[teams.t]\nshare = 0", "teams.t.share: expected a number from 1 to 1000"),
        ("[teams.t]\nshare = 1001", "teams.t.share: expected a number from 1 to 1000"),
        ("[teams.t]\nshare = 1.5", "teams.t.share: expected a whole number"),
        (
            '[providers.p]\nkind = "openai"\nslots = 0',
            "providers.p.slots: expected a number from 1",
        ),
        ("[server]\nmax_queue = 0", "server.max_queue: expected a number from 1"),
    ],
)
def test_wrong_slots_and_shares_are_named_with_their_line(said: str, wanted: str) -> None:
    """Refused, never bent."""
    with pytest.raises(ConfigError) as refused:
        parse(said, path=Path("gateway.toml"))
    assert wanted in refused.value.message
