"""Reads a Responses request into the neutral form.

Input items stand one after the other; the neutral form has turns. Items of the model's (its
text, its thinking, its calls) that stand together are one assistant's turn, and results of
tools that stand together are one turn of tools.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from tollway.providers.canon import Call
from tollway.providers.conversation import (
    Audio,
    Citation,
    Conversation,
    File,
    Format,
    Image,
    Lifetime,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Sampling,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from tollway.providers.dialects.responses_known import KNOWN
from tollway.providers.dialects.responses_proofs import proof_in
from tollway.providers.dialects.responses_request import NAME
from tollway.providers.dialects.responses_tools import (
    ADDS_TOOLS,
    SEARCH,
    found_by,
    joined_name,
    offered,
    tool_choice,
)
from tollway.providers.dialects.tiers import asked as asked_tier
from tollway.providers.dialects.wire import (
    Body,
    caller,
    data_url,
    decoded,
    refuse_screening,
    text_of,
)
from tollway.providers.errors import RequestInvalid, Untranslatable

_SEARCHED = ("tool_search_call", "tool_search_output")
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
}
# What the provider keeps or does beside answering: without it the answer is another one.
_STATE = ("previous_response_id", "conversation", "prompt", "background", "context_management")
_KEPT_THERE = "builds on what OpenAI keeps, and the target keeps nothing"
_NOT_HERE = {
    "previous_response_id": "names an answer that is not kept here",
    "background": "makes a provider work on its own, and the target answers only who waits for it",
}
_KEEPS = (
    'Send the whole conversation in `input`; with `ledger.bodies = "all"` the gateway keeps the'
    " answers of models whose provider does not, for as long as `ledger.keep_bodies` says"
)
_ANOTHER = "Leave it out, or call a model whose provider speaks the Responses API"
_INCLUDED = (
    *("message.output_text.logprobs", "reasoning.encrypted_content", "message.input_image."),
    *("file_search_call.", "web_search_call.", "code_interpreter_call.", "computer_call_output."),
)
# What names a signature that is no thought's: Claude's hidden thoughts have no text either.
_OF_CALL = "call"
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})


def no_summary(why: str) -> Untranslatable:
    """Return a refusal to sum up a conversation in a form that OpenAI alone can read."""
    return Untranslatable(
        why,
        hint="Ask for one in words; Codex does so by itself where the `name` of its provider in"
        " config.toml is not `OpenAI`",
        param="input",
    )


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: Any = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    input: str | None = None
    output: Any = None
    status: str | None = None
    summary: Any = None
    encrypted_content: str | None = None
    execution: str | None = None

    @property
    def is_reference(self) -> bool:
        """Whether it is but the id of another; its type may be left out."""
        bare = self.type == "message" and not self.role and self.content is None
        return self.type == "item_reference" or (bare and bool(self.id))

    @property
    def is_search(self) -> bool:
        """Whether it is of a search for tools that the client makes."""
        return bool(self.call_id) and self.execution != "server" and self.type in _SEARCHED


class _FormatOf(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _TextOf(msgspec.Struct):
    format: _FormatOf | None = None
    verbosity: str | None = None


class _ReasoningOf(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


_ITEM = msgspec.json.Decoder(_Item)
_INPUT = msgspec.json.Decoder(str | list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(_TextOf)
_REASONING = msgspec.json.Decoder(_ReasoningOf)
_STR = msgspec.json.Decoder(str)
_STRS = msgspec.json.Decoder(list[str])
_BOOL = msgspec.json.Decoder(bool)
_INT = msgspec.json.Decoder(int)
_FLOAT = msgspec.json.Decoder(float)


def read_request(call: Call) -> Conversation:
    """Return what a body says.

    Raises:
        RequestInvalid: A field has the wrong type; `param` names it.
        Untranslatable: It builds on what its provider keeps.
    """
    body = Body(call.body)
    for name in _STATE:
        if body.raw(name) not in (b"", b"false", b"[]", b"{}"):
            raise Untranslatable(
                f"`{name}` {_NOT_HERE.get(name, _KEPT_THERE)}",
                hint=_KEEPS if name == "previous_response_id" else _ANOTHER,
                param=name,
            )
    refuse_screening(body)
    if body.holds("prompt_cache_options", "prewarm") is True:
        raise Untranslatable(
            "`prompt_cache_options.prewarm` asks for no answer, and the target gives one",
            hint=_ANOTHER,
            param="prompt_cache_options.prewarm",
        )
    body.raw("model")
    body.raw("stream_options")  # of obfuscation alone
    body.raw("max_tool_calls")  # of tools that the provider runs, of which a target is given none
    messages: list[Message] = []
    if instructions := body.take(_STR, "instructions"):
        messages.append(Message("system", (Text(instructions),)))
    said = body.take(_INPUT, "input") or ()
    messages += _turns(said)
    text = body.take(_TEXT, "text")
    top = body.take(_INT, "top_logprobs")
    include = body.take(_STRS, "include") or ()
    reasoning = body.take(_REASONING, "reasoning")
    choice = tool_choice(body)
    return Conversation(
        by=NAME,
        model=call.model,
        messages=tuple(messages),
        tools=offered(body, said, choice),
        tool_choice=choice,
        parallel=body.take(_BOOL, "parallel_tool_calls"),
        format=_format(text),
        sampling=Sampling(
            temperature=body.take(_FLOAT, "temperature"), top_p=body.take(_FLOAT, "top_p")
        ),
        logprobs="message.output_text.logprobs" in include or bool(top),
        top_logprobs=top,
        reasoning=_reasoning(reasoning),
        output_limit=body.take(_INT, "max_output_tokens"),
        user=caller(body),
        metadata=labels if (labels := body.raw("metadata")) != b"{}" else b"",
        service_tier=asked_tier(body.take(_STR, "service_tier")),
        cache_key=body.take(_STR, "prompt_cache_key") or "",
        store=body.take(_BOOL, "store"),
        stream=bool(body.take(_BOOL, "stream")),
        wants_usage=True,
        extras=(*_of_reasoning(reasoning), *_verbosity(text), *_included(include), *body.extras),
        unread=body.unread(KNOWN),
    )


def _verbosity(text: _TextOf | None) -> Iterator[tuple[str, bytes]]:
    if text is not None and text.verbosity not in (None, "", "medium"):
        yield "text.verbosity", msgspec.json.encode(text.verbosity)


def _included(include: tuple[str, ...] | list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield what else is asked for beside the answer.

    Encrypted reasoning comes where there is some. What tools found that the provider runs, and
    the request's own pictures again, is not lost: there are none, or the client has them.
    """
    if others := [name for name in include if not name.startswith(_INCLUDED)]:
        yield "include", msgspec.json.encode(others)


def _turns(said: str | list[msgspec.Raw] | tuple[()]) -> Iterator[Message]:
    """Yield the turns that items make."""
    if isinstance(said, str):
        yield Message("user", (Text(said),))
        return
    role: Role | None = None
    parts: list[Part] = []
    for place, raw in enumerate(said):
        for speaker, found in _item(raw, f"input[{place}]"):
            if parts and (speaker != role or speaker not in ("assistant", "tool")):
                yield Message(role or "user", tuple(parts))
                parts = []
            role = speaker
            for part in found:
                _join(parts, part)
    if parts:
        yield Message(role or "user", tuple(parts))


def _join(parts: list[Part], part: Part) -> None:
    """Add a part; what was carried for a call (see `responses_items`) goes back into it."""
    last = parts[-1] if parts else None
    if isinstance(part, ToolCall) and isinstance(last, Thinking) and last.id == _OF_CALL:
        parts.pop()
        part = msgspec.structs.replace(part, signature=last.signature, by=last.by)
    parts.append(part)


def _item(raw: msgspec.Raw, where: str) -> Iterator[tuple[Role, list[Part]]]:
    item = decoded(_ITEM, raw, where)
    if item.is_reference:
        raise Untranslatable(
            "An item is referred to by its id, and nothing is kept here by that name",
            hint=f"{_KEEPS}. Libraries send the items themselves where `store` is false",
            param=where,
        )
    if item.type == "message":
        role = _ROLES.get(item.role)
        if role is None:
            raise RequestInvalid(f"`{where}.role` is none that we know", param=f"{where}.role")
        yield role, list(_content(item.content, f"{where}.content"))
    elif item.type == "function_call" or (item.is_search and item.type not in ADDS_TOOLS):
        name = SEARCH if item.is_search else joined_name(item.namespace, item.name or "")
        arguments = item.arguments
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode() if arguments is not None else ""
        yield "assistant", [ToolCall(item.call_id or item.id or "", name, arguments)]
    elif item.type == "custom_tool_call":
        name = joined_name(item.namespace, item.name or "")
        yield "assistant", [ToolCall(item.call_id or "", name, item.input or "", "custom")]
    elif item.type in _OUTPUTS:
        output = tuple(_content(item.output, f"{where}.output"))
        yield "tool", [ToolResult(item.call_id or "", output, name=item.name or "")]
    elif item.type in ADDS_TOOLS:  # which are read with the others
        if item.is_search:
            found = Text(found_by(raw, where))
            yield "tool", [ToolResult(item.call_id or "", (found,), name=SEARCH)]
    elif item.type == "reasoning":
        yield "assistant", list(_thinking(item))
    elif item.type == "compaction_trigger":
        raise no_summary("`compaction_trigger` asks for OpenAI's own summary of a conversation")
    else:
        yield "assistant", [Opaque(NAME, bytes(raw), item.type)]


def _content(said: object, where: str) -> Iterator[Part]:
    if said is None:
        return
    if isinstance(said, str):
        yield Text(said)
        return
    if not isinstance(said, list):
        raise RequestInvalid(f"`{where}` must be a string or an array", param=where)
    for place, part in enumerate(said):
        if not isinstance(part, dict):
            raise RequestInvalid(f"`{where}[{place}]` must be an object", param=f"{where}[{place}]")
        yield _part(part, f"{where}[{place}]")


def _part(part: dict[str, Any], where: str) -> Part:
    kind = text_of(part, "type")
    cache = _lifetime(part.get("prompt_cache_breakpoint"))
    if kind in _SOURCES and not any(text_of(part, name) for name in _SOURCES[kind]):
        fields = " or ".join(f"`{name}`" for name in _SOURCES[kind])
        raise RequestInvalid(f"`{where}` needs {fields}", param=where)
    if kind in ("input_text", "output_text", "text", "summary_text"):
        return Text(text_of(part, "text"), citations(part.get("annotations")), cache)
    if kind == "refusal":
        return Refusal(text_of(part, "refusal"))
    if kind == "input_image":
        id_ = text_of(part, "file_id")
        source = Source("id", id_) if id_ else data_url(text_of(part, "image_url"))
        return Image(source, text_of(part, "detail"), cache)
    if kind == "input_file":
        return msgspec.structs.replace(_file(part), cache=cache)
    return _sound(part) if kind == "input_audio" else Opaque(NAME, msgspec.json.encode(part), kind)


# Of parts that hold something else than words: where that may stand.
_SOURCES = {
    "input_image": ("image_url", "file_id"),
    "input_file": ("file_data", "file_url", "file_id"),
}


def _lifetime(mark: object) -> Lifetime | None:
    if not mark:
        return None
    return "1h" if isinstance(mark, dict) and mark.get("ttl") in ("1h", "12h", "24h") else "5m"


def _sound(part: dict[str, Any]) -> Audio:
    said = part.get("input_audio")
    sound = said if isinstance(said, dict) else {}
    media = f"audio/{text_of(sound, 'format') or 'wav'}"
    return Audio(Source("base64", text_of(sound, "data"), media))


def _file(part: dict[str, Any]) -> File:
    name = text_of(part, "filename")
    if id_ := text_of(part, "file_id"):
        return File(Source("id", id_), name)
    if url := text_of(part, "file_url"):
        return File(Source("url", url), name)
    source = data_url(text_of(part, "file_data"))
    if source.kind == "url":
        source = Source("base64", source.value)  # some clients leave out the URL's head
    return File(source, name)


def citations(said: object) -> tuple[Citation, ...]:
    """Return what the annotations of a text say."""
    notes = said if isinstance(said, list) else []
    return tuple(_citation(note) for note in notes if isinstance(note, dict))


def _citation(note: dict[str, Any]) -> Citation:
    start, end = note.get("start_index"), note.get("end_index")
    return Citation(
        url=text_of(note, "url"),
        title=text_of(note, "title") or text_of(note, "filename"),
        start=start if isinstance(start, int) else None,
        end=end if isinstance(end, int) else None,
        by=NAME,
        payload=msgspec.json.encode(note),
    )


def _thinking(item: _Item) -> Iterator[Thinking]:
    """Yield what was thought; what another dialect's provider signed comes back as it was."""
    summary = "\n\n".join(_texts(item.summary))
    text = "".join(_texts(item.content))
    encrypted = item.encrypted_content or ""
    if (proof := proof_in(encrypted)) is not None:
        encrypted, text = "", proof.text or text
        plain, by = text or summary, proof.by
        if by and proof.kind in ("signature", "call"):
            yield Thinking(plain, proof.value, by=by, id=_OF_CALL if proof.kind == "call" else "")
            return
        if by:
            yield Thinking(plain, encrypted=proof.value, by=by)
            return
    if summary or text or encrypted:
        yield Thinking(
            text or summary,
            encrypted=encrypted,
            by=NAME if encrypted else "",
            id=item.id or "" if encrypted else "",
            summary=not text and bool(summary),
        )


def _texts(parts: object) -> list[str]:
    if isinstance(parts, str):
        return [parts]
    return [
        text_of(part, "text")
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, dict)
    ]


def _format(text: _TextOf | None) -> Format | None:
    said = text.format if text is not None else None
    if said is None or said.type == "text":
        return None
    if said.type == "json_object":
        return Format("json_object")
    if said.type != "json_schema":
        raise RequestInvalid("`text.format` is none that we know", param="text.format")
    return Format("json_schema", bytes(said.schema), said.name, said.description or "", said.strict)


def _of_reasoning(said: _ReasoningOf | None) -> Iterator[tuple[str, bytes]]:
    """Yield what stands beside effort and summary, and no other dialect has."""
    for name in ("context", "mode"):
        if value := getattr(said, name, None):
            yield f"reasoning.{name}", msgspec.json.encode(value)


def _reasoning(said: _ReasoningOf | None) -> Reasoning | None:
    if said is None or not (said.effort or said.summary or said.generate_summary):
        return None
    effort = said.effort or ""
    summary = said.summary or said.generate_summary or ""
    if effort == "none":
        return Reasoning("off", summary=summary)
    return Reasoning("on" if effort else None, effort, summary=summary)
