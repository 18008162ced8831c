"""A session that goes on at a provider that cannot read the thoughts of the one before."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from aiohttp import web
from matrix_requests import ANTHROPIC, CHAT, RESPONSES
from matrix_world import TARGETS, World, world

from tollway.providers.refusals import is_sealed

# Each provider's words, and what of its own API it cannot read.
OPENAI = {
    "error": {
        "message": "The encrypted content gAAA...DQ== could not be verified. Reason: Encrypted"
        " content could not be decrypted or parsed.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_encrypted_content",
    }
}
CLAUDE = {
    "type": "error",
    "error": {
        "type": "invalid_request_error",
        "message": "messages.1.content.0: Invalid `signature` in `thinking` block",
    },
}
HI = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": [{"type": "output_text", "text": "Yes?"}]}
SEALED = {"type": "reasoning", "summary": [], "encrypted_content": "of another"}
THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": "of another"}


@contextlib.asynccontextmanager
async def reading(
    mark: str, refusal: dict[str, Any], more: str = ""
) -> AsyncIterator[tuple[World, list[str]]]:
    """Yield a world whose upstream refuses what holds a mark, and all that it was sent."""
    sent: list[str] = []
    async with world(more) as one:

        async def script(request: web.Request) -> web.StreamResponse:
            sent.append(await request.text())
            if mark in sent[-1]:
                return web.json_response(refusal, status=400)
            one.upstream.script = None  # what it usually says
            found = await one.upstream.handle(request)
            one.upstream.script = script
            return found

        one.upstream.script = script
        yield one, sent


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_response_s_thoughts_of_another_provider_are_left_out(stream: bool) -> None:
    """Codex gives them back with each turn; OpenAI, Azure and xAI can read their own alone."""
    async with reading("of another", OPENAI) as (one, sent):
        await one.ask(RESPONSES, TARGETS["openai, reasoning"], stream, input=[HI, SEALED, SAID, HI])
        assert len(sent) == 2
        said = json.loads(sent[1])
        assert said == {**json.loads(sent[0]), "input": [HI, SAID, HI]}
        assert one.heads["x-tollway-dropped"] == "thinking"
        row = await one.row()
        assert [attempt.ending for attempt in row.attempts] == ["upstream_refused", "answered"]


async def test_a_summary_is_made_without_thoughts_of_others() -> None:
    """Codex sums a long session up at `/responses/compact`, and is stuck where that is refused."""
    carried = {**SEALED, "encrypted_content": "tollway.anthropic_messages.signature.of Claude"}
    async with reading("of another", OPENAI) as (one, sent):
        asked = {"model": TARGETS["openai"], "input": [HI, carried, SAID, SEALED, HI]}
        await one.post("/v1/responses/compact", asked)
        assert [json.loads(body)["input"] for body in sent] == [
            [HI, SAID, SEALED, HI],
            [HI, SAID, HI],
        ]


async def test_a_message_s_thoughts_of_another_provider_are_left_out() -> None:
    """Servers that speak Anthropic's API sign as they like; in the middle of a turn none is on."""
    call = {"type": "tool_use", "id": "a", "name": "ls", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "ok"}
    turns = [
        HI,
        {"role": "assistant", "content": [THOUGHT, call]},
        {"role": "user", "content": [result]},
    ]
    asked: dict[str, Any] = {
        "messages": turns,
        "max_tokens": 4000,
        "tools": [{"name": "ls", "input_schema": {"type": "object"}}],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }
    async with reading("of another", CLAUDE) as (one, sent):
        await one.ask(ANTHROPIC, TARGETS["anthropic"], **asked)
        said = json.loads(sent[-1])
        assert said["messages"][1]["content"] == [call]
        assert said["thinking"] == {"type": "disabled"}
        assert one.heads["x-tollway-dropped"] == "thinking, reasoning"


async def test_proofs_of_another_account_of_google_s_are_left_out() -> None:
    """Calls bear what Google takes in their place; one that proves nothing else goes."""
    call = {"functionCall": {"name": "ls", "args": {}}, "thoughtSignature": "b2YgYW5vdGhlcg=="}
    result = {"functionResponse": {"name": "ls", "response": {"result": "ok"}}}
    asked = [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [call, {"text": "", "thoughtSignature": "b2YgYW5vdGhlcg=="}]},
        {"role": "user", "parts": [result]},
    ]
    words = {"error": {"code": 400, "message": "Corrupted thought signature."}}
    async with reading("b2YgYW5vdGhlcg==", words) as (one, sent):
        path = "/v1beta/models/gemini/gemini-3-pro-preview:generateContent"
        reply = await one.post(path, {"contents": asked})
        assert reply.status_code == 200
        said = json.loads(sent[1])["contents"][1]["parts"]
        assert said == [{**call, "thoughtSignature": "skip_thought_signature_validator"}]
        assert one.heads["x-tollway-dropped"] == "thinking"


async def test_what_was_carried_for_another_account_is_left_out_of_translated_calls() -> None:
    """It was signed by the same provider, elsewhere."""
    async with reading("of another", CLAUDE) as (one, sent):
        thought = {**SEALED, "encrypted_content": "tollway.anthropic_messages.signature.of another"}
        asked = [HI, thought, SAID, HI]
        await one.ask(RESPONSES, TARGETS["anthropic"], input=asked)
        assert len(sent) == 2
        assert "thinking" in one.heads["x-tollway-dropped"]


async def test_a_chat_s_thoughts_of_another_provider_are_left_out() -> None:
    """OpenRouter tells Anthropic's words within its own."""
    said = {"message": "Provider returned error", "metadata": {"raw": json.dumps(CLAUDE)}}
    details = [{"type": "reasoning.text", "text": "Hm", "signature": "of another"}]
    turn = {"role": "assistant", "content": "Yes?", "reasoning_details": details}
    async with reading("of another", {"error": said}) as (one, sent):
        await one.ask(CHAT, TARGETS["openai-compatible"], messages=[HI, turn, HI])
        assert json.loads(sent[1])["messages"] == [HI, {"role": "assistant", "content": "Yes?"}, HI]
        assert one.heads["x-tollway-dropped"] == "messages.reasoning_details"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refusal_within_an_answer_of_200_is_one_too(stream: bool) -> None:
    """OpenRouter has begun to answer ("PROCESSING") before its own provider has refused."""
    said = {"code": 400, "message": "Provider returned error"}
    raw = json.dumps({"error": {**said, "metadata": {"raw": json.dumps(CLAUDE)}}})
    details = [{"type": "reasoning.text", "text": "Hm", "signature": "of another"}]
    turn = {"role": "assistant", "content": "Yes?", "reasoning_details": details}
    async with reading("of another", {}) as (one, sent):
        usual = one.upstream.script
        assert usual is not None

        async def script(request: web.Request) -> web.StreamResponse:
            found = await usual(request)
            if found.status == 200:
                return found
            text = f": OPENROUTER PROCESSING\n\ndata: {raw}\n\n" if stream else raw
            kind = "text/event-stream" if stream else "application/json"
            return web.Response(text=text, content_type=kind)

        one.upstream.script = script
        await one.ask(CHAT, TARGETS["openai-compatible"], stream, messages=[HI, turn, HI])
        assert len(sent) == 2
        assert one.heads["x-tollway-dropped"] == "messages.reasoning_details"


async def test_who_refuses_still_is_not_asked_a_third_time() -> None:
    """What is sealed may be no thought: a summary of OpenAI's stands for the conversation."""
    async with reading("Hi", OPENAI) as (one, sent):
        with pytest.raises(openai.BadRequestError, match="could not be verified"):
            await one.ask(RESPONSES, TARGETS["openai"], input=[HI, SEALED, SAID, HI])
        assert len(sent) == 2


async def test_who_has_no_room_to_be_asked_again_is_one_to_wait_for() -> None:
    """A 400 ends an agent's session, for a limit that is full for a minute."""
    async with reading("of another", OPENAI, more="limits = { rpm = 1 }") as (one, sent):
        with pytest.raises(openai.RateLimitError):
            await one.ask(RESPONSES, TARGETS["openai"], input=[HI, SEALED, SAID, HI])
        assert len(sent) == 1
        assert int(one.heads["retry-after"]) > 0


async def test_a_route_that_allows_no_loss_leaves_the_refusal() -> None:
    """Thoughts are lost without which an answer may be another one."""
    place = list(TARGETS).index("anthropic")
    async with reading("of another", CLAUDE) as (one, sent):
        with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
            turn = {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "Yes?"}]}
            await one.ask(ANTHROPIC, f"strict/{place}", messages=[HI, turn, HI], max_tokens=100)
        assert len(sent) == 1


@pytest.mark.parametrize(
    "words",
    [
        # openai/codex#3573, NousResearch/hermes-agent#32617, Gentleman-Programming/gentle-ai#4595
        "The encrypted content for item rs_0dbe could not be verified.",
        "Could not decrypt the provided encrypted_content. Ensure the value is unmodified",
        "encrypted_content was not issued to this caller",
        # RooCodeInc/Roo-Code#11716, lbjlaq/Antigravity-Manager#3342
        "Unable to submit request because Thought signature is not valid.",
        "Invalid thought signature.",
        "messages.3.content.0: Invalid `data` in `redacted_thinking` block",
    ],
)
def test_words_of_providers_that_cannot_read_a_thought_are_known(words: str) -> None:
    """They come with 400."""
    assert is_sealed(400, json.dumps({"error": words}).encode())
    assert not is_sealed(401, json.dumps({"error": words}).encode())
    assert not is_sealed(400, b'{"error": "messages.1.content.0: thinking is not supported"}')
