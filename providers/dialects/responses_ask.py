"""Writes the neutral form as a Responses request."""

import re
from collections.abc import Iterator
from functools import partial

import msgspec

from tollway.providers.conversation import (
    Audio,
    Conversation,
    File,
    Format,
    HostedTool,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    beginning,
)
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.openai_models import can_rest, efforts, takes_sampling
from tollway.providers.dialects.openai_strict import bare, held
from tollway.providers.dialects.responses_request import NAME
from tollway.providers.dialects.wire import (
    as_url,
    fitting,
    is_work_done,
    of_object,
    one_answer,
    stays_strict,
    text_alone,
)
from tollway.providers.effort import effort_of, nearest
from tollway.providers.errors import Untranslatable

tool_name = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_-]"), most=64)
tool_id = partial(fitting, allowed=re.compile(r"[!-~]"), most=64)

_NO_ARGUMENTS = b'{"type":"object","properties":{}}'
_TIERS = frozenset({"auto", "default", "flex", "priority", "scale"})
_LONGEST_NAME = 64  # `user` and `prompt_cache_key`: OpenAI takes no longer ones
_LEAST_LIMIT = 16  # OpenAI refuses to answer in less
_Fields = Iterator[tuple[str, object]]


def write_request(said: Conversation, facts: Facts) -> Written:
    """Return the request for a target.

    Nothing of it is kept there (`store` is false), and thinking comes back encrypted, so that
    the client, which knows no such state, can send it again.

    Raises:
        Untranslatable: The target cannot say it; `param` names the field.
    """
    writer = _Items(said)
    body: dict[str, object] = {"model": facts.model, "input": writer.items(), "store": False}
    body["include"] = ["reasoning.encrypted_content"]
    body.update(_tools(said, writer.dropped))
    body.update(_answer(said, facts, writer.dropped))
    if said.reasoning is not None:
        body.update(_reasoning(said, said.reasoning, facts, writer.dropped))
    body.update(_labels(said, writer.dropped))
    if said.stream:
        body["stream"] = True
    if said.logprobs:
        body["include"] = ["reasoning.encrypted_content", "message.output_text.logprobs"]
        body["top_logprobs"] = said.top_logprobs or 0
    if said.store:
        writer.dropped.append("store")
    writer.dropped += [name for name, _ in said.extras]
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(writer.dropped)))


class _Items:
    """Writes the input items, and notes in `dropped` what could not be written."""

    def __init__(self, said: Conversation) -> None:
        self.dropped: list[str] = []
        self._said = said
        parts = (part for message in said.messages for part in message.parts)
        self._kinds = {part.id: part.kind for part in parts if isinstance(part, ToolCall)}

    def items(self) -> list[dict[str, object]]:
        """Return the items of all turns, in order."""
        written: list[dict[str, object]] = []
        for message in self._said.messages:
            if message.name:
                self.dropped.append("messages.name")
            if message.role == "tool":
                written += self._results(message)
            elif message.role == "assistant":
                written += self._led_on(list(self._assistant(message)))
            else:
                content = [one for part in message.parts for one in self._pieces(part)]
                if content:
                    written.append({"type": "message", "role": message.role, "content": content})
        if beginning(self._said) is not None:
            self.dropped.append("prefill")  # to go on with; here it is a turn that is over
        return written

    def _led_on(self, items: list[dict[str, object]]) -> list[dict[str, object]]:
        """Return a turn's items without thoughts that led to nothing: it was cut off within them.

        OpenAI refuses such: "was provided without its required following item"
        (openai/openai-node#1567).
        """
        while items and items[-1]["type"] == "reasoning":
            items.pop()
            self.dropped.append("thinking")
        return items

    def _assistant(self, message: Message) -> Iterator[dict[str, object]]:
        texts: list[dict[str, object]] = []
        for part in message.parts:
            self._mark(part)
            if isinstance(part, Text):
                texts.append({"type": "output_text", "text": part.text, "annotations": []})
                continue
            if isinstance(part, Refusal):
                texts.append({"type": "refusal", "refusal": part.text})
                continue
            if texts:
                yield {"type": "message", "role": "assistant", "content": texts}
                texts = []
            if isinstance(part, ToolCall):
                yield self._call(part)
            elif isinstance(part, Thinking):
                yield from self._thinking(part)
            elif isinstance(part, Opaque) and part.by == NAME:
                yield msgspec.json.decode(part.payload, type=dict[str, object])
            elif isinstance(part, Audio) or (
                isinstance(part, Opaque) and not is_work_done(part.type)
            ):
                kind = part.type if isinstance(part, Opaque) else "audio"
                raise Untranslatable(
                    f"The target has no content of the type `{kind}`", param="messages"
                )
            else:
                self.dropped.append(
                    part.type if isinstance(part, Opaque) else type(part).__name__.lower()
                )
        if texts:
            yield {"type": "message", "role": "assistant", "content": texts}

    def _call(self, call: ToolCall) -> dict[str, object]:
        called = {"call_id": tool_id(call.id), "name": tool_name(call.name)}
        if call.kind == "custom":
            return {"type": "custom_tool_call", **called, "input": call.arguments}
        return {"type": "function_call", **called, "arguments": call.arguments or "{}"}

    def _thinking(self, part: Thinking) -> Iterator[dict[str, object]]:
        """Yield a reasoning item; only what OpenAI itself encrypted can go back to it."""
        if part.by != NAME or not part.encrypted:
            self.dropped.append("thinking")
            return
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        named = {"id": part.id} if part.id else {}
        yield {
            "type": "reasoning",
            **named,
            "summary": summary,
            "encrypted_content": part.encrypted,
        }

    def _results(self, message: Message) -> Iterator[dict[str, object]]:
        for result in message.parts:
            if not isinstance(result, ToolResult):
                self.dropped.append(type(result).__name__.lower())
                continue
            self._mark(result)
            custom = self._kinds.get(result.id) == "custom"
            kind = "custom_tool_call" if custom else "function_call"
            yield {
                "type": f"{kind}_output",
                "call_id": tool_id(result.id),
                "output": self._output(result),
            }

    def _output(self, result: ToolResult) -> object:
        parts = [Text(part.text) if isinstance(part, Refusal) else part for part in result.parts]
        if all(isinstance(part, Text) for part in parts):
            text = "\n".join(part.text for part in parts if isinstance(part, Text))
            for part in result.parts:
                self._mark(part)
            if result.is_error and not text.lower().startswith("error"):
                text = f"Error: {text}"
            return text
        content = [one for part in parts for one in self._pieces(part)]
        if result.is_error:
            content.insert(0, {"type": "input_text", "text": "Error:"})
        return content

    def _pieces(self, part: Part) -> Iterator[dict[str, object]]:
        """Yield a part as content, behind what is said about it where that has no other place."""
        if isinstance(part, File) and part.context and part.source.kind != "text":
            yield {"type": "input_text", "text": part.context}
        if (one := self._part(part)) is not None:
            yield one

    def _part(self, part: Part) -> dict[str, object] | None:
        self._mark(part)
        match part:
            case Text() | Refusal():
                return {"type": "input_text", "text": part.text}
            case Image():
                return self._image(part)
            case File():
                return self._file(part)
            case Audio(source=Source(kind="base64")):
                kind = part.source.media_type.removeprefix("audio/")
                sound = {"data": part.source.value, "format": kind}
                return {"type": "input_audio", "input_audio": sound}
            case Opaque() if part.by == NAME:
                return msgspec.json.decode(part.payload, type=dict[str, object])
            case Thinking():
                self.dropped.append("thinking")
                return None
            case _:
                kind = part.type if isinstance(part, Opaque) else type(part).__name__.lower()
                raise Untranslatable(
                    f"The target has no content of the type `{kind}`", param="messages"
                )

    def _image(self, image: Image) -> dict[str, object]:
        # OpenAI's own SDK holds `detail` to be required.
        said: dict[str, object] = {"type": "input_image", "detail": image.detail or "auto"}
        if image.source.kind == "id":
            return {**said, "file_id": self._stored(image.source, "image")}
        return {**said, "image_url": as_url(image.source)}

    def _file(self, file: File) -> dict[str, object]:
        if file.cites:
            self.dropped.append("citations")
        source = file.source
        if source.media_type.startswith("video/"):
            raise Untranslatable("The target takes no videos", param="messages")
        if source.kind == "text":
            head = " ".join(filter(None, (file.name, file.context)))
            text = f"{head}\n\n{source.value}" if head else source.value
            return {"type": "input_text", "text": text}
        if source.kind == "id":
            return {"type": "input_file", "file_id": self._stored(source, "file")}
        if source.kind == "url":
            return {"type": "input_file", "file_url": source.value}
        kind = source.media_type.rpartition("/")[2] or "bin"
        name = file.name or f"file.{kind}"
        return {"type": "input_file", "filename": name, "file_data": as_url(source)}

    def _stored(self, source: Source, what: str) -> str:
        if self._said.by not in (NAME, "openai_chat"):
            raise Untranslatable(
                f"The {what} `{source.value[:80]}` is stored at another provider",
                hint=f"Send the {what} itself, as base64",
                param="messages",
            )
        return source.value

    def _mark(self, part: Part) -> None:
        if getattr(part, "cache", None) is not None:
            self.dropped.append("cache_control")


def _tools(said: Conversation, dropped: list[str]) -> _Fields:
    if not said.tools:
        return
    yield "tools", [_tool(tool, dropped) for tool in bare(said.tools)]
    if said.tool_choice is not None:
        yield "tool_choice", _choice(said.tool_choice)
    if said.parallel is not None:
        yield "parallel_tool_calls", said.parallel


def _tool(tool: Tool | HostedTool, dropped: list[str]) -> dict[str, object]:
    if isinstance(tool, HostedTool):
        raise Untranslatable(
            f"The target has no tool of the type `{tool.type}`",
            hint="Leave the tool out, or call a model whose provider runs it",
            param="tools",
        )
    dropped += [f"tools.{name}" for name, _ in tool.extras]
    if tool.cache is not None:
        dropped.append("cache_control")
    said: dict[str, object] = {"type": tool.kind, "name": tool_name(tool.name)}
    if tool.description:
        said["description"] = tool.description
    if tool.kind == "custom":
        if tool.schema:
            said["format"] = msgspec.Raw(tool.schema)
        return said
    said["parameters"] = msgspec.Raw(of_object(tool.schema) or _NO_ARGUMENTS)
    # Left out, OpenAI tries to hold the model to the schema, which other dialects never do.
    said["strict"] = stays_strict(tool, dropped)
    return said


def _choice(choice: ToolChoice) -> object:
    if choice.hosted:
        raise Untranslatable(
            "The target has no such tool as `tool_choice` names", param="tool_choice"
        )
    if choice.mode == "tool":
        return {"type": choice.kind, "name": tool_name(choice.names[0])}
    mode = {"auto": "auto", "any": "required", "none": "none"}[choice.mode]
    if choice.names:
        tools = [{"type": "function", "name": tool_name(name)} for name in choice.names]
        return {"type": "allowed_tools", "mode": mode, "tools": tools}
    return mode


def _answer(said: Conversation, facts: Facts, dropped: list[str]) -> _Fields:
    limit = facts.output_limit
    if limit is None and said.output_limit is not None:
        limit = max(said.output_limit, _LEAST_LIMIT)
    if limit is not None:
        yield "max_output_tokens", limit
    if said.format is not None and said.format.kind != "text":
        yield "text", {"format": _format(said.format)}
    if said.n != 1:
        raise one_answer(said)
    if said.modalities:
        raise text_alone(said)
    if said.stop:
        dropped.append("stop")  # no model that is called by this API takes any
    asked = said.sampling
    thinks = said.reasoning is not None and said.reasoning.mode != "off"
    takes = takes_sampling(facts.model, asked_to_reason=thinks)
    for name in ("temperature", "top_p"):
        if (value := getattr(asked, name)) is None:
            continue
        if takes:
            yield name, value
        elif value != 1.0:  # what is the default need not be dropped
            dropped.append(name)
    others = ("top_k", "min_p", "seed", "frequency_penalty", "presence_penalty", "logit_bias")
    dropped += asked.asks(*others)


def _format(asked: Format) -> dict[str, object]:
    if asked.kind == "json_object":
        return {"type": "json_object"}
    said: dict[str, object] = {"type": "json_schema", "name": asked.name or "answer"}
    if asked.description:
        said["description"] = asked.description
    schema, strict = held(asked)
    said["schema"] = msgspec.Raw(schema or b"{}")
    if strict is None and not asked.name:
        strict = False  # what is unsaid is strict here, and refused (simonw/llm-openai-plugin#3)
    if strict is not None:
        said["strict"] = strict
    return said


def _reasoning(said: Conversation, asked: Reasoning, facts: Facts, dropped: list[str]) -> _Fields:
    if facts.thinks is False:
        if asked.mode != "off":
            dropped.append("reasoning")
        return
    effort = asked.effort or (effort_of(asked.budget) if asked.budget is not None else "")
    if effort and not said.by.startswith("openai"):
        # Which of OpenAI's words its models know, only its own clients can be trusted with.
        effort = nearest(effort, efforts(facts.model))
    wanted: dict[str, object] = {}
    if asked.mode == "off" and can_rest(facts.model):
        wanted["effort"] = "none"
    elif asked.mode == "off":
        # OpenAI's older models have no such word; that nothing is said is nearest to it.
        dropped.append("reasoning.off")
    elif effort:
        wanted["effort"] = effort
    if asked.summary != "none" and asked.mode != "off":
        wanted["summary"] = asked.summary or "auto"
    if wanted:
        yield "reasoning", wanted


def _labels(said: Conversation, dropped: list[str]) -> _Fields:
    """Yield what changes no answer: for whom it is, labels, tiers, cache keys."""
    fields: tuple[tuple[str, object, bool], ...] = (
        ("user", said.user, len(said.user) <= _LONGEST_NAME),
        ("metadata", msgspec.Raw(said.metadata) if said.metadata else None, False),
        ("service_tier", said.service_tier, said.service_tier in _TIERS),
        ("prompt_cache_key", said.cache_key, len(said.cache_key) <= _LONGEST_NAME),
    )
    for name, value, fits in fields:
        if not value:
            continue
        if fits:
            yield name, value
        else:
            dropped.append(name)
