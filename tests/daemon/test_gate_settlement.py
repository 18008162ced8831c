"""The settlement table: every ending has one rule, and each rule its test on real sockets."""

import asyncio

import msgspec
import pytest
from gateway import (
    DONE,
    HEAD,
    INPUT,
    OUTPUT,
    SSE,
    USED,
    WHOLE,
    Gateway,
    body,
    chunk,
    error,
    events,
    gateway,
    whole,
)
from shell import until
from upstreams import answer, reads, resets, says, stalls, waits

from tollway.daemon.gate import send
from tollway.daemon.gate.attempt import _FRAME_TOKENS
from tollway.daemon.ledger.calls import one as one_call
from tollway.daemon.ledger.calls import recent

# What a model that shows all its output is billed beyond the text that was seen.
FRAME = _FRAME_TOKENS
SHOWN = "gpt-4o-mini"  # in the catalog as a model that hides nothing
USED_COST = 7 * INPUT + 3 * OUTPUT


async def test_a_reported_usage_is_billed_as_reported() -> None:
    """Answered, usage reported: the reported usage at the price in force at admission."""
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask()
        row = await gate.row(reply)
        assert (reply.status, reply.body) == (200, WHOLE)
        assert reply.headers["x-tollway-cost-usd"] == "0.000013"
        assert reply.headers["x-tollway-target"] == "up/m"
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", USED_COST)
        assert not row.call.estimated
        assert gate.held() == 0


async def test_a_stream_is_passed_on_but_for_the_usage_we_asked_for() -> None:
    """The client that asked for no usage chunk gets none; every other byte is as it came."""
    sent = [chunk("He"), b": a comment\n\n", chunk("llo"), chunk(finish="stop")]
    script = [reads(), says(HEAD + b"".join([*sent, USED, DONE]))]
    async with gateway([script]) as gate:
        reply = await gate.ask(body(stream=True))
        row = await gate.row(reply)
        assert events(reply) == [*sent, DONE]
        assert b'"stream_options":{"include_usage":true}' in gate.ups[0].requests[0]
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", USED_COST)


async def test_the_cost_comes_before_the_end_of_a_stream_that_asks_for_it() -> None:
    """`x-tollway-report: cost` puts a comment before the end marker."""
    script = [reads(), says(HEAD + chunk("Hi", "stop") + USED + DONE)]
    async with gateway([script]) as gate:
        reply = await gate.ask(body(stream=True), x_tollway_report="cost")
        assert events(reply)[-2:] == [b": tollway cost_usd=0.000013\n\n", DONE]


async def test_no_usage_is_billed_at_an_upper_bound() -> None:
    """Answered, no usage reported: never nothing; the hold, where the model may hide output."""
    async with gateway([[reads(), says(whole(WHOLE.split(b',"usage"')[0] + b"}"))]]) as gate:
        row = await gate.row(await gate.ask())
        assert (row.call.ending, row.call.estimated) == ("no_usage", True)
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd > USED_COST


async def test_visible_output_bounds_a_model_that_hides_none() -> None:
    """A stream without usage costs its visible text at most, where nothing can be hidden."""
    script = [reads(), says(HEAD + chunk("Hello") + chunk(finish="stop") + DONE)]
    async with gateway([script]) as gate:
        reply = await gate.ask(body(stream=True, model=f"up/{SHOWN}", max_tokens=5000))
        row = await gate.row(reply)
        assert row.call.estimated
        assert row.attempts[0].output_tokens == len("Hello") + FRAME
        assert row.call.cost_nanousd < row.attempts[0].hold_nanousd


async def test_an_answer_that_is_still_to_come_is_billed_at_its_hold() -> None:
    """Made in the background, it shows nothing yet, and is paid for all the same."""
    queued = b'{"id":"resp_1","object":"response","status":"queued","output":[],"usage":null}'
    route = f'[routes.later]\nto = ["up/{SHOWN}"]\nallow_unbounded = true\n'
    async with gateway([[reads(), says(whole(queued))]], more=route) as gate:
        said = {"model": "later", "input": "Hi", "background": True, "max_output_tokens": 5000}
        reply = await gate.ask(msgspec.json.encode(said), "/v1/responses")
        row = await gate.row(reply)
        assert (reply.status, reply.body) == (200, queued)
        assert (row.call.ending, row.call.estimated) == ("no_usage", True)
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd > 5000 * OUTPUT


async def test_a_report_of_no_output_is_not_believed_when_there_was_some() -> None:
    """Text came and the report says zero tokens: a broken report never makes a call free."""
    report = b'data: {"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n'
    script = [reads(), says(HEAD + chunk("Hello", "stop") + report + DONE)]
    async with gateway([script]) as gate:
        row = await gate.row(await gate.ask(body(stream=True)))
        assert row.call.estimated
        assert row.call.cost_nanousd > 0


async def test_garbage_with_200_is_an_error_and_billed_at_the_hold() -> None:
    """200 with something that is no answer: the caller gets a 502, the hold is billed."""
    page = answer(b"<html>Sign in</html>", "Content-Type: text/html")
    async with gateway([[reads(), says(page)]]) as gate:
        reply = await gate.ask()
        row = await gate.row(reply)
        assert (reply.status, error(reply)["code"]) == (502, "upstream_garbage")
        assert error(reply)["source"] == "provider"
        assert (row.call.ending, row.call.estimated) == ("garbage", True)
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd


async def test_a_refusal_is_the_providers_own_and_costs_nothing() -> None:
    """Upstream refused: its status and words reach the caller, the attempt is a row at $0."""
    said = b'{"error":{"message":"Slow down","type":"requests","code":"rate_limit_exceeded"}}'
    refusal = whole(said, "Retry-After: 7", "x-request-id: req_9", status="429 Too Many Requests")
    async with gateway([[reads(), says(refusal)]]) as gate:
        reply = await gate.ask()
        row = await gate.row(reply)
        told = error(reply)
        assert (reply.status, told["code"], told["type"]) == (
            429,
            "rate_limit_exceeded",
            "requests",
        )
        assert (told["message"], told["source"]) == (
            "The provider answered 429: Slow down",
            "provider",
        )
        assert reply.headers["retry-after"] == "7"
        assert reply.headers["x-upstream-request-id"] == "req_9"
        assert reply.headers["x-request-id"] == reply.headers["x-tollway-request-id"]
        assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)
        assert row.attempts[0].status == 429
        assert gate.held() == 0


async def test_a_refused_credential_is_not_the_callers() -> None:
    """An upstream's 401 means the gateway's key: the caller must not think it is its own."""
    said = b'{"error":{"message":"Incorrect API key provided: sk-abc"}}'
    async with gateway([[reads(), says(whole(said, status="401 Unauthorized"))]]) as gate:
        reply = await gate.ask()
        assert (reply.status, error(reply)["code"]) == (502, "upstream_auth")
        assert b"sk-abc" not in reply.body


async def test_nothing_sent_costs_nothing() -> None:
    """No connection: nothing was sent, so nothing is billed."""
    async with gateway([[reads()]]) as gate:
        gate.ups[0].port = 1  # only to show that it is not this one that is asked
        closed = 'base_url = "http://127.0.0.1:1/v1"'
        gate.daemon.config.write_text(
            gate.daemon.config.read_text().replace(
                'kind = "openai"\n', f'kind = "vllm"\n{closed}\n#'
            )
        )
        await gate.daemon.server.reloader.reload()
        reply = await gate.ask()
        row = await gate.row(reply)
        assert (reply.status, error(reply)["code"]) == (502, "upstream_unreachable")
        assert (row.call.ending, row.call.cost_nanousd) == ("upstream_unreachable", 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_reset_after_the_body_may_have_been_billed(stream: bool) -> None:
    """Reset after the body was sent, before the first byte: the hold, marked estimated."""
    async with gateway([[reads(), resets()]]) as gate:
        reply = await gate.ask(body(stream))
        row = await gate.row(reply)
        assert (reply.status, error(reply)["code"]) == (502, "upstream_broke")
        assert (row.call.ending, row.call.estimated) == ("upstream_broke", True)
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd > 0
        assert gate.held() == 0


async def test_silence_before_the_first_byte_times_out() -> None:
    """A provider that hangs: 504 in the time that gateway.toml says, the hold is billed."""
    wait = 'timeout = { first = "100ms" }'
    async with gateway([[reads(), stalls()]], provider=wait) as gate:
        reply = await gate.ask()
        row = await gate.row(reply)
        assert (reply.status, error(reply)["code"]) == (504, "upstream_timeout")
        assert row.call.ending == "upstream_timeout"
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd


@pytest.mark.parametrize(
    ("status", "page", "billed"),
    [
        ("504 Gateway Time-out", b"<html><h1>504 Gateway Time-out</h1></html>", True),
        ("524 A Timeout Occurred", b"error code: 524", True),
        ("504 Gateway Timeout", b"", True),
        ("504 Gateway Timeout", b'{"error":{"message":"Deadline exceeded"}}', False),
        ("504 Gateway Timeout", b'[{"error":{"code":504,"status":"DEADLINE_EXCEEDED"}}]', False),
        ("502 Bad Gateway", b"<html><h1>502 Bad Gateway</h1></html>", False),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_proxy_that_waited_for_too_long_is_no_refusal(
    status: str, page: bytes, billed: bool, stream: bool
) -> None:
    """The provider behind it has the request, works on, and bills what nobody hears."""
    async with gateway([[reads(), says(answer(page, status=status))]]) as gate:
        reply = await gate.ask(body(stream))
        row = await gate.row(reply)
        assert reply.status == int(status[:3])
        assert row.attempts[0].ending == ("upstream_timeout" if billed else "upstream_refused")
        assert (row.call.estimated, row.attempts[0].status) == (billed, reply.status)
        assert row.call.cost_nanousd == (row.attempts[0].hold_nanousd if billed else 0)
        assert gate.held() == 0


async def test_a_stream_that_is_cut_ends_in_an_error_event() -> None:
    """Upstream cut mid-stream: the client's library raises, and what came out is billed."""
    async with gateway([[reads(), says(HEAD + chunk("Hel"))]]) as gate:
        reply = await gate.ask(body(stream=True))
        row = await gate.row(reply)
        seen = events(reply)
        told = msgspec.json.decode(seen[-1].removeprefix(b"data: "))
        assert seen[0] == chunk("Hel")
        assert told["error"]["code"] == "upstream_broke"
        assert DONE not in seen
        assert (row.call.ending, row.call.estimated) == ("upstream_broke", True)
        assert row.call.cost_nanousd > 0


async def test_an_error_inside_a_stream_reaches_the_client_as_it_came() -> None:
    """An error event after some output: passed on unchanged, billed at an upper bound."""
    fault = b'data: {"error":{"message":"Overloaded","code":502}}\n\n'
    async with gateway([[reads(), says(HEAD + chunk("Hel") + fault)]]) as gate:
        reply = await gate.ask(body(stream=True))
        row = await gate.row(reply)
        assert events(reply) == [chunk("Hel"), fault]
        assert (row.call.ending, row.call.estimated) == ("upstream_broke", True)
        assert row.call.cost_nanousd > 0


def _request(said: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer tw-" + b"k" * 40 + b"\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(said) + said
    )


async def _leave_after(gate: Gateway, start: bytes) -> None:
    client = await gate.daemon.connect()
    await client.send(_request(body(stream=bool(start))))
    if start:
        async with asyncio.timeout(30):
            await client.reader.readuntil(start)
    else:
        await until(lambda: bool(gate.ups[0].requests))
    client.close()


async def test_a_client_that_leaves_a_stream_ends_it() -> None:
    """Client left, `cancel`: the provider's connection is closed, an upper bound is billed."""
    async with gateway([[reads(), says(HEAD + chunk("Hello")), stalls()]]) as gate:
        await _leave_after(gate, b"Hello")
        await asyncio.wait_for(gate.ups[0].hung_up.wait(), 30)
        row = await gate.only_row()
        assert (row.call.ending, row.call.estimated) == ("client_left", True)
        assert 0 < row.call.cost_nanousd <= row.attempts[0].hold_nanousd
        assert gate.held() == 0


async def test_a_client_that_leaves_while_it_waits_is_noticed() -> None:
    """Client left during a non-streaming call: noticed at once, the hold is billed."""
    async with gateway([[reads(), stalls()]]) as gate:
        await _leave_after(gate, b"")
        await asyncio.wait_for(gate.ups[0].hung_up.wait(), 30)
        row = await gate.only_row()
        assert (row.call.ending, row.call.estimated) == ("client_left", True)
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd


async def test_a_drained_stream_is_billed_by_its_true_usage() -> None:
    """Client left, `drain`: the answer is read to its end and its usage is what is billed."""
    gone = asyncio.Event()
    rest = chunk(finish="stop") + USED + DONE
    script = [reads(), says(HEAD + chunk("Hello")), waits(gone), says(rest)]
    async with gateway([script], provider='on_disconnect = "drain"') as gate:
        await _leave_after(gate, b"Hello")
        await until(lambda: all(one.pipe._closed for one in gate.daemon.server.daemon.exchanges))
        gone.set()
        row = await gate.only_row()
        assert (row.call.ending, row.call.estimated) == ("answered", False)
        assert row.call.cost_nanousd == USED_COST


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_drain_reads_on_for_a_client_that_left_before_the_first_byte(stream: bool) -> None:
    """Client left while it waited, `drain`: the provider bills on anyway, so its report counts."""
    go = asyncio.Event()
    said = HEAD + chunk("Hi", "stop") + USED + DONE if stream else whole()
    script = [reads(), waits(go), says(said)]
    async with gateway([script], provider='on_disconnect = "drain"') as gate:
        client = await gate.daemon.connect()
        await client.send(_request(body(stream)))
        await until(lambda: bool(gate.ups[0].requests))
        client.close()
        await until(lambda: all(one._left for one in gate.daemon.server.daemon.exchanges))
        assert gate.held() > 0  # it is read to the end under the same hold
        go.set()
        row = await gate.only_row()
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", USED_COST)
        assert gate.held() == 0


async def test_drain_does_not_read_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time the connection is closed all the same, and the upper estimate billed."""
    monkeypatch.setattr(send, "_DRAIN_S", 0.05)
    script = [reads(), says(HEAD + chunk("Hello")), stalls()]
    async with gateway([script], provider='on_disconnect = "drain"') as gate:
        await _leave_after(gate, b"Hello")
        await asyncio.wait_for(gate.ups[0].hung_up.wait(), 30)
        row = await gate.only_row()
        assert (row.call.ending, row.call.estimated) == ("client_left", True)
        assert 0 < row.call.cost_nanousd <= row.attempts[0].hold_nanousd


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_call_that_shutdown_ends_is_billed_at_an_upper_bound(stream: bool) -> None:
    """Ended by drain at shutdown: the client is told, and what was produced is billed."""
    said = HEAD + chunk("Hel") if stream else b""
    async with gateway([[reads(), says(said), stalls()]]) as gate:
        asking = asyncio.create_task(gate.ask(body(stream, model=f"up/{SHOWN}", max_tokens=5000)))
        daemon = gate.daemon.server.daemon
        await until(lambda: bool(gate.ups[0].requests))
        if stream:
            await until(lambda: any(one.pipe.head for one in daemon.exchanges))
        path = daemon.ledger.path
        gate.daemon.server.stop()
        gate.daemon.server.stop()  # a second time: hurry
        await gate.daemon.server.drain()
        reply = await asking
        await until(lambda: [row.state for row in recent(path, limit=2)] == ["settled"])
        (row,) = recent(path, limit=2)
        assert (row.ending, row.estimated) == ("drained", True)
        detail = one_call(path, row.id)
        hold = detail.attempts[0].hold_nanousd
        if stream:
            assert detail.attempts[0].output_tokens == len("Hel") + FRAME
            assert 0 < row.cost_nanousd < hold
            assert b"draining" in events(reply)[-1]
        else:
            assert row.cost_nanousd == hold
            assert (reply.status, error(reply)["code"]) == (503, "draining")


@pytest.mark.parametrize(
    "status",
    ["400 Bad", "404 None", "408 Late", "424 Fell", "429 Slow", "500 Oh", "503 Busy", "529 Full"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_no_refusal_costs_anything(status: str, stream: bool) -> None:
    """4xx, 429 and 5xx before any output: $0, and the attempt is still a row."""
    refusal = whole(b'{"error":{"message":"no"}}', status=status)
    async with gateway([[reads(), says(refusal)]]) as gate:
        row = await gate.row(await gate.ask(body(stream)))
        (tried,) = row.attempts
        assert (tried.ending, tried.status) == ("upstream_refused", int(status[:3]))
        assert (row.call.cost_nanousd, tried.cost_nanousd, row.call.estimated) == (0, 0, False)
        assert gate.held() == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_each_class_of_tokens_has_its_own_price(stream: bool) -> None:
    """Cached input and reasoning are told apart from the rest, and never billed twice."""
    used = (
        b'"usage":{"prompt_tokens":100,"completion_tokens":50,"prompt_tokens_details":'
        b'{"cached_tokens":60},"completion_tokens_details":{"reasoning_tokens":20}}'
    )
    prices = '[prices."up/classes"]\ninput = 1\noutput = 2\ncached_input = 0.1\nreasoning = 3\n'
    event = b'data: {"id":"1","choices":[],' + used + b"}\n\n"
    said = (
        HEAD + chunk("Hi", "stop") + event + DONE
        if stream
        else whole(WHOLE.split(b'"usage"')[0] + used + b"}")
    )
    async with gateway([[reads(), says(said)]], more=prices) as gate:
        row = await gate.row(await gate.ask(body(stream, model="up/classes")))
        (tried,) = row.attempts
        assert (tried.input_tokens, tried.cache_read_tokens) == (40, 60)
        assert (tried.output_tokens, tried.reasoning_tokens) == (30, 20)
        assert row.call.cost_nanousd == 40 * 1000 + 60 * 100 + 30 * 2000 + 20 * 3000


async def test_the_price_is_that_of_the_moment_of_admission() -> None:
    """A reload that changes prices while a call runs does not change what it costs."""
    go = asyncio.Event()
    async with gateway([[reads(), waits(go), says(whole())]]) as gate:
        asking = asyncio.create_task(gate.ask())
        await until(lambda: bool(gate.ups[0].requests))
        config = gate.daemon.config
        config.write_text(config.read_text().replace("output = 2", "output = 200"))
        await gate.daemon.server.reloader.reload()
        go.set()
        assert (await gate.row(await asking)).call.cost_nanousd == USED_COST


async def test_every_attempt_is_a_row_with_a_price_of_its_own() -> None:
    """Fell back: what the first one may have billed is kept, and the call's row sums them."""
    route = '[routes.r]\nto = ["up/a", "up1/b"]\n'
    async with gateway([[reads(), resets()]], [[reads(), says(whole())]], more=route) as gate:
        reply = await gate.ask(body(model="r"))
        row = await gate.row(reply)
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "up1/b")
        assert reply.headers["x-tollway-attempts"] == "2"
        first, second = row.attempts
        assert (first.ending, second.ending) == ("upstream_broke", "answered")
        assert (first.cost_nanousd, second.cost_nanousd) == (first.hold_nanousd, USED_COST)
        assert row.call.cost_nanousd == first.cost_nanousd + second.cost_nanousd
        assert row.call.route == "r"
        assert b'"model":"b"' in gate.ups[1].requests[0]


async def test_what_cannot_succeed_is_not_tried_again() -> None:
    """A 400 is the request's own fault: the next target is not asked."""
    route = '[routes.r]\nto = ["up/a", "up1/b"]\n'
    bad = whole(b'{"error":{"message":"no"}}', status="400 Bad Request")
    async with gateway([[reads(), says(bad)]], [[reads(), says(whole())]], more=route) as gate:
        reply = await gate.ask(body(model="r"))
        assert reply.status == 400
        assert gate.ups[1].requests == []


async def test_a_fallback_that_no_budget_allows_ends_the_chain() -> None:
    """One attempt, one hold: the second is not sent when what the first cost leaves no room."""
    route = '[routes.r]\nto = ["up/a", "up1/b"]\n'
    scripts = [[reads(), resets()]], [[reads(), says(whole())]]
    async with gateway(*scripts, more=route, budget="0.0015/day") as gate:
        reply = await gate.ask(body(model="r"))
        row = await gate.row(reply)
        assert (reply.status, error(reply)["code"]) == (402, "insufficient_quota")
        assert reply.headers["x-should-retry"] == "false"
        assert gate.ups[1].requests == []
        assert [one.ending for one in row.attempts] == ["upstream_broke"]
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd
        assert gate.held() == 0


async def test_a_passed_limit_is_booked_in_full_and_marked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Overrun: an upstream that breaks its own limit is billed, and the excess stands apart."""
    much = WHOLE.replace(b'"completion_tokens":3', b'"completion_tokens":900000')
    async with gateway([[reads(), says(whole(much))]], budget="1/day") as gate:
        reply = await gate.ask()
        row = await gate.row(reply)
        true = 7 * INPUT + 900_000 * OUTPUT
        assert row.call.cost_nanousd == true
        assert row.attempts[0].overrun_nanousd == true - row.attempts[0].hold_nanousd > 0
        (tally,) = gate.daemon.server.daemon.meter.targets.values()
        assert (tally.cost, tally.overrun) == (true, row.attempts[0].overrun_nanousd)
        refused = await gate.ask()
        assert refused.status == 402
        assert "passed its own limit" in caplog.text


async def test_headers_come_before_a_late_first_event() -> None:
    """Long silence: headers go out after `keepalive`, then comments; an error is then an event."""
    go = asyncio.Event()
    script = [reads(), waits(go), says(answer(b"gone", SSE, status="503 Busy"))]
    async with gateway([script], server='keepalive = "50ms"') as gate:
        client = await gate.daemon.connect()
        await client.send(_request(body(stream=True)))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert b"data:" not in await client.reader.readuntil(b": keep-alive\n\n")
        go.set()
        *_, told, end = (await client.reader.readuntil(b"0\r\n\r\n")).split(b"\n\n\r\n")
        assert b'"error"' in told and end == b"0\r\n\r\n"
