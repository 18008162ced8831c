"""Corners in which money or access once went wrong; each test is one of them."""

import asyncio
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from broken_disks import foreign_transaction
from gateway import (
    CHAT,
    DONE,
    HEAD,
    INPUT,
    KEY,
    OUTPUT,
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
from shell import PATIENCE_S, Client, until
from upstreams import notes, reads, resets, says, stalls, waits

from tollway.daemon.config.schema import Key
from tollway.daemon.config.validity import _end
from tollway.daemon.gate import attempt, send
from tollway.daemon.gate.budget import Terms, worst
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.calls import recent
from tollway.daemon.ledger.verify import verify
from tollway.providers.canon import Bound
from tollway.providers.catalog import KINDS

USED_COST = 7 * INPUT + 3 * OUTPUT
FEE = '[prices."up/fee"]\ninput = 1\noutput = 2\nrequest = 5000\n'


async def test_every_input_of_a_list_has_a_window_of_its_own() -> None:
    """The context window bounds one input: a hundred of them are held a hundred times."""
    more = '[prices."up/e"]\ninput = 1\noutput = 0\ncontext_window = 100\n'
    said = msgspec.json.encode({"model": "up/e", "input": ["x" * 400] * 100})
    used = b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":9900,"total_tokens":9900}}'
    async with gateway([[reads(), says(whole(used))]], more=more) as gate:
        row = await gate.row(await gate.ask(said, "/v1/embeddings"))
        assert row.call.cost_nanousd == 9900 * INPUT
        assert row.attempts[0].hold_nanousd >= row.call.cost_nanousd


async def test_only_a_stated_window_caps_a_hold() -> None:
    """Bundled context windows are a help, no proof: a hold is not cut down to one."""
    async with gateway([[reads()]]) as gate:
        daemon = gate.daemon.server.daemon
        target = Target("x", "gpt-4o-mini", KINDS["openai"])
        price = daemon.gate.price(target, daemon.books.now_ms())
        assert price is not None
        assert price.context_window == 128_000
        most = worst(Bound(200_000, 10), price, target, Terms(budgets=True, default_output=1))
        assert most.input_tokens == 200_000


async def test_a_refusal_costs_no_fee_either() -> None:
    """A price for each request is for requests that were answered."""
    busy = whole(b'{"error":{"message":"busy"}}', status="429 Too Many Requests")
    async with gateway([[reads(), says(busy)]], more=FEE) as gate:
        row = await gate.row(await gate.ask(body(model="up/fee")))
        assert row.call.cost_nanousd == 0
        assert gate.held() == 0


async def test_a_client_gone_before_the_end_marker_pays_what_was_reported() -> None:
    """Once the answer has ended, its report is final, whatever became of the client."""
    script = [reads(), says(HEAD + chunk("Hi", "stop") + USED), stalls()]
    async with gateway([script]) as gate:
        client = await _begin(gate, body(stream=True))
        async with asyncio.timeout(30):
            await client.reader.readuntil(b'"stop"')
        await until(
            lambda: all(
                one._attempt and one._attempt.reader.usage
                for one in gate.daemon.server.daemon.exchanges
            )
        )
        client.close()
        row = await gate.only_row()
        assert (row.call.ending, row.call.estimated) == ("client_left", False)
        assert row.call.cost_nanousd == USED_COST


async def test_a_connection_that_breaks_behind_a_whole_answer_breaks_nothing() -> None:
    """The client has the answer and the provider's report: neither is spoilt by a reset."""
    seen = asyncio.Event()
    script = [reads(), says(HEAD + chunk("Hi", "stop") + USED), waits(seen), resets()]
    async with gateway([script]) as gate:
        asking = asyncio.create_task(gate.ask(body(stream=True)))
        await until(
            lambda: any(
                one._attempt and one._attempt.reader.usage
                for one in gate.daemon.server.daemon.exchanges
            )
        )
        seen.set()
        reply = await asking
        row = await gate.row(reply)
        assert events(reply) == [chunk("Hi", "stop")]
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", USED_COST)


async def test_an_error_beside_tokens_is_billed_and_not_tried_again() -> None:
    """A whole answer with an error in it that reports usage did cost something."""
    failed = WHOLE.replace(b'{"id"', b'{"error":{"message":"cut","code":502},"id"', 1)
    route = '[routes.r]\nto = ["up/a", "up1/b"]\n'
    scripts = [[reads(), says(whole(failed))]], [[reads(), says(whole())]]
    async with gateway(*scripts, more=route) as gate:
        row = await gate.row(await gate.ask(body(model="r")))
        assert row.call.cost_nanousd > 0
        assert gate.ups[1].requests == []


async def test_a_slow_body_carries_no_key_past_its_end() -> None:
    """A key that was revoked while its request's body came in is refused."""
    async with gateway([[reads(), says(whole())]]) as gate:
        said = body()
        client = await _begin(gate, said, withhold=10)
        config = gate.daemon.config
        config.write_text(
            config.read_text().replace("[keys.laptop]", "[keys.laptop]\nrevoked = 2026-01-01")
        )
        await gate.daemon.server.reloader.reload()
        await client.send(said[-10:])
        assert (await client.answer()).status == 401
        assert gate.ups[0].requests == []


async def test_a_user_agent_of_any_bytes_is_written_down() -> None:
    """A header that is no UTF-8 must not keep a call out of the ledger."""
    async with gateway([[reads(), says(whole())]]) as gate:
        said = body()
        client = await gate.daemon.connect()
        await client.send(
            _head(len(said)).replace(b"\r\n\r\n", b"\r\nUser-Agent: caf\xe9\r\n\r\n") + said
        )
        assert (await client.answer()).status == 200
        assert (await gate.only_row()).call.client == "caf?"


def test_a_key_may_last_for_ever_in_so_many_words() -> None:
    """The last day there is has no day after it."""
    key = Key(hash="sha256:" + "0" * 64, user="a", expires=date.max)
    assert _end(key, ZoneInfo("UTC")) == float("inf")


async def test_nobody_is_asked_for_a_client_that_has_gone() -> None:
    """With `drain` an answer is read to its end, but no further target is asked for nobody."""
    go, asked = asyncio.Event(), asyncio.Event()
    busy = whole(b'{"error":{"message":"busy"}}', status="500 Oh")
    route = '[routes.r]\nto = ["up/a", "up1/b"]\n'
    scripts = [[reads(), notes(asked), waits(go), says(busy)]], [[reads(), says(whole())]]
    async with gateway(*scripts, provider='on_disconnect = "drain"', more=route) as gate:
        client = await _begin(gate, body(model="r"))
        await asyncio.wait_for(asked.wait(), 30)
        client.close()
        await until(lambda: all(one._left for one in gate.daemon.server.daemon.exchanges))
        go.set()
        row = await gate.only_row()
        assert [one.ending for one in row.attempts] == ["upstream_refused"]
        assert gate.ups[1].requests == []


async def test_no_output_means_no_output_everywhere() -> None:
    """`max_tokens: 0` is no limit to some servers: those are told 1."""
    said = msgspec.json.encode({"model": "up/c", "prompt": "Once", "max_tokens": 0})
    kind = 'kind = "ollama"\n#'
    async with gateway([[reads(), says(whole())]]) as gate:
        config = gate.daemon.config
        config.write_text(config.read_text().replace('kind = "openai"', kind))
        await gate.daemon.server.reloader.reload()
        await gate.ask(said, "/v1/completions")
        assert b'"max_tokens":1}' in gate.ups[0].requests[0]


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("openai", "gpt-4o-search-preview"),
        ("openai", "o3-deep-research"),
        ("openai", "O3-Deep-Research"),
        ("openrouter", "openai/gpt-4o:online"),
        ("openrouter", "openai/gpt-4o:Online:nitro"),
        ("openrouter", "openai/gpt-4o:nitro"),
        ("openrouter", "openai/gpt-4o:exacto"),
        ("openrouter", "openai/gpt-4o@preset/mine"),
        ("openrouter", "@preset/mine"),
        ("openrouter", "openrouter/auto"),
        ("openrouter", "openai/o3-deep-research"),
        ("openrouter", "perplexity/sonar-deep-research"),
        ("openrouter", "openai/gpt-4o-search-preview"),
        ("groq", "groq/compound-mini"),
    ],
)
async def test_a_model_that_searches_or_chooses_by_itself_is_refused(kind: str, model: str) -> None:
    """What a model does on its own account has no bound, nor what is kept there for it.

    A price of the owner's for all models of a provider does not change that.
    """
    async with gateway([[reads(), says(whole())]]) as gate:
        config = gate.daemon.config
        config.write_text(config.read_text().replace('kind = "openai"', f'kind = "{kind}"'))
        await gate.daemon.server.reloader.reload()
        reply = await gate.ask(body(model=f"up/{model}"))
        assert (reply.status, error(reply)["code"]) == (402, "unbounded")
        assert gate.ups[0].requests == []


async def test_an_except_does_not_care_for_case() -> None:
    """Some providers take `Big-1` for `big-1`: neither gets past the list."""
    async with gateway([[reads(), says(whole())]]) as gate:
        config = gate.daemon.config
        text = config.read_text().replace('models = ["*"]', 'models = ["*"]\nexcept = ["up/big*"]')
        config.write_text(text)
        await gate.daemon.server.reloader.reload()
        assert (await gate.ask(body(model="up/Big-1"))).status == 404


async def test_a_report_without_input_is_no_report() -> None:
    """There was a prompt, so a report of no input tokens is not believed."""
    report = WHOLE.replace(b'"prompt_tokens":7', b'"prompt_tokens":0')
    async with gateway([[reads(), says(whole(report))]]) as gate:
        row = await gate.row(await gate.ask())
        assert row.call.estimated
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd


async def test_a_fault_before_an_attempt_is_written_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What its turn had just given it is free again: nothing was sent, and nothing costs."""
    async with gateway([[reads(), says(whole())]], provider="slots = 1") as gate:
        # The one thing here that is not real: no known request makes this fail.
        monkeypatch.setattr(send, "AttemptOpened", None)
        reply = await gate.ask()
        monkeypatch.undo()
        assert (reply.status, error(reply)["code"]) == (500, "internal_error")
        assert gate.held() == 0
        assert gate.ups[0].requests == []
        assert (await gate.ask()).status == 200  # the only slot is free


async def test_a_call_that_the_ledger_refuses_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither hold nor slot nor the end of a row: it was not written, and so not sent."""
    async with gateway([[reads(), says(whole())]], provider="slots = 1") as gate:
        ledger = gate.daemon.server.daemon.ledger
        with foreign_transaction(ledger.path):
            reply = await gate.ask()
        assert (reply.status, error(reply)["code"]) == (503, "ledger_unavailable")
        assert gate.held() == 0
        assert gate.ups[0].requests == []
        await ledger.ready()
        assert (await gate.ask()).status == 200  # the only slot is free
        await until(lambda: verify(ledger.path) == [])
    assert "never admitted" not in caplog.text


async def test_a_fault_while_an_attempt_is_billed_leaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hold and slot are free again, and the counters say what the ledger does: the hold."""
    async with gateway([[reads(), says(whole())]], provider="slots = 1") as gate:
        daemon = gate.daemon.server.daemon
        # The one thing here that is not real: no usage is known that cannot be priced.
        monkeypatch.setattr(attempt, "billed", None)
        reply = await gate.ask()
        monkeypatch.undo()
        assert (reply.status, error(reply)["code"]) == (500, "internal_error")
        row = await gate.row(reply)
        assert row.call.cost_nanousd == row.attempts[0].hold_nanousd > 0
        (state,) = daemon.gate.purse.states()
        assert (state.settled_nanousd, state.held_nanousd) == (row.call.cost_nanousd, 0)
        assert (await gate.ask()).status == 200  # the only slot is free
        await until(lambda: verify(daemon.ledger.path) == [])


@pytest.mark.parametrize("ends", ["broken", "cut"])
async def test_a_fault_while_a_broken_attempt_is_billed_ends_its_client_s_answer_too(
    monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The client is told, and the call is settled at its hold as any of which no more is known."""
    go_on = asyncio.Event()
    script = [reads(), says(HEAD + chunk("He")), waits(go_on), resets()]
    async with gateway([script], provider="slots = 1") as gate:
        daemon = gate.daemon.server.daemon
        path = daemon.ledger.path
        said = body(stream=True)
        client = await _begin(gate, said)
        await until(lambda: any(one.attempt and one.attempt.first_ms for one in daemon.exchanges))
        # The one thing here that is not real: no known answer makes this fail.
        monkeypatch.setattr(attempt, "AttemptEnded", None)
        if ends == "broken":
            go_on.set()
        else:
            for one in tuple(daemon.exchanges):
                one.cut("drained")
        async with asyncio.timeout(PATIENCE_S):
            while b'"error"' not in await client.reader.readline():
                assert not client.reader.at_eof()
        monkeypatch.undo()
        go_on.set()
        await until(lambda: [row.state for row in recent(path, limit=9)] == ["settled"])
        (row,) = recent(path, limit=9)
        assert row.cost_nanousd == row.hold_nanousd > 0
        (state,) = daemon.gate.purse.states()
        assert (state.settled_nanousd, state.held_nanousd) == (row.cost_nanousd, 0)
        await until(lambda: verify(path) == [])
        client.close()


def _head(length: int) -> bytes:
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def _begin(gate: Gateway, said: bytes, *, withhold: int = 0) -> Client:
    client = await gate.daemon.connect()
    await client.send(_head(len(said)) + said[: len(said) - withhold])
    return client


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/messages", {"tool_choice": {"type": "any"}}),
        ("/v1/messages", {"tool_choice": {"type": "tool", "name": "ls"}}),
        (
            "/v1beta/models/up/m:generateContent",
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
        ),
    ],
)
async def test_a_choice_of_no_tools_is_refused_as_providers_do(
    path: str, more: dict[str, object]
) -> None:
    """No dialect is written a choice without tools, so it would be lost without a word."""
    asked: dict[str, object] = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
    if path == "/v1/messages":
        turn = {"role": "user", "content": "Hi"}
        asked = {"model": "up/m", "max_tokens": 10, "messages": [turn]}
    asked |= more
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(msgspec.json.encode(asked), path)
        assert reply.status == 400, reply.body
        assert b"`tool_choice` demands" in reply.body
        assert not gate.ups[0].requests
        none = msgspec.json.encode({k: v for k, v in asked.items() if k not in more})
        assert (await gate.ask(none, path)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_the_phase_of_a_response_s_texts_is_named_where_it_is_lost(stream: bool) -> None:
    """OpenAI's newer models want it back; no other API has a word for it."""
    text = {"type": "output_text", "text": "Hello", "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "phase": "final_answer"}
    used = {"input_tokens": 7, "output_tokens": 3}
    response: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "completed"}
    response |= {"model": "gpt-5.4", "output": [item | {"content": [text]}], "usage": used}
    said = msgspec.json.encode(response)
    if stream:
        pieces = [
            {"type": "response.output_item.done", "output_index": 0, "item": response["output"][0]},
            {"type": "response.completed", "response": response},
        ]
        said = b"".join(b"data: " + msgspec.json.encode(one) + b"\n\n" for one in pieces)
    answer = HEAD + said if stream else whole(said)
    asked = {"model": "up/gpt-5.4", "max_tokens": 10, "stream": stream}
    asked["messages"] = [{"role": "user", "content": "Hi"}]
    async with gateway([[reads(), says(answer)]]) as gate:
        reply = await gate.ask(msgspec.json.encode(asked), "/v1/messages")
        assert reply.status == 200 and b"Hello" in reply.body + reply.rest
        if not stream:
            assert reply.headers["x-tollway-dropped"] == "phase"
        assert (await gate.row(reply)).call.dropped == "phase"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "why",
    [
        b'"finish_reason":"error","error":{"code":502,"message":"Out of memory"}',  # OpenRouter
        b'"finish_reason":"stop","error":{"code":502,"message":"Out of memory"}',
        b'"finish_reason":"insufficient_system_resource"',  # DeepSeek
    ],
)
async def test_an_answer_that_its_provider_broke_off_is_no_answered_call(
    stream: bool, why: bytes
) -> None:
    """Its client has it byte for byte, and pays for it, and the books know better."""
    said = WHOLE.replace(b'"finish_reason":"stop"', why)
    sent = [chunk("He"), chunk(finish="stop").replace(b'"finish_reason":"stop"', why), USED, DONE]
    script = [reads(), says(HEAD + b"".join(sent)) if stream else says(whole(said))]
    async with gateway([script]) as gate:
        reply = await gate.ask(body(stream))
        row = await gate.row(reply)
        assert (events(reply) == [*sent[:2], DONE]) if stream else (reply.body == said)
        assert (row.call.ending, row.call.error) == ("upstream_broke", "upstream_broke")
        assert (row.call.cost_nanousd, row.call.estimated) == (USED_COST, False)
