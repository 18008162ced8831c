"""What a call takes is given back when it ends, not when the collector comes by.

A call holds its request's body and its answer: a cycle among its objects would keep them until
ten thousand more were made, and the collector would stop every call to find them.
"""

import gc

import pytest
from gateway import CHAT, DONE, HEAD, USED, body, chunk, gateway, whole
from shell import until
from upstreams import reads, says

from tollway.daemon.direct import Direct
from tollway.daemon.gate.attempt import Attempt
from tollway.daemon.gate.pipe import Pipe
from tollway.daemon.gate.send import Exchange

_PARTS = (Attempt, Direct, Exchange, Pipe)


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
