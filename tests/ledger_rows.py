"""Rows as the gate would give them to the ledger, for tests of the ledger."""

from decimal import Decimal
from typing import Any

from tollway.daemon.ledger.rows import (
    AttemptEnded,
    AttemptOpened,
    CallEnded,
    CallOpened,
    CallRefused,
    Who,
)
from tollway.providers.canon import Price, Rate, Usage

AT_MS = 1_780_000_200_000  # the start of a quarter of an hour
ANNA = Who(key="laptop", user="anna", team="ml", project="chatbot")
PRICE = Price("price-1", "a test", Rate(Decimal("0.15")), Rate(Decimal("0.6")))
RAW_USAGE = '{"prompt_tokens":412,"completion_tokens":286,"total_tokens":698}'


def call_id(number: int, at_ms: int = AT_MS) -> str:
    """Return a UUIDv7 of its own for each number."""
    text = f"{at_ms:012x}7{number & 0xFFF:03x}8{number:015x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def opened(number: int, at_ms: int = AT_MS, **fields: Any) -> CallOpened:
    """Return a call's admission."""
    rest = {
        "who": ANNA,
        "dialect": "openai_chat",
        "endpoint": "chat",
        "requested": "fast",
        "route": "fast",
        "stream": True,
        "client": "OpenAI/Python 3.54.0",
    }
    return CallOpened(id=call_id(number, at_ms), admitted_ms=at_ms, **{**rest, **fields})


def attempt(call: CallOpened, number: int = 1, **fields: Any) -> AttemptOpened:
    """Return the start of one try at it, with a hold of 1,000 nano-dollars."""
    rest = {"provider": "openai", "model": "gpt-4o-mini", "hold_nanousd": 1000, "price": PRICE}
    started_ms = call.admitted_ms + number
    return AttemptOpened(call.id, number, started_ms=started_ms, **{**rest, **fields})


def ended(opened: AttemptOpened, cost: int = 300, **fields: Any) -> AttemptEnded:
    """Return how that try ended: answered, unless said otherwise."""
    rest = {
        "ended_ms": opened.started_ms + 900,
        "ending": "answered",
        "usage": Usage(input=412, output=286),
        "status": 200,
        "first_ms": 240,
        "upstream_id": "chatcmpl-1",
        "raw_usage": RAW_USAGE,
    }
    return AttemptEnded(opened.call_id, opened.number, cost_nanousd=cost, **{**rest, **fields})


def closed(call: CallOpened, ending: Any = "answered", error: str = "") -> CallEnded:
    """Return how the call ended."""
    return CallEnded(call.id, call.admitted_ms + 1000, ending, first_ms=250, error=error)


def refused(number: int, at_ms: int = AT_MS, **fields: Any) -> CallRefused:
    """Return a call that was never sent."""
    rest = {
        "who": ANNA,
        "dialect": "openai_chat",
        "endpoint": "chat",
        "requested": "fast",
        "route": "fast",
        "stream": False,
        "error": "insufficient_quota",
    }
    return CallRefused(id=call_id(number, at_ms), refused_ms=at_ms, **{**rest, **fields})
