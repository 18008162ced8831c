"""References within a schema as all providers read them: to what `$defs` holds, at its top.

OpenAI: "reference can only point to definitions defined at the top level of the schema"
(dotnet/extensions#6918). Google: "reference to undefined schema" (google-gemini/gemini-cli#13326),
and a depth without end for `#/properties/...` (google-gemini/gemini-cli#5609). Amazon's models are
given no references at all, which `schema_refs` can do for these alone. So what is referred to
anywhere else (`#`, `#/properties/x`, `#/definitions/X`, an anchor) stands in `$defs` too. What a
reference does not lead to is anything at all in a tool's arguments, and is refused in an answer.
"""

import re
from collections import deque
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from tollway.providers.conversation import Conversation, Tool
from tollway.providers.dialects.wire import object_in
from tollway.providers.errors import RequestInvalid, Untranslatable

_DEFINED: Final = ("$defs", "definitions")
# Whose members are schemas, and what is no schema at all.
_NAMED: Final = frozenset({"properties", "patternProperties", "dependentSchemas"})
_VALUES: Final = frozenset({"enum", "const", "default", "examples", "example", "required"})
# Others may be read amiss (openai/openai-node#1679, of spaces).
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLAIN_REF = re.compile(rb'"\$ref"\s*:\s*"#/\$defs/([A-Za-z0-9_.-]{1,64})"')
_UNPLAIN = re.compile(r"[^A-Za-z0-9_.-]")
# What all schemas of a request may grow by: honest ones grow by kilobytes.
_MOST_BYTES: Final = 1024 * 1024
# A reference to a reference, and so on: more lead nowhere.
_MOST_HOPS: Final = 8
# What a schema is known by, and nobody needs to know once it stands in `$defs`.
_NAMES: Final = frozenset({"$id", "$anchor"})


class Room:
    """How much more the schemas of one request may become with what they refer to."""

    def __init__(self) -> None:
        self._left = _MOST_BYTES

    def takes(self, size: int) -> bool:
        """Take so many bytes; return whether there was room for them."""
        self._left -= size
        return self._left >= 0


def with_plain_refs(said: Conversation) -> Conversation:
    """Return a conversation whose schemas refer to `#/$defs/NAME` alone.

    Raises:
        RequestInvalid: The answer's schema refers to what is not in it; `param` names the field.
        Untranslatable: One would be too large.
    """
    room = Room()
    tools = tuple(_tool(one, room) if isinstance(one, Tool) else one for one in said.tools)
    if any(new is not old for new, old in zip(tools, said.tools, strict=True)):
        said = msgspec.structs.replace(said, tools=tools)
    asked = said.format
    if asked is None or not _refers(asked.schema):
        return said
    schema, lost = plain(asked.schema, "response_format", room)
    if lost:
        raise RequestInvalid(
            f"The schema of the answer refers to `{lost[0][:80]}`, which is not in it",
            hint="Define it in the schema's `$defs`",
            param="response_format",
        )
    if schema is asked.schema:
        return said
    return msgspec.structs.replace(said, format=msgspec.structs.replace(asked, schema=schema))


def _tool(tool: Tool, room: Room) -> Tool:
    if tool.kind == "custom" or not _refers(tool.schema):
        return tool
    schema, lost = plain(tool.schema, "tools", room)
    if schema is tool.schema:
        return tool
    names = ["parameters.$ref"] if lost else []
    if lost and tool.strict:
        names.append("strict")  # held to nothing there, it is not held to what was meant
    return msgspec.structs.replace(
        tool,
        schema=schema,
        strict=False if lost and tool.strict else tool.strict,
        extras=(*tool.extras, *((name, b"") for name in names)),
    )


def _refers(schema: bytes) -> bool:
    return b'"$ref"' in schema


def plain(schema: bytes, param: str, room: Room) -> tuple[bytes, tuple[str, ...]]:
    """Return a schema that refers to `#/$defs/NAME` alone, and the references that lead nowhere.

    Args:
        schema: Whose own bytes are returned where it does so already.
        param: The field that it stands in.
        room: That of the request, for what stands in more places than before.

    Raises:
        Untranslatable: It would be too large; it is nested too deeply.
    """
    said = object_in(schema)
    if said is None or _is_plain(schema, said):
        return schema, ()
    try:
        walk = _Walk(said, len(schema), room)
        written = walk.whole()
    except (RecursionError, _TooMuchError):
        raise Untranslatable(
            "A schema is too large with all that it refers to",
            hint="Refer to less there, or to what `$defs` holds",
            param=param,
        ) from None
    return (msgspec.json.encode(written) if walk.changed else schema), tuple(walk.lost)


def _is_plain(schema: bytes, said: dict[str, Any]) -> bool:
    """Whether it is seen at once that all references lead to `$defs`, as those of most do."""
    defined, refs = said.get("$defs"), _PLAIN_REF.findall(schema)
    if not isinstance(defined, dict) or "$ref" in said or len(refs) != schema.count(b'"$ref"'):
        return False
    led = {ref.decode() for ref in refs}
    return led <= defined.keys() and all(
        isinstance(one, dict) and "$ref" not in one if name in led else not _has_refs(one)
        for name, one in defined.items()
    )


def _without(said: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: one for key, one in said.items() if key != name}


def _has_refs(said: object) -> bool:
    return _refers(msgspec.json.encode(said))


class _TooMuchError(Exception):
    """What a schema refers to is put in too many places."""


class _Walk:
    """Writes a schema anew, and puts what it refers to into `$defs` as it is met."""

    def __init__(self, said: dict[str, Any], size: int, room: Room) -> None:
        self.changed = False
        self.lost: dict[str, None] = {}
        self._root = said
        self._names: dict[str, str | None] = {}  # in `$defs`, by reference; None: leads nowhere
        self._aside: list[Any] = []  # what is defined in some place or other
        self._places: dict[str, Any] = {}  # what stands there, by reference
        self._pending: deque[tuple[str, Any]] = deque()
        own = said.get("$defs")
        self._taken: dict[str, int] = dict.fromkeys(own, 1) if isinstance(own, dict) else {}
        self._own = size  # what only changes its place takes no room
        self._room = room
        self._known: dict[str, Any] | None = None  # by `$id` and `$anchor`

    def whole(self) -> dict[str, Any]:
        """Return the schema; one that only refers to another is that one."""
        top = self._root
        while isinstance(ref := top.get("$ref"), str):
            self.changed = True
            there = self._found(ref)  # whose own references come to an end
            if there is None:
                self.lost[ref] = None
            top = {**(there or {}), **_without(top, "$ref")}
        written = self._schema(top)
        defined: dict[str, Any] = {}
        while self._pending:
            name, there = self._pending.popleft()
            defined[name] = self._schema(there)
        met = {id(self._places[ref]) for ref in self._names}
        # Nobody refers to the rest, which may yet be read.
        self.changed |= any(id(one) not in met and _has_refs(one) for one in self._aside)
        return {**written, "$defs": defined} if defined else dict(written)

    def _schema(self, said: Any) -> Any:
        if isinstance(said, list):
            return [self._schema(one) for one in said]
        if not isinstance(said, dict):
            return said
        written: dict[str, Any] = {}
        for key, value in said.items():
            if key == "$ref" and isinstance(value, str):
                name = self._name(value)
                if name is not None:
                    written[key] = f"#/$defs/{name}"
            elif key in _DEFINED and isinstance(value, dict):
                self._aside += value.values()  # what is referred to there is put where it is met
            elif key in _NAMES and isinstance(value, str):
                continue
            elif key in _NAMED and isinstance(value, dict):
                written[key] = {name: self._schema(one) for name, one in value.items()}
            else:
                written[key] = value if key in _VALUES else self._schema(value)
        return written

    def _name(self, ref: str) -> str | None:
        """Return the name in `$defs` of what a reference leads to, None where it is nothing."""
        local = self._local(ref)
        if local not in self._names:
            there = self._found(local)
            if there is None:
                self.lost[ref] = None
                self._names[local] = None
            else:
                self._own -= (size := len(msgspec.json.encode(there)))
                if self._own < 0 and not self._room.takes(min(size, -self._own)):
                    raise _TooMuchError
                self._names[local] = name = self._free(local)
                self._pending.append((name, there))
        found = self._names[local]
        self.changed |= ref != f"#/$defs/{found}" or found is None
        return found

    def _local(self, ref: str) -> str:
        """Return a reference by the schema's own address as one within it."""
        start = self._root.get("$id")
        start = start.removesuffix("#") if isinstance(start, str) else ""
        address, _, place = ref.partition("#")
        return f"#{place}" if start and address == start else ref

    def _free(self, ref: str) -> str:
        """Return a name for what a reference leads to: its own, where `$defs` has it already."""
        where, _, last = ref.rpartition("/")
        if where == "#/$defs" and _PLAIN.fullmatch(last):
            return last
        base = _UNPLAIN.sub("_", unquote(last).lstrip("#"))[:56] or "root"
        name = base
        while name in self._taken:
            self._taken[base] += 1
            name = f"{base}_{self._taken[base]}"
        self._taken[name] = 1
        return name

    def _found(self, ref: str) -> dict[str, Any] | None:
        """Return what a reference leads to; None for nothing, or for a reference to itself."""
        there = first = self._at(ref)
        hops = 0
        while isinstance(there, dict) and isinstance(then := there.get("$ref"), str):
            there, hops = self._at(then), hops + 1
            if hops > _MOST_HOPS:
                return None
        return {} if first is True else first if isinstance(first, dict) else None

    def _at(self, ref: str) -> Any:
        if ref not in self._places:
            self._places[ref] = self._looked_up(self._local(ref))
        return self._places[ref]

    def _looked_up(self, ref: str) -> Any:
        if ref != "#" and not ref.startswith("#/"):
            return self._called(ref)
        found: Any = self._root
        for part in ref[1:].split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                return None
        return found

    def _called(self, ref: str) -> Any:
        """Return the schema within this one that calls itself so, None where there is none."""
        if self._known is None:
            self._known = {}
            stack: list[Any] = [self._root]
            while stack:
                one = stack.pop()
                if isinstance(one, list):
                    stack += one
                elif isinstance(one, dict):
                    stack += one.values()
                    for name, mark in (("$id", ""), ("$anchor", "#")):
                        if isinstance(own := one.get(name), str):
                            self._known.setdefault(f"{mark}{own}", one)
        return self._known.get(ref)
