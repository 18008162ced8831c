"""The official packages take a refusal for what it is: the right exception, at once, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anthropic
import openai
import pytest
from gateway import DONE, HEAD, KEY, USED, Gateway, body, chunk, events, gateway, whole
from upstreams import reads, says

Ask = Callable[[bool], Awaitable[object]]

HELLO: list[Any] = [{"role": "user", "content": "Hi"}]
ERRORS: dict[str, tuple[type[Exception], type[Exception]]] = {
    "openai": (openai.APIStatusError, openai.RateLimitError),
    "anthropic": (anthropic.PaymentRequiredError, anthropic.RateLimitError),
}
CLIENTS = [(name, kind) for name in ERRORS for kind in ("sync", "async")]


async def _drained(stream: Any) -> list[Any]:
    return [event async for event in stream]


def _sync(create: Callable[..., Any], said: dict[str, Any]) -> object:
    found = create(**said)
    return list(found) if said["stream"] else found


@contextlib.asynccontextmanager
async def client(name: str, kind: str, gate: Gateway) -> AsyncIterator[Ask]:
    """Yield one question to an official package, with its own two retries; `stream` or not."""
    url = f"http://127.0.0.1:{gate.daemon.port}"
    said: dict[str, Any] = {"model": "up/m", "messages": HELLO, "max_tokens": 10}
    async with contextlib.AsyncExitStack() as stack:
        create: Any
        if (name, kind) == ("openai", "async"):
            one = await stack.enter_async_context(
                openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY)
            )
            create = one.chat.completions.create
        elif name == "openai":
            two = stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key=KEY))
            create = two.chat.completions.create
        elif kind == "async":
            three = await stack.enter_async_context(
                anthropic.AsyncAnthropic(base_url=url, api_key=KEY)
            )
            create = three.messages.create
        else:
            four = stack.enter_context(anthropic.Anthropic(base_url=url, api_key=KEY))
            create = four.messages.create

        async def ask(stream: bool) -> object:
            if kind == "sync":
                return await asyncio.to_thread(_sync, create, {**said, "stream": stream})
            found: Any = await create(**said, stream=stream)
            return await _drained(found) if stream else found

        yield ask


async def hits(gate: Gateway) -> int:
    """Return how many calls the gateway has answered, by its log."""
    await asyncio.to_thread(gate.daemon.server.output.flush)
    return gate.daemon.log.read_text().count(" POST /v1/")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("name", "kind"), CLIENTS)
async def test_a_spent_budget_raises_at_once_and_is_not_tried_again(
    name: str, kind: str, stream: bool
) -> None:
    """402 with words: whose budget, what is spent and held, when it turns over."""
    async with (
        gateway([[reads(), says(whole())]], budget="0.000001/day") as gate,
        client(name, kind, gate) as ask,
    ):
        with pytest.raises(ERRORS[name][0]) as refused:
            await ask(stream)
        assert type(refused.value) is ERRORS[name][0]
        error: Any = refused.value
        assert error.status_code == 402
        kind_of = error.body["error"]["type"] if name == "anthropic" else error.code
        assert kind_of == {"openai": "insufficient_quota", "anthropic": "billing_error"}[name]
        assert error.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in error.response.headers
        assert error.response.headers["x-tollway-cost-usd"] == "0"
        assert error.response.headers["x-tollway-budget-remaining-usd"] == "0.000001"
        assert error.response.headers["x-tollway-request-id"]
        for words in ("0.000001/day of user `ann`", "spent", "held", "turns over on"):
            assert words in str(error)
        assert await hits(gate) == 1
        assert gate.ups[0].requests == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("name", "kind"), CLIENTS)
async def test_a_day_s_limit_raises_at_once_and_is_not_tried_again(
    name: str, kind: str, stream: bool
) -> None:
    """429, with when there is room again: hours that no retry within a call can wait for."""
    # A zone in which midnight is far, whatever time it is.
    zone = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}".replace("+0", "")
    async with (
        gateway(
            [[reads(), says(whole())]],
            more="",
            server=f'timezone = "{zone}"\nlimits = {{ rpd = 1 }}',
        ) as gate,
        client(name, kind, gate) as ask,
    ):
        assert (await gate.ask()).status == 200
        with pytest.raises(ERRORS[name][1]) as refused:
            await ask(stream)
        assert type(refused.value) is ERRORS[name][1]
        error: Any = refused.value
        assert error.status_code == 429
        assert error.response.headers["x-should-retry"] == "false"
        assert int(error.response.headers["retry-after"]) > 3600
        assert "rpd" in str(error) or "day" in str(error)
        assert await hits(gate) == 2
        assert len(gate.ups[0].requests) == 1


@pytest.mark.parametrize("broken", [False, True], ids=["answered", "broken off"])
async def test_a_stream_tells_its_cost_to_who_asks(broken: bool) -> None:
    """As a comment, which client libraries pass over; after an error too, for it was billed."""
    pieces = [HEAD, chunk("He"), chunk("llo", "stop"), USED, DONE][: 2 if broken else 5]
    async with gateway([[reads(), says(b"".join(pieces))]]) as gate:
        told = await gate.ask(body(True), **{"x-tollway-report": "cost"})
        silent = await gate.ask(body(True))
        (comment,) = [one for one in events(told) if one.startswith(b": tollway cost_usd=")]
        cost = comment.strip().rpartition(b"=")[2].decode()
        row = await gate.row(told)
        assert round(float(cost) * 10**9) == row.call.cost_nanousd > 0
        assert not [one for one in events(silent) if one.startswith(b": tollway")]


async def test_an_error_of_the_provider_says_whom_it_went_to_and_what_it_cost() -> None:
    """A call that failed is a reply too: its headers are those of every reply."""
    async with gateway(
        [[reads(), says(whole(b'{"error":{"message":"No"}}', status="500 Bad"))]]
    ) as gate:
        reply = await gate.ask()
        assert reply.status == 500
        assert reply.headers["x-tollway-target"] == "up/m"
        assert reply.headers["x-tollway-attempts"] == "1"
        assert reply.headers["x-tollway-cost-usd"] == "0"
        assert reply.headers["x-tollway-budget-remaining-usd"] == "1"
        assert reply.headers["x-tollway-request-id"]
