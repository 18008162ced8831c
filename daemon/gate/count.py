"""How many tokens a request has, where its target cannot be asked.

A model on this box is asked for the true number. For another the number is estimated, not low,
and marked: agents go by it when they decide to shorten a conversation.
"""

from collections.abc import Callable
from typing import Final

from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.route import Target
from tollway.daemon.gate.translate import without_offers
from tollway.providers.canon import Call
from tollway.providers.dialects import (
    anthropic_messages,
    gemini,
    openai_chat_codec,
    openai_responses,
)
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.headers import Headers
from tollway.providers.tokens import estimate_request

_ESTIMATED = ("x-tollway-estimated", "true")
_JSON = ("content-type", "application/json")
_SAID: Final[dict[str, Callable[[int], bytes]]] = {
    anthropic_messages.DIALECT.name: anthropic_messages.token_count,
    openai_responses.DIALECT.name: openai_responses.token_count,
    gemini.DIALECT.name: gemini.token_count,
}


def is_asked_there(call: Call, target: Target) -> bool:
    """Whether a target's provider counts for itself, in the client's dialect."""
    return target.kind.speaks(call.dialect)


async def count(gate: Gate, call: Call, target: Target, owner: str) -> tuple[Headers, bytes]:
    """Return the headers and the body of the answer to a count; `owner` is as in `Terms`.

    Raises:
        Untranslatable, RequestInvalid: The request is none that the target could be sent.
    """
    said = without_offers(DIALECTS[call.dialect].codec.read_request(call))[0]
    facts = Facts(model=target.model, quirks=target.kind.quirks)
    body = openai_chat_codec.CODEC.write_request(said, facts).body
    exact = None
    if target.local:
        exact = await gate.daemon.local.count(target.model, "chat", body, owner)
    tokens = estimate_request(body) if exact is None else exact
    headers = (_JSON, ("x-tollway-target", target.name), *(() if exact else (_ESTIMATED,)))
    return headers, _SAID[call.dialect](tokens)
