"""The page that says what becomes of each feature, made of what the tests found."""

import json
from pathlib import Path

from matrix_requests import ANTHROPIC, BEDROCK, CHAT, COHERE, GEMINI, RESPONSES, SAID
from matrix_world import CLIENTS, TARGETS

PAGE = Path(__file__).parents[1] / "docs" / "dialects.md"
_CALLED = {
    CHAT: "Chat completions",
    RESPONSES: "Responses",
    ANTHROPIC: "Anthropic Messages",
    GEMINI: "Gemini",
    COHERE: "Cohere",
    BEDROCK: "Bedrock",
}
# What recordings are tagged with, and what a person calls it.
_OF_ANSWERS = {
    "stream": "streams",
    "tool_call": "tool calls",
    "parallel_tool_calls": "parallel tool calls",
    "custom_tool_call": "plain-text tool calls",
    "thinking": "thoughts",
    "reasoning": "reasoning",
    "reasoning_content": "reasoning as `reasoning_content`",
    "reasoning_details": "reasoning as `reasoning_details`",
    "reasoning_summary": "reasoning summaries",
    "encrypted_content": "encrypted content",
    "thought_signature": "thought signatures",
    "signature_delta": "signed thoughts",
    "redacted_thinking": "redacted thoughts",
    "refusal": "refusals",
    "citations": "citations",
    "annotations": "annotations",
    "grounding": "grounding",
    "logprobs": "logprobs",
    "n_choices": "several answers",
    "usage_cache_read": "usage: read from a cache",
    "usage_cache_write": "usage: written to a cache",
    "usage_reasoning_tokens": "usage: reasoning",
    "length": "stopped by the limit",
    "stop_sequence": "stopped by a sequence",
    "content_filter": "stopped by a filter",
    "web_search_call": "searches of the provider's",
    "server_tool_use": "other tools of the provider's",
}
_HEAD = """# Dialects: what becomes of each feature

Made of what `tests/whole/test_dialect_matrix.py` finds, with the official client libraries before
the gateway and scripted upstreams behind it; don't edit it by hand.

* *passes through*: client and upstream speak the same dialect, and the bytes are the client's own.
* *translated*: said in the target's own words.
* *dropped: NAME*: the target has no words for it. It is left out, and named in the reply's
  `x-tollway-dropped` and the call's row (`tollway logs ID`). With `on_loss = "refuse"` on its route
  such a call is refused instead.
* *refused*: without it the answer would be another one, so the call is a 400 that names the field.
* *-*: the client's dialect cannot say it.

Each request is made whole and as a stream, and the same becomes of it.

`openai` is a model that answers at once (GPT-4o); `openai, reasoning` one that thinks first
(GPT-5.2), which clients of other dialects reach by the Responses API: chat completions of such
models take no tools and show no thoughts. `bedrock` is Claude there. Of Vertex AI's models Gemini's
are asked as `gemini`, Anthropic's as `anthropic`.

Of servers of OpenAI's form `openai-compatible` is one of which nothing is known. The beginning of
an answer (`prefill`), for one, reaches Mistral, vLLM and SGLang in their own words, and Groq,
Ollama, OpenRouter and llama.cpp's server, which go on with it unasked; Claude from Opus 4.6 on
and Gemini from 3.5 on take none from anyone.

"""


def page(golden: Path) -> str:
    """Return the page in Markdown."""
    out = [_HEAD, "## Requests\n"]
    for client in CLIENTS:
        found = {
            target: _read(golden / f"{client}.to_{target.replace(', ', '_')}.json")
            for target in TARGETS
        }
        out += [
            f"\n### From {_CALLED[client]}\n\n",
            _row("", *TARGETS),
            _row(*["---"] * (len(TARGETS) + 1)),
        ]
        for feature in SAID:
            cells = [found[target].get(feature, "-") for target in TARGETS]
            if set(cells) != {"-"}:
                out.append(_row(feature, *cells))
    out.append(
        "\n## Answers\n\nWhat every recorded answer of a kind loses on its way to a client of"
        " another dialect; the rest, and every token, is translated. Where both speak the same"
        " dialect, each byte is the provider's.\n"
    )
    for client in CLIENTS:
        sources = [one for one in _CALLED if one != client and (client, one) != (CHAT, RESPONSES)]
        found = {one: _read(golden / f"{client}.from_{one}.json") for one in sources}
        names = [_CALLED[one] for one in sources]
        out += [f"\n### To {_CALLED[client]}\n\n", _row("", *names)]
        out.append(_row(*["---"] * (len(sources) + 1)))
        for tag, feature in _OF_ANSWERS.items():
            cells = [_lost(found[one].get(tag)) for one in sources]
            if set(cells) != {"-"}:
                out.append(_row(feature, *cells))
    return "".join(out)


def _lost(names: str | None) -> str:
    if names is None:
        return "-"
    return f"dropped: {names}" if names else "translated"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _read(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_text("utf-8")))
