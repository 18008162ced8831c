"""How a model thinks aloud and calls tools: the reader of its answers, and their grammars."""

from collections.abc import Sequence

import msgspec

from tollway.providers.llamacpp import harmony
from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.schema import Grammar, Schema, quoted
from tollway.providers.llamacpp.schema_parts import SchemaRefused
from tollway.providers.llamacpp.speech import Hearer, Speech
from tollway.providers.llamacpp.styles import STYLES, THOUGHTS

# What may stand between the mark that a model began a call with and the call.
_GAP = "[ \\n]{0,2}"


class Manner:
    """How one model thinks and calls, by its chat template."""

    def __init__(self, template: str = "") -> None:
        self.style = next(style for style in STYLES if style.sign in template)
        self.thoughts = next((tags for tags in THOUGHTS if tags[1] in template), None)

    def opens(self, prompt: str) -> bool:
        """Return whether a prompt ends where the model's thoughts begin, or may begin."""
        if self.style.channels:
            return prompt.endswith(harmony.OPENING)
        return self.thoughts is not None and prompt.rstrip().endswith(self.thoughts[0])

    def speech(self, tools: Sequence[Tool], *, thinks: bool, forced: bool = False) -> Hearer:
        """Return the reader of one answer; `forced`: a grammar holds it to calls."""
        if self.style.channels:
            return harmony.Channels(calls=bool(tools), forced=forced)
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
            if style.channels:
                each.append(f"{quoted(tool.name)} {harmony.HEAD_RULE} {arguments}")
            elif style.named:
                each.append(f"{quoted(f'{tool.name}[ARGS]')} {arguments}")
            else:
                head = quoted(f'{{"name": {name}, "{style.arguments}": ')
                each.append(f'{head} {arguments} space "}}"')
        whole.rules.update(rules)
        call = whole.rule(" | ".join(each))
        apart, begin, end = map(_literal, (style.apart, style.begin, style.end))
        first = _GAP if begun else begin
        if style.channels:  # its mark is in the middle of a header, and a call ends the answer
            return call if begun else f"{begin} {call}"
        if style.listed:
            more = f"({apart} {call})*" if parallel else ""
            return f'{first} "[" {call} {more} "]" {end}'
        more = f" ({apart} {begin} {call} {end})*" if parallel else ""
        return f"{first} {call} {end}{more}"


def _literal(text: str) -> str:
    return quoted(text) if text else ""
