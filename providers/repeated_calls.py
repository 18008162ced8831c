"""Calls of tools that bear an id which an earlier call of the same conversation bears.

Some servers count calls from 0 in every answer (Kimi's models do: fw-ai/fireconnect#16), and a
client that speaks to them directly gives such ids back. To the next provider a call's id is the
call's own: Anthropic and Bedrock refuse a second one, and Google's tools, which are found by their
calls' ids, would be given each other's results.
"""

from collections.abc import Iterator

import msgspec

from tollway.providers.conversation import Message, Part, ToolCall, ToolResult


def with_own_ids(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return messages in which each call has an id of its own, and its result has the same.

    What stood alone keeps its id, as does the first of those that shared one; the others get the
    same new ones each time, so that a cached prompt stays the same.
    """
    ids = [part.id for turn in messages for part in turn.parts if isinstance(part, ToolCall)]
    taken = set(ids)
    if len(taken) == len(ids):
        return messages
    return tuple(_renamed(messages, taken))


def _renamed(messages: tuple[Message, ...], taken: set[str]) -> Iterator[Message]:
    seen: set[str] = set()
    # By an id as it came: the calls of the last turn that bore it, whose results are to come.
    waiting: dict[str, list[str]] = {}

    def own(id_: str) -> str:
        name, number = id_, 1
        while id_ and name in (seen if name == id_ else taken):
            number += 1
            name = f"{id_}_{number}"
        seen.add(name)
        taken.add(name)
        return name

    for message in messages:
        parts: list[Part] = []
        called: dict[str, list[str]] = {}
        for part in message.parts:
            if isinstance(part, ToolCall):
                called.setdefault(part.id, []).append(own(part.id))
                parts.append(msgspec.structs.replace(part, id=called[part.id][-1]))
            elif isinstance(part, ToolResult) and (names := waiting.get(part.id)):
                # Two calls of one turn have their results in the order of the calls.
                name = names.pop(0) if len(names) > 1 else names[0]
                parts.append(msgspec.structs.replace(part, id=name))
            else:
                parts.append(part)
        waiting |= called
        yield msgspec.structs.replace(message, parts=tuple(parts))
