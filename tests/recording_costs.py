"""The bill of each recording that carries usage, written so that a person can check it."""

import base64
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from wire.recordings import WIRE

from tollway.providers import eventstream
from tollway.providers.canon import Call, Endpoint, Price, Rate, Usage
from tollway.providers.catalog import KINDS
from tollway.providers.dialects.dialect import AnswerReader, Upstream
from tollway.providers.money import plain_usd
from tollway.providers.price_report import billed, reported
from tollway.providers.prices import PriceSource
from tollway.providers.sse import Splitter

NO_DAY = datetime(2026, 11, 20, tzinfo=UTC)  # where an answer does not say when it was made
# By a recording's `api`, or its end: the module that reads it, and what the call asked for.
DIALECTS: MappingProxyType[str, tuple[str, Endpoint]] = MappingProxyType(
    {
        "chat": ("openai_chat", "chat"),
        "openai_chat": ("openai_chat", "chat"),
        "completions": ("openai_chat", "completions"),
        "embeddings": ("openai_chat", "embeddings"),
        "responses": ("openai_responses", "chat"),
        "get": ("openai_responses", "chat"),
        "messages": ("anthropic_messages", "chat"),
        "rawPredict": ("anthropic_messages", "chat"),
        "generateContent": ("gemini", "chat"),
        "streamGenerateContent": ("gemini", "chat"),
        "countTokens": ("gemini", "count_tokens"),
        "bedrock.converse": ("bedrock", "chat"),
        "bedrock.converse-stream": ("bedrock", "chat"),
        "cohere.v2.chat": ("cohere", "chat"),
        "cohere.v2.embed": ("cohere", "embeddings"),
    }
)
# Those that are no kind of ours: what genai-prices calls them, to price them all the same.
_OTHERS = MappingProxyType(
    {
        "azure": "azure",
        "azure-ai": "azure",
        "cloudflare": "cloudflare",
        "databricks": "databricks",
        "gemini": "google",
        "anthropic": "anthropic",
        "vertex": "google",
        "huggingface": "huggingface_groq",
        "vercel-gateway": "google",
        "voyage": "voyageai",
        "zai": "zai",
    }
)
_OWN = frozenset(
    {"gpustack", "litellm-proxy", "llamacpp", "lmstudio", "mistralrs", "ollama", "vllm"}
)
# Where a name for people stands for a model, or a seller is part of it.
_MODELS = MappingProxyType({"vercel-gateway": r"google/(.*)", "huggingface": r"(.*):groq"})


@dataclass(frozen=True)
class Bill:
    """One recorded answer: what it used, and what that costs."""

    id: str
    provider: str
    model: str
    at: datetime
    usage: Usage
    asked: str
    answered: str
    price: Price | None  # of the service tier that answered
    by_tokens: int | None  # nano-dollars
    told: int | None  # what we read of what the provider says, where its row says so
    stated: Decimal | None  # dollars, wherever the usage states a cost: not read by our code

    @property
    def nanousd(self) -> int | None:
        """What is booked."""
        return self.by_tokens if self.told is None else self.told


def _read_as(said: dict[str, Any]) -> tuple[str, Endpoint] | None:
    return DIALECTS.get(said["api"]) or DIALECTS.get(said["api"].rpartition(".")[2])


def dialect_of(said: dict[str, Any]) -> Upstream | None:
    """Return what reads a recording's api; None where nothing does yet."""
    name, _ = _read_as(said) or ("", "")
    try:
        found: Upstream = importlib.import_module(f"tollway.providers.dialects.{name}").DIALECT
    except ModuleNotFoundError:
        return None
    return found


def bills(source: PriceSource) -> Iterator[Bill]:
    """Yield the bill of each recording that a reader finds usage in."""
    for path in sorted(WIRE.glob("*/*.json")):
        said = json.loads(path.read_text("utf-8"))
        dialect = dialect_of(said)
        if dialect is None or said["response"]["status"] != 200:
            continue
        bill = _bill(f"{path.parent.name}/{path.stem}", said, dialect, source)
        if bill is not None:
            yield bill


def _bill(name: str, said: dict[str, Any], dialect: Upstream, source: PriceSource) -> Bill | None:
    answer = _answer(said["response"])
    provider = said["provider"]
    kind = KINDS.get({"llamacpp": "llama-server"}.get(provider, provider))
    quirks = (kind or KINDS["openai-compatible"]).quirks
    body = said["request"]["body"] or {}
    reader = _read(said, answer, dialect, quirks)
    if reader.usage is None:
        return None
    # Gemini names its model in the path alone.
    path = unquote(said["request"]["path"])
    named = body.get("model") or _found(r"/models?/([^/]+?)(?::[a-zA-Z]+|/converse)", path)
    model = str(named or _found(r'"model": ?"([^"]*)"', answer))
    if pattern := _MODELS.get(provider):
        model = _found(pattern, model) or model
    made = int(_found(r'"created(?:_at)?": ?([1-9]\d*)', answer) or 0)
    at = datetime.fromtimestamp(made, UTC) if made else NO_DAY
    prices_id = kind.prices if kind else _OTHERS.get(provider)
    asked = body.get("service_tier") or "auto"
    listed = source.find(prices_id, model, at) if prices_id else None
    by_tokens, price = None, None
    if listed is not None:
        by_tokens, price = billed(reader.usage, listed, asked=asked, answered=reader.service)
    return Bill(
        id=name,
        provider=provider,
        model=model,
        at=at,
        usage=reader.usage,
        asked=asked,
        answered=reader.service,
        price=price,
        by_tokens=by_tokens,
        told=reported(reader.raw_usage, quirks),
        stated=_stated(reader.raw_usage),
    )


def _answer(response: dict[str, Any]) -> str:
    text: str = response.get("sse") or json.dumps(response.get("body"), ensure_ascii=False)
    return text


def _read(
    said: dict[str, Any], answer: str, dialect: Upstream, quirks: frozenset[str]
) -> AnswerReader:
    body = said["request"]["body"] or {}
    streamed = "sse" in said["response"]
    frames = base64.b64decode(said["response"].get("base64", ""))
    read_as = _read_as(said)
    assert read_as is not None
    call = Call(
        endpoint=read_as[1],
        dialect=dialect.name,
        model=body.get("model") or "recorded",
        body=json.dumps(body).encode(),
        stream=streamed or bool(frames),
        wants_usage=True,
        choices=body.get("n") or 1,
    )
    reader = dialect.reader(call, quirks)
    if frames:
        for event in eventstream.Splitter().feed(frames):
            reader.event(event)
    elif streamed:
        for event in Splitter().feed(answer.encode()):
            reader.event(event)
    else:
        reader.whole(answer.encode())
    return reader


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _stated(raw_usage: str) -> Decimal | None:
    """Return the dollars that a usage states, whatever the provider: the other way to read it."""
    said = json.loads(raw_usage, parse_float=Decimal) if raw_usage else {}
    if "cost_in_usd_ticks" in said:
        return Decimal(said["cost_in_usd_ticks"]).scaleb(-10)
    stated = said.get("cost")
    if isinstance(stated, dict):
        stated = stated.get("total_cost")
    return None if stated is None else Decimal(stated)


def text(source: PriceSource) -> str:
    """Return all bills, one below the other, with the arithmetic."""
    return HEAD + "\n".join("\n".join(_lines(bill)) + "\n" for bill in bills(source))


HEAD = """\
What each recorded answer that carries usage costs, with the arithmetic.

Tokens times dollars for a million tokens are millionths of a dollar; fees are dollars each. The
price is the one in force on the day of the answer, on the last day of the price data where the
answer has no date. "billed" is what the ledger books: what the provider says it charged where it
does and its row in catalog.toml says so, else what the tokens cost.

"""
_RATES = {
    "input": ("input",),
    "cache_read": ("cache_read", "input"),
    "cache_write": ("cache_write", "input"),
    "cache_write_1h": ("cache_write_1h", "cache_write", "input"),
    "audio_input": ("audio_input", "input"),
    "output": ("output",),
    "reasoning": ("reasoning", "output"),
    "audio_output": ("audio_output", "output"),
    "image_input": ("image_input", "input"),
    "image_output": ("image_output", "output"),
}


def _lines(bill: Bill) -> Iterator[str]:
    at = f"{bill.at:%Y-%m-%d}" if bill.at != NO_DAY else "no date"
    tier = f", service tier {bill.answered}" if bill.answered else ""
    price = bill.price
    yield bill.id
    yield f"    {bill.provider}, {bill.model}, {at}{tier}, {_source(bill)}"
    used = {name: count for name in _RATES if (count := getattr(bill.usage, name))}
    if price is None:
        yield "    " + ", ".join(f"{count:,} {name}" for name, count in used.items())
    else:
        total = Decimal(0)
        for name, count in used.items():
            usd = rate(price, name).at(bill.usage.input_total)
            total += count * usd
            yield _line(name, count, usd, count * usd)
        for fee, count in (("request_usd", 1), ("search_usd", bill.usage.searches)):
            if (each := getattr(price, fee)) and count:
                total += (fees := count * each * 10**6)
                yield _line(fee, count, each, fees)
        yield f"    {'':16}{'':>9}   {'':8}   {_plain(total):>14} millionths of a dollar"
    yield f"    {_ends(bill)}"


def _line(name: str, count: int, usd: Decimal, amount: Decimal) -> str:
    return f"    {name:16}{count:>9,} x {f'${_plain(usd)}':<8} = {_plain(amount):>14}"


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():,f}"


def _source(bill: Bill) -> str:
    if bill.price is None:
        return "a server of one's own" if bill.provider in _OWN else "no price known"
    return f"{bill.price.source}{f' ({bill.price.service})' if bill.price.service else ''}"


def _ends(bill: Bill) -> str:
    parts = []
    if bill.by_tokens is not None:
        parts.append(f"by tokens ${plain_usd(bill.by_tokens)}")
    if bill.stated is not None:
        parts.append(f"the provider says ${bill.stated:f}")
    if bill.nanousd is not None:
        parts.append(f"billed ${plain_usd(bill.nanousd)}")
    return ", ".join(parts) or "billed: what gateway.toml says; without a price nothing"


def rate(price: Price, name: str) -> Rate:
    """Return the rate of a class of tokens: its own, else that of the class it belongs to."""
    found: Rate = next(one for field in _RATES[name] if (one := getattr(price, field)))
    return found


GOLDEN = Path(__file__).parent / "golden" / "recording_costs.txt"
