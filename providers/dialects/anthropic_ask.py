"""Writes the neutral form as an Anthropic Messages request."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from tollway.providers.cache_marks import marked
from tollway.providers.conversation import (
    CONTINUE,
    Conversation,
    File,
    Image,
    Message,
    Opaque,
    Part,
    Refusal,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    in_order,
)
from tollway.providers.cut_thoughts import without_cut_thoughts
from tollway.providers.dialects.anthropic_citations import entry
from tollway.providers.dialects.anthropic_models import goes_on
from tollway.providers.dialects.anthropic_options import options
from tollway.providers.dialects.anthropic_said import NAME
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.wire import as_text, fitting, is_work_done, object_text, wrapped
from tollway.providers.errors import Untranslatable

# The patterns that Anthropic names in its refusals.
tool_name = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_-]"), most=128)
# Anthropic itself counts no id's characters; Claude on Bedrock takes 64.
tool_id = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_-]"), most=64)

_ALIASES = {"image/jpg": "image/jpeg"}
_PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
# What is part of the prompt; the endpoint that counts it refuses all else.
_COUNTED = frozenset({"tools", "tool_choice", "thinking", "output_config"})
_Block = dict[str, object]


def write_request(said: Conversation, facts: Facts) -> Written:
    """Return the request for a target.

    Raises:
        Untranslatable: The target cannot say it; `param` names the field.
    """
    if not facts.counts:
        said = marked(said)
    said, cut = without_cut_thoughts(said)
    writer = _Messages(said, goes_on=goes_on(facts.model))
    writer.dropped += ["thinking"] if cut else []
    system, messages = writer.all()
    body: dict[str, object] = {"model": facts.model}
    more = options(said, facts, writer.dropped, tool_name)
    if facts.counts:
        more = {name: value for name, value in more.items() if name in _COUNTED}
    else:
        body["max_tokens"] = more.pop("max_tokens")
    if system:
        body["system"] = system
    body["messages"] = messages
    body.update(more)
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(writer.dropped)))


class _Messages:
    """Writes the messages, and notes in `dropped` what could not be written."""

    def __init__(self, said: Conversation, *, goes_on: bool) -> None:
        self.dropped: list[str] = []
        self._goes_on = goes_on
        self._said = said

    def all(self) -> tuple[list[_Block], list[_Block]]:
        """Return the system prompt's blocks, and the turns.

        Instructions before the first turn are the system prompt. Later ones stay where they
        stood, marked as what they are, in a user's turn: put into the system prompt they would
        change it, and with it all that is cached behind it.
        """
        system: list[_Block] = []
        turns: list[_Block] = []
        for message in in_order(self._said.messages):
            if message.name:
                self.dropped.append("messages.name")
            if message.role in ("system", "developer"):
                blocks = self._blocks(message.parts)
                if turns and blocks:
                    _add(turns, "user", [_reminder(blocks)])
                else:
                    system += blocks
                continue
            if message.role == "assistant":
                _add(turns, "assistant", self._assistant(message))
            else:
                _add(turns, "user", self._blocks(message.parts))
        if turns and turns[0]["role"] != "user":
            turns.insert(0, {"role": "user", "content": [{"type": "text", "text": "(continued)"}]})
        if system and not turns:
            # OpenAI answers to instructions alone, Anthropic to a user.
            system, turns = [], [{"role": "user", "content": system}]
        if turns and turns[-1]["role"] == "assistant":
            self._begin(turns)
        for turn in turns:
            content: Any = turn["content"]
            # The results of tools must come before anything else in a turn.
            content.sort(key=_is_no_result)
            turn["content"] = _plain(content)
        return system, turns

    def _begin(self, turns: list[_Block]) -> None:
        """Make the last turn one that a model goes on with, or that is over where none can be."""
        if self._goes_on:
            _trim(turns[-1]["content"])
        else:
            self.dropped.append("prefill")
            turns.append({"role": "user", "content": [{"type": "text", "text": CONTINUE}]})

    def _assistant(self, message: Message) -> list[_Block]:
        """Return an assistant's blocks, of which thinking must come first.

        Where it does they stay in order: Anthropic refuses thoughts that are moved together.
        """
        blocks = self._blocks(message.parts)
        thoughts = [block for block in blocks if _is_thought(block)]
        if thoughts and not _is_thought(blocks[0]) and self._said.by != NAME:
            blocks = thoughts + [block for block in blocks if not _is_thought(block)]
        return blocks

    def _blocks(self, parts: Iterable[Part]) -> list[_Block]:
        return [block for part in parts for block in self._block(part)]

    def _block(self, part: Part) -> Iterator[_Block]:
        match part:
            case Text() | Refusal():
                yield from self._text(part)
            case Image():
                if part.detail not in ("", "auto"):
                    self.dropped.append("image_url.detail")
                yield {"type": "image", "source": _picture(part.source), **_mark(part)}
            case File():
                yield {**self._document(part), **_mark(part)}
            case ToolCall():
                yield self._call(part)
            case ToolResult():
                yield self._result(part)
            case Thinking():
                yield from self._thinking(part)
            case Opaque() if part.by == NAME:
                yield dict(msgspec.json.decode(part.payload, type=dict[str, object]))
            case Opaque() if is_work_done(part.type):
                self.dropped.append(part.type)
            case _:
                kind = part.type if isinstance(part, Opaque) else "audio"
                raise Untranslatable(
                    f"The target has no content of the type `{kind}`", param="messages"
                )

    def _text(self, part: Text | Refusal) -> Iterator[_Block]:
        if not part.text or part.text.isspace():
            return  # "text content blocks must contain non-whitespace text"
        block: _Block = {"type": "text", "text": part.text, **_mark(part)}
        if isinstance(part, Text) and part.citations and self._said.by == NAME:
            entries = [one for cited in part.citations if (one := entry(cited)) is not None]
            block["citations"] = entries
        yield block

    def _document(self, file: File) -> _Block:
        block: _Block = {"type": "document", "source": _file(file)}
        if file.name:
            block["title"] = file.name
        if file.context:
            block["context"] = file.context
        if file.cites is not None:
            block["citations"] = {"enabled": file.cites}
        return block

    def _call(self, call: ToolCall) -> _Block:
        arguments = call.arguments
        if call.kind == "custom":
            arguments = wrapped(arguments)
        return {
            "type": "tool_use",
            "id": tool_id(call.id),
            "name": tool_name(call.name),
            "input": msgspec.Raw(object_text(arguments)),
            **_mark(call),
        }

    def _result(self, result: ToolResult) -> _Block:
        block: _Block = {"type": "tool_result", "tool_use_id": tool_id(result.id)}
        if content := self._blocks(result.parts):
            block["content"] = _plain(content)
        if result.is_error:
            block["is_error"] = True
        return {**block, **_mark(result)}

    def _thinking(self, part: Thinking) -> Iterator[_Block]:
        """Yield thinking that Anthropic signed; it refuses any other."""
        if part.by != NAME:
            self.dropped.append("thinking")
        elif part.encrypted:
            yield {"type": "redacted_thinking", "data": part.encrypted}
        else:
            yield {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _reminder(instructions: list[_Block]) -> _Block:
    """Return instructions as a block of the user's turn; where they were to be cached, it is."""
    text = "\n\n".join(str(block["text"]) for block in instructions if "text" in block)
    marks = [block["cache_control"] for block in instructions if "cache_control" in block]
    reminder: _Block = {"type": "text", "text": f"<system-reminder>\n{text}\n</system-reminder>"}
    return {**reminder, "cache_control": marks[-1]} if marks else reminder


def _add(turns: list[_Block], role: str, blocks: list[_Block]) -> None:
    """Put blocks into the last turn if it is the same one's, else into a new one."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        content: Any = turns[-1]["content"]
        content += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _is_thought(block: _Block) -> bool:
    return str(block["type"]).endswith("thinking")


def _is_no_result(block: _Block) -> bool:
    return block["type"] != "tool_result"


def _trim(content: Any) -> None:
    """Take white space from the end of an answer that the model is to go on with: it is refused."""
    if content[-1]["type"] == "text" and (text := content[-1]["text"].rstrip()):
        content[-1]["text"] = text


def _plain(content: Any) -> object:
    """Return content that is one text and no more as that text."""
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return content[0]["text"]
    return content


def _mark(part: Part) -> _Block:
    lifetime = getattr(part, "cache", None)
    if lifetime is None:
        return {}
    return {"cache_control": {"type": "ephemeral"} | ({"ttl": "1h"} if lifetime == "1h" else {})}


def _picture(source: Source) -> _Block:
    if source.kind == "url":
        return {"type": "url", "url": source.value}
    if source.kind == "id":
        raise _stored("image", source)
    media_type = _ALIASES.get(source.media_type, source.media_type)
    if media_type not in _PICTURES:
        raise Untranslatable(
            f"The target takes no image of the type `{source.media_type or 'unknown'}`",
            hint="Send it as JPEG, PNG, GIF or WebP",
            param="messages",
        )
    return {"type": "base64", "media_type": media_type, "data": source.value}


def _file(file: File) -> _Block:
    source = as_text(file.source)
    kind = source.media_type or ("application/pdf" if file.name.endswith(".pdf") else "")
    match source.kind:
        case "url" if not kind.startswith("video/"):
            return {"type": "url", "url": source.value}
        case "text":
            return {"type": "text", "media_type": "text/plain", "data": source.value}
        case "base64" if kind in ("application/pdf", ""):
            return {"type": "base64", "media_type": "application/pdf", "data": source.value}
        case "base64" | "url":
            raise Untranslatable(
                f"The target takes no file of the type `{kind}`",
                hint="Send it as PDF or as text",
                param="messages",
            )
        case _:
            raise _stored("file", source)


def _stored(what: str, source: Source) -> Untranslatable:
    return Untranslatable(
        f"The {what} `{source.value[:80]}` is stored at another provider",
        hint=f"Send the {what} itself, as base64",
        param="messages",
    )
