"""How a model thinks aloud and calls tools: the reader of its answers, and their grammars."""

from collections.abc import Sequence

import msgspec

from tollway.providers.llamacpp import framed, harmony, prompted, pythonic, recipients
from tollway.providers.llamacpp.calls import CallScanner
from tollway.providers.llamacpp.curly import CurlyGrammar, CurlyScanner
from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.pythonic import PythonScanner
from tollway.providers.llamacpp.schema import Grammar, Schema, quoted
from tollway.providers.llamacpp.schema_parts import SchemaRefused
from tollway.providers.llamacpp.speech import Hearer, Scanner, Speech
from tollway.providers.llamacpp.styles import STYLES, THOUGHTS, Style
from tollway.providers.llamacpp.tagged import TaggedScanner, call_rule

# What may stand between the mark that a model began a call with and the call.
_GAP = "[ \\n]{0,2}"


class Manner:
    """How one model thinks and calls, by its chat template."""

    def __init__(self, template: str = "") -> None:
        self.style = next(one for one in STYLES if all(sign in template for sign in one.signs))
        self.thoughts = self.style.thoughts or next(
            (tags for tags in THOUGHTS if tags[1] in template), None
        )

    def opens(self, prompt: str) -> bool:
        """Return whether a prompt ends where the model's thoughts begin, or may begin."""
        if self.style.channels:
            return prompt.endswith(prompted.OPENING if self.style.frame else harmony.OPENING)
        return self.thoughts is not None and prompt.rstrip().endswith(self.thoughts[0])

    def speech(self, tools: Sequence[Tool], *, thinks: bool, forced: bool = False) -> Hearer:
        """Return the reader of one answer; `forced`: a grammar holds it to calls."""
        if self.style.channels and self.style.tags:
            return recipients.Recipients(self.style, tools, forced=forced)
        if self.style.channels and self.style.frame:
            return prompted.Prompted(tools, forced=forced)
        if self.style.channels:
            return harmony.Channels(calls=bool(tools), forced=forced)
        style = self.style if tools else None
        scanner: Scanner | None = None
        if style:
            names = [tool.name for tool in tools] if style.bare else None
            scanner = CallScanner(names)
            if style.frame:
                scanner = framed.FramedScanner(style.frame)
            elif style.tags:
                scanner = TaggedScanner(style.tags, tools)
            elif style.curly:
                scanner = CurlyScanner(style.curly)
            elif style.python:
                scanner = PythonScanner()
        return Speech(style, scanner, self.thoughts, thinks, forced)

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
            try:
                grammar, call = self._call(whole, tool)
            except SchemaRefused as no:
                if tool.strict or not free:
                    raise SchemaRefused(f"The arguments of `{tool.name}`: {no}") from no
                grammar, call = self._call(whole, Tool(tool.name))
            each.append(grammar.renamed(f"t{at}", call))
            rules.update(grammar.rules)
        whole.rules.update(rules)
        call = whole.rule(" | ".join(each))
        apart, begin, end = map(_literal, (style.apart, style.begin, style.end))
        first = _GAP if begun else begin
        if style.channels and style.tags:
            return recipients.calls_rule(style, call, tools, begun=begun)
        if style.channels:  # its mark is in the middle of a header, and a call ends the answer
            return call if begun else f"{begin} {call}"
        if style.listed and style.tags:
            more = f'("\\n"? {call})*' if parallel else ""
            return f'{first} {call} {more} "\\n"? {end}'
        if style.listed:
            more = f"({apart} {call})*" if parallel else ""
            opens, closes = map(_literal, style.brackets)
            return f"{first} {opens} {call} {more} {closes} {end}"
        more = f" ({apart} {begin} {call} {end})*" if parallel else ""
        return f"{first} {call} {end}{more}"

    def _call(self, whole: Grammar, tool: Tool) -> tuple[Grammar, str]:
        """Return the expression of one call of a tool, and the grammar that has its rules."""
        style = self.style
        schema = {"type": "object", **tool.parameters}
        if style.curly:
            curly = CurlyGrammar(schema, style.curly)
            return curly, curly.call(tool.name, schema, whole)
        grammar = Grammar(schema)
        if style.tags:
            return grammar, call_rule(style.tags, tool, whole, grammar)
        if style.python:
            return grammar, pythonic.call_rule(tool.name, grammar, schema)
        return grammar, _with_json(style, tool.name, grammar.value(schema))


def _with_json(style: Style, name: str, arguments: str) -> str:
    """Return the expression of a call whose arguments are JSON."""
    if style.frame:
        return framed.call_rule(style.frame, name, arguments)
    if style.channels:
        return f"{quoted(name)} {harmony.HEAD_RULE} {arguments}"
    if style.named:
        return f"{quoted(f'{name}[ARGS]')} {arguments}"
    head = f'{style.head}{msgspec.json.encode(name).decode()}, "{style.arguments}": '
    return f'{quoted(head)} {arguments} space "}}"'


def _literal(text: str) -> str:
    return quoted(text) if text else ""
