"""A key under which prompts are to be cached, said by marks: where providers cache what is marked.

OpenAI caches the beginnings of prompts by itself, and its clients name a key for those that share
one: Codex and others do in every call. Anthropic caches nothing that is not marked, so that each
turn of an agent was paid in full, several times what it costs there.
"""

import msgspec

from tollway.providers.conversation import (
    Conversation,
    File,
    Image,
    Message,
    Part,
    Text,
    ToolResult,
)

_INSTRUCTIONS = ("system", "developer")


def is_marked(part: Part) -> bool:
    """Whether the prompt is to be cached up to a part, or up to one within it."""
    if isinstance(part, ToolResult) and any(map(is_marked, part.parts)):
        return True
    return getattr(part, "cache", None) is not None


def marked(said: Conversation) -> Conversation:
    """Return a conversation whose key stands as marks: behind its instructions, and at its end.

    What has a mark of its own keeps that alone; where nothing can be marked, the key is left.
    """
    if not said.cache_key:
        return said
    messages = list(said.messages)
    if not _has_marks(said):
        begin = next(
            (at for at, one in enumerate(messages) if one.role not in _INSTRUCTIONS), len(messages)
        )
        places = {place for place in (begin - 1, len(messages) - 1) if place >= 0}
        for place in places:
            messages[place] = _marked(messages[place])
        if messages == list(said.messages):
            return said
    return msgspec.structs.replace(said, messages=tuple(messages), cache_key="")


def _has_marks(said: Conversation) -> bool:
    if any(getattr(tool, "cache", None) for tool in said.tools):
        return True
    return any(is_marked(part) for one in said.messages for part in one.parts)


def _marked(message: Message) -> Message:
    if message.role == "assistant":
        return message  # it is the answer's beginning, which grows
    parts = list(message.parts)
    for place in range(len(parts) - 1, -1, -1):
        if (marks := _with_mark(parts[place])) is not None:
            parts[place] = marks
            break
    return msgspec.structs.replace(message, parts=tuple(parts))


def _with_mark(part: Part) -> Part | None:
    match part:
        case Text(text=text) if not text.strip():
            return None  # it is not written, or refused with a mark
        case Text() | Image() | File() | ToolResult():
            return msgspec.structs.replace(part, cache="5m")
    return None
