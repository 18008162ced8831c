"""Embeddings as Google's clients ask for them: `embedContent` of one text, or a batch of them.

To Google they pass as they came but for the model's name, which stands in the body too. To
others only texts go, and of one kind: a request there has one purpose and one size for all.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tollway.providers.canon import Call
from tollway.providers.dialects.gemini_request import camel
from tollway.providers.dialects.json_edit import edit, fields
from tollway.providers.dialects.wire import object_in, text_of
from tollway.providers.embedding import Embedding, Vectors
from tollway.providers.errors import RequestInvalid, Untranslatable

# What a target could not be told, in these clients' words.
NAMES: Final = {"input_type": "taskType", "truncate": "autoTruncate"}
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_Object = dict[str, Any]


def items(body: bytes) -> list[_Object]:
    """Return what is to be embedded: each request of a batch, or the only one there is."""
    said = _camel(object_in(body))
    if "requests" not in said:
        return [said]
    listed = said["requests"]
    return [_camel(one) for one in listed] if isinstance(listed, list) else []


def texts(item: _Object) -> Iterator[str | None]:
    """Yield the texts of one content's parts; None for what is no text."""
    content = item.get("content")
    parts = content.get("parts") if isinstance(content, dict) else content
    for part in parts if isinstance(parts, list) else [parts]:
        said = part.get("text") if isinstance(part, dict) else part
        yield said if isinstance(said, str) else None


def asked(body: bytes, model: str) -> Embedding:
    """Return what an answer to a body will hold: a vector for each content, whatever is in it."""
    found = [tuple(texts(item)) for item in items(body)]
    joined = tuple("".join(text or "" for text in one) for one in found)
    return Embedding(model, joined, only_texts=all(None not in one for one in found))


def read_request(call: Call) -> Embedding:
    """Return what a client's body says.

    Raises:
        RequestInvalid: There is nothing to embed.
        Untranslatable: It holds more than texts, or texts for more than one purpose.
    """
    listed = items(call.body)
    if not listed:
        raise RequestInvalid("`requests` must be an array of objects", param="requests")
    said: list[str] = []
    options: list[_Object] = []
    for item in listed:
        found = list(texts(item))
        if len(found) != 1 or (text := found[0]) is None:
            raise Untranslatable(
                "The target makes a vector of one text, not of pictures or of several parts",
                hint="Give each `content` one part, with a `text`",
                param="content",
            )
        said.append(text)
        rest = {name: value for name, value in item.items() if name not in ("content", "model")}
        options.append({**rest, **_camel(rest.pop("embedContentConfig", None))})
    first = options[0]
    if any(one != first for one in options):
        raise Untranslatable(
            "The target makes vectors of one kind at a time",
            hint="Ask for those of other options in another call",
            param="requests",
        )
    return _of(call.model, tuple(said), first)


def _of(model: str, said: tuple[str, ...], options: _Object) -> Embedding:
    purpose = text_of(options, "taskType")
    size = options.get("outputDimensionality")
    cuts = options.get("autoTruncate")
    known = ("taskType", "outputDimensionality", "embedContentConfig", "title", "autoTruncate")
    return Embedding(
        model=model,
        texts=said,
        dimensions=size if type(size) is int else None,
        purpose="" if purpose == "TASK_TYPE_UNSPECIFIED" else purpose,
        title=text_of(options, "title"),
        truncates=cuts if type(cuts) is bool else None,
        dropped=tuple(name for name, value in options.items() if value and name not in known),
    )


def written(call: Call, said: Embedding, made: Vectors) -> bytes:
    """Return an answer's body, in the form that the client's method has."""
    listed: list[dict[str, object]] = [{"values": vector} for vector in made.vectors]
    body: dict[str, object] = {"embedding": listed[0]} if call.lone else {"embeddings": listed}
    if made.usage is not None and not made.usage.estimated:
        body["usageMetadata"] = {"promptTokenCount": made.usage.input_total}
    return msgspec.json.encode(body)


def named(body: bytes, model: str) -> bytes:
    """Return a body in which each model that is named is a target's; the other bytes stay.

    Raises:
        RequestInvalid: A request of a batch is no object, or has a key twice.
    """
    known = fields(body)
    name = msgspec.json.encode(f"models/{model}")
    changes = {"model": name} if "model" in known else {}
    if "requests" in known:
        try:
            listed = _ITEMS.decode(known["requests"].raw)
        except (msgspec.ValidationError, msgspec.DecodeError):
            raise RequestInvalid("`requests` must be an array", param="requests") from None
        changes["requests"] = b"[" + b",".join(_named(bytes(one), name) for one in listed) + b"]"
    return edit(body, known, changes)


def _named(request: bytes, name: bytes) -> bytes:
    known = fields(request, where="requests[]")
    return edit(request, known, {"model": name} if "model" in known else {})


def _camel(said: object) -> _Object:
    return {camel(name): value for name, value in said.items()} if isinstance(said, dict) else {}
