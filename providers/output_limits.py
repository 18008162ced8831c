"""What a provider says of an output limit that is more than its model, or the room left, allows.

A limit is the most that an answer may have; some providers refuse one that no answer of theirs can
reach, and name the number. Clients of other APIs do not know the model: Claude Code asks for 32,000
tokens of any. The shapes are quoted in providers' public issue trackers.
"""

import re
from typing import Final

import msgspec

from tollway.providers.conversation import Conversation

_STATUSES: Final = frozenset({400, 422})
_MOST_BODY: Final = 64 * 1024
# With less room than this there is no answer: the prompt is too long. No model's answers are so
# short: a refusal that says so is of something else, or quotes what a caller wrote.
_LEAST: Final = 1024
_FIELD: Final = r"max_(?:completion_|output_|new_)?tokens"
_N: Final = r"(\d{1,9})"
# The most that any answer of the model may have.
_OF_MODEL: Final = re.compile(
    rf"supports at most {_N} (?:completion|output) tokens"  # OpenAI, Azure
    rf"|{_FIELD}\W.{{0,60}}?expected a value <= {_N}, but got"
    rf"|range of {_FIELD} (?:is|should be) \[\d+, ?{_N}\]"  # DeepSeek, Alibaba
    rf"|{_FIELD}\W.{{0,60}}?must be less than or equal to `?{_N}"  # Groq
    rf"|max_tokens: \d+ > {_N}, which is the maximum allowed"  # Anthropic
    rf"|tokens you requested exceeds the model limit of {_N}",  # Bedrock
    re.IGNORECASE,
)
# Vertex names the first number that is too much.
_BELOW: Final = re.compile(
    rf"maxOutputTokens value of.{{0,60}}?range is from 1 \(inclusive\) to {_N} \(exclusive\)"
)
# How much the window holds, and what of it the prompt takes.
_OF_WINDOW: Final = tuple(
    re.compile(rf"context length (?:is|of) {_N} tokens{words}", re.IGNORECASE)
    for words in (
        rf" and your request has {_N} input tokens",  # vLLM
        rf".{{0,80}}\({_N} (?:in the messages|of text input)",  # its older words, OpenRouter
        rf".{{0,80}}: {_N} tokens from the input messages",  # SGLang
    )
)
# Anthropic tells the prompt first, and then what was asked for.
_SUM: Final = re.compile(rf"exceed context limit: {_N} \+ \d+ > {_N}")
# vLLM's newer words: the prompt is counted no further than to where it is too long.
_AT_LEAST: Final = re.compile(r"requested \d+ output tokens and your prompt contains at least")


class Lower(msgspec.Struct, frozen=True):
    """An output limit that a provider may take; `lasting` where it holds for the model's others."""

    tokens: int
    lasting: bool


def lower_limit(status: int, body: bytes, asked: int) -> Lower | None:
    """Return the limit to ask for in place of one that was refused; None where none is told.

    Args:
        status: Of the provider's answer.
        body: That answer.
        asked: The limit in tokens that the request had.
    """
    if status not in _STATUSES:
        return None
    text = body[:_MOST_BODY].decode("utf-8", "replace")
    most = _most(text)
    lasting = most is not None
    if most is None:
        most = _room(text, asked)
    return Lower(most, lasting) if most is not None and _LEAST <= most < asked else None


def _most(text: str) -> int | None:
    if found := _OF_MODEL.search(text):
        return int(found[found.lastindex or 0])
    found = _BELOW.search(text)
    return None if found is None else int(found[1]) - 1


def _room(text: str, asked: int) -> int | None:
    if _AT_LEAST.search(text):
        return asked // 4
    for shape in _OF_WINDOW:
        if found := shape.search(text):
            return int(found[1]) - int(found[2])
    found = _SUM.search(text)
    return None if found is None else int(found[2]) - int(found[1])


def within(said: Conversation, most: int | None) -> tuple[Conversation, tuple[str, ...]]:
    """Return a conversation whose answer has no more than `most` tokens, and what is lost by that.

    Nothing is where the client asked for no more, or named no limit.
    """
    if most is None or said.output_limit is None or said.output_limit <= most:
        return said, ()
    return msgspec.structs.replace(said, output_limit=most), (f"max_tokens above {most}",)
