"""Sessions that began with one model and go on with another, as agents' clients send them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from matrix_requests import CHAT, RESPONSES
from matrix_world import TARGETS, World, world

from tollway.providers.conversation import carry

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI = {"role": "user", "content": "Hi"}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("ls", "cat")
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[World]:
    """Yield a gateway before all upstreams."""
    async with world() as one:
        yield one


def called(*calls: tuple[str, str]) -> list[dict[str, Any]]:
    """Return a turn that calls tools, by id and name, and their results: the ids' places."""
    made = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for id_, name in calls
    ]
    results = [
        {"role": "tool", "tool_call_id": id_, "content": f"{name} {place}"}
        for place, (id_, name) in enumerate(calls)
    ]
    return [{"role": "assistant", "content": None, "tool_calls": made}, *results]


def pairs(body: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return id, name and result of each call that a request to Anthropic, Google or AWS holds."""
    found: dict[str, list[str]] = {}
    turns = body.get("messages") or body["contents"]
    for part in (part for turn in turns for part in turn.get("parts") or turn["content"]):
        if isinstance(part, str):
            continue
        call = part.get("toolUse") or part.get("functionCall") or part
        if ("name" in call and "args" in call) or "input" in call:
            id_ = call.get("toolUseId") or call.get("id")
            assert id_ not in found, "two calls of one id"
            found[id_] = [call["name"]]
        result = part.get("toolResult") or part.get("functionResponse") or part
        id_ = result.get("toolUseId") or result.get("tool_use_id")
        if "functionResponse" in part:
            found[result["id"]] += [result["response"]["result"]]
            assert result["name"] == found[result["id"]][0]
        elif id_ and "content" in result:
            said = result["content"]
            found[id_] += [said if isinstance(said, str) else said[0]["text"]]
    return [(id_, *rest) for id_, rest in found.items()]  # type: ignore[misc]


@pytest.mark.parametrize("target", ["anthropic", "gemini", "bedrock"])
async def test_calls_that_share_an_id_have_each_their_own_elsewhere(
    through: World, target: str
) -> None:
    """Kimi's models count from 0 in every answer: the next provider gets each call its result."""
    turns = [
        HI,
        *called(("0", "ls")),
        *called(("0", "cat"), ("1", "ls")),
        *called(("0", "ls"), ("0", "cat")),
        HI,
    ]
    await through.ask(CHAT, TARGETS[target], messages=turns, tools=TOOLS)
    found = pairs(through.upstream.asked[-1][1])
    assert [one[1:] for one in found] == [
        ("ls", "ls 0"),
        ("cat", "cat 0"),
        ("ls", "ls 1"),
        ("ls", "ls 0"),
        ("cat", "cat 1"),
    ]
    assert (found[0][0], found[2][0]) == ("0", "1")


@pytest.mark.parametrize("target", ["anthropic", "bedrock"])
async def test_an_answer_that_was_cut_off_within_a_thought_does_not_go_back(
    through: World, target: str
) -> None:
    """Claude takes no thought at a turn's end, and the user's two turns are one then."""
    proof = carry("anthropic_messages", "signature", "sig")
    summary = [{"type": "summary_text", "text": "Hm"}]
    thought = {"type": "reasoning", "summary": summary, "encrypted_content": proof}
    await through.ask(RESPONSES, TARGETS[target], input=[HI, thought, HI])
    turns = through.upstream.asked[-1][1]["messages"]
    assert [turn["role"] for turn in turns] == ["user"]
    assert len(turns[0]["content"]) == 2
    assert through.heads["x-tollway-dropped"] == "thinking"
    answered = {"role": "assistant", "content": "Yes?"}
    await through.ask(RESPONSES, TARGETS[target], input=[HI, thought, answered, HI])
    turns = through.upstream.asked[-1][1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert len(turns[1]["content"]) == 2


@pytest.mark.parametrize(
    "behind",
    [
        [HI, HI],
        [{"role": "developer", "content": "Be brief"}, HI],
        [HI, {"role": "assistant", "content": ""}, HI],
    ],
    ids=["two users", "a developer", "an empty answer"],
)
async def test_claude_is_not_asked_to_think_on_behind_results_and_words(
    through: World, behind: list[dict[str, Any]]
) -> None:
    """What is said behind a result stands with it in one turn, which began without a thought."""
    turns = [HI, *called(("a", "ls")), *behind]
    asked = {"messages": turns, "tools": TOOLS, "reasoning_effort": "high"}
    await through.ask(CHAT, TARGETS["anthropic"], **asked)
    body = through.upstream.asked[-1][1]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert "thinking" not in body
    assert through.heads["x-tollway-dropped"] == "reasoning"
    asked["messages"] = [*turns, {"role": "assistant", "content": "So"}, HI]
    await through.ask(CHAT, TARGETS["anthropic"], **asked)
    assert through.upstream.asked[-1][1]["thinking"]["type"] == "enabled"
