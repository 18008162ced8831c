"""Reads a chat completion request into the neutral form."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tollway.providers.canon import Call
from tollway.providers.conversation import (
    Audio,
    Conversation,
    HostedTool,
    Lifetime,
    Message,
    Part,
    Reasoning,
    Refusal,
    Role,
    Sampling,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollway.providers.dialects.openai_bound import SEARCHES_NOT
from tollway.providers.dialects.openai_chat_known import KNOWN
from tollway.providers.dialects.openai_chat_parts import NAME, Marker, lifetime, parts_of
from tollway.providers.dialects.openai_chat_reasoning import thinking_of
from tollway.providers.dialects.openai_chat_shape import shape_of
from tollway.providers.dialects.tiers import asked as asked_tier
from tollway.providers.dialects.wire import Body, caller, decoded, refuse_screening
from tollway.providers.errors import RequestInvalid

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Fields that ask the provider for work of its own, as tools do.
HOSTED = ("web_search_options", "plugins", "search_parameters")


class _Function(msgspec.Struct):
    name: str = ""
    arguments: Any = ""


class _Custom(msgspec.Struct):
    name: str = ""
    input: str = ""


class _CallOf(msgspec.Struct):
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None
    extra_content: Any = None


class _Spoken(msgspec.Struct):
    id: str
    transcript: str | None = None


class _MessageOf(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw] | None = None
    name: str | None = None
    tool_calls: list[_CallOf] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    reasoning_details: Any = None
    prefix: bool | None = None  # Mistral's, DeepSeek's: the answer begins so
    audio: _Spoken | None = None
    cache_control: Marker | None = None


class _FunctionOf(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _CustomOf(msgspec.Struct):
    name: str
    description: str | None = None
    format: msgspec.Raw = msgspec.Raw()


class _ToolOf(msgspec.Struct):
    type: str | None = "function"
    function: _FunctionOf | None = None
    # Of a tool as other dialects have it, which some editors send here.
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    input_schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    custom: _CustomOf | None = None
    cache_control: Marker | None = None


class _Named(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None
    custom: _Custom | None = None


class _Allowed(msgspec.Struct):
    mode: str = "auto"
    tools: list[_Named] = []


class _Choice(msgspec.Struct):
    type: str = "function"
    name: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None
    allowed_tools: _Allowed | None = None


class _ReasoningOf(msgspec.Struct):
    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None
    exclude: bool | None = None
    summary: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_MESSAGES = msgspec.json.Decoder(list[_MessageOf])
_TOOLS = msgspec.json.Decoder(list[msgspec.Raw])
_TOOL = msgspec.json.Decoder(_ToolOf)
_FUNCTIONS = msgspec.json.Decoder(list[_FunctionOf])
_CHOICE = msgspec.json.Decoder(str | _Choice)
_STOP = msgspec.json.Decoder(str | list[str])
_STR = msgspec.json.Decoder(str)
_STRS = msgspec.json.Decoder(list[str])
_BOOL = msgspec.json.Decoder(bool)
_INT = msgspec.json.Decoder(int)
_FLOAT = msgspec.json.Decoder(float)
_REASONING = msgspec.json.Decoder(_ReasoningOf)
_OPTIONS = msgspec.json.Decoder(_StreamOptions)


def read_request(call: Call) -> Conversation:
    """Return what a body says.

    Raises:
        RequestInvalid: A field has the wrong type; `param` names it.
    """
    body = Body(call.body)
    refuse_screening(body)
    options = body.take(_OPTIONS, "stream_options")
    limits = [body.take(_INT, name) for name in ("max_completion_tokens", "max_tokens")]
    body.raw("model")
    logprobs = body.take(_BOOL, "logprobs")
    turns = body.take(_MESSAGES, "messages") or []
    messages = tuple(_messages(turns))
    begun = bool(body.take(_BOOL, "continue_final_message"))  # vLLM's, SGLang's
    if begun:
        body.raw("add_generation_prompt")  # must be false there
    stop = body.take(_STOP, "stop")
    parallel = body.take(_BOOL, "parallel_tool_calls")
    functions = body.take(_FUNCTIONS, "functions") or ()
    tools = (*_tools(body), *(_function(one, None) for one in functions), *_hosted(body))
    return Conversation(
        by=NAME,
        model=call.model,
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(body),
        parallel=False if functions else parallel,  # an answer has a place for one call alone
        format=shape_of(body),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        sampling=sampling(body),
        n=body.take(_INT, "n") or 1,
        logprobs=bool(logprobs),
        top_logprobs=body.take(_INT, "top_logprobs"),
        reasoning=_reasoning(body),
        output_limit=max((limit for limit in limits if limit is not None), default=None),
        user=caller(body),
        metadata=_not_empty(body.raw("metadata")),
        service_tier=asked_tier(body.take(_STR, "service_tier")),
        cache_key=body.take(_STR, "prompt_cache_key") or "",
        store=body.take(_BOOL, "store"),
        modalities=_modalities(body),
        stream=bool(body.take(_BOOL, "stream")),
        wants_usage=bool(options and options.include_usage),
        begun=begun or bool(turns and turns[-1].prefix),
        extras=body.extras,
        unread=body.unread(KNOWN),
    )


def sampling(body: Body) -> Sampling:
    """Return how the next token is drawn."""
    return Sampling(
        temperature=body.take(_FLOAT, "temperature"),
        top_p=body.take(_FLOAT, "top_p"),
        top_k=body.take(_INT, "top_k"),
        min_p=body.take(_FLOAT, "min_p"),
        seed=body.take(_INT, "seed"),
        frequency_penalty=body.take(_FLOAT, "frequency_penalty"),
        presence_penalty=body.take(_FLOAT, "presence_penalty"),
        logit_bias=_not_empty(body.raw("logit_bias")),
    )


def _not_empty(text: bytes) -> bytes:
    return b"" if text.strip() in (b"{}", b"null") else text


def _modalities(body: Body) -> tuple[str, ...]:
    asked = tuple(body.take(_STRS, "modalities") or ())
    return () if asked == ("text",) else asked


def _messages(said: list[_MessageOf]) -> Iterator[Message]:
    """Yield messages; the results of tools that stand together as one."""
    results: list[Part] = []
    called = ""
    for place, message in enumerate(said):
        role = _ROLES.get(message.role)
        if role is None:
            raise RequestInvalid(
                f"`messages[{place}].role` is none that we know", param=f"messages[{place}].role"
            )
        parts = tuple(_content(message, f"messages[{place}].content"))
        cache = lifetime(message.cache_control)
        if role == "tool":
            name = message.name or ""
            answered = message.tool_call_id or (called if message.role == "function" else "")
            results.append(ToolResult(answered, parts, name=name, cache=cache))
            continue
        if results:
            yield Message("tool", tuple(results))
            results = []
        parts = _marked(parts, cache)
        if role == "assistant":
            called = f"call_{place}"
            said_by_it = tuple(_assistant(message, parts, called))
            parts = said_by_it if parts else _marked(said_by_it, cache)
        yield Message(role, parts, message.name or "")
    if results:
        yield Message("tool", tuple(results))


def _marked(parts: tuple[Part, ...], cache: Lifetime | None) -> tuple[Part, ...]:
    """Return a turn's parts with the mark of the whole turn on the last, if it has none."""
    if cache is None or not parts or getattr(parts[-1], "cache", cache) is not None:
        return parts
    return (*parts[:-1], msgspec.structs.replace(parts[-1], cache=cache))


def _content(message: _MessageOf, where: str) -> Iterator[Part]:
    if isinstance(message.content, str):
        if message.content or message.role in ("tool", "function"):
            yield Text(message.content)
        return
    for place, raw in enumerate(message.content or ()):
        yield from parts_of(raw, f"{where}[{place}]")


def _assistant(message: _MessageOf, parts: tuple[Part, ...], called: str) -> Iterator[Part]:
    yield from thinking_of(
        message.reasoning_content or message.reasoning, message.reasoning_details
    )
    yield from parts
    if message.refusal:
        yield Refusal(message.refusal)
    if message.audio is not None:
        # What was said is all that another provider can be given of it.
        said = message.audio.transcript
        yield Text(said) if said else Audio(Source("id", message.audio.id))
    for call in message.tool_calls or ():
        yield _tool_call(call)
    if message.function_call is not None:
        function = message.function_call
        yield ToolCall(called, function.name, _arguments(function.arguments))


def _tool_call(call: _CallOf) -> ToolCall:
    if call.custom is not None:
        return ToolCall(call.id or "", call.custom.name, call.custom.input, "custom")
    function = call.function or _Function()
    signature = google_signature(call.extra_content)
    return ToolCall(
        call.id or "",
        function.name,
        _arguments(function.arguments),
        signature=signature,
        by="gemini" if signature else "",
    )


def _arguments(value: object) -> str:
    """Return arguments as text; some clients send the object itself."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if value is not None else ""


def google_signature(extra: object) -> str:
    """Return the signature that Google's own OpenAI endpoint puts beside a tool call; or ""."""
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _tools(body: Body) -> Iterator[Tool | HostedTool]:
    for place, raw in enumerate(body.take(_TOOLS, "tools") or ()):
        tool = decoded(_TOOL, raw, f"tools[{place}]")
        cache = lifetime(tool.cache_control)
        if tool.function is not None and tool.type == "function":
            yield _function(tool.function, cache)
        elif tool.custom is not None:
            custom = tool.custom
            format_ = bytes(custom.format)
            yield Tool(custom.name, custom.description or "", format_, kind="custom", cache=cache)
        elif tool.name and tool.type in (None, "function"):
            schema = tool.parameters if bytes(tool.parameters) else tool.input_schema
            flat = _FunctionOf(tool.name, tool.description, schema, tool.strict)
            yield _function(flat, cache)
        else:
            yield HostedTool(NAME, tool.type or "", bytes(raw))


def _function(function: _FunctionOf, cache: Lifetime | None) -> Tool:
    schema = bytes(function.parameters)
    return Tool(
        function.name,
        function.description or "",
        b"" if schema == b"null" else schema,
        function.strict,
        cache=cache,
    )


def _hosted(body: Body) -> Iterator[HostedTool]:
    for name in HOSTED:
        # Grok's clients say so of each call that is to search for nothing.
        if (raw := body.raw(name)) and msgspec.json.decode(raw) != SEARCHES_NOT:
            yield HostedTool(NAME, name, raw)


def _tool_choice(body: Body) -> ToolChoice | None:
    choice = body.take(_CHOICE, "tool_choice")
    if choice is None and (raw := body.raw("function_call")):
        choice = decoded(_CHOICE, raw, "function_call")
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required", "any"):
            raise RequestInvalid("`tool_choice` is none that we know", param="tool_choice")
        return ToolChoice({"auto": "auto", "none": "none"}.get(choice, "any"))  # type: ignore[arg-type]
    if choice.allowed_tools is not None:
        allowed = choice.allowed_tools
        names = tuple(
            tool.custom.name if tool.custom else tool.function.name if tool.function else ""
            for tool in allowed.tools
        )
        return ToolChoice("any" if allowed.mode == "required" else "auto", names)
    if choice.custom is not None:
        return ToolChoice("tool", (choice.custom.name,), "custom")
    named = choice.function.name if choice.function else choice.name
    if not named:
        raise RequestInvalid("`tool_choice` names no tool", param="tool_choice")
    return ToolChoice("tool", (named,))


def _reasoning(body: Body) -> Reasoning | None:
    """Return what is said of thinking: `reasoning_effort`, or OpenRouter's `reasoning` object."""
    effort = body.take(_STR, "reasoning_effort") or ""
    said = body.take(_REASONING, "reasoning")
    if said is None:
        if not effort:
            return None
        return Reasoning("off" if effort == "none" else "on", "" if effort == "none" else effort)
    effort = said.effort or effort
    off = said.enabled is False or effort == "none"
    if not (off or said.enabled or effort or said.max_tokens or said.summary):
        return None  # to hide thoughts, if there are any, is not to ask for some
    return Reasoning(
        "off" if off else "on",
        "" if off else effort,
        said.max_tokens,
        "none" if said.exclude else said.summary or "",
    )
