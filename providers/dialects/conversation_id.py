"""By what a request's conversation can be told from others, whatever dialect it is in."""

import re
from typing import Any

import msgspec

from tollway.providers.canon import Call
from tollway.providers.dialects.json_edit import Field

# In Anthropic's `metadata.user_id`, where Claude Code says "user_..._account_..._session_UUID" or a
# JSON object with a `session_id`. What else may stand there is a user, who has many conversations.
_SESSION = re.compile(r"session(?:_id)?[_\"': ]+([0-9A-Za-z-]{8,64})")
_LONGEST = 65_536  # characters of what a conversation begins with; what follows tells no more
_MOST = 50  # messages before the first of a user
_MESSAGES = {"openai_chat": "messages", "anthropic_messages": "messages", "gemini": "contents"}
_INSTRUCTIONS = {
    "anthropic_messages": "system",
    "openai_responses": "instructions",
    "gemini": "systemInstruction",
}
_ANSWERED = {
    "openai_chat": (b'"assistant"',),
    "anthropic_messages": (b'"assistant"',),
    "openai_responses": (b'"assistant"', b'"reasoning"', b'_call"'),
    "gemini": (b'"model"',),
}
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class Named(msgspec.Struct, frozen=True, gc=False):
    """What a request calls its conversation; "" for each name that it does not give."""

    session: str = ""
    cache: str = ""  # what its prompt is cached by
    answer: str = ""  # of the provider's, that it goes on from


def named(call: Call) -> Named:
    """Return what a request calls its conversation."""
    known = _fields(call)
    if call.dialect == "anthropic_messages":
        metadata = _read(known, "metadata")
        user = metadata.get("user_id") if isinstance(metadata, dict) else None
        found = _SESSION.search(user) if isinstance(user, str) else None
        return Named(session=found[1] if found else "")
    if call.dialect in ("openai_chat", "openai_responses"):
        conversation = _read(known, "conversation")
        if isinstance(conversation, dict):
            conversation = conversation.get("id")
        return Named(
            session=_text(conversation),
            cache=_text(_read(known, "prompt_cache_key")),
            answer=_text(_read(known, "previous_response_id")),
        )
    return Named()


def opening(call: Call) -> str:
    """Return what a chat begins with: its instructions and what its user said first, as text.

    "" where that cannot be told, or is nothing. How a client writes its JSON does not matter, nor
    what it adds to a part from call to call (marks of what to cache).
    """
    if call.endpoint != "chat":
        return ""
    known = _fields(call)
    found = [_words(_read(known, _INSTRUCTIONS.get(call.dialect, "")))]
    if call.dialect == "openai_responses":
        said = known.get("input")
        if said is not None and call.body[said.start : said.start + 1] != b"[":
            return "\n".join((*found, _text(_read(known, "input"))))[:_LONGEST]
        field = said
    else:
        field = known.get(_MESSAGES.get(call.dialect, ""))
    try:
        items = _ITEMS.decode(field.raw) if field else []
        for item in items[:_MOST]:
            message = msgspec.json.decode(item)
            if not isinstance(message, dict):
                break
            found.append(_words(message.get("content", message.get("parts"))))
            if message.get("role", "user") == "user":
                break
    except (msgspec.DecodeError, RecursionError):
        return ""
    return "\n".join(found).strip()[:_LONGEST]


def goes_on(call: Call) -> bool:
    """Whether there is an answer in a request's conversation already, as far as can be seen."""
    return any(mark in call.body for mark in _ANSWERED.get(call.dialect, ()))


def _fields(call: Call) -> dict[str, Field]:
    """Return where a body's members stand, as `peek` found them."""
    found: dict[str, Field] = getattr(call.scan, "fields", None) or {}
    return found


def _read(known: dict[str, Field], name: str) -> Any:
    field = known.get(name)
    if field is None:
        return None
    try:
        return msgspec.json.decode(field.raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _words(value: object) -> str:
    """Return the texts of a message's content, in any dialect."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = value.get("parts", value.get("text", ""))
        return _words(value) if isinstance(value, str | list) else ""
    if isinstance(value, list):
        return "\n".join(_text(one.get("text")) for one in value if isinstance(one, dict))
    return ""
