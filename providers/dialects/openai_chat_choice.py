"""Which tool must be called, in calls that pass to servers that know no such choice.

LM Studio refuses a `tool_choice` that is an object, and llama.cpp's server takes it for "auto" and
says nothing: there the tools that may be called are the only ones offered, as in translated calls.
Ollama reads no choice at all.
"""

from typing import Any, Final

import msgspec

from tollway.providers.canon import Call
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects.json_edit import edit
from tollway.providers.dialects.openai_echoes import known_fields
from tollway.providers.dialects.openai_request import NAME
from tollway.providers.dialects.wire import text_of

_UNREAD: Final = frozenset({quirk.CHOICE_IN_WORDS, quirk.IGNORES_CHOICE})
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def in_words(call: Call, quirks: frozenset[str]) -> Call:
    """Return a chat that offers the tools alone that its `tool_choice` names, which is then a word.

    One that names no tool, or none of those offered, stays as it is.

    Raises:
        msgspec.DecodeError: The tools or the choice cannot be read.
    """
    if _UNREAD.isdisjoint(quirks) or call.dialect != NAME or b'"tool_choice"' not in call.body:
        return call
    known = known_fields(call)
    if "tool_choice" not in known or "tools" not in known:
        return call
    word, names = _said(_ANY.decode(known["tool_choice"].raw))
    tools = [bytes(one) for one in _LIST.decode(known["tools"].raw)]
    kept = [raw for raw in tools if _name(_ANY.decode(raw)) in names]
    if not kept:
        return call
    values = {"tools": b"[" + b",".join(kept) + b"]", "tool_choice": msgspec.json.encode(word)}
    return msgspec.structs.replace(call, body=edit(call.body, known, values), scan=None)


def _said(choice: object) -> tuple[str, frozenset[str]]:
    """Return the word for a choice, and the tools that it names; none where it is a word itself."""
    if not isinstance(choice, dict):
        return "", frozenset()
    allowed = choice.get("allowed_tools")
    if not isinstance(allowed, dict):
        return "required", frozenset(filter(None, (_name(choice),)))
    listed = allowed.get("tools")
    names = map(_name, listed if isinstance(listed, list) else ())
    return text_of(allowed, "mode") or "auto", frozenset(filter(None, names))


def _name(said: object) -> str:
    """Return the name of a tool, or of one that is chosen."""
    function = said.get("function") if isinstance(said, dict) else None
    return text_of(function, "name") if isinstance(function, dict) else ""
