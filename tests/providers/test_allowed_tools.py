"""Which tools may be called, where some are the provider's own; and an answer of no tokens."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, RESPONSES

from tollway.daemon.gate.translate import without_offers
from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Facts
from tollway.providers.errors import Untranslatable

FUNCTIONS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}}
    for name in ("ls", "rm")
]
SEARCH = {"type": "web_search"}


def chosen(mode: str, *allowed: Any) -> Any:
    """Return what Google is told of a choice."""
    choice = {"type": "allowed_tools", "mode": mode, "tools": list(allowed)}
    body = {"model": "m", "input": "Hi", "tools": [*FUNCTIONS, SEARCH], "tool_choice": choice}
    said = RESPONSES.read_request(Call("chat", RESPONSES.name, "m", json.dumps(body).encode()))
    written = GEMINI.write_request(without_offers(said)[0], Facts("gemini-2.5-flash"))
    return json.loads(written.body)["toolConfig"]["functionCallingConfig"]


def test_what_may_be_called_of_a_provider_s_own_tools_is_no_name() -> None:
    """A search is left out where there is none; Google was told of a function without a name."""
    named = {"type": "function", "name": "rm"}
    assert chosen("auto", named, SEARCH)["allowedFunctionNames"] == ["rm"]
    assert chosen("auto", SEARCH) == {"mode": "NONE"}
    with pytest.raises(Untranslatable):
        chosen("required", SEARCH)


@pytest.mark.parametrize(("asked", "limit"), [(0, 1), (2, 2)])
def test_an_answer_of_no_tokens_is_one_of_one(asked: int, limit: int) -> None:
    """Anthropic caches a prompt for it and says nothing; others refuse that."""
    body = {"model": "m", "max_tokens": asked, "messages": [{"role": "user", "content": "Hi"}]}
    call = Call("chat", ANTHROPIC.name, "m", json.dumps(body).encode())
    assert ANTHROPIC.read_request(call).output_limit == limit
