"""What a broken answer is billed at, by whether its provider stops when nobody reads any more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from gateway import DONE, HEAD, KEY, Gateway, body, chunk, config
from shell import running
from upstreams import Step, reads, says, stalls, upstream

from tollway.providers.catalog import KINDS, PARTS

FAULT = b'data: {"error":{"message":"Overloaded","code":502}}\n\n'
BEGUN = HEAD + chunk("Hello")
# A kind, and a model of its that hides nothing.
STOPS = [("openai", "gpt-4o-mini"), ("together", "meta-llama/x"), ("deepseek", "deepseek-chat")]
RUNS_ON = [
    *(("mistral", "mistral-small-latest"), ("groq", "llama-3.3-70b-versatile")),
    ("cerebras", "llama3.1-8b"),
]


@contextlib.asynccontextmanager
async def before(kind: str, *script: Step) -> AsyncIterator[Gateway]:
    """Yield a gateway before an upstream of a kind; in the end nothing is held."""
    async with upstream(script) as up:
        text = config([up]).replace('kind = "openai"', f'kind = "{kind}"')
        async with running(text, server="") as daemon:
            gate = Gateway(daemon, [up])
            yield gate
            assert gate.held() == 0


def asked(model: str) -> bytes:
    """Return a request that a long answer is held for."""
    return body(True, model=f"up/{model}", max_tokens=5000)


@pytest.mark.parametrize(("kind", "model"), [*STOPS, *RUNS_ON])
async def test_a_client_that_leaves_is_billed_what_its_provider_bills(
    kind: str, model: str
) -> None:
    """Mistral, Groq and Google make the whole answer for nobody: one word of it bounds nothing."""
    async with before(kind, reads(), says(BEGUN), stalls()) as gate:
        client = await gate.daemon.connect()
        said = asked(model)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(said)}\r\n\r\n"
        )
        await client.send(head.encode() + said)
        async with asyncio.timeout(30):
            await client.reader.readuntil(b"Hello")
        client.close()
        row = (await gate.only_row()).call
        assert (row.ending, row.estimated) == ("client_left", True)
        assert (row.cost_nanousd == row.hold_nanousd) == ((kind, model) in RUNS_ON)


@pytest.mark.parametrize(("kind", "model"), [STOPS[0], RUNS_ON[0]])
async def test_a_connection_that_breaks_is_billed_likewise(kind: str, model: str) -> None:
    """The provider may not have noticed."""
    async with before(kind, reads(), says(BEGUN)) as gate:
        row = (await gate.row(await gate.ask(asked(model)))).call
        assert (row.ending, row.estimated) == ("upstream_broke", True)
        assert (row.cost_nanousd == row.hold_nanousd) == ((kind, model) in RUNS_ON)


@pytest.mark.parametrize(("kind", "model"), [STOPS[0], RUNS_ON[0]])
@pytest.mark.parametrize("end", [chunk(finish="stop") + DONE, FAULT], ids=["end", "error"])
async def test_what_ended_by_itself_costs_what_was_seen(kind: str, model: str, end: bytes) -> None:
    """Without a report, or with an error: more than came was not made."""
    async with before(kind, reads(), says(BEGUN + end)) as gate:
        row = (await gate.row(await gate.ask(asked(model)))).call
        assert row.estimated
        assert 0 < row.cost_nanousd < row.hold_nanousd


def test_what_of_google_s_and_amazon_s_runs_on() -> None:
    """As OpenRouter's documentation says of each."""
    known = {name for name, kind in {**KINDS, **PARTS}.items() if kind.runs_on}
    assert known == {
        *("gemini", "bedrock", "vertex", "vertex-anthropic", "mistral", "groq", "cerebras"),
    }
