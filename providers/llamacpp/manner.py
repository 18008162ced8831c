"""How families of models think aloud and call tools: a table, and the reader of their answers.

A model's chat template tells its family. A family that is not in the table is a row away.
"""

from collections.abc import Sequence

import msgspec

from tollway.providers.llamacpp.calls import CallScanner
from tollway.providers.llamacpp.frames import CallPiece, Tool
from tollway.providers.llamacpp.schema import Grammar, Schema, quoted
from tollway.providers.llamacpp.schema_parts import SchemaRefused


class Style(msgspec.Struct, frozen=True):
    """How a family calls tools.

    `sign` in a chat template tells the family. A call stands between `begin` and `end`; `bare`
    ones may do without, and are then told from text by the name of a tool that is there.
    `arguments` is the key that they are trained on, `apart` what stands between two calls.
    `listed` calls stand in one list, `named` ones are a name and `[ARGS]` before the arguments.
    """

    name: str
    sign: str
    begin: str = ""
    end: str = ""
    bare: bool = False
    arguments: str = "arguments"
    apart: str = "\n"
    listed: bool = False
    named: bool = False


# The first whose sign is in the template; JSON alone for templates that know no tools.
STYLES = (
    Style("mistral", "[ARGS]", "[TOOL_CALLS]", named=True, apart=""),
    Style("mistral", "[TOOL_CALLS]", "[TOOL_CALLS]", listed=True, apart=", "),
    Style("phi", "<|tool_call|>", "<|tool_call|>", "<|/tool_call|>", listed=True, apart=", "),
    Style("hermes", "<tool_call>", "<tool_call>\n", "\n</tool_call>"),
    Style("llama3", "<|python_tag|>", bare=True, arguments="parameters", apart="; "),
    Style("llama3", "<|start_header_id|>", bare=True, arguments="parameters", apart="; "),
    Style("json", "", bare=True),
)
THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thought>", "</thought>"))
# What may stand between the mark that a model began a call with and the call.
_GAP = "[ \\n]{0,2}"
# A bare call may have this before it.
_PYTHON_TAG = "<|python_tag|>"


class Said(msgspec.Struct, frozen=True):
    """What a piece of an answer turned out to be."""

    text: str = ""
    thought: str = ""
    calls: list[CallPiece] = []

    def then(self, more: "Said") -> "Said":
        """Return both, in this order."""
        return Said(self.text + more.text, self.thought + more.thought, [*self.calls, *more.calls])


class Manner:
    """How one model thinks and calls, by its chat template."""

    def __init__(self, template: str = "") -> None:
        self.style = next(style for style in STYLES if style.sign in template)
        self.thoughts = next((tags for tags in THOUGHTS if tags[1] in template), None)

    def opens(self, prompt: str) -> bool:
        """Return whether a prompt ends in the middle of the model's thoughts."""
        return self.thoughts is not None and prompt.rstrip().endswith(self.thoughts[0])

    def speech(self, tools: Sequence[Tool], *, thinks: bool, forced: bool = False) -> "Speech":
        """Return the reader of one answer; `forced`: a grammar holds it to calls."""
        names = [tool.name for tool in tools]
        return Speech(self.style if tools else None, names, self.thoughts, thinks, forced)

    def calls_grammar(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        """Return the grammar of answers that call one of the tools, or several.

        Raises:
            SchemaRefused: The schema of a tool's arguments has a part that cannot be promised.
        """
        whole = Grammar({})
        return whole.text(self._calls(whole, tools, parallel=parallel))

    def later_calls(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        """Return the grammar of what follows the mark that begins calls; "" without such a mark.

        Arguments whose validity cannot be promised are any object, unless their tool is strict.

        Raises:
            SchemaRefused: The schema of a strict tool has a part that cannot be promised.
        """
        if not self.style.begin:
            return ""
        whole = Grammar({})
        return whole.text(self._calls(whole, tools, parallel=parallel, free=True, begun=True))

    def answer_or_calls(self, schema: Schema, tools: Sequence[Tool], *, parallel: bool) -> str:
        """Return the grammar of answers that are valid by a schema, or call tools.

        Nobody has asked for calls whose arguments are valid: where that cannot be promised,
        they are any object, unless their tool is strict.

        Raises:
            SchemaRefused: The schema of the answer, or of a strict tool, has a part that cannot
                be promised.
        """
        whole = Grammar(schema)
        answer = whole.renamed("a", whole.value(schema))
        calls = self._calls(whole, tools, parallel=parallel, free=True)
        return whole.text(f"({answer} | {calls})")

    def _calls(
        self,
        whole: Grammar,
        tools: Sequence[Tool],
        *,
        parallel: bool,
        free: bool = False,
        begun: bool = False,
    ) -> str:
        """Return the expression of calls, whose rules are added to `whole`.

        `free`: what cannot be promised is loosened. `begun`: the first mark has been said.
        """
        style = self.style
        each: list[str] = []
        # One grammar for all: the rules of schemas are numbered, and refer to their own root.
        rules: dict[str, str] = {}
        for at, tool in enumerate(tools):
            schema = {"type": "object", **tool.parameters}
            grammar = Grammar(schema)
            try:
                arguments = grammar.value(schema)
            except SchemaRefused as no:
                if tool.strict or not free:
                    raise SchemaRefused(f"The arguments of `{tool.name}`: {no}") from no
                grammar = Grammar({})
                arguments = grammar.value({"type": "object"})
            arguments = grammar.renamed(f"t{at}", arguments)
            rules.update(grammar.rules)
            name = msgspec.json.encode(tool.name).decode()
            if style.named:
                each.append(f"{quoted(f'{tool.name}[ARGS]')} {arguments}")
            else:
                head = quoted(f'{{"name": {name}, "{style.arguments}": ')
                each.append(f'{head} {arguments} space "}}"')
        whole.rules.update(rules)
        call = whole.rule(" | ".join(each))
        apart, begin, end = map(_literal, (style.apart, style.begin, style.end))
        first = _GAP if begun else begin
        if style.listed:
            more = f"({apart} {call})*" if parallel else ""
            return f'{first} "[" {call} {more} "]" {end}'
        more = f" ({apart} {begin} {call} {end})*" if parallel else ""
        return f"{first} {call} {end}{more}"


def _literal(text: str) -> str:
    return quoted(text) if text else ""


def joined(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """Return the same pieces of calls, those of one call in a row as one."""
    found: list[CallPiece] = []
    for piece in pieces:
        if found and found[-1].index == piece.index and not piece.name:
            arguments = found[-1].arguments + piece.arguments
            found[-1] = msgspec.structs.replace(found[-1], arguments=arguments)
        else:
            found.append(piece)
    return found


class Speech:
    """Tells thoughts, text and tool calls of one answer apart as it comes.

    Nothing that may be the beginning of a tag is given out before that is clear. The pieces that
    an answer comes in change nothing about what it turns out to be.
    """

    def __init__(
        self,
        style: Style | None,
        names: Sequence[str],
        thoughts: tuple[str, str] | None,
        thinks: bool,
        forced: bool,
    ) -> None:
        self.forced = forced  # a grammar holds to calls all that is not said yet
        self._begin = style.begin.strip() if style else ""
        self._end = style.end.strip() if style else ""
        self._bare = bool(style and style.bare)
        self._tags = thoughts
        self._scanner = CallScanner(names if style.bare else None) if style else None
        self._held = ""
        self._state = "thought" if thinks else "start"
        self._trim = thinks  # white space that only separates
        self.marks = tuple(
            mark
            for mark in (self._begin, self._end, _PYTHON_TAG * self._bare, *(thoughts or ()))
            if mark
        ) + (("[ARGS]", "[CALL_ID]") if style and style.named else ())

    @property
    def thinking(self) -> bool:
        """Whether what comes now is a thought."""
        return self._state == "thought"

    @property
    def calling(self) -> bool:
        """Whether what comes now is a tool call, which a mark has begun."""
        return self._state == "calls"

    @property
    def calls_made(self) -> int:
        """How many tool calls have begun."""
        return self._scanner.begun if self._scanner else 0

    @property
    def calls_ended(self) -> int:
        """How many of them are whole."""
        return self._scanner.ended if self._scanner else 0

    def feed(self, text: str) -> Said:
        """Return what more of the answer makes certain."""
        self._held += text
        said = Said()
        while True:
            before = (self._state, len(self._held))
            said = said.then(getattr(self, f"_in_{self._state}")())
            if before == (self._state, len(self._held)) or not self._held:
                break
        # The scanner goes by characters; a client should get a piece for each token.
        return Said(said.text, said.thought, joined(said.calls)) if said.calls else said

    def finish(self) -> Said:
        """Return what was held back, now that nothing follows."""
        held, self._held = self._held, ""
        match self._state:
            case "thought":
                return Said(thought=held)
            case _ if self.forced:  # what was cut short before its name was no text either
                return Said()
            case "bare" | "calls" if self._scanner:
                return Said(self._scanner.unclaimed() + (held if self._state == "bare" else ""))
        return Said("" if self._trim and not held.strip() else held)

    def _in_start(self) -> Said:
        ahead = self._held.lstrip()
        begin = self._tags[0] if self._tags else ""
        if begin and ahead.startswith(begin):
            self._held, self._state, self._trim = ahead[len(begin) :], "thought", True
        elif not begin or (ahead and not begin.startswith(ahead)):
            self._state = "first"
        return Said()

    def _in_thought(self) -> Said:
        tag = self._tags[1] if self._tags else ""
        if self._trim:
            self._held = self._held.lstrip()
            if not self._held:
                return Said()
            self._trim = False
        thought, found = self._until(tag)
        if found:
            self._state, self._trim = "first", True
            thought = thought.rstrip()
        return Said(thought=thought)

    def _in_first(self) -> Said:
        """Look at the beginning of what is no thought, where a bare call may stand."""
        ahead = self._held.lstrip()
        if self._trim:
            self._held = ahead
        if not self._bare:
            if ahead or not self._trim:
                self._state = "text"
            return Said()
        if ahead.startswith(_PYTHON_TAG):
            self._held, self._state = ahead[len(_PYTHON_TAG) :], "bare"
        elif ahead[:1] in {"{", "["} and ahead:
            self._state = "bare"
        elif ahead and not _PYTHON_TAG.startswith(ahead):
            self._state = "text"
        return Said()

    def _in_text(self) -> Said:
        if self._trim:
            self._held = self._held.lstrip()
            if not self._held:
                return Said()
        if not self._begin:
            text, self._held, self._trim = self._held, "", False
            return Said(text)
        text, found = self._until(self._begin)
        if found:
            self._state = "calls"
            text = text.rstrip()
        if text:
            self._trim = False
        return Said(text)

    def _in_calls(self) -> Said:
        scanner = self._scanner or CallScanner()
        pieces: list[CallPiece] = []
        while self._held:
            if scanner.between:
                ahead = self._held.lstrip()
                if self._end and ahead.startswith(self._end):
                    self._held, self._state, self._trim = ahead[len(self._end) :], "text", True
                    break
                if not ahead or (self._end and self._end.startswith(ahead)):
                    break
                if ahead.startswith(self._begin):
                    self._held = ahead[len(self._begin) :]
                    continue
                if self._begin.startswith(ahead):
                    break
            pieces += scanner.feed(self._held[0])
            self._held = self._held[1:]
        return Said(calls=pieces)

    def _in_bare(self) -> Said:
        scanner = self._scanner or CallScanner()
        pieces: list[CallPiece] = []
        for at, char in enumerate(self._held):
            pieces += scanner.feed(char)
            if scanner.refused:
                text = scanner.unclaimed() + self._held[at + 1 :]
                # What is no call is text to the end: another brace in it is no call either.
                self._held, self._state, self._begin = text, "text", ""
                return Said(calls=pieces)
        self._held = ""
        return Said(calls=pieces)

    def _until(self, tag: str) -> tuple[str, bool]:
        """Take what stands before a tag and return it, and whether the tag was there."""
        text, found, rest = self._held.partition(tag)
        if found:
            self._held = rest
            return text, True
        doubtful = next(
            (n for n in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-n:])), 0
        )
        # White space before a tag belongs to neither.
        while doubtful < len(text) and text[-doubtful - 1].isspace():
            doubtful += 1
        cut = len(text) - doubtful
        self._held = text[cut:]
        return text[:cut], False
