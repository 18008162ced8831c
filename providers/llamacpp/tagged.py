"""Tool calls whose arguments stand between tags, each as plain text: read, and held by a grammar.

    <function=look>
    <parameter=city>
    Paris
    </parameter>
    </function>

A text is written as it is, all else as JSON; which of both an argument is, its schema tells.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tollway.providers.llamacpp.calls import PYTHON_WORDS, escaped, new_call_id, strict_json
from tollway.providers.llamacpp.formats import FORMATS
from tollway.providers.llamacpp.frames import CallPiece, Tool
from tollway.providers.llamacpp.plain import plain_rule
from tollway.providers.llamacpp.schema import MAX_REPEAT, Grammar, one_of, quoted
from tollway.providers.llamacpp.schema_parts import (
    ASSERTS,
    MAX_DEPTH,
    TYPES,
    SchemaRefused,
    kinds_of,
    kinds_of_value,
    valid_literals,
)
from tollway.providers.llamacpp.styles import Tags

_NAME_MOST = 128
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
# Each rule is how much of what ends it has come by now.
_WITHIN_CDATA = {
    "cdata0": '([^\\]\\x00] cdata0 | "]" cdata1)?',
    "cdata1": '([^\\]\\x00] cdata0 | "]" cdata2)?',
    "cdata2": '([^\\]>\\x00] cdata0 | "]" cdata2)?',
}


class TaggedScanner:
    """Reads calls a character at a time. See `calls.CallScanner`, whose place it takes."""

    refused = False

    def __init__(self, tags: Tags, tools: Sequence[Tool]) -> None:
        self.begun = 0
        self.ended = 0
        self._tags = tags
        self._tools = {tool.name: tool.parameters for tool in tools}
        self._state = "between"
        self._held = ""
        self._known: Mapping[str, Any] = {}  # the parameters of the tool that is called
        self._some = False  # arguments came before
        self._raw = False  # the value is a text, and streams
        self._bound = ""  # of a text that has some of its own
        self._kinds = frozenset[str]()

    @property
    def between(self) -> bool:
        """Whether no call is being read, or one that only what it stands in may end."""
        if not self._tags.call:
            return self._state in {"between", "call"}
        return self._state == "between" and not self._held.strip()

    def ends(self) -> list[CallPiece]:
        """Return the end of a call, where what it stands in has ended it."""
        if self._tags.call:
            return []
        pieces: list[CallPiece] = []
        if self._state == "between":
            pieces = self._begin(self._held, "")
        return pieces + self._end("")

    def unclaimed(self) -> str:
        """Return nothing: the tags have told that this is a call."""
        return ""

    def feed(self, char: str) -> list[CallPiece]:
        """Return what one character more makes certain."""
        self._held += char
        match self._state:
            case "between":
                return self._between()
            case "call":
                return self._call()
            case "key":
                return self._key()
            case "open":
                return self._open()
        return self._value()

    def _between(self) -> list[CallPiece]:
        tags = self._tags
        ahead = self._held.lstrip()
        if not tags.call:
            cut = next((at for at, char in enumerate(ahead) if char in "<\n"), -1)
            return self._begin(ahead[:cut], ahead[cut:]) if cut > 0 else []
        if not ahead.startswith(tags.call):
            # What is no call is nothing here, up to where one may begin.
            self._held = ahead if tags.call.startswith(ahead) else ""
            return []
        name, found, rest = ahead[len(tags.call) :].partition(tags.behind_name)
        if found:
            return self._begin(name, rest)
        if len(ahead) > _NAME_MOST:
            self._held = ""
        return []

    def _begin(self, name: str, rest: str) -> list[CallPiece]:
        self._held, self._state, self._some = rest, "call", False
        name = name.split('"', maxsplit=1)[0].strip()
        if not name:
            self._state = "between"
            return []
        self._known = self._tools.get(name, {})
        self.begun += 1
        return [CallPiece(self.begun - 1, new_call_id(), name)]

    def _end(self, rest: str) -> list[CallPiece]:
        if self._state != "call":
            return []
        self._held, self._state = rest, "between"
        self.ended += 1
        return [CallPiece(self.begun - 1, arguments="}" if self._some else "{}")]

    def _call(self) -> list[CallPiece]:
        """Read what stands between two arguments."""
        ahead = self._held = self._held.lstrip()
        if self._tags.end and ahead.startswith(self._tags.end):
            return self._end(ahead[len(self._tags.end) :])
        if ahead.startswith(self._tags.key):
            self._held, self._state = ahead[len(self._tags.key) :], "key"
        elif not any(tag.startswith(ahead) for tag in (self._tags.end, self._tags.key) if tag):
            self._held = ahead[1:]  # nonsense between arguments says nothing
        return []

    def _key(self) -> list[CallPiece]:
        head, found, rest = self._held.partition(self._tags.head_end)
        if not found:
            return []
        self._held, self._state = rest, "open" if self._tags.value else "value"
        name, self._bound = head.split('"')[0].strip(), ""
        self._kinds = _kinds(_property(self._known, name), self._known)
        self._raw = 'string="true"' in head or self._kinds == {"string"}
        first, self._some = not self._some, True
        begin = f"{'{' if first else ', '}{json.dumps(name, ensure_ascii=False)}: "
        return [CallPiece(self.begun - 1, arguments=f'{begin}"' if self._raw else begin)]

    def _open(self) -> list[CallPiece]:
        _, found, rest = self._held.partition(self._tags.value)
        if found:
            self._held, self._state = rest, "value"
        return []

    def _value(self) -> list[CallPiece]:
        tags = self._tags
        if self._state == "value" and tags.cdata and self._begins_cdata():
            return []
        end = self._bound + tags.value_end
        text, found, rest = self._held.partition(end)
        if not self._raw:
            if not found:
                return []
            said = _as_json(_stripped(text, tags.pad), self._kinds)
            self._held, self._state = rest, "call"
            return [CallPiece(self.begun - 1, arguments=said)]
        if self._state == "value":  # its first character: what only separates is left out
            if tags.pad and tags.pad.startswith(text) and not found and text != tags.pad:
                return []
            text, self._state = text.removeprefix(tags.pad), "text"
        if found:
            text = text.removesuffix(tags.pad)
            self._held, self._state = rest, "call"
            return [CallPiece(self.begun - 1, arguments=f'{escaped(text)}"')]
        ends = (tags.pad + end, end)
        most = min(len(text), len(ends[0]) - 1)
        doubt = next(
            (n for n in range(most, 0, -1) if any(e.startswith(text[-n:]) for e in ends)), 0
        )
        cut = len(text) - doubt
        given, self._held = text[:cut], text[cut:]
        return [CallPiece(self.begun - 1, arguments=escaped(given))] if given else []

    def _begins_cdata(self) -> bool:
        """Whether a value's own bound has just begun, or may have."""
        if self._bound:
            return False
        if self._held == _CDATA:
            self._held, self._bound = "", _CDATA_END
        return _CDATA.startswith(self._held)


def _stripped(text: str, pad: str) -> str:
    return text.removeprefix(pad).removesuffix(pad)


def _as_json(text: str, kinds: frozenset[str]) -> str:
    """Return an argument as JSON: what it can be by its schema, or else a text."""
    plain = text.strip()
    try:
        value = strict_json(PYTHON_WORDS.get(plain, plain))
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    if isinstance(value, str) and "string" in kinds:
        return json.dumps(text, ensure_ascii=False)  # its quotes are a part of it
    fits = kinds_of_value(value) & kinds or not kinds
    if not fits and "string" in kinds:
        return json.dumps(text, ensure_ascii=False)
    return PYTHON_WORDS.get(plain, plain)


def _property(schema: Mapping[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    found = properties.get(name, True) if isinstance(properties, Mapping) else True
    if found is True and isinstance(more := schema.get("additionalProperties"), Mapping):
        return more
    return found


def _kinds(schema: Any, root: Any) -> frozenset[str]:
    """Return the types that a value may have by its schema, all where that is not known."""
    try:
        return frozenset[str]().union(*map(_types, _leaves(schema, Grammar(root))))
    except SchemaRefused:
        return frozenset(TYPES)


def _leaves(schema: Any, grammar: Grammar, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas of which one must hold, none of which has alternatives itself."""
    if depth > MAX_DEPTH:
        raise SchemaRefused("The schema is nested too deeply")
    flat = grammar.flat({} if schema is True else schema)
    parts = grammar.alternatives(flat)
    for part in parts:
        yield from _leaves(part, grammar, depth + 1)
    if not parts:
        grammar.check(flat)
        yield flat


def _types(leaf: Mapping[str, Any]) -> frozenset[str]:
    if "enum" in leaf or "const" in leaf:
        return frozenset[str]().union(*map(kinds_of_value, valid_literals(leaf)))
    return frozenset(kinds_of(leaf))


# The grammar.


def call_rule(tags: Tags, tool: Tool, whole: Grammar, grammar: Grammar) -> str:
    """Return the expression of a call of a tool; `grammar` is one of its parameters.

    Raises:
        SchemaRefused: They have a part that cannot be promised in this form.
    """
    return _Written(tags, whole, grammar).call(tool)


class _Written:
    def __init__(self, tags: Tags, whole: Grammar, grammar: Grammar) -> None:
        self._tags = tags
        self._grammar = grammar
        self._until = self._rest = _until(whole, tags.value_end)
        if tags.cdata:
            whole.rules.update(_WITHIN_CDATA)
            bound = f"{quoted(_CDATA)} cdata0 {quoted(_CDATA_END)}"
            self._until = f"(([^<\\x00] {self._rest})? | {bound})"

    def call(self, tool: Tool) -> str:
        tags = self._tags
        known, required = self._grammar.arguments({"type": "object", **tool.parameters})
        if known is None:
            name = self._grammar.rule("[a-zA-Z0-9_.-]{1,64}")
            rules = [f"({self._argument(name, self._until, text=True)})*"]
        else:
            rules = []
            for name, part in known.items():
                raw, text = self._value(part)
                rule = self._grammar.rule(self._argument(quoted(name), raw, text=text))
                rules.append(rule if name in required else f"({rule})?")
        head = quoted(f"{tags.call}{tool.name}{tags.behind_name}")
        end = quoted(tags.end) if tags.end else ""
        return " ".join([head, '"\\n"?', *rules, end])

    def _argument(self, name: str, value: str, *, text: bool) -> str:
        tags = self._tags
        sort = tags.sorts[0 if text else 1] if tags.sorts else ""
        head = f"{quoted(tags.key)} {name} {quoted(tags.quote + sort + tags.head_end)}"
        opens = f'"\\n"? {quoted(tags.value)}' if tags.value else ""
        pad = quoted(tags.pad) if tags.pad else ""
        return f'{head} {opens} {pad} {value} {pad} {quoted(tags.value_end)} "\\n"?'

    def _value(self, schema: Any) -> tuple[str, bool]:
        """Return what an argument may be, and whether it is a text."""
        grammar = self._grammar
        leaves = list(_leaves(schema, grammar))
        kinds = frozenset[str]().union(*map(_types, leaves))
        if "string" not in kinds:
            return grammar.value(schema), False
        bar = self._bar(leaves)
        found: list[str] = []
        for leaf in leaves:
            types = _types(leaf)
            others = sorted(types - {"string"}) if not self._tags.sorts else []
            if "enum" in leaf or "const" in leaf:
                found += self._literals(leaf, kinds)
                continue
            if "string" in types:
                found.append(self._text(leaf, bar))
            if others:
                found.append(grammar.value({**leaf, "type": others}))
        return (self._until if self._until in found else f"({' | '.join(found)})"), True

    def _bar(self, leaves: list[Mapping[str, Any]]) -> str:
        """Return what a text may not begin with, as it would be read as what is not valid then."""
        if self._tags.sorts or all(leaf.keys() & ASSERTS <= {"type"} for leaf in leaves
                                   if _types(leaf) != {"string"}):  # fmt: skip
            return ""
        kinds = frozenset[str]().union(*map(_types, leaves))
        begins = dict.fromkeys(signs for kind, signs in _BEGINS.items() if kind in kinds)
        return " \\n\\t\\r" + "".join(begins)

    def _literals(self, schema: Mapping[str, Any], kinds: frozenset[str]) -> list[str]:
        said: list[str] = []
        values = valid_literals(schema)
        if self._tags.sorts:
            values, kinds = [one for one in values if isinstance(one, str)], frozenset({"string"})
        for value in values:
            told = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            again = _as_json(told, kinds) if kinds != {"string"} else msgspec.json.encode(told)
            if self._tags.value_end in told or msgspec.json.decode(again) != value:
                raise SchemaRefused(f"`{told}` cannot be told from another value in this form")
            said.append(told)
        return [one_of(sorted(set(said)))] if said else []

    def _text(self, schema: Mapping[str, Any], bar: str) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if "pattern" in schema:
            if bar:
                raise SchemaRefused("A `pattern` beside other types cannot be promised")
            return plain_rule(self._grammar.pattern(schema["pattern"], least,
                                                math.inf if most is None else most))  # fmt: skip
        if form := FORMATS.get(schema.get("format", "")):
            if least > form.least or (most is not None and most < form.most):
                raise SchemaRefused("A `format` with a length cannot be promised by a grammar")
            return f"({form.rule})"
        if not least and most is None:
            return f"([^<\\x00{bar}] {self._rest})?" if bar else self._until
        if least > MAX_REPEAT or (most is not None and most < max(least, 1)):
            raise SchemaRefused("The length of a text cannot be promised by a grammar")
        left = "" if most is None else str(min(most, MAX_REPEAT) - 1)
        many = f"[^<\\x00{bar}] [^<\\x00]{{{max(0, least - 1)},{left}}}"
        return many if least else f"({many})?"


# What values of other types begin with, as a class of a grammar has it: a `-` stands last there.
_BEGINS = {"array": "\\[", "object": "{", "integer": "0-9-", "number": "0-9-"}


def _until(whole: Grammar, tag: str) -> str:
    """Return the rule of all texts in which a tag is not, whose first character stands there once.

    Each rule is how much of the tag has come by now.
    """
    first = _in_class(tag[0])
    for at, char in enumerate(tag):
        others = (
            f"[^{first}\\x00] until0" if at == 0 else f"[^{first}{_in_class(char)}\\x00] until0"
        )
        begins = f" | {quoted(tag[0])} until1" if len(tag) > 1 else ""
        goes_on = f" | {quoted(char)} until{at + 1}" if 0 < at < len(tag) - 1 else ""
        whole.rules[f"until{at}"] = f"({others}{begins}{goes_on})?"
    return "until0"


def _in_class(char: str) -> str:
    return f"\\{char}" if char in "^]\\-[" else char
