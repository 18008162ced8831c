"""What a call takes is given back when it ends, not when the collector comes by.

A call holds its request's body and its answer: a cycle among its objects would keep them until
ten thousand more were made, and the collector would stop every call to find them.
"""

import gc
import weakref

import msgspec
import pytest
from gateway import CHAT, DONE, HEAD, USED, body, chunk, gateway, whole
from shell import until
from upstreams import reads, says

from tollway.daemon.direct import Direct
from tollway.daemon.gate.attempt import Attempt
from tollway.daemon.gate.pipe import Pipe
from tollway.daemon.gate.send import Exchange
from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.table import DIALECTS, UPSTREAMS

_PARTS = (Attempt, Call, Direct, Exchange, Pipe)
_TEXT = {"role": "user", "content": "Hi"}
_OTHERS: dict[str, dict[str, object]] = {
    "/v1/messages": {"model": "up/m", "max_tokens": 10, "messages": [_TEXT]},
    "/v1/completions": {"model": "up/m", "max_tokens": 10, "prompt": "Hi"},
    "/v1beta/models/up/m:generateContent": {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "generationConfig": {"maxOutputTokens": 10},
    },
}


def _alive() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, _PARTS)]


def _new(old: list[object]) -> list[str]:
    """Return what is alive and was not: a test that failed before keeps what it had."""
    known = {id(one) for one in old}
    return [type(one).__name__ for one in _alive() if id(one) not in known]


async def test_a_call_that_has_ended_is_freed_without_the_collector() -> None:
    """Nothing of a whole answer or of a stream is left in a cycle."""
    stream = HEAD + chunk("Hello") + chunk(finish="stop") + USED + DONE
    script = [[reads(), says(whole())], [reads(), says(stream)], [reads(), says(whole())]]
    async with gateway(script) as gate:
        gc.collect()
        old = _alive()
        gc.disable()
        try:
            for said in (body(), body(True), body()):
                reply = await gate.ask(said, CHAT)
                assert reply.status == 200
                assert (await gate.row(reply)).call.ending == "answered"
            await until(lambda: not _new(old))
        finally:
            gc.enable()


@pytest.mark.parametrize("name", DIALECTS)
def test_whoever_writes_or_reads_an_answer_is_no_cycle(name: str) -> None:
    """Both know the call; with methods of their own in a table they kept it, some 20 MB of it."""
    spoken = DIALECTS[name]
    call = Call("chat", name, "m", b"{}")
    gc.disable()
    try:
        made: list[object] = [spoken.codec.writer(call), spoken.dialect.reader(call, frozenset())]
        if name in UPSTREAMS:
            made.append(UPSTREAMS[name].codec.events(Conversation(name, "m", ()), frozenset()))
        kept = [weakref.ref(one) for one in made]
        made.clear()
        assert not [one() for one in kept if one() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", _OTHERS)
async def test_a_call_in_another_dialect_is_freed_without_the_collector(
    path: str, stream: bool
) -> None:
    """Who writes the answer anew knows the call, with its body: it may not know itself."""
    said = HEAD + chunk("Hello") + chunk(finish="stop") + USED + DONE if stream else whole()
    asked = _OTHERS[path]
    if "contents" not in asked:
        asked = asked | {"stream": stream}
    elif stream:
        path = path.replace(":generate", ":streamGenerate")
    async with gateway([[reads(), says(said)]]) as gate:
        gc.collect()
        old = _alive()
        gc.disable()
        try:
            for _ in range(2):
                assert (await gate.ask(msgspec.json.encode(asked), path)).status == 200
            await until(lambda: not _new(old))
        finally:
            gc.enable()


@pytest.mark.parametrize(
    ("budget", "status"), [("1/day", 400), ("0.000001/day", 402)], ids=["by them", "by us"]
)
async def test_a_call_that_was_refused_is_freed_without_the_collector(
    budget: str, status: int
) -> None:
    """Nor does an error keep its call: its traceback goes no further than to whoever tells it."""
    refusal = whole(b'{"error":{"message":"no"}}', status="400 Bad Request")
    async with gateway([[reads(), says(refusal)]], budget=budget) as gate:
        gc.collect()
        old = _alive()
        gc.disable()
        try:
            reply = await gate.ask(body())
            assert reply.status == status
            await until(lambda: not _new(old))
        finally:
            gc.enable()
