"""What a long conversation costs grows with its length, not with its square.

All other streams stand still while one is read and written. The sessions of agents have thousands
of calls, and who wants to can send so many more that a square of them is hours.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from tollway.providers.conversation import Conversation
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.table import DIALECTS, UPSTREAMS

SHORT = 60


def call(number: int) -> dict[str, Any]:
    """Return a tool call."""
    function = {"name": "look", "arguments": "{}"}
    return {"id": f"call_{number}", "type": "function", "function": function}


def asks(*numbers: int) -> dict[str, Any]:
    """Return an assistant's turn that calls tools."""
    return {"role": "assistant", "content": None, "tool_calls": [call(one) for one in numbers]}


def result(number: int) -> dict[str, Any]:
    """Return what a tool said."""
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": "found"}


USER = {"role": "user", "content": "Go on."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SHAPES: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "texts": lambda n: [USER, {"role": "assistant", "content": "Yes."}] * n,
    "one user's": lambda n: [USER] * n,
    "instructions": lambda n: [{"role": "system", "content": "Be good."}] * n,
    "instructions with pictures": lambda n: (
        [{"role": "system", "content": [{"type": "text", "text": "See."}, PICTURE]}] * n
    ),
    "calls": lambda n: [turn for i in range(n) for turn in (asks(i), result(i), USER)],
    "calls at once": lambda n: [asks(*range(n)), *map(result, range(n))],
    "a user within results": lambda n: (
        [asks(*range(n))] + [turn for i in range(n) for turn in (result(i), USER)]
    ),
    "results of no call": lambda n: [turn for i in range(n) for turn in (USER, result(i))],
}


def steps(work: Callable[[], object]) -> int:
    """Return how many calls of functions some work makes, those of built-in ones included."""
    made = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made


def said(shape: str, length: int) -> Conversation:
    """Return a conversation as an OpenAI client has it."""
    turns = [USER, *SHAPES[shape](length), USER]
    chat = DIALECTS["openai_chat"]
    body = json.dumps({"model": "m", "messages": turns}).encode()
    return chat.codec.read_request(chat.dialect.peek("chat", body))


@pytest.mark.parametrize("target", UPSTREAMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_is_written_in_steps_that_are_in_proportion(shape: str, target: str) -> None:
    """Four times the conversation is four times the work."""
    codec = UPSTREAMS[target].codec
    short, long = (
        steps(partial(codec.write_request, said(shape, length), Facts("m")))
        for length in (SHORT, 4 * SHORT)
    )
    assert long < 5 * short


@pytest.mark.parametrize("client", DIALECTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_is_read_in_steps_that_are_in_proportion(shape: str, client: str) -> None:
    """And what it can use at most is told so too."""
    dialect, codec = DIALECTS[client]

    def take(body: bytes) -> None:
        call = dialect.peek("chat", body)
        dialect.bound(call)
        codec.read_request(call)

    short, long = (
        steps(partial(take, codec.write_request(said(shape, length), Facts("m")).body))
        for length in (SHORT, 4 * SHORT)
    )
    assert long < 5 * short


def test_what_a_user_says_in_several_messages_is_one() -> None:
    """Texts up to the first picture are one text, those behind it stay apart.

    They are joined once, at the end: joined one by one, 20,000 messages were copied for seconds.
    """
    turns = [
        {"role": "user", "content": "One."},
        {"role": "user", "content": "Two."},
        {"role": "user", "content": [{"type": "text", "text": "Three:"}, PICTURE]},
        {"role": "user", "content": "Four."},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Five."},
        {"role": "user", "content": "Six."},
    ]
    chat = DIALECTS["openai_chat"]
    body = json.dumps({"model": "m", "messages": turns}).encode()
    read = chat.codec.read_request(chat.dialect.peek("chat", body))
    written = json.loads(chat.codec.write_request(read, Facts("m")).body)["messages"]
    texts = [{"type": "text", "text": text} for text in ("One.\n\nTwo.", "Three:")]
    assert written == [
        {"role": "user", "content": [*texts, PICTURE, {"type": "text", "text": "Four."}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Five.\n\nSix."},
    ]
    gemini = json.loads(UPSTREAMS["gemini"].codec.write_request(read, Facts("m")).body)
    assert [len(turn["parts"]) for turn in gemini["contents"]] == [5, 1, 2]
