"""Requests of agents that CI does not run, as they sent them: each reaches every other dialect.

`tests/golden/agents/AGENT_API.json` is a later turn of a task with tools, from a run through
Tollway: path and body, of which long texts are cut short.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from translated import ASKS, CODECS

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.dialects.dialect import Asks, Facts

ROOT = Path(__file__).parent.parent / "golden/agents"
FACTS = {
    "openai_chat": Facts("gpt-5.2", quirks=KINDS["openai"].quirks),
    "anthropic_messages": Facts("claude-sonnet-4-5"),
    "openai_responses": Facts("gpt-5.2", quirks=KINDS["openai"].quirks),
    "gemini": Facts("gemini-2.5-pro"),
    "cohere": Facts("command-a-plus-05-2026"),
    "bedrock": Facts("us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
}
# What else is lost changes no answer: marks and keys of caches, and thoughts of other providers.
MAY_GO = {"cache_control", "thinking", "prompt_cache_key", "tools.eager_input_streaming", "store"}
# Thinking is off for the rest of a turn that another provider began; Claude takes one of
# temperature and top_p.
OF_AN_AGENT = {
    "claude": {
        *("reasoning", "reasoning.summary", "context_management", "user", "tools.defer_loading"),
        "x-anthropic-billing-header",
    },
    "copilot": {"reasoning", "reasoning.summary", "top_p"},
    "pi": {"reasoning", "reasoning.summary"},
    "gptme": {"reasoning"},
}


def dialect(path: str) -> str:
    """Return the dialect of a path."""
    if path.startswith("/v1beta/"):
        return "gemini"
    return {"completions": "openai_chat", "responses": "openai_responses"}.get(
        path.rpartition("/")[2], "anthropic_messages"
    )


def requests() -> list[Path]:
    """Return the recorded requests."""
    found = sorted(ROOT.glob("*.json"))
    assert len(found) == 26
    return found


def calls(body: dict[str, Any]) -> int:
    """Return how many results of tools a request gives back, whatever its dialect."""
    text = json.dumps(body)
    names = ('"role": "tool"', '"tool_result"', '"function_call_output"', '"functionResponse"')
    return sum(text.count(name) for name in (*names, '"toolResult"'))


@pytest.mark.parametrize("target", ASKS.values(), ids=list(ASKS))
@pytest.mark.parametrize("path", requests(), ids=lambda path: path.stem)
def test_each_turn_of_an_agent_reaches_every_dialect(path: Path, target: Asks) -> None:
    """With its tools and their results; nothing is refused that its own provider takes."""
    said = json.loads(path.read_text("utf-8"))
    name, body = dialect(said["path"]), said["body"]
    call = Call("chat", name, "smart", json.dumps(body).encode(), stream=True)
    conversation = CODECS[name].read_request(call)
    written = target.write_request(conversation, FACTS[target.name])
    assert set(written.dropped) <= MAY_GO | OF_AN_AGENT.get(path.stem.partition("_")[0], set())
    assert calls(json.loads(written.body)) == calls(body) >= 2
