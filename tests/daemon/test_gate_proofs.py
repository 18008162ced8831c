"""Thoughts that one provider signed, given back by a client, on their way to another."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from clouds import ANN, Cloud, cloud
from gateway import Gateway
from shell import Reply, Running, running

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import UNPROVEN
from tollway.providers.dialects.anthropic_codec import CODEC as ANTHROPIC
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.echoes import To, without_echoes

THOUGHT = {"text": "Hm.", "thought": True, "thoughtSignature": "c2ln"}
CALL = {"functionCall": {"name": "f", "args": {}}}
GEMINI = {
    "candidates": [
        {
            "content": {"role": "model", "parts": [THOUGHT, {**CALL, "thoughtSignature": "c2ln"}]},
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 3},
}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
CLAUDE = {
    **{"id": "msg_1", "type": "message", "role": "assistant", "model": "c"},
    "content": [{"type": "thinking", "thinking": "Hm", "signature": "Y2w="}, USE],
    **{"stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 4}},
}
BUDGET = {"type": "enabled", "budget_tokens": 2000}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}


def config(port: int) -> str:
    """Return a configuration with those that sign."""
    tables = [
        f'[providers.{name}]\nkind = "{name}"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
        f'api_key = "env:HOME"\n[prices."{name}/*"]\ninput = 1\noutput = 1\n'
        for name in ("gemini", "anthropic", "openai")
    ]
    return "\n".join([*tables, ANN])


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield providers, and the gateway before them."""
    async with cloud() as one, running(config(one.port), server="") as daemon:
        yield one, daemon


async def ask(both: tuple[Cloud, Running], path: str, body: object, answer: object) -> Reply:
    """Ask for an answer that a provider is made to give."""
    up, daemon = both
    up.answer = (200, "application/json", msgspec.json.encode(answer))
    reply = await Gateway(daemon, []).ask(msgspec.json.encode(body), path)
    assert reply.status == 200, reply.body
    return reply


async def test_claude_goes_on_where_gemini_began(both: tuple[Cloud, Running]) -> None:
    """It refuses thoughts that it did not sign, and to think before a turn without any is over."""
    said: dict[str, Any] = {
        **{"model": "gemini/m", "max_tokens": 4000, "thinking": BUDGET},
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }
    content = (await ask(both, "/v1/messages", said, GEMINI)).json()["content"]
    (use,) = [block for block in content if block["type"] == "tool_use"]
    results = {"role": "user", "content": [{**RESULT, "tool_use_id": use["id"]}]}
    said["messages"] += [{"role": "assistant", "content": content}, results]
    said["model"] = "anthropic/claude-sonnet-4-5"
    said["context_management"] = {"edits": [{"type": "clear_thinking_20251015"}]}
    reply = await ask(both, "/v1/messages", said, CLAUDE)
    assert reply.headers["x-tollway-dropped"] == "thinking, reasoning"
    sent = both[0].asked[-1][2]
    assert sent["messages"][1:] == [{"role": "assistant", "content": [use]}, results]
    assert sent["thinking"] == {"type": "disabled"} and "context_management" not in sent
    # Its own thoughts of the next turn stay, and it thinks again.
    own = {"role": "assistant", "content": CLAUDE["content"]}
    said["messages"] += [own, {"role": "user", "content": [RESULT]}]
    await ask(both, "/v1/messages", said, CLAUDE)
    sent = both[0].asked[-1][2]
    assert sent["messages"][3] == own and sent["thinking"] == BUDGET


async def test_claude_may_think_once_for_all_calls_of_a_turn(both: tuple[Cloud, Running]) -> None:
    """As it often does: such a call is not touched, and a translated one asks for thoughts too."""
    second = {**USE, "id": "toolu_2"}
    said: dict[str, Any] = {
        **{"model": "claude-sonnet-4-5", "max_tokens": 4000, "thinking": BUDGET},
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": CLAUDE["content"]},
            {"role": "user", "content": [RESULT]},
            {"role": "assistant", "content": [second]},
            {"role": "user", "content": [{**RESULT, "tool_use_id": "toolu_2"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }
    asked = {**said, "model": "anthropic/claude-sonnet-4-5"}
    reply = await ask(both, "/v1/messages", asked, CLAUDE)
    assert both[0].asked[-1][2] == said and "x-tollway-dropped" not in reply.headers
    read = ANTHROPIC.read_request(call("anthropic_messages", json.dumps(said)))
    written = ANTHROPIC.write_request(read, Facts("claude-sonnet-4-5"))
    assert msgspec.json.decode(written.body)["thinking"] == BUDGET and not written.dropped
    # Without the thought there was none in the whole turn.
    said["messages"][1] = {"role": "assistant", "content": [USE]}
    read = ANTHROPIC.read_request(call("anthropic_messages", json.dumps(said)))
    written = ANTHROPIC.write_request(read, Facts("claude-sonnet-4-5"))
    assert "thinking" not in msgspec.json.decode(written.body)
    assert written.dropped == ("reasoning",)
    said["context_management"] = {
        "edits": [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}]
    }
    found, lost = without_echoes(call("anthropic_messages", json.dumps(said)), To("m"))
    sent = msgspec.json.decode(found.body)
    assert sent["thinking"] == {"type": "disabled"} and lost == ("reasoning",)
    assert sent["context_management"] == {"edits": [{"type": "clear_tool_uses_20250919"}]}


async def test_gemini_goes_on_where_claude_began(both: tuple[Cloud, Running]) -> None:
    """Its third generation wants a proof of the first call of a turn, and takes no other's."""
    said: dict[str, Any] = {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    }
    at = "/v1beta/models/{}:generateContent"
    made = await ask(both, at.format("anthropic/claude-sonnet-4-5"), said, CLAUDE)
    result = {"functionResponse": {"name": "f", "id": "toolu_1", "response": {"result": "1"}}}
    content = made.json()["candidates"][0]["content"]
    assert "thoughtSignature" in content["parts"][0]
    said["contents"] += [content, {"role": "user", "parts": [result]}]
    for model, proof in (
        ("gemini-3-pro-preview", {"thoughtSignature": "skip_thought_signature_validator"}),
        ("gemini-2.5-flash", {}),
    ):
        await ask(both, at.format(f"gemini/{model}"), said, GEMINI)
        parts = both[0].asked[-1][2]["contents"][1]["parts"]
        assert parts[0] == {"text": "Hm", "thought": True}
        assert parts[1] == {"functionCall": {"id": "toolu_1", "name": "f", "args": {}}, **proof}


async def test_openai_is_given_no_thoughts_of_claude_s(both: tuple[Cloud, Running]) -> None:
    """It cannot read what it did not encrypt, and refuses the whole call."""
    said: dict[str, Any] = {
        **{"model": "anthropic/claude-sonnet-4-5", "store": False},
        "input": [{"role": "user", "content": "Hi"}],
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    }
    made = (await ask(both, "/v1/responses", said, CLAUDE)).json()["output"]
    assert [one["type"] for one in made] == ["reasoning", "function_call"]
    told = {"type": "function_call_output", "call_id": made[1]["call_id"], "output": "1"}
    said |= {"model": "openai/gpt-5.2", "input": [*said["input"], *made, told]}
    answer = {"id": "resp_1", "object": "response", "status": "completed", "output": []}
    reply = await ask(both, "/v1/responses", said, answer)
    assert both[0].asked[-1][2]["input"] == [said["input"][0], made[1], told]
    assert reply.headers["x-tollway-dropped"] == "thinking"


async def test_a_route_s_changes_are_made_before_proofs_are_looked_for() -> None:
    """One changed member was there twice, and thoughts were asked for where there can be none."""
    async with cloud() as up:
        routes = "\n".join(
            f'[routes.{name}]\nto = ["{model}"]\n{changes}\n'
            for name, model, changes in (
                ("g", "gemini/gemini-3-pro-preview", "max_temperature = 0.5"),
                ("c", "anthropic/claude-sonnet-4-5", 'reasoning_effort = "high"'),
            )
        )
        async with running(config(up.port) + routes, server="") as daemon:
            both = up, daemon
            said: dict[str, Any] = {
                "contents": [
                    {"role": "user", "parts": [{"text": "Hi"}]},
                    {"role": "model", "parts": [CALL]},
                ],
                "generationConfig": {"temperature": 0.9, "topP": 0.5},
            }
            reply = await ask(both, "/v1beta/models/g:generateContent", said, GEMINI)
            assert reply.headers["x-tollway-changed"] == "temperature=0.5"
            asked = up.asked[-1][2]["generationConfig"]
            assert (asked["temperature"], asked["topP"]) == (0.5, 0.5)
            signed = up.asked[-1][2]["contents"][1]["parts"][0]
            assert signed == {**CALL, "thoughtSignature": "skip_thought_signature_validator"}
            foreign = {"type": "thinking", "thinking": "Hm", "signature": "tollway.gemini.sig.x"}
            used = {"role": "assistant", "content": [USE]}
            said = {
                "max_tokens": 9000,
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": [foreign, USE]},
                    {"role": "user", "content": [RESULT]},
                ],
                "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            }
            reply = await ask(both, "/v1/messages", {"model": "c", **said}, CLAUDE)
            assert reply.headers["x-tollway-dropped"] == "thinking"
            assert "x-tollway-changed" not in reply.headers
            assert "thinking" not in up.asked[-1][2] and up.asked[-1][2]["messages"][1] == used
            # What the client itself asks for, and cannot have, is named.
            said["thinking"] = BUDGET
            reply = await ask(both, "/v1/messages", {"model": "c", **said}, CLAUDE)
            assert reply.headers["x-tollway-dropped"] == "thinking, reasoning"
            assert up.asked[-1][2]["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize(
    ("way", "edits", "left"),
    [
        ("disabled", ["clear_thinking_20251015"], None),
        ("disabled", ["clear_thinking_20251015", "clear_tool_uses_20250919"], 1),
        ("disabled", ["clear_tool_uses_20250919"], 1),
        ("adaptive", ["clear_thinking_20251015"], 1),
        (None, ["clear_thinking_20251015"], 1),
    ],
)
def test_who_does_not_think_is_not_told_which_thoughts_to_forget(
    way: str | None, edits: list[str], left: int | None
) -> None:
    """Claude Code says it with each call; a route's `reasoning_effort = "none"` made each a 400."""
    managed = {"edits": [{"type": edit} for edit in edits]}
    said = {"messages": [{"role": "user", "content": "Hi"}], "context_management": managed}
    said |= {"thinking": {"type": way}} if way else {}
    asked = call("anthropic_messages", json.dumps(said))
    found, lost = without_echoes(asked, To("m"))
    sent = msgspec.json.decode(found.body).get("context_management")
    assert (sent and len(sent["edits"]), lost) == (left, ())
    assert (found is asked) is (left == len(edits))


def call(dialect: str, body: str) -> Call:
    """Return a call with a body, written as it stands."""
    return Call("chat", dialect, "m", body.encode())


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (
            "anthropic_messages",
            '{"messages": [ {"role":"assistant","content":[{"type":"thinking","thinking":"A",'
            ' "signature":"Y2w="},{"type":"tool_use","id":"a","name":"f","input":{}}]},'
            '{"role":"user","content":[{"type":"tool_result","tool_use_id":"a"}]}],'
            '"thinking":{"type":"enabled","budget_tokens":2000}}',
        ),
        (
            "anthropic_messages",
            '{"messages": [ {"role":"assistant","content":[]},{"role":"user","content":["Hi",'
            ' "tollway."]}], "thinking":{"type":"enabled","budget_tokens":2000}}',
        ),
        (
            "gemini",
            '{"contents": [ {"role":"model","parts":[{"functionCall":{"name":"f"},'
            ' "thoughtSignature":"c2ln"},{"functionCall":{"name":"g"}}]}]}',
        ),
        ("openai_responses", '{"input": [ {"type":"reasoning","encrypted_content":"gAAA"}]}'),
        ("openai_responses", '{"input": "Why \\"tollway.\\" and \\"tollway.x\\"?"}'),
        ("anthropic_messages", '{"messages": ["tollway."]}'),
        ("anthropic_messages", '{"messages": 1, "thinking": ["budget_tokens"], "a":"tollway.b"}'),
        ("gemini", '{"generateContentRequest":{"contents":[{"parts":[{"functionCall":{}}]}]}}'),
        ("gemini", '{"contents": [[{"functionCall": {}}]]}'),
        ("gemini", '{"contents": {"parts": {"functionCall": {}}}}'),
    ],
)
def test_what_a_provider_signed_itself_stays_byte_for_byte(dialect: str, body: str) -> None:
    """So does what cannot be read: it is the provider's to refuse."""
    asked = call(dialect, body)
    found, lost = without_echoes(asked, To("gemini-3-pro-preview"))
    assert (found, lost) == (asked, ())


def test_what_stands_beside_a_thought_keeps_its_bytes() -> None:
    """Numbers of any size and spelling too: for one out of range the thought stayed as well."""
    use = '{"type": "tool_use","id":"a","name":"f","input":{"n": 1e999, "m":0.10, "n":"\\u00e9"}}'
    foreign = '{"type":"thinking","thinking":"A","signature":"tollway.gemini.sig.x"}'
    thinking = '"thinking":{"type":"enabled","budget_tokens":2000}'
    end = f',{{"role":"user", "content":"B"}},{{"role":"user","content":[{use}]}}],{thinking}}}'
    body = f'{{"messages":[{{"role":"assistant","content":[{foreign}, {use}]}}{end}'
    found, lost = without_echoes(call("anthropic_messages", body), To("m"))
    assert found.body.decode() == body.replace(f"{foreign}, ", "") and lost == ("thinking",)


def test_what_a_call_without_a_proof_says_keeps_its_bytes() -> None:
    """As a number out of range, beside which a call was sent without what Google takes for one."""
    called = '{"functionCall":{"name":"f", "args":{"n": 1e999, "m":0.10, "n":1}}'
    turn = '{"role":"model","parts":[' + called + '%s},{"functionCall":{"name": "g"}}]}'
    body = '{"contents":[' + turn + "]}"
    found, lost = without_echoes(call("gemini", body % ""), To("gemini-3-pro-preview"))
    proof = ',"thoughtSignature":"skip_thought_signature_validator"'
    assert (found.body.decode(), lost) == (body % proof, ())
    # What follows on another turn of the model's has no first call.
    twice = '{"contents":[' + turn % proof + "," + turn % "" + "]}"
    asked = call("gemini", twice)
    assert without_echoes(asked, To("gemini-3-pro-preview")) == (asked, ())


def test_openai_is_given_no_text_of_thoughts() -> None:
    """Open models tell them, and nobody signs them: it refuses the whole call for one."""
    text = {"type": "reasoning_text", "text": "Hm"}
    told = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [text]}
    kept = {"type": "reasoning", "id": "rs_2", "summary": [], "content": []}
    own = {**told, "encrypted_content": "gAAA"}
    body = msgspec.json.encode({"model": "m", "input": [told, kept, own, {"role": "user"}]})
    call = Call("chat", "openai_responses", "m", body)
    cleaned, lost = without_echoes(call, To("gpt-5.2", quirks=KINDS["openai"].quirks))
    assert msgspec.json.decode(cleaned.body)["input"] == [kept, own, {"role": "user"}]
    assert lost == ("thinking",)
    other = To("qwen3", quirks=KINDS["openrouter"].quirks)
    assert without_echoes(call, other) == (call, ())


def test_thoughts_that_nobody_signed_stay_with_who_signs_nothing() -> None:
    """Anthropic refuses them; servers that speak as it does give and take them so."""
    body = (
        '{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"A",'
        '"signature":""},{"type":"text","text":"B"}]},{"role":"assistant","content":'
        '[{"type":"thinking","thinking":"C","signature":""}]},{"role":"user","content":"D"}]}'
    )
    asked = call("anthropic_messages", body)
    assert without_echoes(asked, To("m", checks=False)) == (asked, ())
    found, lost = without_echoes(asked, To("m"))
    assert msgspec.json.decode(found.body)["messages"] == [
        {"role": "assistant", "content": [{"type": "text", "text": "B"}]},
        {"role": "user", "content": "D"},
    ]
    assert lost == ("thinking",)


def test_what_stands_for_a_proof_goes_to_no_server() -> None:
    """OpenAI never kept such a thought; servers of open models take it, and refuse a proof."""
    marked = {"type": "reasoning", "summary": [], "encrypted_content": UNPROVEN}
    shown = {**marked, "content": [{"type": "reasoning_text", "text": "Hm"}]}
    asked = call("openai_responses", json.dumps({"input": [marked, shown, {"role": "user"}]}))
    found, lost = without_echoes(asked, To("m", quirks=KINDS["vllm"].quirks))
    del shown["encrypted_content"]
    assert msgspec.json.decode(found.body)["input"] == [shown, {"role": "user"}]
    found, lost = without_echoes(asked, To("gpt-5.2", quirks=KINDS["openai"].quirks))
    assert msgspec.json.decode(found.body)["input"] == [{"role": "user"}] and lost == ("thinking",)
    block = {"type": "thinking", "thinking": "Hm", "signature": UNPROVEN}
    turns = [{"role": "assistant", "content": [block, USE]}]
    asked = call("anthropic_messages", json.dumps({"messages": turns}))
    assert without_echoes(asked, To("m", checks=False)) == (asked, ())
    found, lost = without_echoes(asked, To("m"))
    assert msgspec.json.decode(found.body)["messages"][0]["content"] == [USE]
    assert lost == ("thinking",)


@pytest.mark.parametrize(
    ("store", "kind", "stays"),
    [(False, "openai", False), (True, "openai", True), (False, "xai", True)],
)
def test_thoughts_that_are_kept_nowhere_are_not_looked_for(
    store: bool, kind: str, stays: bool
) -> None:
    """OpenAI answers that there is no such item; other servers read the text."""
    thought = {"type": "reasoning", "summary": [], "content": [{"text": "Hm."}]}
    said = {"input": [thought, {"role": "user", "content": "Hi"}], "store": store}
    asked = call("openai_responses", json.dumps(said | {"reasoning": {"effort": "low"}}))
    found, lost = without_echoes(asked, To("m", quirks=KINDS[kind].quirks))
    assert (len(msgspec.json.decode(found.body)["input"]) == 2) is stays
    assert lost == (() if stays else ("thinking",))


def test_a_part_that_carried_a_proof_alone_goes_with_it() -> None:
    """Google's clients are shown it as an empty thought, with the proof in base64."""
    mark = "dG9sbHdheS5hbnRocm9waWNfbWVzc2FnZXMuc2lnbmF0dXJlLlkydz0="
    body = (
        '{"contents":[{"role":"model","parts":[{"text":"A","thought":true},{"text":"",'
        f'"thought":true,"thought_signature":"{mark}"}}]}},{{"role":"model","parts":'
        f'[{{"text":"","thoughtSignature":"{mark}"}}]}}]}}'
    )
    found, lost = without_echoes(call("gemini", body), To("gemini-2.5-flash"))
    assert msgspec.json.decode(found.body)["contents"] == [
        {"role": "model", "parts": [{"text": "A", "thought": True}]}
    ]
    assert lost == ()
