"""What shape a chat completion's text is to have: OpenAI's word for it, and those of its servers.

Servers of open models hold an answer to a schema, a pattern or a grammar by fields of their own.
A schema is said in every dialect; a target that cannot be held to the rest would give another
answer, so that is refused.
"""

import msgspec

from tollway.providers.conversation import Format
from tollway.providers.dialects.wire import Body, decoded, object_in
from tollway.providers.errors import RequestInvalid, Untranslatable

# vLLM's, SGLang's and llama.cpp's; the value is the schema, as an object or as its text.
_SCHEMAS = ("guided_json", "json_schema")
_OTHERS = (
    *("guided_regex", "guided_choice", "guided_grammar", "structural_tag"),
    *("grammar", "regex", "ebnf"),
)
_OBJECTS = "structured_outputs"  # vLLM's: one of them within an object


class _Schema(msgspec.Struct):
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _FormatOf(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None
    schema: msgspec.Raw = msgspec.Raw()  # llama.cpp's and Together's, beside `json_object`


_FORMAT = msgspec.json.Decoder(_FormatOf)
_TEXT = msgspec.json.Decoder(str)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def shape_of(body: Body) -> Format | None:
    """Return what a request says of its answer's shape; None for any text.

    Raises:
        RequestInvalid: It is no shape.
        Untranslatable: It is one that no other dialect can say.
    """
    asked = _response_format(body)
    for name in _SCHEMAS:
        if raw := body.raw(name):
            asked = _schema(raw, name)
    for name in _OTHERS:
        if body.raw(name):
            raise _unsayable(name)
    if raw := body.raw(_OBJECTS):
        for name, value in decoded(_MEMBERS, raw, _OBJECTS).items():
            if bytes(value) in (b"null", b"false"):
                continue
            if name != "json":
                raise _unsayable(f"{_OBJECTS}.{name}")
            asked = _schema(bytes(value), f"{_OBJECTS}.{name}")
    return asked


def _unsayable(name: str) -> Untranslatable:
    return Untranslatable(
        f"The target cannot be held to `{name}`",
        hint="Give a schema: `response_format` of the type `json_schema`",
        param=name,
    )


def _schema(raw: bytes, name: str) -> Format:
    text = decoded(_TEXT, raw, name).encode() if raw[:1] == b'"' else raw
    if object_in(text) is None:
        raise RequestInvalid(f"`{name}` must be a JSON schema", param=name)
    return Format("json_schema", text)


def _response_format(body: Body) -> Format | None:
    said = body.take(_FORMAT, "response_format")
    if said is None or said.type == "text":
        return None
    if said.type == "json_object":
        loose = bytes(said.schema)
        return Format("json_schema", loose) if object_in(loose) else Format("json_object")
    schema = said.json_schema
    if said.type != "json_schema" or schema is None:
        raise RequestInvalid("`response_format` is none that we know", param="response_format")
    return Format(
        "json_schema", bytes(schema.schema), schema.name, schema.description or "", schema.strict
    )
