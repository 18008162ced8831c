"""Which tools may be called, where some are the provider's own; and an answer of no tokens."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, BEDROCK, GEMINI, RESPONSES

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


@pytest.mark.parametrize("names", [(), ("rm",)])
@pytest.mark.parametrize(
    ("model", "told", "lost"),
    [
        ("us.meta.llama4-maverick-17b-instruct-v1:0", {"auto": {}}, ("tool_choice",)),
        ("mistral.mistral-large-2402-v1:0", {"any": {}}, ()),
        ("us.amazon.nova-2-lite-v1:0", None, ()),
    ],
)
def test_a_tool_must_be_called_as_far_as_a_model_of_bedrock_s_can_be_told(
    names: tuple[str, ...], model: str, told: object, lost: tuple[str, ...]
) -> None:
    """Llama's and Mistral's failed the whole call; the one that is named is offered alone."""
    choice = {"type": "function", "name": names[0]} if names else "required"
    body = {"model": "m", "input": "Hi", "tools": FUNCTIONS, "tool_choice": choice}
    said = RESPONSES.read_request(Call("chat", RESPONSES.name, "m", json.dumps(body).encode()))
    written = BEDROCK.write_request(said, Facts(model))
    config = json.loads(written.body)["toolConfig"]
    offered = [one["toolSpec"]["name"] for one in config["tools"]]
    assert offered == (["rm"] if names and told else ["ls", "rm"])
    assert config["toolChoice"] == (told or ({"tool": {"name": "rm"}} if names else {"any": {}}))
    assert written.dropped == lost
