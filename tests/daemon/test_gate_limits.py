"""Rate limits at every level, on real sockets: calls, tokens, calls at once."""

import asyncio

import pytest
from gateway import CHAT, DONE, HEAD, USED, WHOLE, Gateway, body, chunk, error, whole
from limited import SERVES, USAGE, left, limited, on, refused
from shell import until
from upstreams import Step, floods, reads, resets, says, stalls, waits

from tollway.daemon.ledger.calls import recent


@pytest.mark.parametrize(
    ("table", "whose"),
    [
        ("keys.laptop", "Key `laptop`"),
        ("users.ann", "User `ann`"),
        ("teams.ml", "Team `ml`"),
        ("server", "The whole box"),
    ],
)
async def test_calls_over_a_limit_are_refused_until_it_has_room(table: str, whose: str) -> None:
    """Every level above a call holds it back, says whose limit it is and when to come again."""
    async with limited(limits=on(table, rpm=2)) as (gate, clock):
        assert [(await gate.ask()).status for _ in range(2)] == [200, 200]
        reply = await gate.ask()
        assert refused(reply) == (
            429,
            "rate_limit_exceeded",
            f"{whose} is at its limit of 2 calls a minute (`rpm`): 0 left."
            " There is room again in 30 s",
        )
        assert error(reply)["type"] == "rate_limit_error"
        assert reply.headers["retry-after"] == "30"
        assert "x-should-retry" not in reply.headers
        assert len(gate.ups[0].requests) == 2
        clock.passes(29.9)
        assert (await gate.ask()).status == 429
        clock.passes(0.1)
        assert (await gate.ask()).status == 200
        assert gate.held() == 0


async def test_a_project_limits_the_keys_that_are_billed_to_it() -> None:
    """A key of a project and a user is held back by both."""
    async with limited(limits=on("projects.web", rpm=1) + '\n[projects.web]\nteam = "ml"') as (
        gate,
        _,
    ):
        text = gate.daemon.config.read_text()
        gate.daemon.config.write_text(text.replace('user = "ann"', 'user = "ann"\nproject = "web"'))
        assert (await gate.daemon.ask("POST", "/control/reload", admin=True)).status == 200
        assert [(await gate.ask()).status for _ in range(2)] == [200, 429]


async def test_a_refused_call_is_a_row_that_cost_nothing() -> None:
    """The ledger says who was turned away, and why."""
    async with limited(limits=on("keys.laptop", rpm=1)) as (gate, _):
        await gate.ask()
        reply = await gate.ask()
        # Nobody waits for the row of a refusal.
        await until(lambda: len(recent(gate.daemon.server.daemon.ledger.path, limit=5)) == 2)
        row = await gate.row(reply)
        assert (row.call.state, row.call.error) == ("refused", "rate_limit_exceeded")
        assert row.call.cost_nanousd == 0


async def test_a_refused_call_takes_nothing_from_any_limit_or_budget() -> None:
    """All of them or none: a full team must not use up the key's minute."""
    limits = [on("keys.laptop", rpm=10, tpm=5000, rpd=10, concurrent=3), on("teams.ml", rpm=1)]
    async with limited(limits="\n".join(limits)) as (gate, _):
        await gate.ask()
        before = await left(gate)
        assert (await gate.ask()).status == 429
        assert await left(gate) == before
        assert before["key laptop rpm"] == before["key laptop rpd"] == 9
        assert before["key laptop concurrent"] == 3
        assert before["key laptop tpm"] == 5000 - USAGE
        assert gate.held() == 0


async def test_a_spent_budget_is_told_before_a_full_limit() -> None:
    """Waiting mends a limit, and would only lead to the 402."""
    async with limited(limits=on("keys.laptop", rpm=1), budget="0.00002/day") as (gate, _):
        reply = await gate.ask(body(max_tokens=1, messages=[]))
        assert [reply.status, (await gate.ask()).status] == [402, 402]
        assert (await left(gate))["key laptop rpm"] == 1


async def test_tokens_are_reserved_at_the_worst_case_and_given_back() -> None:
    """Two calls at once may not both have the tokens that are left; afterwards only use counts."""
    go = asyncio.Event()
    held = [reads(), waits(go), says(whole())]
    async with limited([held], limits=on("keys.laptop", tpm=5000)) as (gate, _):
        first = asyncio.create_task(gate.ask(body(max_tokens=3000)))
        await until(lambda: len(gate.ups[0].requests) == 1)
        reserved = 5000 - (await left(gate))["key laptop tpm"]
        assert 3000 < reserved < 5000
        status, code, said = refused(await gate.ask(body(max_tokens=3000)))
        assert (status, code) == (429, "rate_limit_exceeded")
        assert said.startswith("Key `laptop` is at its limit of 5,000 tokens a minute (`tpm`): ")
        assert f"{5000 - reserved} left, and this call may need {reserved:,}" in said
        go.set()
        assert (await first).status == 200
        assert (await left(gate))["key laptop tpm"] == 5000 - USAGE
        assert (await gate.ask(body(max_tokens=3000))).status == 200


async def test_a_call_larger_than_the_limit_is_never_told_to_wait() -> None:
    """No minute has room for it: 400, which no client library tries again."""
    async with limited(limits=on("keys.laptop", tpm=5000)) as (gate, _):
        status, code, said = refused(await gate.ask(body(max_tokens=5000)))
        assert (status, code) == (400, "over_rate_limit")
        assert "more than key `laptop` may ever use in a minute: 5,000 (`tpm`)" in said
        assert not gate.ups[0].requests


@pytest.mark.parametrize("thoughts", [0, 1500])
async def test_a_call_without_a_limit_of_its_own_gets_one_that_fits(thoughts: int) -> None:
    """The default of 16,384 tokens would keep every such call out of a small limit for ever.

    What a model may think beside its answer needs room too.
    """
    beside = {"enable_thinking": True, "thinking_budget": thoughts} if thoughts else {}
    async with limited(limits=on("keys.laptop", tpm=5000)) as (gate, _):
        reply = await gate.ask(body(max_tokens=None, **beside))
        assert reply.status == 200
        written = int(reply.headers["x-tollway-output-limit"])
        assert 3000 < written + thoughts < 5000
        assert b'"max_completion_tokens":%d' % written in gate.ups[0].requests[0]
        assert (await left(gate))["key laptop tpm"] == 5000 - USAGE


async def test_an_upstream_that_passes_its_limit_is_made_up_for() -> None:
    """What was used over the reservation is missing from the minute afterwards."""
    used = WHOLE.replace(b'"completion_tokens":3', b'"completion_tokens":3000')
    async with limited([[reads(), says(whole(used))]], limits=on("keys.laptop", tpm=5000)) as (
        gate,
        _,
    ):
        assert (await gate.ask()).status == 200
        assert (await left(gate))["key laptop tpm"] == 5000 - 3007


async def test_two_hundred_callers_cannot_pass_a_token_limit() -> None:
    """The check and the taking are one step, so a race has nothing to win."""
    go = asyncio.Event()
    async with limited([[reads(), waits(go), says(whole())]], limits=on("users.ann", tpm=5000)) as (
        gate,
        _,
    ):
        calls = [asyncio.create_task(gate.ask(body(max_tokens=100))) for _ in range(200)]
        await until(lambda: sum(call.done() for call in calls) >= 190)
        # Those that were let in have been written down first; 1,120 tokens bound the prompt.
        await until(lambda: len(gate.ups[0].requests) >= 4)
        assert len(gate.ups[0].requests) == 4
        go.set()
        statuses = [reply.status for reply in await asyncio.gather(*calls)]
        assert set(statuses) == {200, 429}
        assert (await left(gate))["user ann tpm"] == 5000 - USAGE * statuses.count(200)


# --- calls at once ------------------------------------------------------------------------------


async def test_calls_at_once_are_refused_not_queued() -> None:
    """`concurrent` on who calls is a 429 at once; the next one in is served."""
    go = asyncio.Event()
    async with limited(
        [[reads(), waits(go), says(whole())]], limits=on("keys.laptop", concurrent=1)
    ) as (gate, _):
        first = asyncio.create_task(gate.ask())
        await until(lambda: len(gate.ups[0].requests) == 1)
        reply = await gate.ask()
        assert refused(reply) == (
            429,
            "rate_limit_exceeded",
            "Key `laptop` is at its limit of 1 call at once (`concurrent`): 0 left."
            " There is room again once one of its calls has ended",
        )
        assert reply.headers["retry-after"] == "1"
        go.set()
        assert (await first).status == 200
        assert (await gate.ask()).status == 200


ENDINGS: dict[str, tuple[list[Step], bytes]] = {
    "answered": (SERVES, body()),
    "streamed": ([reads(), says(HEAD + chunk("Hi", "stop") + USED + DONE)], body(True)),
    "refused": ([reads(), says(whole(b"{}", status="400 Bad Request"))], body()),
    "reset": ([reads(), resets()], body()),
    "broken stream": ([reads(), says(HEAD + chunk("Hi")), resets()], body(True)),
    "garbage": ([reads(), says(whole(b"<html>"))], body()),
    "unbounded": (SERVES, body(n=0)),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_however_a_call_ends_its_place_is_free(ending: str) -> None:
    """A place that leaks is lost until a restart, and after a few of them nobody gets in."""
    script, said = ENDINGS[ending]
    limits = "\n".join([on("keys.laptop", concurrent=1), on("providers.up", concurrent=1)])
    async with limited([script], limits=limits) as (gate, _):
        for _ in range(2):
            reply = await gate.ask(said)
            assert reply.status != 429, reply.body
        await until(lambda: not gate.daemon.server.daemon.active)
        assert set((await left(gate)).values()) == {1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_place(stream: bool) -> None:
    """Nobody reads on, so nothing runs on: before the first byte, and amid a stream."""
    script = [reads(), says(HEAD), floods(chunk("Hi"))] if stream else [reads(), stalls()]
    limits = "\n".join([on("keys.laptop", concurrent=1), on("providers.up", concurrent=1)])
    async with limited([script], limits=limits) as (gate, _):
        client = await gate.daemon.connect()
        said = body(stream)
        await client.send(_head(gate, said) + said)
        await until(lambda: len(gate.ups[0].requests) == 1)
        assert set((await left(gate)).values()) == {0}
        client.close()
        await until(lambda: not gate.daemon.server.daemon.active)
        assert set((await left(gate)).values()) == {1}


async def test_a_crash_of_the_gateway_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug ends its own call alone, and takes no place with it."""
    async with limited(limits=on("keys.laptop", concurrent=1, tpm=5000)) as (gate, _):
        daemon = gate.daemon.server.daemon
        # The one thing here that is not real: no real input makes the gateway crash.
        monkeypatch.setattr(daemon, "transport", None)
        assert (await gate.ask()).status == 500
        monkeypatch.undo()
        assert (await left(gate))["key laptop concurrent"] == 1
        assert (await gate.ask()).status == 200


async def test_a_drain_frees_every_place() -> None:
    """What is cut off at the end of a drain is settled like everything else."""
    async with limited([[reads(), stalls()]], limits=on("keys.laptop", concurrent=2)) as (gate, _):
        calls = [asyncio.create_task(gate.ask()) for _ in range(2)]
        await until(lambda: len(gate.ups[0].requests) == 2)
        for exchange in tuple(gate.daemon.server.daemon.exchanges):
            exchange.cut("drained")
        await asyncio.gather(*calls)
        assert (await left(gate))["key laptop concurrent"] == 2


def _head(gate: Gateway, said: bytes) -> bytes:
    lines = [
        f"POST {CHAT} HTTP/1.1",
        f"host: {gate.daemon.host.decode()}",
        "authorization: Bearer tw-" + "k" * 40,
        "content-type: application/json",
        f"content-length: {len(said)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()
