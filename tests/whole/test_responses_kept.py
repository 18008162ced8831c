"""Conversations of the Responses API over a provider that keeps none, with OpenAI's own library."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest
from agents import config
from brains import Chat, Messages
from gateway import KEY
from shell import Running, running, until
from upstreams import upstream
from wire.recordings import recordings

from tollway.daemon.gate.conversations import Conversations
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import Policy

OTHER = "tw-another-key-of-this-test"
ALL = 'bodies = "all"\n'
KEYS = f"""
[users.bob]
groups = ["all"]
[keys.desk]
hash = "sha256:{sha256(OTHER.encode()).hexdigest()}"
user = "bob"
"""
# What OpenAI repeats of its own settings; its library takes an answer without them.
ECHOES = {"billing", "prompt_cache_retention", "frequency_penalty", "presence_penalty"}
TOOL: Any = {"type": "function", "name": "note", "parameters": {"type": "object"}, "strict": False}


@asynccontextmanager
async def gateway(
    brain: Chat | Messages, kind: str = "openai-compatible", ledger: str = ALL
) -> AsyncIterator[tuple[Running, openai.AsyncOpenAI]]:
    """Yield a gateway before a scripted upstream, and OpenAI's library for it."""
    async with (
        upstream([brain.answer]) as up,
        running(ledger + config(up.port, kind) + KEYS, server="") as daemon,
        client(daemon, KEY) as one,
    ):
        yield daemon, one


def client(daemon: Running, key: str) -> openai.AsyncOpenAI:
    """Return the library with a key."""
    return openai.AsyncOpenAI(
        api_key=key, base_url=f"http://127.0.0.1:{daemon.port}/v1", max_retries=0
    )


def roles(asked: dict[str, Any]) -> list[str]:
    """Return who speaks in a chat request, turn by turn."""
    return [message["role"] for message in asked["messages"]]


async def test_a_conversation_goes_on_by_the_id_of_its_last_answer() -> None:
    """All turns reach a provider that has no state; instructions are each call's own."""
    brain = Chat("none", {})
    async with gateway(brain) as (_, one):
        first = await one.responses.create(model="smart", input="One", instructions="Be short")
        assert first.store is True  # type: ignore[attr-defined]
        second = await one.responses.create(
            model="smart", input="Two", previous_response_id=first.id
        )
        assert second.previous_response_id == first.id
        stream = await one.responses.create(
            model="smart",
            input=[{"role": "user", "content": "Three"}],
            previous_response_id=second.id,
            stream=True,
        )
        third = [event async for event in stream][-1]
        assert third.type == "response.completed"
        assert third.response.previous_response_id == second.id
        await one.responses.create(
            model="smart", input="Four", previous_response_id=third.response.id
        )
    assert roles(brain.asked[0]) == ["system", "user"]
    assert roles(brain.asked[1]) == ["user", "assistant", "user"]
    assert roles(brain.asked[3]) == ["user", "assistant"] * 3 + ["user"]
    said = [message["content"] for message in brain.asked[3]["messages"]]
    assert said == ["One", "It is done.", "Two", "It is done.", "Three", "It is done.", "Four"]


@pytest.mark.parametrize("streams", [True, False])
async def test_a_tool_s_result_alone_goes_on_with_its_call(
    streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`function_call_output` with `previous_response_id`: the way of OpenAI's own examples."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    brain = Messages("note", {"text": "hi"})
    async with gateway(brain, "anthropic") as (_, one):
        asked: Any = {"model": "smart", "tools": [TOOL]}
        if streams:
            events = await one.responses.create(input="Hi", stream=True, **asked)
            first = [event async for event in events][-1].response
        else:
            first = await one.responses.create(input="Hi", **asked)
        call = next(item for item in first.output if item.type == "function_call")
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
        second = await one.responses.create(input=[result], previous_response_id=first.id, **asked)
        assert second.output_text == "It is done."
    turns = brain.asked[1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"][-1]["type"] == "tool_use"
    assert turns[2]["content"][0]["tool_use_id"] == turns[1]["content"][-1]["id"]


async def test_an_item_may_be_referred_to_by_its_id() -> None:
    """What the Vercel AI SDK sends unless it is told otherwise."""
    brain = Chat("note", {"text": "hi"})
    async with gateway(brain) as (_, one):
        first = await one.responses.create(model="smart", input="Hi", tools=[TOOL])
        call = next(item for item in first.output if item.type == "function_call")
        items: Any = [
            {"role": "user", "content": "Hi"},
            {"type": "item_reference", "id": call.id},
            {"type": "function_call_output", "call_id": call.call_id, "output": "ok"},
        ]
        second = await one.responses.create(model="smart", input=items, tools=[TOOL])
        listed = await one.responses.input_items.list(second.id, order="asc")
        kinds = [item.type for item in listed.data]
        assert kinds == ["message", "function_call", "function_call_output"]
    assert roles(brain.asked[1]) == ["user", "assistant", "tool"]


async def test_a_kept_answer_is_given_listed_and_deleted() -> None:
    """`retrieve`, `input_items`, `delete` and `cancel`; also when memory has forgotten it."""
    brain = Chat("none", {})
    async with gateway(brain) as (daemon, one):
        first = await one.responses.create(model="smart", input="One")
        second = await one.responses.create(
            model="smart", input="Two", previous_response_id=first.id
        )
        kept = await one.responses.retrieve(second.id)
        assert kept == second
        (recorded,) = [each for each in recordings() if each.id == "openai/responses-get"]
        lacks = set(json.loads(recorded.body)) - set(kept.model_dump())
        assert lacks <= ECHOES
        path = daemon.server.daemon.ledger.path
        await until(lambda: _rows(path) == 2)
        daemon.server.daemon.conversations = Conversations(daemon.server.daemon.ledger)
        assert await one.responses.retrieve(second.id) == second
        listed = await one.responses.input_items.list(second.id)
        said = [item.content[0].text for item in listed.data]  # type: ignore[union-attr,index]
        assert said == ["Two", "It is done.", "One"]
        page = await one.responses.input_items.list(second.id, order="asc", limit=2)
        assert len(page.data) == 2 and page.has_more
        rest = await one.responses.input_items.list(
            second.id, order="asc", after=page.data[-1].id or ""
        )
        assert [item.id for item in rest.data] == [listed.data[0].id]
        with pytest.raises(openai.BadRequestError, match="in the background"):
            await one.responses.cancel(second.id)
        await one.responses.delete(second.id)
        assert _rows(path) == 1
        for again in (one.responses.retrieve, one.responses.delete, one.responses.cancel):
            with pytest.raises(openai.NotFoundError, match="is kept here"):
                await again(second.id)
        with pytest.raises(openai.BadRequestError, match="is not kept here"):
            await one.responses.create(model="smart", input="3", previous_response_id=second.id)
        await one.responses.create(model="smart", input="3", previous_response_id=first.id)


def _rows(path: Path) -> int:
    with reading(path) as db:
        return int(db.execute("SELECT count(*) FROM responses").fetchone()[0])


async def test_an_answer_is_its_caller_s_alone() -> None:
    """Another key learns nothing of it: neither by reading nor by going on."""
    async with gateway(Chat("none", {})) as (daemon, one):
        first = await one.responses.create(model="smart", input="One")
        async with client(daemon, OTHER) as bob:
            with pytest.raises(openai.NotFoundError):
                await bob.responses.retrieve(first.id)
            with pytest.raises(openai.NotFoundError):
                await bob.responses.delete(first.id)
            with pytest.raises(openai.BadRequestError, match="is not kept here"):
                await bob.responses.create(model="smart", input="2", previous_response_id=first.id)
            item: Any = [{"type": "item_reference", "id": first.output[0].id}]
            with pytest.raises(openai.BadRequestError, match="nothing is kept here"):
                await bob.responses.create(model="smart", input=item)
        assert await one.responses.retrieve(first.id) == first


@pytest.mark.parametrize("ledger", ["", 'bodies = "errors"\n'])
async def test_without_bodies_nothing_is_kept_and_the_refusal_says_so(ledger: str) -> None:
    """Before anything is sent, with the setting that would change it."""
    brain = Chat("none", {})
    async with gateway(brain, ledger=ledger) as (daemon, one):
        first = await one.responses.create(model="smart", input="One")
        assert first.store is False  # type: ignore[attr-defined]
        with pytest.raises(openai.NotFoundError, match=r'ledger\.bodies = "all"'):
            await one.responses.retrieve(first.id)
        with pytest.raises(openai.BadRequestError, match=r'ledger\.bodies = "all"') as refusal:
            await one.responses.create(model="smart", input="2", previous_response_id=first.id)
        assert refusal.value.param == "previous_response_id"
        assert _rows(daemon.server.daemon.ledger.path) == 0
    assert len(brain.asked) == 1


async def test_what_must_not_be_stored_is_not() -> None:
    """`store: false`, on a gateway that keeps all bodies."""
    async with gateway(Chat("none", {})) as (_, one):
        first = await one.responses.create(model="smart", input="One", store=False)
        with pytest.raises(openai.NotFoundError):
            await one.responses.retrieve(first.id)


async def test_nothing_is_made_in_the_background_by_who_cannot() -> None:
    """`background` is refused with the reason, and not taken for an answer at once."""
    async with gateway(Chat("none", {})) as (_, one):
        with pytest.raises(openai.BadRequestError, match="answers only who waits") as refusal:
            await one.responses.create(model="smart", input="One", background=True)
        assert refusal.value.param == "background"


async def test_answers_go_with_the_bodies() -> None:
    """`keep_bodies` holds for them too, and so nothing of them is left in the file."""
    async with gateway(Chat("none", {})) as (daemon, one):
        await one.responses.create(model="smart", input="One")
        ledger = daemon.server.daemon.ledger
        await until(lambda: _rows(ledger.path) == 1)
        ledger.retain(Policy(keep_bodies_ms=-60_000))
        await until(lambda: _rows(ledger.path) == 0)
        with reading(ledger.path) as db:
            assert db.execute("SELECT count(*) FROM response_items").fetchone() == (0,)
