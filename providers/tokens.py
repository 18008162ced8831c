"""How many tokens a text has where no tokenizer is at hand: an estimate that is not low.

Tokenizers of today cut a text as `_PIECES` does before they look anything up, and then need a
token or more for each piece. What is counted here is what a vocabulary of 32,000 words needs:
larger ones need less.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from tollway.providers.canon import Usage

# A word with the space before it, cut where a capital begins, as in code and base64; digits,
# which some tokenizers take one by one; spaces; what is beyond ASCII, character by character;
# marks, which often stand two in a token.
_PIECES = re.compile(
    r"(?P<word> ?(?:[A-Z]?[a-z]+|[A-Z]+(?![a-z])))|(?P<number>[0-9]+)|(?P<space>\s+)"
    r"|(?P<beyond>[^\x00-\x7f]+)|(?P<mark>[^A-Za-z0-9\s])"
)
# Letters of a word that one token holds at least, on average over rare words too; and of what
# is longer than words are.
_LETTERS = 5
_LONG, _LONG_LETTERS = 24, 3
# Around a message and around a tool: role, separators, an end.
_MESSAGE = 6
_TOOL = 12
# What providers put before the first message: a date, who the model is; and, for a request with
# tools, how they are called. 346 at Anthropic (documentation of tool use), where one must be
# called up to 590; recorded up to 330 at others.
_PREFACE = 80
_TOOLS = 600


def estimate(text: str) -> int:
    """Return about how many tokens a text has; rather a few too many than too few."""
    total = 0
    for piece in _PIECES.finditer(text):
        kind, length = piece.lastgroup, piece.end() - piece.start()
        if kind == "word":
            total += -(-length // (_LETTERS + 1 if length <= _LONG else _LONG_LETTERS))
        elif kind == "beyond":
            # A letter of another alphabet is half a token or so, one of Chinese or an emoji up
            # to two: as their UTF-8 bytes.
            total += -(-len(piece[0].encode("utf-8", "replace")) * 2 // 5)
        elif kind == "space":
            total += -(-max(0, length - 1) // 8) + piece[0].count("\n")
        else:
            total += length
    # A token is at least a byte: bare line ends are less than a token each.
    return min(total, len(text.encode("utf-8", "replace")))


def estimated(texts: Iterable[str]) -> Usage:
    """Return the usage of a prompt whose tokens nobody tells, marked as an estimate."""
    return Usage(input=sum(map(estimate, texts)), estimated=True)


def estimate_request(body: bytes) -> int:
    """Return about how many tokens a chat completion request has, tools and frames included."""
    said = msgspec.json.decode(body)
    total = _PREFACE + (_TOOLS if said.get("tools") else 0)
    for message in said.get("messages") or ():
        total += _MESSAGE + estimate(_texts(message))
    for tool in said.get("tools") or ():
        total += _TOOL + estimate(msgspec.json.encode(tool).decode())
    if schema := said.get("response_format"):
        total += estimate(msgspec.json.encode(schema).decode())
    return total


# Pictures of unknown size: what a large one takes at the providers that take most.
PICTURE = 1_600
_PICTURES = frozenset({"image_url", "image", "input_image"})


def _texts(message: dict[str, Any]) -> str:
    """Return all texts of a message, one behind the other."""
    found: list[str] = []
    stack: list[object] = [message.get("tool_calls"), message.get("content")]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, list):
            stack += reversed(one)
        elif isinstance(one, dict):
            if one.get("type") in _PICTURES:
                found.append("0" * PICTURE)  # each digit counts as a token
            else:
                stack += [value for key, value in one.items() if key not in ("type", "id")]
    return "\n".join(found)
