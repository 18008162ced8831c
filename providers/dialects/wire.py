"""What codecs share: fields of a body, data URLs, ids and names that a target bears."""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import msgspec

from tollway.providers.conversation import Conversation, Source, Tool, ToolCall
from tollway.providers.dialects.unread import Shape, unread
from tollway.providers.errors import RequestInvalid, Untranslatable

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PATH = re.compile(r" - at `\$(.*)`$")
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_STR = msgspec.json.Decoder(str)
UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


class Decodes(Protocol[_T_co]):
    """A JSON decoder of a type; msgspec's own is invariant for no reason."""

    def decode(self, text: msgspec.Raw | bytes, /) -> _T_co:
        """Return what a JSON text says."""
        ...


class Body:
    """The members of a request's body, taken one by one; what is left over is `extras`."""

    def __init__(self, body: bytes) -> None:
        """Read a JSON object.

        Raises:
            RequestInvalid: It is none.
        """
        try:
            self._left = _BODY.decode(body)
            # What stays JSON text is skipped by that: schemas, payloads. Nothing later may find
            # that it is none.
            self._whole = _ANY.decode(body)
        except UNREADABLE:
            raise RequestInvalid("The request's body must be a JSON object") from None

    def take(self, decoder: Decodes[_T], name: str) -> _T | None:
        """Return a member's value, None where it is missing or null.

        Raises:
            RequestInvalid: It is of another type.
        """
        raw = self._left.pop(name, None)
        if raw is None or bytes(memoryview(raw)[:4]) == b"null":
            return None
        return decoded(decoder, raw, name)

    def raw(self, name: str) -> bytes:
        """Return a member's JSON text, b"" where it is missing or null."""
        text = bytes(self._left.pop(name, b""))
        return b"" if text == b"null" else text

    def asks(self, name: str) -> object:
        """Return the `type` of a member that stays; None where it is missing or null."""
        said = self._whole.get(name)
        return said.get("type", "") if isinstance(said, dict) else said

    def holds(self, name: str, *within: str) -> object:
        """Return a member of a member that stays, and so on; None where it is missing or null."""
        said = self._whole.get(name)
        for inner in within:
            said = said.get(inner) if isinstance(said, dict) else None
        return said

    @property
    def extras(self) -> tuple[tuple[str, bytes], ...]:
        """The members that nobody took, by name, but for null and what is done anyway."""
        return tuple(
            (name, text)
            for name, raw in self._left.items()
            if (text := bytes(raw)) != b"null" and (name, text) not in _USUAL
        )

    def unread(self, known: Mapping[str, Shape]) -> tuple[str, ...]:
        """Return the names of fields that are unknown within members, by what is `known` there."""
        found = (
            name
            for member, one in known.items()
            if member in self._whole
            for name in unread(self._whole[member], one, f"{member}.")
        )
        return tuple(dict.fromkeys(found))


def caller(body: Body) -> str:
    """Return whom an OpenAI request is for, by its newer field or the older; "" for nobody.

    Where they name two, the older one stays, to be told as left out.

    Raises:
        RequestInvalid: One is no text.
    """
    newer = body.take(_STR, "safety_identifier") or ""
    if newer and body.asks("user") not in (None, "", newer):
        return newer
    older = body.take(_STR, "user") or ""
    return newer or older


def refuse_screening(body: Body) -> None:
    """Refuse a request whose texts OpenAI is to look at, and to hold back.

    Raises:
        Untranslatable: It asks for that; scores alone are no part of an answer.
    """
    for what in ("input", "output"):
        if body.holds("moderation", "policy", what, "mode") == "block":
            raise Untranslatable(
                f"`moderation` has OpenAI block an {what}, and the target lets all of it pass",
                hint="Leave it out, or call a model of OpenAI's",
                param=f"moderation.policy.{what}",
            )


_USUAL = frozenset(
    {("truncation", b'"disabled"'), ("speed", b'"standard"'), ("verbosity", b'"medium"')}
)


def decoded(decoder: Decodes[_T], text: msgspec.Raw | bytes, name: str) -> _T:
    """Return what a JSON text says.

    Raises:
        RequestInvalid: It is of another type; `param` names the field within `name`.
    """
    try:
        return decoder.decode(text)
    except RecursionError:
        raise RequestInvalid(f"`{name}` is nested too deeply", param=name) from None
    except (msgspec.DecodeError, ValueError) as fault:
        words = str(fault)
        place = _PATH.search(words)
        where = name + (place[1] if place else "")
        why = _PATH.sub("", words).replace("Object", "an object")
        raise RequestInvalid(
            f"`{where}` is not right: {why[:1].lower()}{why[1:]}", param=where
        ) from None


def data_url(url: str) -> Source:
    """Return what a URL stands for: the base64 text within a data URL, else the URL itself."""
    if not url.startswith("data:"):
        return Source("url", url)
    head, comma, data = url[5:].partition(",")
    media_type, _, encoding = head.rpartition(";")
    if not comma or encoding.strip() != "base64":
        return Source("url", url)
    return Source("base64", data, media_type.split(";")[0].strip())


def file_data(said: str) -> Source:
    """Return what a `file_data` of OpenAI's is; some clients leave out the data URL's head."""
    source = data_url(said)
    if source.kind == "url" and "://" not in source.value:
        return Source("base64", source.value)
    return source


def as_url(source: Source) -> str:
    """Return a source as a URL: its own, or a data URL of its bytes."""
    if source.kind == "base64":
        return f"data:{source.media_type or 'application/octet-stream'};base64,{source.value}"
    return source.value


def as_text(source: Source) -> Source:
    """Return the words of a file that is text, where its bytes are given; else it as it is.

    Most targets take no file but PDF, and all of them text.
    """
    if source.kind != "base64" or not source.media_type.startswith(_TEXTS):
        return source
    try:
        return Source("text", b64decode(source.value, validate=True).decode(), source.media_type)
    except ValueError:
        return source


_TEXTS = ("text/", "application/json", "application/xml", "application/yaml")


def fitting(name: str, allowed: re.Pattern[str], most: int) -> str:
    """Return a name or id that a target bears: the same one where it fits, else always one other.

    Args:
        name: Ours.
        allowed: Matches a character that the target takes.
        most: How many it takes.
    """
    if 0 < len(name) <= most and all(allowed.match(char) for char in name):
        return name
    kept = "".join(char if allowed.match(char) else "_" for char in name)[: most - 9]
    return f"{kept}_{sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


class Names:
    """Tools' names as a target bears them, and back."""

    def __init__(self, fit: Callable[[str], str], names: tuple[str, ...]) -> None:
        self._ours = {there: name for name in names if (there := fit(name)) != name}

    def ours(self, there: str) -> str:
        """Return the name that the client knows a tool by."""
        return self._ours.get(there, there)


def made_id(answer: str, number: int) -> str:
    """Return an id for a tool call that came without: the same for the same place in an answer."""
    return f"call_{sha256(answer.encode()).hexdigest()[:16]}{number:02d}"


class CallIds:
    """The ids of an answer's calls: each its own, beside those of the turns before as well.

    Some servers count from 0 in every answer, some give two calls one id, some give none; to a
    client a second call of an id is the first one.
    """

    def __init__(self, said: Conversation) -> None:
        """Take what was asked; it is looked through when the first call comes."""
        self._said = said
        self._taken: set[str] | None = None

    def own(self, id_: str, answer: str) -> str:
        """Return the provider's id for a call, or another where it has none or is taken.

        Args:
            id_: The provider's; "" for none.
            answer: The answer's own name, so that what is made is the same for the same answer.
        """
        if self._taken is None:
            parts = (part for turn in self._said.messages for part in turn.parts)
            self._taken = {part.id for part in parts if isinstance(part, ToolCall)}
        taken, number, wanted = self._taken, len(self._taken), id_
        while not wanted or wanted in taken or _as_fitted(wanted) in taken:
            wanted = made_id(answer or "?", number)
            number += 1
        taken.add(wanted)
        return wanted


def _as_fitted(id_: str) -> str:
    """Return an id as a client has it whose dialect takes the fewest characters."""
    return fitting(id_, _PLAIN, 64)


_PLAIN = re.compile(r"[a-zA-Z0-9_-]")


def canonical(value: object) -> bytes:
    """Return a value as JSON in one way, so that equal values are equal bytes."""
    return msgspec.json.encode(value)


def text_of(value: Mapping[str, Any], name: str) -> str:
    """Return a member of a decoded object that is text; "" for anything else."""
    found = value.get(name)
    return found if isinstance(found, str) else ""


PLAIN_TEXT = b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}'
"""The schema of a plain-text tool for a target that only has tools that take JSON."""


def has_format(tool: Tool) -> bool:
    """Whether a plain-text tool takes less than any text: what obeys a grammar."""
    said = object_in(tool.schema) if tool.kind == "custom" and tool.schema else None
    return said is not None and said.get("type") != "text"


def wrapped(text: str) -> str:
    """Return what a plain-text tool is given as the arguments of one that takes JSON."""
    return msgspec.json.encode({"input": text}).decode()


def unwrapped(arguments: str) -> str:
    """Return the text in what `wrapped` makes; other arguments as they are."""
    value = object_in(arguments)
    said = value.get("input") if value is not None and len(value) == 1 else None
    return said if isinstance(said, str) else arguments


def is_work_done(kind: str) -> bool:
    """Whether a type of part is what a provider did by itself in an earlier turn, or found.

    It is history, not an instruction: another provider's answer means the same without it.
    """
    return kind.endswith(("_call", "_tool_use", "_tool_result")) or kind in _WORK_DONE


_WORK_DONE = frozenset(
    {
        *("executableCode", "codeExecutionResult", "toolCall", "toolResponse"),  # Google's
        "container_upload",  # a file that Claude's code left; a user's is refused when it is read
    }
)


def of_object(schema: bytes) -> bytes:
    """Return the schema of a tool's arguments with the type that some targets demand in it."""
    said = object_in(schema)
    if said is None or "type" in said:
        return schema
    return msgspec.json.encode({"type": "object", "properties": {}, **said})


def text_alone(said: Conversation) -> Untranslatable:
    """Return the refusal of an answer that is to be more than text."""
    field = "responseModalities" if said.by == "gemini" else "modalities"
    return Untranslatable(
        f"The target answers in text alone, and `{field}` asks for {', '.join(said.modalities)}",
        hint="Leave it out, or call a model that answers so",
        param=field,
    )


def one_answer(said: Conversation) -> Untranslatable:
    """Return the refusal of several answers at once."""
    field = "candidateCount" if said.by == "gemini" else "n"
    return Untranslatable(
        f"The target gives one answer at a time, and `{field}` asks for {said.n}",
        hint="Ask again instead",
        param=field,
    )


def described(schema: bytes, about: str) -> bytes:
    """Return a schema that says what it is for; one that says so itself stays as it is."""
    said = object_in(schema) if about else None
    if said is None or "description" in said:
        return schema
    return msgspec.json.encode({**said, "description": about})


def object_in(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object in a text, None where there is none."""
    try:
        return _OBJECT.decode(text)
    except UNREADABLE:
        return None


def object_text(arguments: str) -> bytes:
    """Return a tool call's arguments as the JSON object that some dialects want.

    They stay byte for byte where they are one; where they are cut short, or are no object,
    the text stands in an object of its own, so that the model sees what it wrote.
    """
    if arguments.strip() in ("", "null"):
        return b"{}"
    if object_in(arguments) is not None:
        return arguments.encode()
    return msgspec.json.encode({"input": arguments})


def is_strict(schema: bytes) -> bool:
    """Whether OpenAI takes a schema as strict: objects closed, and all their members required.

    Words of a strict schema that it has no place for fail the whole call: "'maxLength' is not
    permitted" (jina-ai/node-DeepResearch#79).
    """
    try:
        stack: list[Any] = [_ANY.decode(schema)]
    except UNREADABLE:
        return False
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        if not isinstance(one, dict):
            continue
        if not _NEVER_STRICT.isdisjoint(one) or not _is_closed(one):
            return False
        if len(one) > 1 and isinstance(one.get("$ref"), str):
            return False  # "$ref cannot have keywords {'description'}"
        for name, value in one.items():
            if name in _NAMED and isinstance(value, dict):
                stack += value.values()
            elif name not in _VALUES:
                stack.append(value)
    return True


_NAMED = frozenset({"properties", "$defs", "definitions"})
_VALUES = frozenset({"enum", "const", "examples"})
_NEVER_STRICT = frozenset(
    {
        *("allOf", "oneOf", "not", "if", "then", "else", "default", "contains", "prefixItems"),
        *("dependentRequired", "dependentSchemas", "patternProperties", "propertyNames"),
        *("minLength", "maxLength", "uniqueItems", "minProperties", "maxProperties"),
        *("unevaluatedProperties", "unevaluatedItems"),
    }
)


def stays_strict(tool: Tool, dropped: list[str]) -> bool:
    """Whether a strict tool can be one at OpenAI; if not, that goes to `dropped`.

    Anthropic's may have members that can be left out, and words that OpenAI has no place for.
    """
    strict = bool(tool.strict) and (not tool.schema or is_strict(of_object(tool.schema)))
    if tool.strict and not strict:
        dropped.append("tools.strict")
    return strict


def _is_closed(said: dict[str, Any]) -> bool:
    members = said.get("properties")
    if said.get("type") != "object" and not isinstance(members, dict):
        return True
    named = sorted(members) if isinstance(members, dict) else []
    required = said.get("required")
    needed = (
        [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    )
    return said.get("additionalProperties") is False and sorted(needed) == named
