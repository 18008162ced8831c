"""Claude's thoughts, shown or hidden, go back to it in the order and the number they came in."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, RESPONSES, client_call, no_request

from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Codec, Facts
from tollway.providers.fold import unfold

CALL = {"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {}}


def thought(signature: str, text: str = "") -> dict[str, Any]:
    """Return a thought; Claude hides its words unless it is asked for them."""
    return {"type": "thinking", "thinking": text, "signature": signature}


def back(client: Codec, content: list[dict[str, Any]], *, stream: bool) -> list[dict[str, Any]]:
    """Return an assistant's turn as Anthropic gets it back through a client of another API."""
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    used = {"input_tokens": 5, "output_tokens": 7}
    body = {**head, "content": content, "stop_reason": "tool_use", "usage": used}
    answer = ANTHROPIC.events(no_request(ANTHROPIC), frozenset()).whole(json.dumps(body).encode())
    if client is RESPONSES:
        writer = client.writer(client_call(client, stream=stream))
        if stream:
            lines = (b"".join(map(writer.event, unfold(answer))) + writer.end()).split(b"\n")
            said = json.loads(lines[-3].removeprefix(b"data: "))["response"]["output"]
        else:
            said = json.loads(writer.whole(answer))["output"]
        result = {"type": "function_call_output", "call_id": "toolu_1", "output": "a.txt"}
        request: dict[str, Any] = {
            "model": "m",
            "input": [{"role": "user", "content": "Hi"}, *said, result],
        }
    else:
        whole = json.loads(client.writer(client_call(client, stream=False)).whole(answer))
        turn = whole["candidates"][0]["content"]
        reply = {"id": "toolu_1", "name": "ls", "response": {"result": "a.txt"}}
        user = [{"role": "user", "parts": [{"text": "Hi"}]}]
        results = {"role": "user", "parts": [{"functionResponse": reply}]}
        request = {"contents": [*user, turn, results]}
    call = Call("chat", client.name, "m", json.dumps(request).encode())
    written = ANTHROPIC.write_request(client.read_request(call), Facts("claude-sonnet-4-5"))
    assert written.dropped == ()
    turns: list[Any] = json.loads(written.body)["messages"]
    found: list[dict[str, Any]] = turns[1]["content"]
    return found


@pytest.mark.parametrize(
    ("client", "stream"), [(RESPONSES, False), (RESPONSES, True), (GEMINI, False)]
)
@pytest.mark.parametrize(
    "content",
    [
        [thought("s1"), CALL],
        [thought("s1"), {"type": "text", "text": "So"}, thought("s2"), CALL],
        [thought("s1", "Hm"), {"type": "text", "text": "So"}, thought("s2", "Ah"), CALL],
    ],
    ids=["hidden", "hidden, with text in between", "shown, with text in between"],
)
def test_thoughts_stand_where_they_stood(
    client: Codec, stream: bool, content: list[dict[str, Any]]
) -> None:
    """A hidden one before a call was taken for the call's own proof, and lost to Codex.

    Those with text between them were moved together, which Anthropic refuses.
    """
    assert back(client, content, stream=stream) == content
