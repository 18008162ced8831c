"""The most that one attempt at a call of Bedrock's can use; BOUND.md has the proof."""

from typing import Any

import msgspec

from tollway.providers.canon import Bound, Call
from tollway.providers.dialects.openai_bound import CALL, MESSAGE, PART, TOOLS, Tally
from tollway.providers.errors import RequestInvalid

_MEDIA = frozenset({"image", "document", "video", "audio"})
# What raises the bill past any number of tokens: guardrails have a fee by the length of the text,
# and a lower latency another price.
_UNBOUNDED = ("guardrailConfig", "performanceConfig")


def bound(call: Call) -> Bound:
    """Return the most that one attempt at the call can use.

    Raises:
        RequestInvalid: It is nested too deeply, or a number is out of range.
    """
    try:
        body = msgspec.json.decode(call.body, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError) as fault:
        raise RequestInvalid(f"The request cannot be read: {fault}") from None
    tally = Tally()
    tokens = CALL
    for key, value in body.items():
        tokens += tally.text_bytes(key)
        if key == "messages":
            tokens += sum(MESSAGE + _blocks(tally, one.get("content")) for one in value)
        elif key == "system":
            tokens += MESSAGE + _blocks(tally, value)
        else:
            tokens += tally.printed(value)
            if key == "toolConfig":
                tokens += TOOLS + PART * len(value.get("tools") or ())
    tier = body.get("serviceTier")
    unbounded = [name for name in _UNBOUNDED if body.get(name)]
    return Bound(
        input=tokens,
        output=_output(call, body),
        by_window=tally.by_window,
        media=tally.by_window,
        service=str(tier.get("type")) if isinstance(tier, dict) else "default",
        unbounded=tuple(dict.fromkeys(tally.unbounded + unbounded)),
    )


def _output(call: Call, body: dict[str, Any]) -> int | None:
    """Return the limit, and beside it a budget for thoughts that is not within it."""
    limit = call.output_limit
    more = body.get("additionalModelRequestFields")
    thinking = more.get("thinking") if isinstance(more, dict) else None
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if limit is not None and type(budget) is int and budget >= limit:
        return limit + budget
    return limit


def _blocks(tally: Tally, blocks: object) -> int:
    return sum(PART + _block(tally, one) for one in (blocks if isinstance(blocks, list) else ()))


def _block(tally: Tally, block: object) -> int:
    if not isinstance(block, dict):
        return tally.printed(block)
    if _MEDIA & block.keys():
        # Their bytes say nothing of their tokens.
        tally.text(block)
        tally.by_window = True
        return 0
    if "cachePoint" in block:
        return 0
    result = block.get("toolResult")
    if isinstance(result, dict):
        return tally.printed(result.get("toolUseId")) + _blocks(tally, result.get("content"))
    if block.keys() <= {"text"}:
        return max(tally.text(block), tally.aside(block.get("text", "")))
    total = tally.printed(block)
    called = block.get("toolUse")
    if isinstance(called, dict) and isinstance(name := called.get("name"), str):
        total += tally.quoted_bytes(name)  # templates repeat it at the result
    return total
