"""What the gate must know of an OpenAI request, and the few edits on its way to a provider."""

import re
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from tollway.providers.canon import Call, Endpoint
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects.dialect import Edits
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.dialects.openai_bound import MOST_VALUES, UNBOUNDED, strings
from tollway.providers.errors import RequestInvalid

NAME: Final = "openai_chat"

# What the gate reads. A key that differs from one of these in nothing but case is refused: Go's
# JSON reader, behind some providers, would take it for the real one.
READ = frozenset(
    {
        *("model", "messages", "prompt", "input", "suffix", "tools", "functions"),
        *("stream", "stream_options", "n", "best_of", "max_tokens", "max_completion_tokens"),
        *("service_tier", "modalities", "chat_template", *UNBOUNDED),
    }
)

_LIMITS = ("max_completion_tokens", "max_tokens")
_MOST = 2**31 - 1
# Prompts and inputs may be lists of token ids.
_MOST_TOKENS = 1_000_000
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

_Tokens = list[int]
_Texts = str | list[str | int | _Tokens]

_MODEL = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_ARRAY = ord("[")
_TEXTS = msgspec.json.Decoder(_Texts)
_CHOICES = msgspec.json.Decoder(Annotated[int, Meta(ge=1, le=128)] | None)
_BEST_OF = msgspec.json.Decoder(Annotated[int, Meta(ge=0, le=128)] | None)
_LIMIT = msgspec.json.Decoder(Annotated[int, Meta(ge=1, le=_MOST)] | None)
_LIMIT_OR_0 = msgspec.json.Decoder(Annotated[int, Meta(ge=0, le=_MOST)] | None)

_WORDS = {
    "model": "a string",
    "messages": "an array of messages",
    "prompt": "a string, or an array of strings or tokens",
    "input": "a string, or an array of strings or tokens",
    "stream": "true or false",
    "stream_options": "an object",
    "stream_options.include_usage": "true or false",
    "n": "a whole number from 1 to 128",
    "best_of": "a whole number from 0 to 128",
    "max_tokens": "a whole number of at least 1",
    "max_completion_tokens": "a whole number of at least 1",
}


class _Chat(msgspec.Struct):
    """The fields that decide most chats, read in one go; where one is wrong, one by one."""

    model: str
    messages: msgspec.Raw
    stream: bool | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=0, le=128)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=_MOST)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=_MOST)] | None = None


_CHAT = msgspec.json.Decoder(_Chat)

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
    _weigh(body, MOST_VALUES if endpoint == "chat" else _MOST_TOKENS)
    known = fields(body)
    for name in known:
        if name not in READ and (meant := name.casefold()) in READ:
            raise RequestInvalid(
                f"`{name}` is not a field", hint=f"Write it as `{meant}`", param=name
            )
    if endpoint == "chat" and (chat := _chat(body, known)) is not None:
        return chat
    model = _need(_MODEL, known, "model")
    if not model:
        raise RequestInvalid("`model` must not be empty", param="model")
    if endpoint == "embeddings":
        _need(_TEXTS, known, "input")
        scan = _Scan(body, known)
        return Call(endpoint=endpoint, dialect=NAME, model=model, body=body, scan=scan)
    if endpoint == "chat" and ("messages" not in known or body[known["messages"].start] != _ARRAY):
        raise _wrong("messages", known)
    stream = bool(_take(_FLAG, known, "stream"))
    return Call(
        endpoint=endpoint,
        dialect=NAME,
        model=model,
        body=body,
        stream=stream,
        wants_usage=stream and _wants_usage(known),
        output_limit=_output_limit(endpoint, known),
        choices=_choices(endpoint, known),
        scan=_Scan(body, known),
    )


def _chat(body: bytes, known: dict[str, Field]) -> Call | None:
    """Return a chat as `peek` does, or None where a field is missing or wrong."""
    try:
        said = _CHAT.decode(body)
    except (msgspec.ValidationError, ValueError):
        return None
    if not said.model or body[known["messages"].start] != _ARRAY:
        return None
    limit, older = said.max_completion_tokens, said.max_tokens
    return Call(
        endpoint="chat",
        dialect=NAME,
        model=said.model,
        body=body,
        stream=bool(said.stream),
        wants_usage=bool(said.stream) and _wants_usage(known),
        output_limit=max(limit, older) if limit and older else limit or older,
        choices=said.n or 1,
        scan=_Scan(body, known),
    )


def _weigh(body: bytes, most: int) -> None:
    """Refuse a body of more values than are ever needed, before they take memory and time."""
    if len(body) <= most or _values(body) <= most:
        return
    # Commas and brackets may stand in texts; a value has at most one key.
    if strings(body) > 2 * most or _values(_STRINGS.sub(b"", body)) > most:
        raise RequestInvalid(f"The request holds more than {most:,} values")


def _values(text: bytes) -> int:
    """Return how many values a JSON text holds at most."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _need(decoder: msgspec.json.Decoder[_T], known: dict[str, Field], name: str) -> _T:
    if name not in known:
        raise _wrong(name, known)
    return _decode(decoder, known[name], name)


def _wrong(name: str, known: dict[str, Field]) -> RequestInvalid:
    missing = "" if name in known else "is missing; it "
    return RequestInvalid(f"`{name}` {missing}must be {_WORDS[name]}", param=name)


def _take(decoder: msgspec.json.Decoder[_T], known: dict[str, Field], name: str) -> _T | None:
    field = known.get(name)
    return None if field is None else _decode(decoder, field, name)


def _decode(decoder: msgspec.json.Decoder[_T], field: Field, name: str) -> _T:
    try:
        return decoder.decode(field.raw)
    except (msgspec.ValidationError, ValueError):
        raise _wrong(name, {name: field}) from None


def _wants_usage(known: dict[str, Field]) -> bool:
    field = known.get("stream_options")
    if field is None or _is_null(field):
        return False
    inner = fields(bytes(field.raw), where="stream_options")
    if "include_usage" not in inner:
        return False
    return bool(_decode(_FLAG, inner["include_usage"], "stream_options.include_usage"))


def _output_limit(endpoint: Endpoint, known: dict[str, Field]) -> int | None:
    """Return the limit; of two the larger, since a provider may go by either."""
    decoder = _LIMIT_OR_0 if endpoint == "completions" else _LIMIT
    given = [_take(decoder, known, name) for name in _LIMITS]
    # A completion may ask for no token at all; who does not know that 0 gets 1 (see `edited`).
    return max((max(limit, 1) for limit in given if limit is not None), default=None)


def _choices(endpoint: Endpoint, known: dict[str, Field]) -> int:
    asked = _take(_CHOICES, known, "n") or 1
    _take(_BEST_OF, known, "best_of")
    if endpoint == "chat":
        return asked
    field = known.get("prompt")
    if field is None or _is_null(field):
        return asked
    prompt = _decode(_TEXTS, field, "prompt")
    # A list of tokens is one prompt.
    one = isinstance(prompt, str) or all(isinstance(part, int) for part in prompt)
    return asked if one else asked * len(prompt)


def _is_null(field: Field) -> bool:
    return field.end - field.start == 4 and bytes(field.raw) == b"null"


def edited(call: Call, edits: Edits) -> bytes:
    """Return the body for a provider: the same bytes but for what `edits` names.

    Where the target takes no `max_completion_tokens`, the client's becomes `max_tokens`: DeepSeek
    ignores the newer field in silence, so that the answer, and its bill, would have no end. So
    do the length of vectors and the seed where they have another name. `stream_options` are taken
    out where they fail the call: they say nothing of the answer, and usage comes unasked there.
    """
    scan = call.scan
    known = scan.fields if isinstance(scan, _Scan) and scan.body is call.body else fields(call.body)
    values: dict[str, bytes] = {}
    renames: dict[str, str] = {}
    if edits.model != call.model:
        values["model"] = msgspec.json.encode(edits.model)
    if call.endpoint == "embeddings":
        name = quirk.size_field(edits.quirks)
        if "dimensions" in known and name not in known:
            values["dimensions"], renames["dimensions"] = bytes(known["dimensions"].raw), name
    else:
        _edit_limit(call, edits, known, values, renames)
        if quirk.RANDOM_SEED in edits.quirks and "seed" in known and "random_seed" not in known:
            values["seed"], renames["seed"] = bytes(known["seed"].raw), "random_seed"
    if edits.ask_usage and call.stream and not call.wants_usage:
        _ask_usage(edits, known, values)
    without = "stream_options" if quirk.NO_STREAM_OPTIONS in edits.quirks else None
    return edit(call.body, known, values, renames, without)


def _edit_limit(
    call: Call,
    edits: Edits,
    known: dict[str, Field],
    values: dict[str, bytes],
    renames: dict[str, str],
) -> None:
    given = [name for name in _LIMITS if name in known and not _is_null(known[name])]
    lost = _LIMITS[0] in given and quirk.misses_new_limit(edits.quirks, call.endpoint)
    if call.endpoint == "completions" and not quirk.takes_zero(edits.quirks):
        zeros = [name for name in given if bytes(known[name].raw) == b"0"]
        values.update(dict.fromkeys(zeros, b"1"))
    limit = edits.output_limit
    if limit is None:
        if not lost:
            return
        limit = call.output_limit
    if not given:
        own = quirk.own_limit(edits.quirks, call.endpoint)
        if own is not None and limit is not None and own <= limit:
            return  # its own default is lower: writing ours would make the answer longer
        given = [quirk.limit_field(edits.quirks, call.endpoint)]
    if lost and "max_tokens" not in known:
        renames[_LIMITS[0]] = "max_tokens"
    elif lost:
        given = [*given, "max_tokens"]
    for name in given:
        values[name] = str(limit).encode()


def _ask_usage(edits: Edits, known: dict[str, Field], values: dict[str, bytes]) -> None:
    if not quirk.is_asked_for_usage(edits.quirks):
        return
    field = known.get("stream_options")
    if field is None or _is_null(field):
        values["stream_options"] = b'{"include_usage":true}'
        return
    inner = bytes(field.raw)
    options = fields(inner, where="stream_options")
    values["stream_options"] = edit(inner, options, {"include_usage": b"true"})
