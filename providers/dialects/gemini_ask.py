"""Writes the neutral form as a Gemini request."""

import re
from collections.abc import Iterator
from functools import partial
from mimetypes import guess_type
from typing import Final

import msgspec

from tollway.providers.cache_marks import is_marked
from tollway.providers.conversation import (
    CONTINUE,
    Audio,
    Conversation,
    File,
    HostedTool,
    Image,
    Message,
    Opaque,
    Part,
    Refusal,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    beginning,
    in_order,
)
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.gemini_loops import ended, unlooped
from tollway.providers.dialects.gemini_promises import promised
from tollway.providers.dialects.gemini_request import NAME
from tollway.providers.dialects.gemini_schema import refs_alone
from tollway.providers.dialects.gemini_thinking import is_third, thinking_config
from tollway.providers.dialects.json_by_tool import beside_tools
from tollway.providers.dialects.tiers import UNSAID
from tollway.providers.dialects.wire import (
    described,
    fitting,
    has_format,
    is_work_done,
    object_text,
    text_alone,
    wrapped,
)
from tollway.providers.errors import Untranslatable

_fitting = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_.:-]"), most=64)


def tool_name(name: str) -> str:
    """Return a function's name as Google bears it: it begins with a letter or an underscore."""
    # The space makes it another name than any that fits as it is.
    return _fitting(name if name[:1].isalpha() or name[:1] == "_" else f"_ {name}")


# Words of catalog.toml, for Vertex. It took no ids of calls until September 2026 ("Unknown name
# \"id\" at 'contents[1].parts[0].function_call'", looplj/axonhub#874), and takes those of the third
# generation since then (anomalyco/opencode#50504). Of the service tier it reads a header, and
# refuses what AI Studio calls it in the body (googleapis/python-genai#2847).
CALL_IDS_FROM_3: Final = "call_ids_from_3"
NO_TIER: Final = "no_service_tier"

# What Gemini 3 takes in place of the signature of a call that it did not make itself
# (documentation of thought signatures).
UNSIGNED = "skip_thought_signature_validator"
# Those that cannot look at a file on the web by its address (documentation of file inputs).
_NO_URLS = re.compile(r"gemini-(?:1\.|2\.0)|gemma")
# "Function calling with a response mime type: 'application/json' is unsupported" is what these
# answer (googleapis/python-genai#867), and later ones do not.
_SHAPES_OR_TOOLS = re.compile(r"gemini-[12]\.")
# "Requests ending with a model turn are not supported" is what later ones answer
# (pipecat-ai/pipecat#5821, LibreChat-AI/agents#323).
_GOES_ON = re.compile(r"gemini-(?:[12]\.|3-|3\.1-|pro-latest)")
# "temperature, top_p, and top_k are ignored by the API for these models and will return an HTTP 400
# error in future model generations" (documentation, "Using the latest Gemini models").
_UNSAMPLED = re.compile(
    r"gemini-(?:3\.5-flash-lite|3\.[6-9]|3\.\d\d|[4-9]|\d\d|flash-latest|flash-lite-latest)"
)
_MOST_STOPS = 5
_TIERS = frozenset({"flex", "priority"})
_Fields = Iterator[tuple[str, object]]


def write_request(said: Conversation, facts: Facts) -> Written:
    """Return the request for a target; which model it is for stands in the URL.

    Raises:
        Untranslatable: The target cannot say it; `param` names the field.
    """
    if _SHAPES_OR_TOOLS.match(facts.model):
        said = beside_tools(said)
    writer = _Contents(said, facts)
    body: dict[str, object] = {"contents": writer.contents()}
    if writer.system:
        body["systemInstruction"] = {"parts": writer.system}
    body.update(_tools(said, writer.dropped))
    if config := dict(_config(said, facts, writer.dropped)):
        body["generationConfig"] = config
    if said.service_tier in _TIERS and NO_TIER not in facts.quirks:
        body["serviceTier"] = said.service_tier
    elif said.service_tier not in UNSAID:
        writer.dropped.append("service_tier")
    writer.dropped += [name for name in _labels(said)]
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(writer.dropped)))


class _Contents:
    """Writes the turns, and notes in `dropped` what could not be written."""

    def __init__(self, said: Conversation, facts: Facts) -> None:
        self.dropped: list[str] = []
        self.system: list[dict[str, object]] = []
        self._said = said
        # The third generation signs its calls, and takes pictures within a function's result.
        self._signs = self._sees_results = is_third(facts.model)
        self._goes_on = bool(_GOES_ON.match(facts.model))
        self._fetches = not _NO_URLS.match(facts.model)
        self._has_ids = self._signs or CALL_IDS_FROM_3 not in facts.quirks
        self._names: dict[str, str] = {
            part.id: part.name
            for message in said.messages
            for part in message.parts
            if isinstance(part, ToolCall)
        }

    def contents(self) -> list[dict[str, object]]:
        """Return the turns; instructions before all else become the system's own."""
        written: list[dict[str, object]] = []
        for message in in_order(self._said.messages):
            if message.name:
                self.dropped.append("messages.name")
            instructs = message.role in ("system", "developer")
            parts = list(self._turn(message))
            if instructs and not written:
                self.system += parts
                continue
            if instructs:
                # In between there is no other place for it than the user's turn, marked.
                parts = _reminder(message)
            if parts:
                role = "model" if message.role == "assistant" else "user"
                if written and written[-1]["role"] == role:
                    _list(written[-1]["parts"]).extend(parts)
                else:
                    written.append({"role": role, "parts": parts})
        self._begin_and_end(written)
        if self.system and not written:
            # OpenAI answers to instructions alone, Gemini to a user.
            written, self.system = [{"role": "user", "parts": self.system}], []
        return written

    def _begin_and_end(self, written: list[dict[str, object]]) -> None:
        """See that a user speaks first, and last to those who do not go on with what has begun."""
        if written and written[0]["role"] == "model":
            written.insert(0, {"role": "user", "parts": [{"text": "(continued)"}]})
        if written and written[-1]["role"] == "model" and not self._goes_on:
            if beginning(self._said) is not None:
                self.dropped.append("prefill")
            written.append({"role": "user", "parts": [{"text": CONTINUE}]})

    def _turn(self, message: Message) -> Iterator[dict[str, object]]:
        first = True
        shown: list[dict[str, object]] = []
        for part in message.parts if self._has_ids else self._as_called(message):
            if is_marked(part):
                self.dropped.append("cache_control")
            if isinstance(part, ToolResult):
                yield self._result(part, shown)
            elif isinstance(part, ToolCall):
                yield self._call(part, first=first)
                first = False
            else:
                yield from self._labelled(part)
        yield from shown

    def _as_called(self, message: Message) -> list[Part]:
        """Return a turn's parts, results in the order of their calls: no id says whose they are."""
        places = {id_: place for place, id_ in enumerate(self._names)}
        return sorted(
            message.parts,
            key=lambda part: places.get(part.id, -1) if isinstance(part, ToolResult) else -1,
        )

    def _labelled(self, part: Part) -> Iterator[dict[str, object]]:
        """Yield a part, behind what is said of a file: there is no other place for it."""
        if isinstance(part, File) and part.source.kind != "text" and (head := _head(part)):
            yield {"text": head}
        if (written := self._part(part)) is not None:
            yield written

    def _call(self, call: ToolCall, *, first: bool) -> dict[str, object]:
        text = wrapped(call.arguments) if call.kind == "custom" else call.arguments
        arguments = msgspec.Raw(object_text(text))
        called: dict[str, object] = {"name": tool_name(call.name), "args": arguments}
        if call.id and self._has_ids:
            called["id"] = call.id
        written: dict[str, object] = {"functionCall": called}
        if call.by == NAME and call.signature:
            written["thoughtSignature"] = call.signature
        elif self._signs and first:
            written["thoughtSignature"] = UNSIGNED
        return written

    def _result(self, result: ToolResult, shown: list[dict[str, object]]) -> dict[str, object]:
        """Return a function's result; pictures that it cannot hold go to `shown`, behind all."""
        texts = [part.text for part in result.parts if isinstance(part, Text | Refusal)]
        others = [part for part in result.parts if not isinstance(part, Text | Refusal)]
        text = "\n".join(texts)
        # "The referenced name ... does not match to a display_name" is what Google answers to a
        # reference in a result that is JSON: to it that is one of the result's pictures.
        value = _json(text, None) if '"$ref"' not in text else None
        response = value if isinstance(value, dict) else {"result": text}
        if result.is_error:
            response = {"error": text}
        name = result.name or self._names.get(result.id, "")
        said: dict[str, object] = {"name": tool_name(name or "tool"), "response": response}
        if result.id and self._has_ids:
            said["id"] = result.id
        seen = [one for part in others for one in self._labelled(part)]
        if seen and self._sees_results:
            # It takes no texts there: what a file is called stands with the result's words.
            heads = [str(one["text"]) for one in seen if "text" in one]
            said["parts"] = [one for one in seen if "text" not in one]
            if heads:
                said["response"] = {**response, "attached": heads}
        elif seen:
            shown.append({"text": f"Attached to the result of {name or result.id}:"})
            shown += seen
        return {"functionResponse": said}

    def _part(self, part: Part) -> dict[str, object] | None:
        written: dict[str, object] | None = None
        match part:
            case Text(text="", signature="") | Refusal(text=""):
                pass  # which Google refuses
            case Text() | Refusal():
                written = {"text": part.text}
                if isinstance(part, Text) and part.by == NAME and part.signature:
                    written["thoughtSignature"] = part.signature
            case Thinking(by="gemini", signature=signature) if signature:
                written = {"text": part.text, "thought": True, "thoughtSignature": signature}
            case Image():
                if part.detail not in ("", "auto"):
                    self.dropped.append("image_url.detail")
                written = self._media(part.source, "image/png")
            case Audio():
                written = self._media(part.source, "audio/wav")
            case File():
                written = self._file(part)
            case Opaque(by="gemini"):
                written = msgspec.json.decode(part.payload, type=dict[str, object])
            case _:
                self._lost(part)
        return written

    def _file(self, file: File) -> dict[str, object]:
        if file.cites:
            self.dropped.append("citations")
        if file.source.kind == "text":
            head, text = _head(file), file.source.value
            return {"text": f"{head}\n\n{text}" if head else text}
        return self._media(file.source, "application/pdf")

    def _media(self, source: Source, otherwise: str) -> dict[str, object]:
        kind = source.media_type or otherwise
        if source.kind == "base64":
            return {"inlineData": {"mimeType": kind, "data": source.value}}
        if source.kind == "url" and self._fetches and source.value.startswith("https://"):
            named = source.media_type or _type_of(source.value)
            return {"fileData": {"mimeType": named or otherwise, "fileUri": source.value}}
        raise Untranslatable(
            "The target takes no such picture, sound or file by a URL or an id",
            hint="Send it as base64",
            param="messages",
        )

    def _lost(self, part: Part) -> None:
        """Note what an assistant's turn loses; refuse what a user's would."""
        kind = part.type if isinstance(part, Opaque) else type(part).__name__.lower()
        if isinstance(part, Opaque) and not is_work_done(part.type):
            raise Untranslatable(
                f"The target has no content of the type `{kind}`", param="messages"
            )
        self.dropped.append(kind)


def _head(file: File) -> str:
    return " ".join(filter(None, (file.name, file.context)))


def _type_of(url: str) -> str | None:
    return guess_type(url.partition("?")[0], strict=False)[0]


def _reminder(message: Message) -> list[dict[str, object]]:
    text = "\n\n".join(part.text for part in message.parts if isinstance(part, Text))
    return [{"text": f"<system-reminder>\n{text}\n</system-reminder>"}] if text else []


def _list(parts: object) -> list[object]:
    return parts if isinstance(parts, list) else []


def _json(text: str, otherwise: object) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return otherwise


def _tools(said: Conversation, dropped: list[str]) -> _Fields:
    if not said.tools:
        return
    declared = [_tool(tool, dropped) for tool in said.tools]
    yield "tools", [{"functionDeclarations": declared}]
    if said.tool_choice is not None:
        yield "toolConfig", {"functionCallingConfig": _choice(said.tool_choice)}
    if said.parallel is False:
        dropped.append("parallel_tool_calls")


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
    if tool.strict:
        dropped.append("tools.strict")
    written: dict[str, object] = {"name": tool_name(tool.name), "description": tool.description}
    if has_format(tool):
        dropped.append("tools.format")
    if tool.kind == "custom":
        text = {"type": "object", "properties": {"input": {"type": "string"}}}
        written["parametersJsonSchema"] = {**text, "required": ["input"]}
    elif tool.schema:
        schema, _ = promised(tool.schema, tells=False)
        schema, says_less = refs_alone(schema)
        schema, looped = unlooped(schema)
        dropped += ["tools.parameters.$ref"] if says_less or looped else []
        written["parametersJsonSchema"] = msgspec.Raw(schema)
    return written


def _choice(choice: ToolChoice) -> dict[str, object]:
    if choice.hosted:
        raise Untranslatable(
            "The target has no such tool as `tool_choice` names", param="tool_choice"
        )
    mode = {"auto": "AUTO", "any": "ANY", "tool": "ANY", "none": "NONE"}[choice.mode]
    if not choice.names:
        return {"mode": mode}
    # Names go with ANY and VALIDATED alone.
    mode = "VALIDATED" if mode == "AUTO" else mode
    return {"mode": mode, "allowedFunctionNames": [tool_name(name) for name in choice.names]}


def _config(said: Conversation, facts: Facts, dropped: list[str]) -> _Fields:
    limit = facts.output_limit if facts.output_limit is not None else said.output_limit
    if limit is not None:
        yield "maxOutputTokens", limit
    if said.n != 1:
        yield "candidateCount", said.n
    if said.stop:
        yield "stopSequences", list(said.stop[:_MOST_STOPS])
        if len(said.stop) > _MOST_STOPS:
            dropped.append("stop")
    yield from _sampling(said, facts.model, dropped)
    if said.modalities:
        raise text_alone(said)
    if said.format is not None and said.format.kind != "text":
        yield "responseMimeType", "application/json"
        if said.format.schema:
            schema, told = promised(said.format.schema, tells=True)
            schema, says_less = refs_alone(schema)
            dropped += [f"response_format.{word}" for word in told]
            dropped += ["response_format.$ref"] if says_less else []
            schema = described(ended(schema), said.format.description)
            yield "responseJsonSchema", msgspec.Raw(schema)
    if said.reasoning is not None and (config := thinking_config(said.reasoning, facts, dropped)):
        yield "thinkingConfig", config


def _sampling(said: Conversation, model: str, dropped: list[str]) -> _Fields:
    asked = said.sampling
    if _UNSAMPLED.match(model):
        dropped += [name for name in asked.asks("temperature", "top_p", "top_k")
                    if getattr(asked, name) != 1]  # fmt: skip
        asked = msgspec.structs.replace(asked, temperature=None, top_p=None, top_k=None)
    for name, value in (
        ("temperature", asked.temperature),
        ("topP", asked.top_p),
        ("topK", asked.top_k),
        ("seed", asked.seed),
        ("frequencyPenalty", asked.frequency_penalty),
        ("presencePenalty", asked.presence_penalty),
        ("responseLogprobs", said.logprobs or None),
        ("logprobs", said.top_logprobs if said.logprobs else None),
    ):
        if value is not None:
            yield name, value
    dropped += asked.asks("min_p")
    if asked.logit_bias:
        dropped.append("logit_bias")


def _labels(said: Conversation) -> Iterator[str]:
    """Yield what there is no place for: for whom it is, labels, cache keys."""
    for name, value in (
        ("user", said.user),
        ("metadata", said.metadata),
        ("prompt_cache_key", said.cache_key),
        ("store", said.store),
    ):
        if value:
            yield name
    yield from (name for name, _ in said.extras)
