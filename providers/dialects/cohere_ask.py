"""Writes the neutral form as a request of Cohere's chat (docs.cohere.com, "Chat", version 2)."""

import re
from collections.abc import Iterator
from functools import partial

import msgspec

from tollway.providers.cache_marks import is_marked
from tollway.providers.conversation import (
    Conversation,
    File,
    HostedTool,
    Image,
    Message,
    Opaque,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    beginning,
    in_order,
)
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.tiers import UNSAID
from tollway.providers.dialects.wire import (
    PLAIN_TEXT,
    as_text,
    as_url,
    described,
    fitting,
    has_format,
    is_work_done,
    object_text,
    one_answer,
    text_alone,
    wrapped,
)
from tollway.providers.effort import SHARE_OF_THOUGHT, budget_of
from tollway.providers.errors import Untranslatable

tool_name = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_-]"), most=128)

# Those that think before they answer; the others refuse to be asked for it.
_THINKS = re.compile(r"command-a-(?:reasoning|plus)")
_MOST_STOPS = 5
_NO_ARGUMENTS = b'{"type":"object","properties":{}}'
_Fields = Iterator[tuple[str, object]]


def write_request(said: Conversation, facts: Facts) -> Written:
    """Return the request for a target.

    Raises:
        Untranslatable: The target cannot say it; `param` names the field.
    """
    thinks = bool(_THINKS.match(facts.model)) if facts.thinks is None else facts.thinks
    writer = _Messages(said, thinks=thinks)
    body: dict[str, object] = {"model": facts.model, "messages": writer.messages()}
    dropped = writer.dropped
    if said.stream:
        body["stream"] = True
    if writer.documents:
        body["documents"] = writer.documents
    body.update(_tools(said, dropped))
    body.update(_options(said, facts, dropped))
    limit = body.get("max_tokens")
    most = limit if isinstance(limit, int) else None
    body.update(_thinking(said, most, dropped, thinks=thinks))
    dropped += _labels(said)
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(dropped)))


class _Messages:
    """Writes the turns, and notes in `dropped` what could not be written."""

    def __init__(self, said: Conversation, *, thinks: bool) -> None:
        self.dropped: list[str] = []
        self.documents: list[dict[str, object]] = []
        self._said = said
        self._thinks = thinks

    def messages(self) -> list[dict[str, object]]:
        """Return the turns; instructions stay where they stood."""
        written: list[dict[str, object]] = []
        for message in in_order(self._said.messages):
            if message.name:
                self.dropped.append("messages.name")
            if any(map(is_marked, message.parts)):
                self.dropped.append("cache_control")
            if message.role == "tool":
                written += self._results(message)
            elif message.role == "assistant":
                written.append(self._assistant(message))
            else:
                role = "system" if message.role == "developer" else message.role
                written.append({"role": role, "content": self._content(message)})
        if beginning(self._said) is not None:
            # It takes the turn, and begins another answer (SillyTavern/SillyTavern#3692).
            self.dropped.append("prefill")
        for one in written:
            if not one["content"]:
                del one["content"]
        return [one for one in written if "content" in one or "tool_calls" in one]

    def _content(self, message: Message) -> object:
        parts = message.parts
        if all(isinstance(part, Text | Refusal) for part in parts):
            between = "\n\n" if message.role in ("system", "developer") else "\n"
            return between.join(part.text for part in parts if isinstance(part, Text | Refusal))
        return [one for part in parts if (one := self._part(part)) is not None]

    def _assistant(self, message: Message) -> dict[str, object]:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[object] = []
        for part in message.parts:
            match part:
                case Text() | Refusal():
                    texts.append(part.text)
                case ToolCall():
                    calls.append(self._call(part))
                case Thinking(text=text) if text and self._thinks and not part.signature:
                    thoughts.append(text)
                case _:
                    self._lost(part)
        content: list[dict[str, object]] = [
            {"type": "thinking", "thinking": text} for text in thoughts
        ]
        written: dict[str, object] = {"role": "assistant"}
        text = "".join(texts)
        if calls:
            written["tool_calls"] = calls
            if text:
                written["tool_plan"] = text  # where its template has what is said before calls
        elif text:
            content.append({"type": "text", "text": text})
        written["content"] = content if thoughts else "" if calls else text
        return written

    def _call(self, call: ToolCall) -> dict[str, object]:
        text = wrapped(call.arguments) if call.kind == "custom" else call.arguments
        arguments = object_text(text).decode()  # also where they were cut short
        called = {"name": tool_name(call.name), "arguments": arguments}
        return {"id": call.id, "type": "function", "function": called}

    def _results(self, message: Message) -> Iterator[dict[str, object]]:
        shown: list[dict[str, object]] = []
        for result in message.parts:
            if not isinstance(result, ToolResult):
                self._lost(result)
                continue
            texts = [part.text for part in result.parts if isinstance(part, Text | Refusal)]
            others = [part for part in result.parts if not isinstance(part, Text | Refusal)]
            text = "\n".join(texts)
            if result.is_error and not text.lower().startswith("error"):
                text = f"Error: {text}"
            if others:
                text = "\n".join([*([text] if text else []), f"[{len(others)} attached below]"])
                shown.append({"type": "text", "text": f"Attached to the result of {result.id}:"})
                shown += [one for part in others if (one := self._part(part)) is not None]
            # It must not be empty.
            yield {"role": "tool", "tool_call_id": result.id, "content": text or "(nothing)"}
        if shown:
            yield {"role": "user", "content": shown}

    def _part(self, part: Part) -> dict[str, object] | None:
        match part:
            case Text(text="") | Refusal(text=""):
                return None
            case Text() | Refusal():
                return {"type": "text", "text": part.text}
            case Image():
                if part.source.kind == "id":
                    raise _elsewhere("image", part.source.value)
                detail = {"detail": part.detail} if part.detail else {}
                return {"type": "image_url", "image_url": {"url": as_url(part.source), **detail}}
            case File():
                return self._file(part)
            case _:
                self._lost(part)
                return None

    def _file(self, file: File) -> dict[str, object] | None:
        source = as_text(file.source)
        if source.kind != "text":
            raise Untranslatable(
                "The target takes no file but plain text",
                hint="Send its text, or call another model",
                param="messages",
            )
        if file.cites:
            data = {"text": source.value}
            for name, text in (("title", file.name), ("snippet", file.context)):
                if text:
                    data[name] = text
            self.documents.append({"id": f"doc:{len(self.documents)}", "data": data})
            return None
        head = " ".join(filter(None, (file.name, file.context)))
        text = source.value
        return {"type": "text", "text": f"{head}\n\n{text}" if head else text}

    def _lost(self, part: Part) -> None:
        """Note what an assistant's turn loses; refuse what a user's would."""
        kind = part.type if isinstance(part, Opaque) else type(part).__name__.lower()
        history = isinstance(part, Thinking) or (
            isinstance(part, Opaque) and is_work_done(part.type)
        )
        if not history:
            raise Untranslatable(
                f"The target has no content of the type `{kind}`", param="messages"
            )
        self.dropped.append(kind)


def _elsewhere(what: str, name: str) -> Untranslatable:
    return Untranslatable(
        f"The {what} `{name[:80]}` is stored at another provider",
        hint=f"Send the {what} itself, as base64",
        param="messages",
    )


def _tools(said: Conversation, dropped: list[str]) -> _Fields:
    """Yield the tools that may be called; where one must be, no other is offered."""
    choice = said.tool_choice
    if choice is not None and choice.hosted:
        raise Untranslatable(
            "The target has no such tool as `tool_choice` names", param="tool_choice"
        )
    allowed = choice.names if choice else ()
    tools: list[Tool] = []
    for tool in said.tools:
        if isinstance(tool, HostedTool):
            raise Untranslatable(
                f"The target has no tool of the type `{tool.type}`",
                hint="Leave the tool out, or call a model whose provider runs it",
                param="tools",
            )
        if not allowed or tool.name in allowed:
            tools.append(tool)
    if not tools:
        return
    yield "tools", [_tool(tool, dropped) for tool in tools]
    if choice is not None and choice.mode != "auto":
        yield "tool_choice", "NONE" if choice.mode == "none" else "REQUIRED"
    strict = [bool(tool.strict) for tool in tools]
    if all(strict):
        yield "strict_tools", True
    elif any(strict):
        dropped.append("tools.strict")  # it is said for all of them, or for none
    if said.parallel is False:
        dropped.append("parallel_tool_calls")


def _tool(tool: Tool, dropped: list[str]) -> dict[str, object]:
    dropped += [f"tools.{name}" for name, _ in tool.extras]
    if tool.cache is not None:
        dropped.append("cache_control")
    written: dict[str, object] = {"name": tool_name(tool.name)}
    if tool.description:
        written["description"] = tool.description
    if has_format(tool):
        dropped.append("tools.format")
    schema = PLAIN_TEXT if tool.kind == "custom" else tool.schema or _NO_ARGUMENTS
    written["parameters"] = msgspec.Raw(schema)
    return {"type": "function", "function": written}


def _options(said: Conversation, facts: Facts, dropped: list[str]) -> _Fields:
    if said.n != 1:
        raise one_answer(said)
    if said.modalities:
        raise text_alone(said)
    limit = facts.output_limit if facts.output_limit is not None else said.output_limit
    if limit is not None:
        yield "max_tokens", limit
    if said.stop:
        yield "stop_sequences", list(said.stop[:_MOST_STOPS])
        if len(said.stop) > _MOST_STOPS:
            dropped.append("stop")
    yield from _sampling(said, dropped)
    if said.format is not None and said.format.kind != "text":
        schema = described(said.format.schema, said.format.description)
        shape = {"json_schema": msgspec.Raw(schema)} if schema else {}
        yield "response_format", {"type": "json_object", **shape}


def _sampling(said: Conversation, dropped: list[str]) -> _Fields:
    asked = said.sampling
    top_p = asked.top_p
    if top_p is not None:
        top_p = min(max(top_p, 0.01), 0.99) if top_p < 1 else None  # 1 is to leave it alone
    for name, value in (
        ("temperature", asked.temperature),
        ("p", top_p),
        ("k", asked.top_k),
        ("seed", asked.seed),
    ):
        if value is not None:
            yield name, value
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(asked, name)
        if value is not None and 0 <= value <= 1:
            yield name, value
        elif value is not None:
            dropped.append(name)  # it takes none that reward, and none above 1
    dropped += asked.asks("min_p", "logit_bias")
    if said.logprobs:
        dropped.append("logprobs")


def _thinking(said: Conversation, most: int | None, dropped: list[str], *, thinks: bool) -> _Fields:
    """Yield how long to think, within the limit of `most` tokens that holds for the answer too."""
    asked = said.reasoning
    if asked is None:
        return
    if not thinks:
        if asked.mode != "off":
            dropped.append("reasoning")
        return
    if asked.mode == "off":
        yield "thinking", {"type": "disabled"}
        return
    budget = asked.budget
    if budget is None and asked.effort:
        budget = budget_of(asked.effort)
    if budget is not None and most is not None and budget >= most:
        share, whole = SHARE_OF_THOUGHT
        budget = most * share // whole
    limit = {} if budget is None else {"token_budget": budget}
    yield "thinking", {"type": "enabled", **limit}
    if asked.summary not in ("", "none", "auto"):
        dropped.append("reasoning.summary")


def _labels(said: Conversation) -> Iterator[str]:
    """Yield what there is no place for: for whom it is, labels, tiers, cache keys."""
    for name, value in (
        ("user", said.user),
        ("metadata", said.metadata),
        ("service_tier", said.service_tier not in UNSAID),
        ("prompt_cache_key", said.cache_key),
        ("store", said.store),
    ):
        if value:
            yield name
    yield from (name for name, _ in said.extras)
