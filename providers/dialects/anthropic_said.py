"""Reads an Anthropic Messages request into the neutral form."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tollway.providers.canon import Call
from tollway.providers.conversation import (
    Conversation,
    File,
    Format,
    Image,
    Lifetime,
    Message,
    Opaque,
    Part,
    Reasoning,
    Role,
    Sampling,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    carried,
)
from tollway.providers.dialects.anthropic_citations import citation
from tollway.providers.dialects.anthropic_known import KNOWN
from tollway.providers.dialects.anthropic_tools import NAME, Mark, lifetime, offered, tool_choice
from tollway.providers.dialects.tiers import asked as asked_tier
from tollway.providers.dialects.wire import Body, decoded
from tollway.providers.errors import RequestInvalid, Untranslatable

__all__ = ["NAME", "read_request"]

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
# How Claude Code signs its requests, in a block of the system prompt that changes from one to the
# next: to Anthropic it is no part of the prompt, to anyone else it would spoil the prompt's cache.
_BILLING = "x-anthropic-billing-header"


class _Origin(msgspec.Struct):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: Any = None


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    citations: Any = None
    source: _Origin | str | None = None
    title: str | None = None
    context: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    tool_use_id: str | None = None
    tool_name: str | None = None
    content: msgspec.Raw = msgspec.Raw()
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    cache_control: Mark | None = None


class _MessageOf(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw] | None = None
    clear_at: str | None = None


class _ThinkingOf(msgspec.Struct):
    type: str
    budget_tokens: int | None = None
    display: str | None = None
    block_binding: msgspec.Raw = msgspec.Raw()


class _FormatOf(msgspec.Struct):
    type: str
    schema: msgspec.Raw = msgspec.Raw()


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _FormatOf | None = None
    task_budget: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_MESSAGES = msgspec.json.Decoder(list[_MessageOf])
_CONTENT = msgspec.json.Decoder(str | list[msgspec.Raw])
_BLOCK = msgspec.json.Decoder(_Block)
_TEXTS = msgspec.json.Decoder(list[_Block])
_THINKING = msgspec.json.Decoder(_ThinkingOf)
_FORMAT = msgspec.json.Decoder(_FormatOf)
_OUTPUT = msgspec.json.Decoder(_OutputConfig)
_METADATA = msgspec.json.Decoder(_Metadata)
_STR = msgspec.json.Decoder(str)
_STRS = msgspec.json.Decoder(list[str])
_BOOL = msgspec.json.Decoder(bool)
_INT = msgspec.json.Decoder(int)
_FLOAT = msgspec.json.Decoder(float)


def read_request(call: Call) -> Conversation:
    """Return what a body says.

    Raises:
        RequestInvalid: A field has the wrong type; `param` names it.
        Untranslatable: It builds on what Anthropic keeps, or asks for what only Anthropic makes.
    """
    body = Body(call.body)
    body.raw("model")
    _refuse_state(body)
    messages = tuple(_messages(body))
    signed, messages = _unsigned(messages)
    tools, messages = offered(body, messages)
    choice, parallel = tool_choice(body)
    output = body.take(_OUTPUT, "output_config") or _OutputConfig()
    asked = body.take(_FORMAT, "output_format") or output.format
    metadata = body.take(_METADATA, "metadata")
    thinking = body.take(_THINKING, "thinking")
    limit = body.take(_INT, "max_tokens")
    return Conversation(
        by=NAME,
        model=call.model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel=parallel,
        format=Format("json_schema", bytes(asked.schema)) if asked else None,
        stop=tuple(body.take(_STRS, "stop_sequences") or ()),
        sampling=Sampling(
            temperature=body.take(_FLOAT, "temperature"),
            top_p=body.take(_FLOAT, "top_p"),
            top_k=body.take(_INT, "top_k"),
        ),
        reasoning=_reasoning(thinking, output.effort or ""),
        # Of 0 the prompt is cached and nothing answered; others answer something at least.
        output_limit=None if limit is None else max(limit, 1),
        user=(metadata.user_id if metadata else None) or "",
        service_tier=asked_tier(body.take(_STR, "service_tier")),
        stream=bool(body.take(_BOOL, "stream")),
        wants_usage=True,
        extras=body.extras + signed + _of_its_own(thinking, output),
        unread=body.unread(KNOWN),
    )


def _refuse_state(body: Body) -> None:
    """Refuse what would be another request without a field.

    A thread that begins here says all that it holds; one that goes on holds the rest of it there.
    """
    if body.asks("thread") not in (None, "create"):
        raise Untranslatable(
            "`thread` goes on with what Anthropic keeps, and the target keeps nothing",
            hint="Send the whole conversation in `messages`, without `thread`",
            param="thread",
        )
    if body.raw("compaction"):
        raise Untranslatable(
            "`compaction` asks for Anthropic's own summary of a conversation",
            hint="Ask for one in words, or call a model of Anthropic's",
            param="compaction",
        )


def _messages(body: Body) -> Iterator[Message]:
    system = body.take(_CONTENT, "system")
    if system:
        yield Message("system", tuple(_content(system, "system")))
    said = body.take(_MESSAGES, "messages") or []
    last = max((place for place, one in enumerate(said) if one.role == "user"), default=0)
    for place, message in enumerate(said):
        where = f"messages[{place}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise RequestInvalid(f"`{where}.role` is none that we know", param=f"{where}.role")
        if message.content is None:
            if role == "system":
                continue  # it is of options alone, which are named
            raise RequestInvalid(f"`{where}.content` is missing", param=f"{where}.content")
        parts = _content(message.content, f"{where}.content")
        if message.clear_at == "next_user_message" and place < last:
            # The user has spoken since: the model is shown no such text any more.
            parts = (part for part in parts if not isinstance(part, Text))
        if role == "assistant":
            yield Message(role, tuple(_with_signatures(list(parts))))
        else:
            yield from _apart(role, _uploaded(parts, where))


def _uploaded(parts: Iterator[Part], where: str) -> Iterator[Part]:
    """Yield a user's parts; a file that only a container of Anthropic's could open is refused.

    In an assistant's turn such a block is what was done there, which is over.
    """
    for part in parts:
        if isinstance(part, Opaque) and part.type == "container_upload":
            raise Untranslatable(
                "A file for a container is stored at Anthropic, and opened there alone",
                hint="Send the file itself, as a PDF in base64 or as text",
                param=f"{where}.content",
            )
        yield part


_Extras = tuple[tuple[str, bytes], ...]


def _of_its_own(thinking: _ThinkingOf | None, output: _OutputConfig) -> _Extras:
    """Return what stands beside effort and budget, and no other dialect has."""
    found = [("output_config.task_budget", bytes(output.task_budget))]
    if thinking is not None and thinking.display == "updates":
        found.append(("thinking.display", b'"updates"'))  # others tell of their thoughts, or not
    if thinking is not None:
        found.append(("thinking.block_binding", bytes(thinking.block_binding)))
        if thinking.type == "between_tools":
            found.append(("thinking.type", b'"between_tools"'))
    return tuple((name, text) for name, text in found if text not in (b"", b"null"))


def _unsigned(messages: tuple[Message, ...]) -> tuple[_Extras, tuple[Message, ...]]:
    """Return what an agent put into the system prompt for Anthropic alone, and the rest."""
    if not messages or messages[0].role != "system":
        return (), messages
    system = messages[0]
    noise = [p for p in system.parts if isinstance(p, Text) and p.text.startswith(_BILLING)]
    if not noise:
        return (), messages
    kept = tuple(part for part in system.parts if part not in noise)
    text = msgspec.json.encode(noise[0].text)
    return ((_BILLING, text),), (Message("system", kept), *messages[1:])


def _apart(role: Role, parts: Iterator[Part]) -> Iterator[Message]:
    """Yield a user's turn as messages: the results of tools, and what the user says."""
    run: list[Part] = []
    kind: Role = role
    for part in parts:
        now: Role = "tool" if isinstance(part, ToolResult) else role
        if now != kind and run:
            yield Message(kind, tuple(run))
            run = []
        kind = now
        run.append(part)
    yield Message(kind, tuple(run))


def _with_signatures(parts: list[Part]) -> Iterator[Part]:
    """Yield an assistant's parts, with signatures of tool calls back where they belong.

    A provider that signs its calls has the signature carried before the call in a block of its
    own: the dialect has no other place that clients give back.
    """
    signed: dict[str, tuple[str, str]] = {}
    for part in parts:
        if isinstance(part, Thinking) and part.id.startswith("call:"):
            signed[part.id.removeprefix("call:")] = (part.by, part.encrypted)
        elif isinstance(part, ToolCall) and part.id in signed:
            by, signature = signed[part.id]
            yield msgspec.structs.replace(part, by=by, signature=signature)
        else:
            yield part


def _content(content: str | list[msgspec.Raw], where: str) -> Iterator[Part]:
    if isinstance(content, str):
        yield Text(content)
        return
    for place, raw in enumerate(content):
        yield _part(raw, f"{where}[{place}]")


def _part(raw: msgspec.Raw, where: str) -> Part:
    block = decoded(_BLOCK, raw, where)
    cache = lifetime(block.cache_control)
    part: Part = Opaque(NAME, bytes(raw), block.type, cache)
    match block.type:
        case "text":
            cited = block.citations if isinstance(block.citations, list) else ()
            citations = tuple(citation(one) for one in cited if isinstance(one, dict))
            part = Text(block.text or "", citations, cache)
        case "image" if isinstance(block.source, _Origin):
            part = Image(_source(block.source, "image/png", where), cache=cache)
        case "document" if isinstance(block.source, _Origin) and block.source.type != "content":
            part = _document(block, block.source, where)
        case "tool_use":
            said = bytes(block.input).decode()
            arguments = said if said not in ("", "null") else "{}"
            part = ToolCall(block.id or "", block.name or "", arguments, cache=cache)
        case "tool_result":
            part = _result(block, where, cache)
        case "thinking":
            part = _thinking(block.thinking or "", block.signature or "")
        case "redacted_thinking":
            part = _redacted(block.data or "")
        case "document" if isinstance(block.source, _Origin):
            part = _pieces(block, block.source.content, part)
        case "compaction" if bytes(block.content)[:1] == b'"':
            # What stands for all that was said before; only Anthropic can do without these words.
            part = Text(decoded(_STR, block.content, where) + "\n\n", cache=cache)
        case "search_result":
            part = _found(block, part)
        case "tool_reference" if block.tool_name:
            # Of a search among the client's own tools: the model may call this one from now on.
            part = Text(f"The tool `{block.tool_name}` is available", cache=cache)
    return part


def _found(block: _Block, part: Part) -> Part:
    """Return a search result of the client's own as a document of its text."""
    texts = decoded(_TEXTS, block.content, "content") if bytes(block.content) else []
    if not isinstance(block.source, str) or any(text.type != "text" for text in texts):
        return part
    source = Source("text", "\n".join(text.text or "" for text in texts), "text/plain")
    cites = block.citations.get("enabled") if isinstance(block.citations, dict) else None
    known = cites if isinstance(cites, bool) else None
    marks = [lifetime(one.cache_control) for one in (block, *texts)]
    cache = next((mark for mark in marks if mark is not None), None)
    return File(source, block.title or "", known, block.source, cache)


def _pieces(block: _Block, content: object, part: Part) -> Part:
    """Return a document that is given in pieces as one of its text; another one as it is."""
    pieces = content if isinstance(content, list) else [content]
    texts = [
        one if isinstance(one, str) else one.get("text") if isinstance(one, dict) else None
        for one in pieces
    ]
    if not all(isinstance(text, str) for text in texts):
        return part
    marked = any(isinstance(one, dict) and one.get("cache_control") for one in pieces)
    if marked and block.cache_control is None:
        block.cache_control = Mark()
    plain = "\n".join(text for text in texts if isinstance(text, str))
    origin = _Origin("text", "text/plain", plain)
    return _document(block, origin, "source")


def _result(block: _Block, where: str, cache: Lifetime | None) -> ToolResult:
    said = bytes(block.content)
    parts: tuple[Part, ...] = ()
    if said and said != b"null":
        where = f"{where}.content"
        parts = tuple(_content(decoded(_CONTENT, said, where), where))
    return ToolResult(block.tool_use_id or "", parts, bool(block.is_error), cache=cache)


def _source(origin: _Origin, media_type: str, where: str) -> Source:
    kind = origin.media_type or media_type
    if origin.type == "base64" and origin.data is not None:
        return Source("base64", origin.data, kind)
    if origin.type == "text" and origin.data is not None:
        return Source("text", origin.data, kind)
    if origin.type == "url" and origin.url is not None:
        return Source("url", origin.url)
    if origin.type == "file" and origin.file_id is not None:
        return Source("id", origin.file_id)
    raise RequestInvalid(f"`{where}.source` is none that we know", param=f"{where}.source")


def _document(block: _Block, origin: _Origin, where: str) -> File:
    cites = block.citations.get("enabled") if isinstance(block.citations, dict) else None
    return File(
        _source(origin, "application/pdf", where),
        block.title or "",
        cites if isinstance(cites, bool) else None,
        block.context or "",
        lifetime(block.cache_control),
    )


def _thinking(text: str, signature: str) -> Thinking:
    """Return a thinking block; one that we wrote for another dialect's is that one again."""
    if not signature:
        return Thinking(text)
    if (other := carried(signature)) is None:
        return Thinking(text, signature, by=NAME)
    by, kind, said = other
    if kind.startswith("enc"):
        return Thinking(text, encrypted=said, by=by, id=kind[4:], summary=bool(text))
    return Thinking(text, said, by=by)


def _redacted(data: str) -> Thinking:
    if (other := carried(data)) is None:
        return Thinking(encrypted=data, by=NAME)
    by, kind, said = other
    if kind.startswith("call:"):
        return Thinking(encrypted=said, by=by, id=kind)
    return Thinking(encrypted=said, by=by, id=kind[4:])


def _reasoning(thinking: _ThinkingOf | None, effort: str) -> Reasoning | None:
    if thinking is None:
        return Reasoning(effort=effort) if effort else None
    summary = {"summarized": "auto", "omitted": "none"}.get(thinking.display or "", "")
    match thinking.type:
        case "enabled":
            return Reasoning("on", effort, thinking.budget_tokens, summary)
        case "adaptive" | "between_tools":
            return Reasoning("adaptive", effort, None, summary)
        case "disabled":
            return Reasoning("off")
    raise RequestInvalid("`thinking.type` is none that we know", param="thinking.type")
