"""`ledger.bodies`: what is kept of prompts and replies, of which calls, and what never is."""

import asyncio
from pathlib import Path

import pytest
from gateway import DONE, HEAD, KEY, SSE, USED, WHOLE, Gateway, body, chunk, events, gateway, whole
from shell import until
from upstreams import chunked, drips, reads, says

from tollway.daemon.gate.keep import KeepingPipe
from tollway.daemon.ledger.bodies import LOOK_AHEAD, MOST_BYTES, Body, of_call
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.verify import verify

ALL, ERRORS = 'bodies = "all"', 'bodies = "errors"'
ANSWERS = [reads(), says(whole())]
REFUSES = [reads(), says(whole(b'{"error":{"message":"no such thing"}}', status="400 Bad"))]


def ledger_of(gate: Gateway) -> Path:
    """Return the ledger's path."""
    return gate.daemon.server.daemon.ledger.path


async def kept(gate: Gateway, call_id: str) -> list[Body]:
    """Return what was kept of a call, once it is."""
    await until(lambda: bool(of_call(ledger_of(gate), call_id)))
    return of_call(ledger_of(gate), call_id)


async def count(gate: Gateway) -> int:
    """Return how many bodies the ledger has."""
    with reading(ledger_of(gate)) as db:
        found = db.execute("SELECT count(*) FROM bodies").fetchone()
    return int(found[0])


async def test_a_whole_answer_is_kept_as_it_was_given() -> None:
    """The request as the client sent it, not as the provider got it; the answer to the byte."""
    async with gateway([ANSWERS], ledger=ALL) as gate:
        reply = await gate.ask(body(temperature=0.5))
        found = await kept(gate, reply.headers["x-tollway-request-id"])
        assert [(one.kind, one.text) for one in found] == [
            ("request", body(temperature=0.5).decode()),
            ("answer", WHOLE.decode()),
        ]
        assert [one.size for one in found] == [len(body(temperature=0.5)), len(WHOLE)]
        assert not any(one.cut for one in found)
        assert await asyncio.to_thread(verify, ledger_of(gate)) == []


async def test_a_stream_is_kept_event_by_event() -> None:
    """What the client saw: without the usage chunk that only the gateway asked for."""
    said = HEAD + chunk("Hel") + chunk("lo") + chunk(finish="stop") + USED + DONE
    async with gateway([[reads(), says(said)]], ledger=ALL) as gate:
        reply = await gate.ask(body(True))
        found = await kept(gate, reply.headers["x-tollway-request-id"])
        assert found[1].text.encode() == b"".join(events(reply))
        assert "prompt_tokens" not in found[1].text


async def test_a_stream_that_comes_in_chunks_of_an_event_is_kept() -> None:
    """What could be passed on in the framing that it came in: the framing is not kept."""
    said = [chunk(f"{number} ") for number in range(30)]
    wire = chunked(*said, chunk(finish="stop"), USED, DONE, headers=f"{SSE}\r\n")
    pieces = wire.replace(b"\n\n\r\n", b"\n\n\r\n|").split(b"|")
    async with gateway([[reads(), drips(pieces)]], ledger=ALL) as gate:
        reply = await gate.ask(body(True))
        found = await kept(gate, reply.headers["x-tollway-request-id"])
        assert events(reply) == [*said, chunk(finish="stop"), DONE]
        assert found[1].text.encode() == b"".join(events(reply))
        assert found[1].size == len(found[1].text)


async def test_errors_keeps_what_failed_and_nothing_else() -> None:
    """Answered calls leave no trace; one that a provider refused has both sides."""
    async with gateway([ANSWERS, REFUSES], ledger=ERRORS) as gate:
        good = await gate.ask()
        bad = await gate.ask()
        assert (good.status, bad.status) == (200, 400)
        found = await kept(gate, bad.headers["x-tollway-request-id"])
        assert [one.kind for one in found] == ["request", "answer"]
        assert "no such thing" in found[1].text
        assert await count(gate) == 2


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    """Its answer ends with the event that told the client so."""
    said = HEAD + chunk("Hel") + chunk("lo")
    async with gateway([[reads(), says(said)]], ledger=ERRORS) as gate:
        reply = await gate.ask(body(True))
        found = await kept(gate, reply.headers["x-tollway-request-id"])
        assert found[1].text.encode() == b"".join(events(reply))
        assert '"upstream_broke"' in found[1].text


async def test_a_refused_call_keeps_what_was_asked() -> None:
    """The refusal is an answer too: who debugs a budget wants to see what met it."""
    async with gateway([ANSWERS], ledger=ERRORS, budget="0.000001/day") as gate:
        reply = await gate.ask()
        assert reply.status == 402
        found = await kept(gate, reply.headers["x-tollway-request-id"])
        assert found[0].text == body().decode()
        assert "insufficient_quota" in found[1].text


async def test_off_keeps_nothing() -> None:
    """It is the default: prompts stay with those who wrote them."""
    async with gateway([ANSWERS, REFUSES]) as gate:
        for _ in range(2):
            await gate.row(await gate.ask())
        ledger = gate.daemon.server.daemon.ledger
        await ledger.ready()
        assert await count(gate) == 0


async def test_secrets_are_taken_out_before_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key in a prompt, or a provider's key that it echoes, is in no file."""
    monkeypatch.setenv("UP_KEY", "sk-canary-0123456789")
    echo = whole(WHOLE.replace(b"Hello", b"your key is sk-canary-0123456789"))
    async with gateway([[reads(), says(echo)]], provider='api_key = "env:UP_KEY"', ledger=ALL) as g:
        said = body(messages=[{"role": "user", "content": f"My key is {KEY}"}])
        reply = await g.ask(said)
        found = await kept(g, reply.headers["x-tollway-request-id"])
        assert "My key is tw-***" in found[0].text
        assert "your key is ***" in found[1].text
        everything = b"".join(one.read_bytes() for one in g.daemon.folder.glob("ledger.db*"))
        assert b"sk-canary" not in everything
        assert KEY.encode() not in everything


async def test_a_long_body_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays bounded, and a secret across the cut is none the less masked."""
    monkeypatch.setenv("UP_KEY", "sk-canary-0123456789")
    prefix = len(body(messages=[{"role": "user", "content": ""}]).partition(b'""')[0]) + 1
    text = "a" * (MOST_BYTES - prefix - 6) + "sk-canary-0123456789" + "b" * 2 * LOOK_AHEAD
    said = body(messages=[{"role": "user", "content": text}], max_tokens=1)
    async with gateway(
        [ANSWERS], provider='api_key = "env:UP_KEY"', ledger=ALL, budget="1000/day"
    ) as gate:
        reply = await gate.ask(said)
        assert reply.status == 200
        request = (await kept(gate, reply.headers["x-tollway-request-id"]))[0]
        assert (request.size, request.cut) == (len(said), True)
        assert len(request.text) == MOST_BYTES
        assert request.text.endswith("aaa***bbb")


def test_the_end_of_an_answer_is_told_though_its_client_has_left() -> None:
    """It may have left with the answer's id, which the beginning names, while that was settled."""
    pipe = KeepingPipe()
    told: list[bytes] = []
    pipe.whole = told.append
    pipe.write(b"the beginning")
    pipe.close()
    pipe.write(b"the end")
    pipe.finish()
    assert (told, pipe.kept) == ([b"the end"], [b"the beginning"])
