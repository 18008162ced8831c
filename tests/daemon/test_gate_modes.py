"""What a budget does at its cap: refuse, shorten the answer, warn, or end a stream past it."""

import logging

import msgspec
import pytest
from gateway import (
    DONE,
    HEAD,
    INPUT,
    OUTPUT,
    USED,
    Gateway,
    body,
    chunk,
    error,
    events,
    gateway,
    whole,
)
from shell import Reply
from upstreams import floods, reads, says, stalls

from tollway.daemon.gate.attempt import _LONGEST_TOKEN

USED_COST = 7 * INPUT + 3 * OUTPUT
LEAST = 16  # tokens that a shortened answer has at the least


async def again(gate: Gateway, budget: str, more: str = "") -> None:
    """Give the user another budget, in TOML, and reload."""
    config = gate.daemon.config
    text = config.read_text()
    config.write_text(text.replace('budget = ["1/day"]', f"budget = [{budget}]") + more)
    await gate.daemon.server.reloader.reload()


def usd(nanousd: int) -> str:
    """Return an amount as TOML writes it."""
    return f"{nanousd / 10**9:.9f}"


async def hold_of(gate: Gateway, **said: object) -> int:
    """Return what a call holds where nothing shortens it."""
    row = await gate.row(await gate.ask(body(**said)))
    return row.attempts[0].hold_nanousd


def refusal(reply: Reply) -> tuple[int, str]:
    """Return the status and the code of a refusal."""
    return reply.status, error(reply)["code"]


async def test_clamp_lowers_the_output_limit_to_what_is_left() -> None:
    """The call goes out with the limit that fits; two headers say so; the cap holds exactly."""
    async with gateway([[reads(), says(whole())]]) as gate:
        full = await hold_of(gate, max_tokens=1000)
        cap = USED_COST + full - 600 * OUTPUT
        await again(gate, f'{{ usd = {usd(cap)}, per = "day", at = "clamp" }}')
        reply = await gate.ask(body(max_tokens=1000))
        assert reply.status == 200
        assert reply.headers["x-tollway-output-limit"] == "400"
        assert reply.headers["x-tollway-clamped"] == f"{usd(cap).rstrip('0')}/day of user ann"
        assert b'"max_tokens":400' in gate.ups[0].requests[-1]
        row = await gate.row(reply)
        assert row.attempts[0].hold_nanousd == full - 600 * OUTPUT


async def test_clamp_divides_what_is_left_among_the_answers_asked_for() -> None:
    """Each of `n` answers can be as long as the limit."""
    async with gateway([[reads(), says(whole())]]) as gate:
        full = await hold_of(gate, max_tokens=1000, n=4)
        cap = USED_COST + full - 4 * 600 * OUTPUT - 1
        await again(gate, f'{{ usd = {usd(cap)}, per = "day", at = "clamp" }}')
        reply = await gate.ask(body(max_tokens=1000, n=4))
        assert reply.headers["x-tollway-output-limit"] == "399"


async def test_clamp_shortens_the_answer_and_not_the_thoughts_beside_it() -> None:
    """Qwen's `max_tokens` holds no thoughts: they are held beside it, and a clamp counts them."""
    thinks = {"enable_thinking": True, "thinking_budget": 500}
    async with gateway([[reads(), says(whole())]]) as gate:
        plain = await hold_of(gate, max_tokens=1000, enable_thinking=False, thinking_budget=500)
        full = await hold_of(gate, max_tokens=1000, **thinks)
        assert 0 <= full - plain - 500 * OUTPUT < 10 * INPUT  # `false` is a byte longer
        cap = 2 * USED_COST + full - 600 * OUTPUT
        await again(gate, f'{{ usd = {usd(cap)}, per = "day", at = "clamp" }}')
        reply = await gate.ask(body(max_tokens=1000, **thinks))
        assert reply.headers["x-tollway-output-limit"] == "400"
        assert b'"max_tokens":400' in gate.ups[0].requests[-1]
        row = await gate.row(reply)
        assert row.attempts[0].hold_nanousd == full - 600 * OUTPUT


@pytest.mark.parametrize(("short", "status"), [(0, 200), (1, 402)])
async def test_clamp_refuses_below_sixteen_tokens(short: int, status: int) -> None:
    """An answer of fewer is none: then the budget refuses as a hard one does."""
    async with gateway([[reads(), says(whole())]]) as gate:
        full = await hold_of(gate, max_tokens=1000)
        cap = USED_COST + full - (1000 - LEAST) * OUTPUT - short
        await again(gate, f'{{ usd = {usd(cap)}, per = "day", at = "clamp" }}')
        reply = await gate.ask(body(max_tokens=1000))
        assert reply.status == status
        if status == 402:
            assert refusal(reply) == (402, "insufficient_quota")
            assert "no room for 16 tokens" in error(reply)["message"]
            assert len(gate.ups[0].requests) == 1
        else:
            assert reply.headers["x-tollway-output-limit"] == str(LEAST)


async def test_clamp_never_makes_a_short_answer_longer() -> None:
    """A caller that asks for fewer than 16 tokens, and has no room for them, is refused."""
    async with gateway([[reads(), says(whole())]]) as gate:
        full = await hold_of(gate, max_tokens=10)
        await again(gate, f'{{ usd = {usd(USED_COST + full - 1)}, per = "day", at = "clamp" }}')
        assert refusal(await gate.ask(body(max_tokens=10))) == (402, "insufficient_quota")


async def test_a_hard_budget_beside_a_clamp_still_refuses() -> None:
    """The clamp shortens to its own room; what then does not fit a hard budget is refused."""
    async with gateway([[reads(), says(whole())]]) as gate:
        full = await hold_of(gate, max_tokens=1000)
        clamp, hard = usd(USED_COST + full - 100 * OUTPUT), usd(USED_COST + full - 600 * OUTPUT)
        both = f'{{ usd = {clamp}, per = "day", at = "clamp" }}, "{hard}/month"'
        await again(gate, both)
        reply = await gate.ask(body(max_tokens=1000))
        assert refusal(reply) == (402, "insufficient_quota")
        assert f"{hard.rstrip('0')}/month" in error(reply)["message"]
        assert gate.held() == 0
        other = f'{{ usd = {hard}, per = "day", at = "clamp" }}, "{clamp}/month"'
        gate.daemon.config.write_text(gate.daemon.config.read_text().replace(both, other))
        await gate.daemon.server.reloader.reload()
        assert (await gate.ask(body(max_tokens=1000))).status == 200


async def test_an_embedding_cannot_be_shortened() -> None:
    """It has no output: at the cap a clamp refuses it."""
    said = msgspec.json.encode({"model": "up/e", "input": "x" * 5000})
    async with gateway([[reads(), says(whole())]]) as gate:
        await again(gate, '{ usd = 0.001, per = "day", at = "clamp" }')
        assert refusal(await gate.ask(said, "/v1/embeddings")) == (402, "insufficient_quota")


async def test_warn_lets_everything_through() -> None:
    """Not at its cap, nor what has no price or no bound, is refused; nor is a limit written."""
    more = '[providers.box2]\nkind = "vllm"\nbase_url = "http://127.0.0.1:1/v1"\n'
    async with gateway([[reads(), says(whole())]], more=more) as gate:
        await again(gate, '{ usd = 0.000001, per = "day", at = "warn" }')
        for _ in range(2):
            reply = await gate.ask(body(max_tokens=None))
            assert reply.status == 200
            assert "x-tollway-output-limit" not in reply.headers
            assert "x-tollway-budget-remaining-usd" not in reply.headers
        assert (await gate.ask(body(web_search_options={}))).status == 200
        assert error(await gate.ask(body(model="box2/qwen")))["code"] == "upstream_unreachable"
        (state,) = gate.daemon.server.daemon.gate.purse.states()
        assert (state.at, state.left_nanousd) == ("warn", 0)
        assert state.settled_nanousd > state.limit_nanousd


async def test_what_costs_nothing_passes_a_budget_that_is_spent() -> None:
    """A cloud budget that is used up must not keep anyone from a free model."""
    free = '[prices]\n"up/free" = "free"\n'
    much = whole(body_of(900_000))
    async with gateway([[reads(), says(much)], [reads(), says(whole())]], more=free) as gate:
        assert (await gate.ask()).status == 200  # the provider broke its limit: far past the cap
        assert refusal(await gate.ask()) == (402, "insufficient_quota")
        assert (await gate.ask(body(model="up/free"))).status == 200


def body_of(tokens: int) -> bytes:
    """Return a whole answer that reports so many tokens of output."""
    return (
        b'{"id":"1","choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":7,"completion_tokens":%d}}' % tokens
    )


def reporting(tokens: int) -> bytes:
    """Return a piece of a stream that reports the usage so far, as some providers always do."""
    return (
        b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"x"},'
        b'"finish_reason":null}],"usage":{"prompt_tokens":7,"completion_tokens":%d}}\n\n' % tokens
    )


def finals(seen: list[bytes]) -> dict[str, object]:
    """Return the last chunk before the end marker."""
    assert seen[-1] == DONE
    found: dict[str, object] = msgspec.json.decode(seen[-2].removeprefix(b"data: "))
    return found


async def test_a_stream_that_reports_more_than_its_hold_is_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ends as if its limit had been reached; the provider is hung up on; all of it is booked."""
    script = [reads(), says(HEAD + reporting(5) + reporting(90_000)), stalls()]
    async with gateway([script]) as gate:
        reply = await gate.ask(body(stream=True))
        seen = events(reply)
        row = await gate.row(reply)
        assert seen[:2] == [reporting(5), reporting(90_000)]
        assert finals(seen)["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
        await gate.ups[0].hung_up.wait()
        true = 7 * INPUT + 90_000 * OUTPUT
        assert (row.call.ending, row.call.cost_nanousd, row.call.estimated) == (
            "at_cap",
            true,
            True,
        )
        assert row.attempts[0].overrun_nanousd == true - row.attempts[0].hold_nanousd > 0
        assert gate.held() == 0
        assert any(one.levelno >= logging.ERROR for one in caplog.records)


async def test_a_stream_without_end_is_ended() -> None:
    """More bytes than so many tokens can have, and no report: what came is an upper bound."""
    piece = chunk("x" * 1000)
    async with gateway([[reads(), says(HEAD), floods(piece)]]) as gate:
        reply = await gate.ask(body(stream=True, max_tokens=10))
        row = await gate.row(reply)
        assert finals(events(reply))["object"] == "chat.completion.chunk"
        assert (row.call.ending, row.call.estimated) == ("at_cap", True)
        assert row.attempts[0].output_tokens >= 10 * _LONGEST_TOKEN
        assert row.attempts[0].overrun_nanousd > 0


async def test_a_completion_is_ended_in_its_own_words() -> None:
    """The legacy endpoint has `text`, and each answer that had not ended ends."""
    script = [reads(), says(HEAD), floods(b'data: {"choices":[{"index":1,"text":"xxxx"}]}\n\n')]
    said = msgspec.json.encode(
        {"model": "up/c", "prompt": "Once", "max_tokens": 1, "n": 2, "stream": True}
    )
    async with gateway([script]) as gate:
        last = finals(events(await gate.ask(said, "/v1/completions")))
        assert last["object"] == "text_completion"
        assert last["choices"] == [
            {"index": number, "text": "", "finish_reason": "length"} for number in (0, 1)
        ]


async def test_long_tokens_are_no_reason_to_end_a_stream() -> None:
    """Ten tokens of a hundred bytes each are within a limit of ten."""
    pieces = b"".join(chunk("-" * 100) for _ in range(10))
    async with gateway(
        [[reads(), says(HEAD + pieces + chunk(finish="stop") + USED + DONE)]]
    ) as gate:
        row = await gate.row(await gate.ask(body(stream=True, max_tokens=10)))
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", USED_COST)


@pytest.mark.parametrize("budget", ["", '{ usd = 1, per = "day", at = "warn" }'])
async def test_nothing_is_ended_where_nothing_caps(budget: str) -> None:
    """Without a budget that holds back a hold is an estimate, and no reason to cut anyone off."""
    script = [reads(), says(HEAD + reporting(90_000) + chunk(finish="stop") + USED + DONE)]
    async with gateway([script]) as gate:
        await again(gate, budget)
        row = await gate.row(await gate.ask(body(stream=True)))
        assert row.call.ending == "answered"
