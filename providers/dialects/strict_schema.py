"""JSON Schema as Anthropic and Bedrock hold a model to it: they refuse a request with any other.

Every object must be closed, and what bounds numbers, the length of texts or lists has no place
(Anthropic's page on structured outputs; recorded: "For 'integer' type, property 'minimum' is not
supported"). As Anthropic's own libraries do, that is told the model in the description.
"""

import re
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias

import msgspec

from tollway.providers.conversation import Tool
from tollway.providers.dialects.wire import object_in, of_object
from tollway.providers.errors import Untranslatable

_KEPT = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const"),
        *("anyOf", "allOf", "$ref", "$defs", "definitions", "description", "title", "default"),
    }
)
_MEMBERS = ("properties", "$defs", "definitions")
# What says nothing of the answer.
_NOTES = frozenset({"$schema", "$id", "$comment"})
_FORMATS = frozenset(
    {
        *("date-time", "time", "date", "duration", "email", "hostname", "uri"),
        *("ipv4", "ipv6", "uuid"),
    }
)
# Groups that look ahead or behind, references back, and the borders of words.
_NO_PATTERN = re.compile(r"\(\?|\\[bBkpP1-9]")
# What a request may hold in all of its strict tools: tools, members that may be left out, and
# members of several types ("Too many strict tools": camel-ai/camel#4171, elizaOS/eliza#16499).
_MOST_TOOLS, _MOST_OPTIONAL, _MOST_UNIONS = 20, 24, 16
# References within what is referred to may multiply: so many bytes may be put in their places.
_MOST_PUT_IN = 256 * 1024
_NO_ARGUMENTS = b'{"type":"object","properties":{},"additionalProperties":false}'

# By the names of tools: the schema that a model is held to, and the words that it is only told.
Schemas: TypeAlias = dict[str, tuple[bytes, tuple[str, ...]]]
# By what refers to them: a schema, and those that are defined within it.
_Defined: TypeAlias = dict[object, object]


def held_to(schema: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return a schema that a model can be held to, and the words of it that it is only told.

    Raises:
        Untranslatable: It has objects whose members have any name, or holds itself, which no
            model is held to.
    """
    said = object_in(schema)
    if said is None:
        return schema, ()
    try:
        known = _known(said)
        if _comes_back(known):
            raise _unheld("holds itself", "Write out as many levels as are needed")
        walk = _Walk(known)
        written = walk.schema(said)
        return (schema if written == said else msgspec.json.encode(written)), tuple(walk.told)
    except RecursionError:
        raise _unheld("is nested too deeply", "Nest it less") from None


def strict(tools: Iterable[object]) -> Schemas:
    """Return what `held_to` gives for the tools to whose schemas a model can be held, by name.

    Others have such a schema that no model can be held to it, or are more than a request may hold.
    """
    found: Schemas = {}
    optional = unions = 0
    for tool in tools:
        if not (isinstance(tool, Tool) and tool.strict and tool.kind == "function"):
            continue
        try:
            schema, told = held_to(of_object(tool.schema) or _NO_ARGUMENTS)
        except Untranslatable:
            continue
        more, mixed = _freedoms(object_in(schema))
        fits = optional + more <= _MOST_OPTIONAL and unions + mixed <= _MOST_UNIONS
        if fits and len(found) < _MOST_TOOLS:
            optional, unions = optional + more, unions + mixed
            found[tool.name] = schema, told
    return found


def schema_of(tool: Tool, held: Schemas, dropped: list[str]) -> bytes | None:
    """Return the schema that a tool's arguments are held to, None where they are held to none.

    What is lost of a strict tool goes to `dropped`.
    """
    if not tool.strict:
        return None
    schema, told = held.get(tool.name, (None, ()))
    dropped += ["tools.strict"] if schema is None else [f"tools.parameters.{one}" for one in told]
    return schema


class _Walk:
    """Writes schemas within schemas, and notes in `told` which words have no place."""

    def __init__(self, known: _Defined) -> None:
        self.told: dict[str, None] = {}
        self._known = known
        self._sizes: dict[str, int] = {}
        self._left = _MOST_PUT_IN

    def schema(self, said: object) -> Any:
        if not isinstance(said, dict):
            return said
        written: dict[str, Any] = {}
        words: dict[str, Any] = {}
        for name, value in said.items():
            if name in _MEMBERS and isinstance(value, dict):
                written[name] = {key: self.schema(one) for key, one in value.items()}
            elif name == "allOf" and isinstance(value, list):
                written[name] = [self.schema(self._meant(one)) for one in value]
            elif name == "anyOf" and isinstance(value, list):
                written[name] = [self.schema(one) for one in value]
            elif name == "oneOf" and isinstance(value, list) and "anyOf" not in said:
                written["anyOf"] = [self.schema(one) for one in value]
            elif name == "items":
                written[name] = self.schema(value)
            elif name in _KEPT or _is_taken(name, value):
                written[name] = value
            elif name not in _NOTES:
                words[name] = value
        if _is_object(said):
            self._close(said, written)
        if words:
            self.told.update(dict.fromkeys(words))
            about = f"{{{', '.join(f'{name}: {_text(value)}' for name, value in words.items())}}}"
            before = said.get("description")
            written["description"] = f"{before}\n\n{about}" if before else about
        return written

    def _meant(self, said: object) -> object:
        """Return a schema, or the one that it refers to: `allOf` may hold no references."""
        while isinstance(said, dict) and isinstance(ref := said.get("$ref"), str):
            there = self._known.get(ref)
            if not isinstance(there, dict):
                break
            self._put_in(ref, there)
            said = {**there, **{name: one for name, one in said.items() if name != "$ref"}}
        return said

    def _put_in(self, ref: str, there: dict[str, Any]) -> None:
        if ref not in self._sizes:
            self._sizes[ref] = len(msgspec.json.encode(there))
        self._left -= self._sizes[ref]
        if self._left < 0:
            raise _unheld(
                "is too large once `allOf` holds what it refers to", "Refer to less there"
            )

    def _close(self, said: dict[str, Any], written: dict[str, Any]) -> None:
        more = said.get("additionalProperties")
        named = isinstance(said.get("properties"), dict)
        if more is True and said.get("properties"):
            # As where it says nothing; Genkit says so of each object. A closed answer fits, too.
            self.told["additionalProperties"] = more = None
        if more is False or (
            more is None and not named and {"anyOf", "oneOf", "allOf"} & set(said)
        ):
            return
        if more is not None or not named or "patternProperties" in said:
            raise _unheld("has an object whose members may have any name")
        written["additionalProperties"] = False


def _known(said: dict[str, Any]) -> _Defined:
    places = {place: said[place] for place in _MEMBERS[1:] if isinstance(said.get(place), dict)}
    known: _Defined = {"#": {name: one for name, one in said.items() if name not in places}}
    for place, defined in places.items():
        known |= {f"#/{place}/{name}": one for name, one in defined.items()}
    return known


def _comes_back(known: _Defined) -> bool:
    """Whether some schema holds itself, by whatever way round.

    "Circular reference detected in schema definitions" (egonSchiele/agency-lang#487).
    """
    to = {name: known.keys() & _references(one) for name, one in known.items()}
    try:
        TopologicalSorter(to).prepare()
    except CycleError:
        return True
    return False


def _references(said: object) -> set[object]:
    found: set[object] = set()
    stack = [said]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        elif isinstance(one, dict):
            stack += one.values()
            if isinstance(ref := one.get("$ref"), str):
                found.add(ref)
    return found


def _is_object(said: dict[str, Any]) -> bool:
    kind = said.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _is_taken(name: str, value: object) -> bool:
    if name == "format":
        return isinstance(value, str) and value in _FORMATS
    if name == "pattern":
        return isinstance(value, str) and not _NO_PATTERN.search(value)
    return name == "minItems" and value in (0, 1)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _freedoms(schema: object) -> tuple[int, int]:
    """Return how many members may be left out, and how many are of several types."""
    optional = unions = 0
    stack = [schema]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        elif isinstance(one, dict):
            members = one.get("properties")
            if isinstance(members, dict):
                required = one.get("required")
                needed = required if isinstance(required, list) else []
                optional += sum(name not in needed for name in members)
                unions += sum(map(_is_union, members.values()))
            stack += one.values()
    return optional, unions


def _is_union(said: object) -> bool:
    return isinstance(said, dict) and ("anyOf" in said or isinstance(said.get("type"), list))


def _unheld(why: str, mend: str = "Name the members of each object") -> Untranslatable:
    return Untranslatable(
        f"The target holds no answer to a schema that {why}",
        hint=f"{mend}, or ask for any JSON",
        param="response_format",
    )
