"""What chat completions say of a model's thinking: OpenRouter's `reasoning_details` and kin.

OpenAI's own endpoint shows no thoughts; others put them beside the content, as text in
`reasoning_content` or `reasoning`, and where they are signed or encrypted as a list of details
whose `format` says who can read them. Clients that know the list send it back.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from tollway.providers.conversation import Thinking
from tollway.providers.dialects.wire import text_of

# Who signed it: the list's `format`, and the dialect of that provider.
FORMATS = {
    "anthropic-claude-v1": "anthropic_messages",
    "google-gemini-v1": "gemini",
    "openai-responses-v1": "openai_responses",
}
_NAMES = {by: name for name, by in FORMATS.items()}


def thinking_of(text: object, details: object) -> Iterator[Thinking]:
    """Yield what a whole message says was thought.

    Args:
        text: Its `reasoning_content` or `reasoning`.
        details: Its `reasoning_details`; where they say as much as the text they win.
    """
    plain = text if isinstance(text, str) else ""
    parts = list(_of_details(details))
    if plain and not any(part.text for part in parts):
        signed = [place for place, part in enumerate(parts) if part.signature]
        if len(signed) == 1:
            part = parts[signed[0]]
            parts[signed[0]] = Thinking(plain, part.signature, by=part.by)
        else:
            parts.insert(0, Thinking(plain))
    yield from parts


def _of_details(details: object) -> Iterator[Thinking]:
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and (part := thinking(detail)) is not None:
            yield part


def thinking(detail: dict[str, Any]) -> Thinking | None:
    """Return what one entry of `reasoning_details` says; None where it says nothing."""
    name = text_of(detail, "format")
    by = FORMATS.get(name, name)
    text = text_of(detail, "text")
    signature, encrypted = text_of(detail, "signature"), text_of(detail, "data")
    summary = text_of(detail, "summary")
    if encrypted:
        return Thinking(encrypted=encrypted, by=by or "openai_chat", id=text_of(detail, "id"))
    if summary:
        return Thinking(summary, summary=True)
    if signature:
        return Thinking(text, signature, by=by or "openai_chat")
    return Thinking(text) if text else None


def details(parts: Iterable[Thinking], first: int = 0) -> list[dict[str, object]]:
    """Return thinking as `reasoning_details`: for each part what it holds, in order.

    Each entry has an index of its own, the first one `first`: OpenAI's library makes one of those
    of a stream that have the same.
    """
    said: list[dict[str, object]] = []
    for part in parts:
        entry: dict[str, object] = {"format": _NAMES.get(part.by, part.by) or "unknown"}
        if part.id:
            entry["id"] = part.id
        if part.text and part.summary and not part.signature:
            said.append({"type": "reasoning.summary", "summary": part.text, **entry})
        elif part.text or part.signature:
            signed = {"signature": part.signature} if part.signature else {}
            text = {"type": "reasoning.text", "text": part.text}
            said.append({**text, **signed, **entry})
        if part.encrypted:
            data = {"type": "reasoning.encrypted", "data": part.encrypted}
            said.append({**data, **entry})
    return [{**one, "index": index} for index, one in enumerate(said, first)]
