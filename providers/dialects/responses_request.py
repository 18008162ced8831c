"""What the gate must know of a Responses request, and the few edits on its way to a provider."""

from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from tollway.providers.canon import Call, Endpoint
from tollway.providers.dialects.dialect import Edits
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.dialects.openai_bound import UNBOUNDED
from tollway.providers.errors import RequestInvalid

NAME: Final = "openai_responses"

# What the gate reads. A key that differs from one of these in nothing but case is refused: Go's
# JSON reader, behind some providers, would take it for the real one.
READ = frozenset(
    {
        *("model", "input", "instructions", "tools", "text", "stream", "service_tier"),
        *("max_output_tokens", "max_tool_calls", "previous_response_id", "conversation"),
        *("prompt", "background", "context_management", "moderation", "include"),
        *("modalities", *UNBOUNDED),
    }
)
_MOST = 2**31 - 1
# More than any honest request holds; they take time to read before anything is refused.
MOST_VALUES = 100_000

_TEXT_LIST_OR_NULL = b'"[n'
_MODEL = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_LIMIT = msgspec.json.Decoder(Annotated[int, Meta(ge=1, le=_MOST)] | None)
_WORDS = {
    "model": "a string",
    "input": "a string or an array of items",
    "stream": "true or false",
    "max_output_tokens": "a whole number of at least 1",
}
_T = TypeVar("_T")


class _Scan(NamedTuple):
    """The fields of a body; a call that was given another body has another scan."""

    body: bytes
    fields: dict[str, Field]


def peek(endpoint: Endpoint, body: bytes) -> Call:
    """Return what the gate must know of a body.

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
    if "input" in known and body[known["input"].start] not in _TEXT_LIST_OR_NULL:
        raise RequestInvalid(f"`input` must be {_WORDS['input']}", param="input")
    streams = endpoint == "chat"
    return Call(
        endpoint=endpoint,
        dialect=NAME,
        model=model,
        body=body,
        stream=streams and bool(_take(_FLAG, known, "stream")),
        wants_usage=True,
        output_limit=_take(_LIMIT, known, "max_output_tokens"),
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

    Usage needs no asking: it stands in the last event of every stream.
    """
    scan = call.scan
    known = scan.fields if isinstance(scan, _Scan) and scan.body is call.body else fields(call.body)
    values: dict[str, bytes] = {}
    if edits.model != call.model:
        values["model"] = msgspec.json.encode(edits.model)
    if edits.output_limit is not None and call.endpoint == "chat":
        values["max_output_tokens"] = str(edits.output_limit).encode()
    return edit(call.body, known, values)
