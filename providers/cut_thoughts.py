"""Turns that were cut off within a thought, for providers that take no thought at a turn's end."""

import msgspec

from tollway.providers.conversation import Conversation, Message, Part, Refusal, Text, Thinking


def without_cut_thoughts(said: Conversation) -> tuple[Conversation, bool]:
    """Return a conversation in which no assistant's turn ends with a thought, and if one did.

    An answer whose limit was reached before its first word is a thought alone, and clients give
    it back: "The final block in an assistant message cannot be `thinking`"
    (tailcallhq/forgecode#3073). A turn of which nothing is left is none.
    """
    kept: list[Message] = []
    speaks = ""  # who does in the turn behind
    cut = False
    for message in reversed(said.messages):
        left = message
        if message.role == "assistant" and speaks != "assistant":
            parts = _led_on(message.parts)
            cut = cut or any(isinstance(part, Thinking) for part in message.parts[len(parts) :])
            left = msgspec.structs.replace(message, parts=parts)
        if left.parts:
            kept.append(left)
            speaks = left.role
    return msgspec.structs.replace(said, messages=tuple(reversed(kept))), cut


def _led_on(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return a turn's parts up to the last that is a word or a deed."""
    end = len(parts)
    while end and (isinstance(parts[end - 1], Thinking) or _says_nothing(parts[end - 1])):
        end -= 1
    return parts[:end]


def _says_nothing(part: Part) -> bool:
    return isinstance(part, Text | Refusal) and not part.text.strip()
