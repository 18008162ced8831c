"""Renders a model's own chat template. Used in the worker only: jinja2 is imported here."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import msgspec
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tollway.providers.llamacpp import framed, pythonic, recipients
from tollway.providers.llamacpp.frames import Message, Tool
from tollway.providers.llamacpp.manner import Manner

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# What a template may end in. Also where it is compiled: what is constant is reckoned there.
_FAULTS = (
    jinja2.TemplateError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


class TemplateRefused(Exception):
    """The template cannot be rendered with these messages; the text says why."""


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the assistant said; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Changes nothing but lists: Kimi's templates queue calls in one, and llama.cpp lets them.

    What is given to a template is made anew for each rendering, so that it is the template's own.
    """

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        queues = isinstance(obj, list) and attr in {"append", "pop"}
        return queues or super().is_safe_attribute(obj, attr, value)


class ChatTemplate:
    """One template, compiled. Templates come with the model, so they run in a sandbox."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_refuse, strftime_now=_now)
        self._names = {"bos_token": bos, "eos_token": eos}
        self.manner = Manner(source)
        self._knows_tools = "tools" in source
        self._knows_calls = "tool_calls" in source
        # Mistral's templates refuse the ids of calls that others made.
        self._short_ids = "length 9" in source or "exactly 9" in source
        self._fault = ""
        try:
            self._template: jinja2.Template | None = environment.from_string(source)
        except _FAULTS as fault:
            # The model still completes and embeds; only chat has to be refused.
            self._template, self._fault = None, str(fault)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Return the text that the model reads, up to where its answer begins.

        Raises:
            TemplateRefused: The template is broken, or does not take these messages.
        """
        if self._template is None:
            raise TemplateRefused(f"The model's chat template is broken: {self._fault}")
        if not self._knows_tools:
            messages = told_plainly(messages, tools)
        told = list(tools) if tools and self._knows_tools else None
        frame = self.manner.style.frame
        if self._knows_tools and frame and frame.counted:
            messages = framed.with_places(frame, messages)
        if self._knows_tools and not self._knows_calls:
            messages = [self._in_words(message) for message in messages]
        if self.manner.style.channels and not frame:
            messages = one_by_one(messages)
        if self.manner.style.channels and self.manner.style.tags:
            messages = recipients.apart(messages)
        given = told, variables or {}
        try:
            text = self._either(self._template, messages, *given)
        except TemplateRefused:
            if (other := self._otherwise(self._template, messages, None, *given)) is None:
                raise
            return other
        if not _lost(messages, text):
            return text
        other = self._otherwise(self._template, messages, text, *given)
        return text if other is None else other

    def _otherwise(
        self,
        template: jinja2.Template,
        messages: Sequence[Message],
        text: str | None,
        told: list[Tool] | None,
        variables: Mapping[str, object],
    ) -> str | None:
        """Return what a template makes of a conversation that it refused, or lost a part of.

        `text` is what it made of it; instructions matter more than what is said beside calls.
        """
        kept = None if text is None or _lost(messages, text, calls=False) else text
        # Some cut thoughts out of what is said: then no way has all of it, and one is tried.
        apart = [recipients.apart(messages)]
        for said in apart if kept else _other_ways(messages, refused=text is None):
            with contextlib.suppress(TemplateRefused):
                other = self._either(template, said, told, variables)
                if not _lost(messages, other):
                    return other
                if kept is None and not _lost(messages, other, calls=False):
                    kept = other
        return kept

    def _either(
        self,
        template: jinja2.Template,
        messages: Sequence[Message],
        told: list[Tool] | None,
        variables: Mapping[str, object],
    ) -> str:
        try:
            # Most templates take arguments as an object, some as the text that it is.
            return self._rendered(template, messages, told, variables, as_text=False)
        except TemplateRefused:
            if not any(message.calls for message in messages):
                raise
        return self._rendered(template, messages, told, variables, as_text=True)

    def _rendered(
        self,
        template: jinja2.Template,
        messages: Sequence[Message],
        tools: list[Tool] | None,
        variables: Mapping[str, object],
        *,
        as_text: bool,
    ) -> str:
        said = [self._message(message, as_text=as_text) for message in messages]
        told = None if tools is None else [_tool(tool) for tool in tools]
        names = {**variables, "messages": said, "tools": told, **self._names}
        try:
            return template.render(add_generation_prompt=True, **names)
        except TemplateRefused:
            raise
        except (AttributeError, RecursionError) as fault:
            raise TemplateRefused("The model's chat template fails on these messages") from fault
        except _FAULTS as fault:
            raise TemplateRefused(
                f"The model's chat template does not take these messages: {fault}"
            ) from fault

    def _message(self, message: Message, *, as_text: bool) -> dict[str, Any]:
        said: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thought:
            said["reasoning_content"] = message.thought
            if self.manner.style.channels:
                said.update(_thinking(message))
        if message.name:
            said["name"] = message.name
        if message.call_id:
            said["tool_call_id"] = self._id(message.call_id)
        if message.calls:
            said["tool_calls"] = [
                {
                    "id": self._id(call.id),
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": call.arguments if as_text else _object(call.arguments),
                    },
                }
                for call in message.calls
            ]
        return said

    def _in_words(self, message: Message) -> Message:
        """Return a message with its calls in its text, as the model wrote them."""
        if not message.calls:
            return message
        style = self.manner.style
        head, key = style.head, f', "{style.arguments}": '
        calls = []
        for call in message.calls:
            given = _object(call.arguments)
            if style.python:
                calls.append(pythonic.written(call.name, given))
            elif style.frame:
                calls.append(framed.written(style.frame, call.id, call.name, _to_json(given)))
            else:
                calls.append(f"{head}{json.dumps(call.name)}{key}{_to_json(given)}}}")
        if style.listed:
            said = style.apart.join(calls).join(style.brackets).join((style.begin, style.end))
        else:
            said = style.apart.join(f"{style.begin}{call}{style.end}" for call in calls)
        return msgspec.structs.replace(message, content=f"{message.content}{said}", calls=[])

    def _id(self, call_id: str) -> str:
        if not self._short_ids or (len(call_id) == 9 and call_id.isalnum()):
            return call_id
        return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _thinking(message: Message) -> dict[str, str]:
    """Return what gpt-oss's template calls a thought; it takes no text beside one and a call."""
    if not message.calls:
        return {"thinking": message.thought}
    return {
        "thinking": "\n\n".join(filter(None, (message.thought, message.content))),
        "content": "",
    }


def one_by_one(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation of one call a message, each with its result behind it."""
    found: list[Message] = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        if len(message.calls) < 2:
            found.append(message)
            continue
        results: list[Message] = []
        while rest and rest[0].role == "tool":
            results.append(rest.pop(0))
        for at, call in enumerate(message.calls):
            said = message if at == 0 else Message("assistant", "")
            found.append(msgspec.structs.replace(said, calls=[call]))
            found += [one for one in results if one.call_id == call.id]
            results = [one for one in results if one.call_id != call.id]
        found += results
    return found


def _lost(messages: Sequence[Message], text: str, *, calls: bool = True) -> bool:
    """Whether an instruction is not in what a template made, or with `calls` what stands by one."""
    told = (one for one in messages if one.role == "system" or (calls and one.calls))
    return any(one.content.strip() not in text for one in told)


def _other_ways(messages: Sequence[Message], *, refused: bool) -> Iterator[list[Message]]:
    """Yield the same conversation as templates take it that refuse it, or leave some of it out.

    Many know no instructions, or only one in front, or turns that alternate and no others; Llama
    3's know one call a message, and write several all the same. Others leave out what is said
    beside a call.
    """
    each = [one_by_one(messages)] if refused else []
    turns = [in_turns(messages, front=front) for front in (True, False)]
    ways = [*each, *turns, *map(one_by_one, turns)]
    ways += [answered(way) for way in ways]
    ways += [recipients.apart(way) for way in ways]
    tried: list[Sequence[Message]] = [messages]
    for way in ways:  # most change nothing of most conversations, and each takes a rendering
        if way not in tried:
            tried.append(way)
            yield way


def answered(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation in which no tool's result is followed by the user's words at once.

    Mistral's templates refuse that, though clients do it where a user adds something.
    """
    found: list[Message] = []
    for message in messages:
        if message.role == "user" and found and found[-1].role == "tool":
            found.append(Message("assistant", ""))
        found.append(message)
    return found


def in_turns(messages: Sequence[Message], *, front: bool) -> list[Message]:
    """Return a conversation whose instructions the user says, who says all of a turn at once.

    With `front`, the instructions that come first stay what they are.
    """
    found: list[Message] = []
    for message in messages:
        role = message.role
        if role == "system" and not (front and all(one.role == "system" for one in found)):
            role = "user"
        before = found[-1] if found else None
        joins = before is not None and before.role == role and role != "tool"
        whole = before is not None and (before.calls or message.calls or message.thought)
        if before is not None and joins and not whole:
            words = "\n\n".join(filter(None, (before.content, message.content)))
            found[-1] = msgspec.structs.replace(before, content=words)
        else:
            found.append(msgspec.structs.replace(message, role=role))
    return found


def told_plainly(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Return a conversation with tools for a template that knows none: in words."""
    found: list[Message] = []
    for message in messages:
        if message.role == "tool":
            found.append(
                Message("user", f"Result of {message.name or 'the tool'}:\n{message.content}")
            )
        elif message.calls:
            calls = "\n".join(
                json.dumps({"name": call.name, "arguments": _object(call.arguments)})
                for call in message.calls
            )
            found.append(Message("assistant", f"{message.content}\n{calls}".strip()))
        else:
            found.append(message)
    if not tools:
        return found
    words = "\n".join(
        ["You may call these tools:", *(json.dumps(_tool(tool)["function"]) for tool in tools),
         'To call one, answer with nothing but {"name": NAME, "arguments": {...}}.']
    )  # fmt: skip
    if found and found[0].role == "system":
        return [Message("system", f"{found[0].content}\n\n{words}"), *found[1:]]
    return [Message("system", words), *found]


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):  # no JSON, or nested too deeply to be read
        return arguments


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(f"The model's chat template refuses these messages: {message}")


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # Not jinja2's own filter: that escapes for HTML, and models were trained without.
    return json.dumps(value, ensure_ascii=False, indent=indent)
