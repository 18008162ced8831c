"""Hard budgets before the call: what is held, what is refused, and that nobody gets past."""

import asyncio

import msgspec
import pytest
from gateway import DONE, HEAD, USED, WHOLE, body, chunk, error, gateway, whole
from shell import Reply, running, short_folder, until
from upstreams import reads, says, waits

from tollway.daemon.ledger.calls import recent
from tollway.daemon.ledger.verify import verify

CALLERS = 200
CENT = 10**7


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("period", ["day", "24h"])
async def test_two_hundred_racing_callers_never_pass_a_cent(stream: bool, period: str) -> None:
    """Two hundred callers at once race for one cent: what fits is sent, the others get 402.

    A reload in the middle, which replaces every budget, loses none of the holds.
    """
    go = asyncio.Event()
    answers = says(HEAD + chunk("Hi", "stop") + USED + DONE if stream else whole())
    script = [reads(), waits(go), answers]
    async with gateway([script], budget=f"1/{period}") as gate:
        daemon = gate.daemon.server.daemon
        purse = daemon.gate.purse
        said = body(stream)
        one = asyncio.create_task(gate.ask(said))
        await until(lambda: len(gate.ups[0].requests) == 1)
        hold = gate.held()
        fit = CENT // hold
        assert 2 <= fit <= 100
        text = gate.daemon.config.read_text().replace(f'"1/{period}"', f'"0.01/{period}"')
        gate.daemon.config.write_text(text)
        await gate.daemon.server.reloader.reload()
        asking = [one, *(asyncio.create_task(gate.ask(said)) for _ in range(CALLERS - 1))]
        await until(lambda: sum(task.done() for task in asking) >= CALLERS - fit)
        (state,) = daemon.gate.purse.states()
        assert state.held_nanousd == fit * hold <= state.limit_nanousd == CENT
        assert purse is not daemon.gate.purse  # the reload took: the holds outlived it
        go.set()
        replies = await asyncio.gather(*asking)
        statuses = [reply.status for reply in replies]
        assert (statuses.count(200), statuses.count(402)) == (fit, CALLERS - fit)
        assert len(gate.ups[0].requests) == fit
        await until(lambda: gate.held() == 0)
        path = daemon.ledger.path
        await until(lambda: verify(path) == [])
        rows = recent(path, limit=CALLERS + 1)
        assert sum(row.cost_nanousd for row in rows) == fit * 13_000 <= CENT


def _refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, error(reply)["code"]


async def test_a_refusal_says_what_is_spent_and_when_it_renews() -> None:
    """402 in the caller's dialect, not to be retried, with figures and the next step."""
    async with gateway([[reads(), says(whole())]], budget="0.0000001/day") as gate:
        reply = await gate.ask()
        told = error(reply)
        assert _refusal(reply) == (402, "insufficient_quota")
        assert reply.headers["x-should-retry"] == "false"
        assert "retry-after" not in reply.headers
        for word in ("0.0000001/day", "user `ann`", "$0.00 spent", "turns over", "max_tokens"):
            assert word in told["message"]
        assert gate.ups[0].requests == []
        row = await gate.row(reply)
        assert (row.call.state, row.call.error) == ("refused", "insufficient_quota")


async def test_an_output_limit_is_written_where_the_client_set_none() -> None:
    """With a budget, `default_output` goes into the request and a header says so."""
    async with gateway([[reads(), says(whole())]], server="default_output = 300") as gate:
        reply = await gate.ask(body(max_tokens=None))
        assert reply.headers["x-tollway-output-limit"] == "300"
        assert b'"max_completion_tokens":300' in gate.ups[0].requests[0]
        row = await gate.row(reply)
        assert row.attempts[0].hold_nanousd >= 300 * 2000


async def test_the_client_s_own_limit_stays_as_it_is() -> None:
    """Nothing but what must change is changed: the body differs in the model's name alone."""
    said = body(max_tokens=7, unknown_field={"x": [1, 2]}, user="ann")
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(said)
        sent = gate.ups[0].requests[0].partition(b"\r\n\r\n")[2]
        assert sent == said.replace(b'"up/m"', b'"m"')
        assert "x-tollway-output-limit" not in reply.headers


async def test_unpriced_is_refused_while_a_budget_applies() -> None:
    """A model without a price cannot be bounded; the error names the line to add."""
    more = '[providers.box2]\nkind = "vllm"\nbase_url = "http://127.0.0.1:1/v1"\n'
    async with gateway([[reads()]], more=more) as gate:
        reply = await gate.ask(body(model="box2/qwen"))
        assert _refusal(reply) == (402, "unpriced")
        assert '[prices."box2/qwen"]' in error(reply)["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"web_search_options": {}}, "web_search_options"),
        ({"service_tier": "priority"}, "service_tier"),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]},
            "messages[].content[].image_url",
        ),
    ],
)  # fmt: skip
async def test_what_has_no_bound_is_refused(fields: dict[str, object], param: str) -> None:
    """What can raise the bill past any number of tokens is refused, by its name."""
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(body(**fields))
        assert _refusal(reply) == (402, "unbounded")
        assert error(reply)["param"] == param
        assert gate.ups[0].requests == []


@pytest.mark.parametrize("field", ["models", "plugins", "provider", "preset", "modalities"])
async def test_what_a_router_behind_would_choose_is_refused_in_every_dialect(field: str) -> None:
    """OpenRouter reads these in Responses too: a dearer model, a paid search, a stored prompt."""
    others: dict[str, object] = {"preset": "@preset/x", "provider": {"sort": "throughput"}}
    value = others.get(field, ["x/dear"])
    asks: tuple[tuple[str, dict[str, object]], ...] = (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 16}),
    )
    for path, own in asks:
        async with gateway([[reads(), says(whole())]]) as gate:
            said = msgspec.json.encode({"model": "up/m", **own, field: value})
            reply = await gate.ask(said, path)
            assert _refusal(reply) == (402, "unbounded"), (path, reply.body)
            assert error(reply)["param"] == field
            other = said.replace(f'"{field}"'.encode(), f'"{field.title()}"'.encode())
            assert (await gate.ask(other, path)).status == 400  # some readers mind no case
            assert gate.ups[0].requests == []


@pytest.mark.parametrize(
    "field",
    [
        "compound_custom", "content_policy_fallbacks", "context_window_fallbacks", "dataSources",
        "data_sources", "enable_search", "extra_body", "fallbacks", "providerOptions",
        "safety_model", "venice_parameters", "web_search",
    ],
)  # fmt: skip
async def test_what_other_servers_search_or_call_beside_is_refused(field: str) -> None:
    """Azure's own data, LiteLLM's and Bifrost's fallbacks, paid searches of Qwen and Venice."""
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(body(**{field: [{"model": "x/dear"}]}))
        assert _refusal(reply) == (402, "unbounded"), reply.body
        assert error(reply)["param"] == field
        assert gate.ups[0].requests == []


async def test_a_budget_for_thinking_in_google_s_extra_body_passes() -> None:
    """What Google reads there beside has no bound: cached content is input by its name."""
    kept = {"google": {"cached_content": "cachedContents/large"}}
    thinks = {"google": {"thinking_config": {"thinking_budget": 99, "include_thoughts": True}}}
    async with gateway([[reads(), says(whole())]]) as gate:
        assert _refusal(await gate.ask(body(extra_body=kept))) == (402, "unbounded")
        assert (await gate.ask(body(extra_body=thinks))).status == 200
        assert len(gate.ups[0].requests) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {"chat_template": "{% for _ in range(99999) %}x{% endfor %}"}},
        {"prompt_embeds": "UEsDBA=="},
        {"session_params": {"id": "long"}},
        {"files": [{"type": "collection", "id": "all"}]},
        {"vector_store_ids": ["vs_1"]},
        {"messages": [{"role": "system", "content": "fileid://file-fe-1,fileid://file-fe-2"}]},
    ],
)
async def test_what_stands_for_more_than_it_says_has_no_bound_but_the_window(
    fields: dict[str, object],
) -> None:
    """A template of the caller's own, a tensor that repeats itself, an earlier session, files."""
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(body(**fields))
        assert _refusal(reply) == (402, "unbounded"), reply.body
        assert "context window" in error(reply)["message"]
        assert gate.ups[0].requests == []


@pytest.mark.parametrize(
    "more", [{"uuid": "1"}, {"Type": "image_url"}], ids=["vllm", "another-case"]
)
async def test_no_picture_passes_as_a_text(more: dict[str, str]) -> None:
    """Some servers go by another field than a part's `type`; empty fields are none."""
    text = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    away = {"image_url": {"url": "https://x.example/large.png"}}
    async with gateway([[reads(), says(whole())]]) as gate:
        said = [{"role": "user", "content": [text | more | away]}]
        assert _refusal(await gate.ask(body(messages=said))) == (402, "unbounded")
        said = [{"role": "user", "content": [text | {"image_url": None}]}]
        assert (await gate.ask(body(messages=said))).status == 200
        assert len(gate.ups[0].requests) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [{"type": "additional_tools", "tools": [{"type": "web_search"}]}]},
        {"input": [{"type": "tool_search_output", "tools": [{"type": "mcp"}]}]},
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]},
    ],
    ids=["added", "found", "namespace"],
)
async def test_a_tool_that_the_provider_runs_is_found_wherever_it_stands(
    fields: dict[str, object],
) -> None:
    """Responses have tools in their input and in namespaces too: a search there has no bound."""
    said: dict[str, object] = {"model": "up/m", "input": "Hi", "max_output_tokens": 16, **fields}
    more = '[prices."up/m"]\ninput = 1\noutput = 2\ncontext_window = 1000\n'
    async with gateway([[reads(), says(whole())]], more=more) as gate:
        reply = await gate.ask(msgspec.json.encode(said), "/v1/responses")
        assert _refusal(reply) == (402, "unbounded"), reply.body
        assert "tools[]" in error(reply)["param"]
        assert gate.ups[0].requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"generationConfig": {"routingConfig": {"autoMode": {}}}}, "routingConfig"),
        ({"generation_config": {"model_config": {"x": 1}}}, "modelConfig"),
        ({"model_armor_config": {"prompt_template_name": "x"}}, "modelArmorConfig"),
        ({"generationConfig": {"responseFormat": [{"text": {}}, {"video": {"a": 1}}]}}, "response"),
        ({"generationConfig": {"response_format": {"image": {"imageSize": "4K"}}}}, "response"),
        ({"generationConfig": {"responseFormat": "image"}}, "responseFormat"),
        ({"continuationToken": "dG9rZW4="}, "context window"),
        ({"cached_content": "cachedContents/1"}, "context window"),
    ],
)
async def test_what_google_chooses_keeps_or_draws_has_no_bound(
    fields: dict[str, object], param: str
) -> None:
    """Vertex may choose a model, and checks texts for a fee; what is kept stands for a prompt."""
    said = msgspec.json.encode({"contents": [{"parts": [{"text": "Hi"}]}], **fields})
    async with gateway([[reads(), says(whole())]]) as gate:
        config = gate.daemon.config
        config.write_text(config.read_text().replace('kind = "openai"', 'kind = "gemini"'))
        await gate.daemon.server.reloader.reload()
        reply = await gate.ask(said, "/v1beta/models/up/m:generateContent")
        assert reply.status == 402
        assert param in error(reply)["message"]
        assert gate.ups[0].requests == []


async def test_a_format_of_google_s_for_text_passes() -> None:
    """It bounds nothing and buys nothing."""
    config = {"responseFormat": [{"text": {"mimeType": "text/plain"}}], "maxOutputTokens": 9}
    said = {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": config}
    candidate = {"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}
    answered = whole(msgspec.json.encode({"candidates": [candidate]}))
    async with gateway([[reads(), says(answered)]]) as gate:
        config_file = gate.daemon.config
        text = config_file.read_text().replace('kind = "openai"', 'kind = "gemini"')
        config_file.write_text(text)
        await gate.daemon.server.reloader.reload()
        path = "/v1beta/models/up/m:generateContent"
        assert (await gate.ask(msgspec.json.encode(said), path)).status == 200


async def test_a_route_may_allow_what_has_no_bound() -> None:
    """`allow_unbounded = true` is the owner's own decision, and it is obeyed."""
    more = '[routes.open]\nto = ["up/m"]\nallow_unbounded = true\n'
    async with gateway([[reads(), says(whole())]], more=more) as gate:
        reply = await gate.ask(body(model="open", web_search_options={}))
        assert reply.status == 200


async def test_choices_multiply_the_hold() -> None:
    """`n` answers can each be as long as the limit."""
    async with gateway([[reads(), says(whole())], [reads(), says(whole())]]) as gate:
        single = await gate.row(await gate.ask(body(max_tokens=1000)))
        many = await gate.row(await gate.ask(body(max_tokens=1000, n=5)))
        more = many.attempts[0].hold_nanousd - single.attempts[0].hold_nanousd
        assert more >= 4 * 1000 * 2000


async def test_budgets_count_what_was_spent_before_a_restart() -> None:
    """Counters start from the ledger: a restart gives nothing back."""
    async with gateway([[reads(), says(whole())]]) as gate:
        for _ in range(3):
            assert (await gate.ask()).status == 200
        folder, text = gate.daemon.folder, gate.daemon.config.read_text()
        path = gate.daemon.server.daemon.ledger.path
        await until(lambda: all(row.state == "settled" for row in recent(path, limit=9)))
        with short_folder() as kept:
            await gate.daemon.server.daemon.ledger.close()
            for file in folder.glob("ledger.db*"):
                if not file.name.endswith(".lock"):
                    (kept / file.name).write_bytes(file.read_bytes())
            more = text.partition("[providers.up]")
            async with running(more[1] + more[2], server="", folder=kept) as again:
                (state,) = again.server.daemon.gate.purse.states()
                assert state.settled_nanousd == 3 * 13_000


async def test_a_budget_added_by_a_reload_counts_what_was_spent() -> None:
    """A new budget begins with what its period has already cost."""
    async with gateway([[reads(), says(whole())]]) as gate:
        assert (await gate.ask()).status == 200
        config = gate.daemon.config
        config.write_text(
            config.read_text().replace("[teams.ml]", '[teams.ml]\nbudget = ["2/month"]')
        )
        await gate.daemon.server.reloader.reload()
        states = {s.scope: s for s in gate.daemon.server.daemon.gate.purse.states()}
        assert states["team"].settled_nanousd == states["user"].settled_nanousd == 13_000


async def test_embeddings_are_held_and_billed_by_their_input() -> None:
    """An embedding has no output: its hold is its input's bound."""
    said = msgspec.json.encode({"model": "up/e", "input": ["one", "two"]})
    listed = b'{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":4}}'
    async with gateway([[reads(), says(whole(listed))]]) as gate:
        reply = await gate.ask(said, "/v1/embeddings")
        row = await gate.row(reply)
        assert (reply.status, reply.body) == (200, listed)
        assert row.call.cost_nanousd == 4 * 1000
        assert b"POST /v1/embeddings " in gate.ups[0].requests[0]


async def test_completions_take_the_same_path() -> None:
    """The legacy endpoint is held, sent and settled like the others."""
    said = msgspec.json.encode({"model": "up/c", "prompt": "Once", "max_tokens": 5})
    text = WHOLE.replace(b'"message":{"role":"assistant","content":"Hello"}', b'"text":" upon"')
    async with gateway([[reads(), says(whole(text))]]) as gate:
        reply = await gate.ask(said, "/v1/completions")
        row = await gate.row(reply)
        assert (reply.status, reply.body) == (200, text)
        assert (row.call.endpoint, row.call.cost_nanousd) == ("completions", 13_000)
