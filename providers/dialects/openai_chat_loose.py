"""What servers that almost speak chat completions write where OpenAI has another type, or nothing.

It is looked at where a chunk is not as OpenAI's are, so that it costs nothing else.
"""

from collections.abc import Iterator
from typing import Any

from tollway.providers.conversation import Citation, Image, Opaque, Part
from tollway.providers.dialects.openai_chat_parts import NAME
from tollway.providers.dialects.wire import canonical, data_url, text_of

_TEXTS = ("reasoning_content", "refusal")
_BESIDE = ("citations", "search_results")


def shown(part: dict[str, Any]) -> Part | None:
    """Return a part of content that is neither text nor thought; None where it holds nothing.

    Pictures come from OpenRouter in `images`, from Mistral within the content.
    """
    kind = text_of(part, "type")
    if kind == "image_url":
        said = part.get("image_url")
        url = text_of(said, "url") if isinstance(said, dict) else said
        return Image(data_url(url)) if isinstance(url, str) and url else None
    return Opaque(NAME, canonical(part), kind) if kind not in ("", "text") else None


def annotated(annotations: object) -> Iterator[Citation]:
    """Yield what a message's annotations cite."""
    for said in annotations if isinstance(annotations, list) else ():
        cited = said.get("url_citation") if isinstance(said, dict) else None
        if not isinstance(cited, dict):
            continue
        start, end = cited.get("start_index"), cited.get("end_index")
        yield Citation(
            text_of(cited, "url"),
            text_of(cited, "title"),
            text_of(cited, "content"),
            start if isinstance(start, int) else None,
            end if isinstance(end, int) else None,
            NAME,
            canonical(said),
        )


def beside(citations: object, results: object) -> list[Citation]:
    """Return the sources that an answer names beside its choices: Perplexity's, xAI's.

    `results` say more of them than `citations`, which are addresses.
    """
    found = {
        url: Citation(url, text_of(one, "title"), text_of(one, "snippet"))
        for one in (results if isinstance(results, list) else ())
        if isinstance(one, dict) and (url := text_of(one, "url"))
    }
    listed = citations if isinstance(citations, list) else []
    urls = dict.fromkeys(one for one in listed if isinstance(one, str) and one)
    return [found.get(url, Citation(url)) for url in (urls or found)]


def mended(said: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk without what is of no type that can be read: ids that are numbers, and so on.

    What remains is for a decoder that takes a number's text for the number.
    """
    choices = [_choice(one) for one in said["choices"] if isinstance(one, dict)]
    named = {name: str(said[name]) for name in ("id", "model", "object") if said.get(name)}
    rest = {name: said.get(name) for name in ("created", "usage", "x_groq", *_BESIDE)}
    return {**rest, **named, "choices": choices}


def _choice(said: dict[str, Any]) -> dict[str, Any]:
    kept = dict(said)
    for name in ("delta", "message"):
        kept[name] = _message(said[name]) if isinstance(said.get(name), dict) else None
    if not isinstance(said.get("finish_reason"), str):
        kept["finish_reason"] = None
    kept["logprobs"] = None  # clients take all of them or none
    return kept


def _message(said: dict[str, Any]) -> dict[str, Any]:
    kept = {**said, **{name: text_of(said, name) or None for name in _TEXTS}}
    calls = said.get("tool_calls")
    kept["tool_calls"] = [
        {**call, "id": None if call.get("id") is None else str(call["id"])}
        for call in (calls if isinstance(calls, list) else ())
        if isinstance(call, dict)
    ]
    return kept
