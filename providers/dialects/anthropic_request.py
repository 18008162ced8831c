"""What the gate must know of a Messages request, and the few edits on its way to a provider."""

from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from tollway.providers.canon import Call, Endpoint
from tollway.providers.dialects.anthropic_said import NAME
from tollway.providers.dialects.dialect import Edits
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.effort import LEAST_BUDGET, SHARE_OF_THOUGHT
from tollway.providers.errors import RequestInvalid

# What the gate reads. A key that differs from one of these in nothing but case is refused: Go's
# JSON reader, behind some servers, would take it for the real one.
READ = frozenset(
    {
        *("model", "messages", "system", "tools", "tool_choice", "stream", "max_tokens"),
        *("thinking", "service_tier", "speed", "inference_geo", "mcp_servers", "container"),
        *("context_management", "output_config", "output_format", "thread"),
        *("fallbacks", "models", "plugins", "provider", "route", "preset"),
        *("context_window_fallbacks", "content_policy_fallbacks", "providerOptions"),
    }
)
# More than any honest request holds; they take time to read before anything is refused.
MOST_VALUES = 100_000
_MOST = 2**31 - 1
_ARRAY = ord("[")

# What Anthropic's own library for Vertex says there; recorded.
_RAW_VERSION = b'"vertex-2023-10-16"'
RAW_PREDICT = "raw_predict"

_MODEL = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_THINKING = msgspec.json.Decoder()
# 0 fills the cache and answers nothing.
_LIMIT = msgspec.json.Decoder(Annotated[int, Meta(ge=0, le=_MOST)] | None)
_WORDS = {
    "model": "a string",
    "messages": "an array of messages",
    "stream": "true or false",
    "max_tokens": "a whole number of at least 0",
}
_T = TypeVar("_T")


class _Scan(NamedTuple):
    """The fields of a body; a call that was given another body has another scan."""

    body: bytes
    fields: dict[str, Field]


def peek(endpoint: Endpoint, body: bytes) -> Call:
    """Return what the gate must know of a body.

    `max_tokens` may be missing here, though Anthropic demands it: the gate then writes its own
    default where a budget applies, and else the provider says what it thinks of it.

    Raises:
        RequestInvalid: It is not a JSON object, a key stands twice, it holds too many values, or
            a field that the gate needs is missing or has the wrong type; `param` names it.
    """
    # Commas within texts count too, so only a body that may be too large is looked at closely.
    if len(body) > MOST_VALUES and _values(body) > 20 * MOST_VALUES:
        raise RequestInvalid(f"The request holds more than {MOST_VALUES:,} values")
    known = fields(body)
    for name in known:
        if name not in READ and (meant := name.casefold()) in READ:
            raise RequestInvalid(
                f"`{name}` is not a field", hint=f"Write it as `{meant}`", param=name
            )
    if "model" not in known:
        raise RequestInvalid("`model` is missing; it must be a string", param="model")
    model = _decode(_MODEL, known["model"], "model")
    if not model:
        raise RequestInvalid("`model` must not be empty", param="model")
    if "messages" not in known or body[known["messages"].start] != _ARRAY:
        missing = "" if "messages" in known else "is missing; it "
        raise RequestInvalid(f"`messages` {missing}must be an array of messages", param="messages")
    counts = endpoint == "count_tokens"
    limit = _take(_LIMIT, known, "max_tokens")
    return Call(
        endpoint=endpoint,
        dialect=NAME,
        model=model,
        body=body,
        stream=not counts and bool(_take(_FLAG, known, "stream")),
        wants_usage=True,
        # Nobody bills for less than a token of output.
        output_limit=None if limit is None else max(limit, 1),
        scan=_Scan(body, known),
    )


def _values(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _take(decoder: msgspec.json.Decoder[_T], known: dict[str, Field], name: str) -> _T | None:
    field = known.get(name)
    return None if field is None else _decode(decoder, field, name)


def _decode(decoder: msgspec.json.Decoder[_T], field: Field, name: str) -> _T:
    try:
        return decoder.decode(field.raw)
    except (msgspec.ValidationError, ValueError):
        raise RequestInvalid(f"`{name}` must be {_WORDS[name]}", param=name) from None


def edited(call: Call, edits: Edits) -> bytes:
    """Return the body for a provider: the same bytes but for what `edits` names.

    Usage needs no asking: every stream ends with it. The bytes of `system`, `messages` and
    `tools` never change, so that thinking stays signed and prompts stay cached. A lower limit
    may lower the budget for thinking.
    """
    scan = call.scan
    known = scan.fields if isinstance(scan, _Scan) and scan.body is call.body else fields(call.body)
    values: dict[str, bytes] = {}
    if edits.model != call.model:
        values["model"] = msgspec.json.encode(edits.model)
    if edits.output_limit is not None and call.endpoint == "chat":
        values |= _limited(call, known, edits.output_limit)
    if RAW_PREDICT in edits.quirks:
        return _raw_predict(call, known, values)
    return edit(call.body, known, values)


def _raw_predict(call: Call, known: dict[str, Field], values: dict[str, bytes]) -> bytes:
    """Return a body for Vertex: the version stands in it, and the model in the URL.

    Only a count of tokens, whose URL is one for all models, names it still.
    """
    if call.endpoint == "count_tokens":
        return edit(call.body, known, values | {"anthropic_version": _RAW_VERSION})
    if "anthropic_version" in known:
        raise RequestInvalid(
            "`anthropic_version` is no field of Messages",
            hint="Leave it out: the gateway says it where it is due",
            param="anthropic_version",
        )
    # No body is without a model, so the version can always take its place.
    renamed = values | {"model": _RAW_VERSION}
    return edit(call.body, known, renamed, {"model": "anthropic_version"})


def _limited(call: Call, known: dict[str, Field], most: int) -> dict[str, bytes]:
    """Return the fields with which an answer has at most so many tokens, thoughts and all.

    A budget for thinking that is not below `max_tokens` may be used up beside it, where thoughts
    are interleaved, and is refused elsewhere: it is lowered with the limit. Where less is left
    than Anthropic's least budget, there is no thinking.
    """
    limit = most if call.output_limit is None else min(most, call.output_limit)
    values = {"max_tokens": str(limit).encode()}
    thinking = _THINKING.decode(known["thinking"].raw) if "thinking" in known else None
    if type(thinking) is not dict:
        return values
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < limit:
        return values
    share, whole = SHARE_OF_THOUGHT
    lowered = 0
    if most - limit >= LEAST_BUDGET:  # the client's limit leaves so much beside it
        lowered = min(budget, most - limit)
    elif limit > LEAST_BUDGET:
        lowered = max(LEAST_BUDGET, limit * share // whole)
    said = thinking | {"budget_tokens": lowered} if lowered else {"type": "disabled"}
    return values | {"thinking": msgspec.json.encode(said)}
