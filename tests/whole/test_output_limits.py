"""A limit that a client gave for another model, or the gateway by itself, and this one refuses."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from aiohttp import web
from matrix_requests import ANTHROPIC, CHAT, RESPONSES
from matrix_world import TARGETS, World, world

from tollway.daemon.ledger.calls import CallDetail

MOST = {
    "openai-compatible": "`max_completion_tokens` must be less than or equal to `8192`",
    "openai": "max_tokens is too large: 64000. This model supports at most 8192 completion tokens",
    "anthropic": "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens",
    "gemini": "a maxOutputTokens value of 64000 but the supported range is from 1 (inclusive)"
    " to 8193 (exclusive)",
    "bedrock": "The maximum tokens you requested exceeds the model limit of 8192",
}
WINDOW, PROMPT = 32768, 17459


def limit_of(body: dict[str, Any]) -> int | None:
    """Return the output limit of a request, in whichever dialect."""
    for within in (body, body.get("generationConfig", {}), body.get("inferenceConfig", {})):
        for name in (
            *("max_tokens", "max_completion_tokens", "max_output_tokens"),
            *("maxOutputTokens", "maxTokens"),
        ):
            if name in within:
                return int(within[name])
    return None


@contextlib.asynccontextmanager
async def refusing(
    most: int, words: str, budget: str = ""
) -> AsyncIterator[tuple[World, list[int | None]]]:
    """Yield a world whose upstream refuses limits above one, with words, and the limits it saw."""
    limits: list[int | None] = []
    async with world(budget=budget) as one:

        async def script(request: web.Request) -> web.StreamResponse:
            limits.append(limit_of(await request.json()))
            if (limits[-1] or 0) > most:
                return web.json_response({"error": {"message": words}}, status=400)
            one.upstream.script = None  # what it usually says
            found = await one.upstream.handle(request)
            one.upstream.script = script
            return found

        one.upstream.script = script
        yield one, limits


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("client", "target"),
    [
        (ANTHROPIC, "openai-compatible"),
        (ANTHROPIC, "openai"),
        (CHAT, "anthropic"),
        (RESPONSES, "gemini"),
    ],
)
async def test_the_longest_answer_of_a_model_is_asked_for_instead(
    client: str, target: str, stream: bool
) -> None:
    """Claude Code asks any model for 32,000 tokens: one refusal tells the model's own most."""
    field = {CHAT: "max_tokens", RESPONSES: "max_output_tokens", ANTHROPIC: "max_tokens"}[client]
    async with refusing(8192, MOST[target]) as (one, limits):
        await one.ask(client, TARGETS[target], stream, **{field: 64_000})
        assert limits == [64_000, 8192]
        assert one.heads["x-tollway-attempts"] == "2"
        assert "max_tokens above 8192" in one.heads["x-tollway-dropped"]
        row = await one.row()
        assert [attempt.ending for attempt in row.attempts] == ["upstream_refused", "answered"]
        # The next call knows it, and one that asks for less is as it was.
        await one.ask(client, TARGETS[target], stream, **{field: 64_000})
        await one.ask(client, TARGETS[target], stream, **{field: 100})
        assert limits[2:] == [8192, 100]
        assert "max_tokens" not in one.heads.get("x-tollway-dropped", "")


async def test_a_limit_of_the_gateway_s_own_is_lowered_where_a_model_refuses_it() -> None:
    """Claude 3 Haiku writes 4,096 tokens at most, the default is 16,384: nothing is lost."""
    words = "max_tokens: 16384 > 4096, which is the maximum allowed number of output tokens"
    async with refusing(4096, words) as (one, limits):
        await one.ask(CHAT, TARGETS["anthropic"])
        await one.ask(CHAT, TARGETS["anthropic"])
        assert limits == [16384, 4096, 4096]
        assert "x-tollway-dropped" not in one.heads


async def test_a_limit_that_a_budget_wants_is_lowered_in_calls_that_pass() -> None:
    """The gateway wrote it there; what the client wrote itself stays the client's."""
    budget = 'budget = ["5/day"]'
    async with refusing(4096, MOST["openai"].replace("8192", "4096"), budget) as (one, limits):
        await one.ask(CHAT, TARGETS["openai"])
        assert limits == [16384, 4096]
        assert one.heads["x-tollway-output-limit"] == "4096"
        row = await one.row()
        assert row.attempts[1].hold_nanousd < row.attempts[0].hold_nanousd / 3
        with pytest.raises(Exception, match="supports at most 4096"):
            await one.ask(CHAT, TARGETS["openai"], max_tokens=9000)
        assert limits[2:] == [9000]


async def test_the_room_that_a_prompt_leaves_is_asked_for_instead() -> None:
    """Servers like vLLM refuse a limit that has no room; that of the next prompt is another."""
    words = (
        "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context"
        f" length is {WINDOW} tokens and your request has {PROMPT} input tokens"
    )
    async with refusing(WINDOW - PROMPT, words) as (one, limits):
        await one.ask(ANTHROPIC, TARGETS["openai-compatible"], max_tokens=32_000)
        await one.ask(ANTHROPIC, TARGETS["openai-compatible"], max_tokens=32_000)
        assert limits == [32_000, WINDOW - PROMPT] * 2


async def test_a_prompt_that_leaves_no_room_is_too_long() -> None:
    """A guess is tried a few times; then the client is told, in words by which it sums up."""
    words = (
        f"This model's maximum context length is {WINDOW} tokens. However, you requested 32000"
        f" output tokens and your prompt contains at least {WINDOW} input tokens"
    )
    async with refusing(10, words) as (one, limits):
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            await one.ask(ANTHROPIC, TARGETS["openai-compatible"], max_tokens=32_000)
        assert limits == [32_000, 8000, 2000]
        row: CallDetail = await one.row()
        assert row.call.cost_nanousd == 0


async def test_a_route_that_allows_no_loss_refuses_a_lower_limit() -> None:
    """The answer could be shorter than what was asked for."""
    place = list(TARGETS).index("openai-compatible")
    async with refusing(8192, MOST["openai-compatible"]) as (one, limits):
        for _ in range(2):
            with pytest.raises(anthropic.BadRequestError):
                await one.ask(ANTHROPIC, f"strict/{place}", max_tokens=32_000)
        assert limits == [32_000] * 2


async def test_the_most_of_another_field_is_no_limit_of_answers() -> None:
    """One caller's `n` of 130 cut everybody's answers to 128 tokens until the next start."""
    words = (
        "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 130 instead."
    )
    async with refusing(100, words, 'budget = ["5/day"]') as (one, limits):
        for _ in range(2):
            with pytest.raises(Exception, match="Expected a value <= 128"):
                await one.ask(CHAT, TARGETS["openai"])
        assert limits == [16384, 16384]


async def test_a_few_tokens_are_no_model_s_longest_answer() -> None:
    """Some refusals quote what the caller wrote: it must not cut the answers of others."""
    words = "Invalid value: 'max_tokens: 9 > 8, which is the maximum allowed'."
    async with refusing(100, words, 'budget = ["5/day"]') as (one, limits):
        for _ in range(2):
            with pytest.raises(Exception, match="Invalid value"):
                await one.ask(CHAT, TARGETS["openai"])
        assert limits == [16384, 16384]


async def test_what_a_caller_has_a_refusal_quote_cuts_no_answers_of_others() -> None:
    """OpenAI quotes values that it does not know; only a limit that is then taken is kept."""
    quoted = "This model supports at most 2000 completion tokens"
    async with world(budget='budget = ["5/day"]') as one:

        async def script(request: web.Request) -> web.StreamResponse:
            if quoted in await request.text():
                words = f"Invalid value: '{quoted}'. Supported values are: 'system' and 'user'."
                return web.json_response({"error": {"message": words}}, status=400)
            one.upstream.script = None
            return await one.upstream.handle(request)

        one.upstream.script = script
        asked = {"model": TARGETS["openai"], "messages": [{"role": quoted, "content": "Hi"}]}
        assert (await one.post("/v1/chat/completions", asked)).status_code == 400
        await one.ask(CHAT, TARGETS["openai"])
        assert one.heads["x-tollway-output-limit"] == "16384"


async def test_a_reload_asks_anew_how_much_a_model_takes() -> None:
    """A server of one's own may take more by then."""
    async with refusing(8192, MOST["openai-compatible"]) as (one, limits):
        for _ in range(2):
            await one.ask(ANTHROPIC, TARGETS["openai-compatible"], max_tokens=64_000)
        assert (await one.daemon.ask("POST", "/control/reload", admin=True)).status == 200
        await one.ask(ANTHROPIC, TARGETS["openai-compatible"], max_tokens=64_000)
        assert limits == [64_000, 8192, 8192, 64_000, 8192]
