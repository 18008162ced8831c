"""What the gate must know of a Gemini request, and the few edits on its way to a provider.

Google's servers take each field in two spellings, `maxOutputTokens` and `max_output_tokens`. Both
are read here; a request that has both is refused, since which of them counts is not said.
"""

import re
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from tollway.providers.canon import Call, Endpoint
from tollway.providers.dialects.dialect import Edits, InUrl
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.errors import RequestInvalid

NAME: Final = "gemini"

_MOST = 2**31 - 1
_MOST_VALUES = 100_000
_LIMIT = msgspec.json.Decoder(Annotated[int, Meta(ge=1, le=_MOST)] | None)
_COUNT = msgspec.json.Decoder(Annotated[int, Meta(ge=1, le=128)] | None)
_UNDERSCORE = re.compile(r"_([a-z0-9])")
_T = TypeVar("_T")


class _Scan(NamedTuple):
    """The fields of a body; a call that was given another body has another scan."""

    body: bytes
    fields: dict[str, Field]
    options: dict[str, Field]  # of `generationConfig`, by the spelling with capitals


def camel(name: str) -> str:
    """Return a field's name in the spelling with capitals."""
    return _UNDERSCORE.sub(lambda found: found[1].upper(), name)


def peek(endpoint: Endpoint, body: bytes, url: InUrl) -> Call:
    """Return what the gate must know of a request; model and streaming stand in its URL.

    Raises:
        RequestInvalid: It is not a JSON object, a key stands twice or in two spellings, it holds
            too many values, or a field that the gate needs has the wrong type; `param` names it.
    """
    if len(body) > _MOST_VALUES and body.count(b",") + body.count(b"{") > 20 * _MOST_VALUES:
        raise RequestInvalid(f"The request holds more than {_MOST_VALUES:,} values")
    known = _one_spelling(fields(body), "")
    options: dict[str, Field] = {}
    config = known.get("generationConfig")
    if config is not None and bytes(config.raw) != b"null":
        where = "generationConfig"
        options = _one_spelling(fields(bytes(config.raw), where=where), f"{where}.")
    return Call(
        endpoint=endpoint,
        dialect=NAME,
        model=url.model,
        body=body,
        stream=url.stream and endpoint == "chat",
        lone=url.lone,
        wants_usage=True,
        output_limit=_take(_LIMIT, options, "maxOutputTokens", "a whole number of at least 1"),
        choices=_take(_COUNT, options, "candidateCount", "a whole number from 1 to 128") or 1,
        scan=_Scan(body, known, options),
    )


def _one_spelling(known: dict[str, Field], where: str) -> dict[str, Field]:
    found: dict[str, Field] = {}
    for name, field in known.items():
        one = camel(name)
        if one in found:
            raise RequestInvalid(
                f"`{where}{one}` stands twice in the request, in two spellings", param=where + one
            )
        found[one] = field
    return found


def _take(
    decoder: msgspec.json.Decoder[_T], known: dict[str, Field], name: str, words: str
) -> _T | None:
    field = known.get(name)
    if field is None:
        return None
    try:
        return decoder.decode(field.raw)
    except (msgspec.ValidationError, ValueError):
        param = f"generationConfig.{name}"
        raise RequestInvalid(f"`{param}` must be {words}", param=param) from None


def edited(call: Call, edits: Edits) -> bytes:
    """Return the body for a provider: the same bytes but for the output limit, where one is set.

    The model stands in the URL, and usage comes unasked.
    """
    if edits.output_limit is None or call.endpoint != "chat":
        return call.body
    scan = call.scan
    if not isinstance(scan, _Scan) or scan.body is not call.body:
        again = peek(call.endpoint, call.body, InUrl(call.model, call.stream)).scan
        assert isinstance(again, _Scan)  # noqa: S101 - made right here
        scan = again
    limit = {"maxOutputTokens": str(edits.output_limit).encode()}
    config = scan.fields.get("generationConfig")
    if config is None or bytes(config.raw) == b"null":
        inner = b'{"maxOutputTokens":' + limit["maxOutputTokens"] + b"}"
    else:
        inner = edit(bytes(config.raw), scan.options, limit)
    return edit(call.body, scan.fields, {"generationConfig": inner})
