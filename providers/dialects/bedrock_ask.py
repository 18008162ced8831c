"""Writes the neutral form as a request of Bedrock's Converse.

What Converse has no field for goes to a model in `additionalModelRequestFields`, in the words of
its maker; Claude's are Anthropic's.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from tollway.providers.cache_marks import marked
from tollway.providers.conversation import (
    CONTINUE,
    Audio,
    Conversation,
    File,
    Image,
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
from tollway.providers.dialects.anthropic_models import goes_on
from tollway.providers.dialects.bedrock_options import claude, options
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.wire import as_text, fitting, is_work_done, object_text, wrapped
from tollway.providers.errors import Untranslatable

# Whose signatures Claude's thoughts bear, wherever it runs.
CLAUDES = "anthropic_messages"
tool_name = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_-]"), most=64)
tool_id = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_.:-]"), most=64)

_CACHES = re.compile(r"(?:.*\.)?(?:anthropic\.claude|amazon\.nova)")
# "extraneous key [cachePoint] is not permitted" is what Nova answers to a mark behind a tool
# (LibreChat-AI/agents#253) or within a turn with a call or a result (zeroclaw-labs/zeroclaw#8943).
_OF_TOOLS = frozenset({"toolUse", "toolResult"})
# "Conversation blocks and tool result blocks cannot be provided in the same turn" is what these
# answer (strands-agents/harness-sdk#1223, browser-use/browser-use#710), and so of calls.
_APART = re.compile(r"(?:.*[./])?(?:meta|mistral|cohere|ai21)\.")
# Those that keep what is marked for five minutes alone (user guide, "Prompt caching").
_FIVE_MINUTES = re.compile(r"claude-(?:3|(?:sonnet|opus)-4(?:$|-1(?:-|$)|-20))")
_PICTURES = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "gif": "gif", "webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/plain": "txt",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
# By what stands behind "audio/" and "video/"; AWS's model of Converse lists the formats.
_SOUNDS = {
    **{one: one for one in ("mp3", "wav", "aac", "flac", "ogg", "opus", "mp4", "m4a", "webm")},
    **{"": "wav", "mpeg": "mp3", "x-wav": "wav", "wave": "wav", "x-aac": "aac", "x-m4a": "m4a"},
    **{"x-flac": "flac", "pcm": "pcm", "l16": "pcm"},
}
_VIDEOS = {
    **{one: one for one in ("mp4", "mov", "webm", "flv", "mpeg", "mpg", "wmv")},
    **{"quicktime": "mov", "x-matroska": "mkv", "mkv": "mkv", "x-flv": "flv", "x-m4v": "mp4"},
    **{"mpegps": "mpeg", "x-ms-wmv": "wmv", "3gpp": "three_gp", "3gpp2": "three_gp"},
}
# What the name of a document may hold.
_UNNAMED = re.compile(r"[^a-zA-Z0-9 ()\[\]-]+")
_Block = dict[str, object]


def write_request(said: Conversation, facts: Facts) -> Written:
    """Return the request for a target; which model it is for stands in the URL.

    Raises:
        Untranslatable: The target cannot say it; `param` names the field.
    """
    if _CACHES.match(facts.model):
        said = marked(said)
    said, cut = without_cut_thoughts(said)
    writer = _Turns(said, facts)
    writer.dropped += ["thinking"] if cut else []
    system, turns = writer.all()
    body: dict[str, object] = {"messages": turns}
    if system:
        body["system"] = system
    point = writer.cache_point if writer.marks_tools else None
    body.update(options(said, facts, writer.dropped, tool_name, point=point))
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(writer.dropped)))


class _Turns:
    """Writes the turns, and notes in `dropped` what could not be written."""

    def __init__(self, said: Conversation, facts: Facts) -> None:
        self.dropped: list[str] = []
        self.marks_tools = self._claude = bool(claude(facts.model))
        self._caches = bool(_CACHES.match(facts.model))
        self._hour = self._claude and not _FIVE_MINUTES.match(claude(facts.model))
        self._apart = bool(_APART.match(facts.model))
        self._said = said
        self._goes_on = goes_on(claude(facts.model))
        self._names: set[str] = set()  # of documents, of which no two may be the same

    def all(self) -> tuple[list[_Block], list[_Block]]:
        """Return the system prompt's blocks, and the turns, in which the two sides alternate.

        Instructions before the first turn are the system prompt; later ones stay where they
        stood, marked as what they are.
        """
        system: list[_Block] = []
        turns: list[_Block] = []
        for message in in_order(self._said.messages):
            if message.name:
                self.dropped.append("messages.name")
            if message.role in ("system", "developer"):
                blocks = self._blocks(message.parts)
                if turns:
                    _add(turns, "user", _reminder(blocks))
                else:
                    system += blocks
                continue
            role = "assistant" if message.role == "assistant" else "user"
            _add(turns, role, self._blocks(message.parts))
        if turns and turns[0]["role"] != "user":
            turns.insert(0, {"role": "user", "content": [{"text": "(continued)"}]})
        if system and not turns:
            system, turns = [], [{"role": "user", "content": system}]
        if turns and turns[-1]["role"] == "assistant" and not self._goes_on:
            self.dropped.append("prefill")
            turns.append({"role": "user", "content": [{"text": CONTINUE}]})
        elif turns and turns[-1]["role"] == "assistant":
            _trim(turns[-1]["content"])
        if self._apart:
            turns = [one for turn in turns for one in _apart(turn)]
        if not self.marks_tools:
            turns = [self._unmarked(turn) for turn in turns]
        return system, turns

    def _blocks(self, parts: Iterable[Part]) -> list[_Block]:
        blocks = [block for part in parts for block in self._marked(part)]
        names = [
            str(document["name"])
            for block in blocks
            if isinstance(document := block.get("document"), dict)
        ]
        if names and not any("text" in block for block in blocks):
            blocks.append({"text": ", ".join(names)})  # it takes no document without words
        return blocks

    def _marked(self, part: Part) -> Iterator[_Block]:
        blocks = list(self._block(part))
        yield from blocks
        lifetime = getattr(part, "cache", None)
        if lifetime is None:
            return
        if self._caches and blocks:
            yield self.cache_point(lifetime)
        else:
            # Behind nothing, as behind a text of white space, a mark would be one of what stands
            # before it: "Cache point cannot be inserted after reasoning block"
            # (anomalyco/opencode#36532).
            self.dropped.append("cache_control")

    def cache_point(self, lifetime: str) -> _Block:
        """Return what marks the end of what is to be cached."""
        if lifetime == "1h" and self._hour:
            return {"cachePoint": {"type": "default", "ttl": "1h"}}
        if lifetime == "1h":
            self.dropped.append("cache_control.ttl")
        return {"cachePoint": {"type": "default"}}

    def _unmarked(self, turn: _Block) -> _Block:
        """Return a turn without marks where a tool is called or has answered."""
        content = turn["content"]
        blocks = content if isinstance(content, list) else []
        kept = [block for block in blocks if "cachePoint" not in block]
        if len(kept) == len(blocks) or all(_OF_TOOLS.isdisjoint(block) for block in kept):
            return turn
        self.dropped.append("cache_control")
        return {**turn, "content": kept}

    def _block(self, part: Part) -> Iterator[_Block]:
        match part:
            case Text(text=text) | Refusal(text=text):
                if text.strip():
                    yield {"text": text}
            case ToolCall():
                text = wrapped(part.arguments) if part.kind == "custom" else part.arguments
                called = {"toolUseId": tool_id(part.id), "name": tool_name(part.name)}
                yield {"toolUse": {**called, "input": msgspec.Raw(object_text(text))}}
            case ToolResult():
                yield from self._marked_result(part)
            case Thinking():
                yield from self._thinking(part)
            case Opaque(by="bedrock"):
                yield dict(msgspec.json.decode(part.payload, type=dict[str, object]))
            case File() if part.source.media_type.startswith("video/") and not self._claude:
                yield from self._video(part)
            case Image() | File() | Audio():
                yield self._media(part)
            case _:
                self._lost(part)

    def _thinking(self, part: Thinking) -> Iterator[_Block]:
        if part.by == "bedrock" and part.encrypted:
            yield {"reasoningContent": {"redactedContent": part.encrypted}}
        elif part.by == CLAUDES and part.signature and self._claude:
            thought = {"text": part.text, "signature": part.signature}
            yield {"reasoningContent": {"reasoningText": thought}}
        else:
            self.dropped.append("thinking")

    def _marked_result(self, result: ToolResult) -> Iterator[_Block]:
        """Yield a result; where something within it is marked, the mark stands behind it all."""
        blocks = self._blocks(result.parts)
        content = [block for block in blocks if "cachePoint" not in block]
        yield self._result(result, content or [{"text": "(nothing)"}])
        marks = [block for block in blocks if "cachePoint" in block]
        if result.cache is None:
            yield from marks[-1:]

    def _result(self, result: ToolResult, content: list[_Block]) -> _Block:
        written: _Block = {"toolUseId": tool_id(result.id), "content": content}
        if result.is_error:
            written["status"] = "error"
        return {"toolResult": written}

    def _media(self, part: Image | File | Audio) -> _Block:
        source = part.source
        if isinstance(part, File):
            return self._file(part)
        if source.kind != "base64":
            raise _elsewhere("picture" if isinstance(part, Image) else "sound")
        kind = source.media_type.partition("/")[2].lower()
        data = {"bytes": source.value}
        if isinstance(part, Audio):
            if kind not in _SOUNDS:
                raise _no_such("sound", source)
            return {"audio": {"format": _SOUNDS[kind], "source": data}}
        if part.detail not in ("", "auto"):
            self.dropped.append("image_url.detail")
        if kind and kind not in _PICTURES:
            raise _no_such("picture", source, "Send PNG, JPEG, GIF or WebP")
        return {"image": {"format": _PICTURES.get(kind, "png"), "source": data}}

    def _file(self, file: File) -> _Block:
        if file.source.media_type not in _DOCUMENTS:
            file = msgspec.structs.replace(file, source=as_text(file.source))
        if file.source.kind == "text" and not file.cites:
            head, text = _head(file), file.source.value
            return {"text": f"{head}\n\n{text}" if head else text}
        document: _Block = {"format": "txt", "name": self._named(file.name)}
        if file.source.kind == "text":
            document["source"] = {"text": file.source.value}
        else:
            document["format"] = _format(file.source)
            document["source"] = {"bytes": file.source.value}
        if file.context:
            document["context"] = file.context
        if file.cites:
            document["citations"] = {"enabled": True}
        return {"document": document}

    def _video(self, file: File) -> Iterator[_Block]:
        """Yield a video, behind what is said of it: there is no other place for that."""
        source = file.source
        if source.kind != "base64":
            raise _elsewhere("video")
        kind = source.media_type.partition("/")[2].lower()
        if kind not in _VIDEOS:
            raise _no_such("video", source)
        if head := _head(file):
            yield {"text": head}
        yield {"video": {"format": _VIDEOS[kind], "source": {"bytes": source.value}}}

    def _named(self, name: str) -> str:
        stem = _UNNAMED.sub(" ", name.rpartition(".")[0] or name).strip()
        stem = re.sub(r" +", " ", stem)[:180] or "document"
        found, number = stem, 1
        while found in self._names:
            number += 1
            found = f"{stem} {number}"
        self._names.add(found)
        return found

    def _lost(self, part: Part) -> None:
        """Note what an assistant's turn loses; refuse what a user's would."""
        kind = part.type if isinstance(part, Opaque) else type(part).__name__.lower()
        if isinstance(part, Opaque) and not is_work_done(part.type):
            raise Untranslatable(
                f"The target has no content of the type `{kind}`", param="messages"
            )
        self.dropped.append(kind)


def _apart(turn: _Block) -> Iterator[_Block]:
    """Yield a turn in which tools stand apart from words, and what the other side says between."""
    content = turn["content"]
    blocks = content if isinstance(content, list) else []
    tools = [block for block in blocks if not _OF_TOOLS.isdisjoint(block)]
    words = [block for block in blocks if _OF_TOOLS.isdisjoint(block)]
    if not tools or not words:
        yield turn
    elif turn["role"] == "user":
        yield {**turn, "content": tools}
        yield {"role": "assistant", "content": [{"text": "OK."}]}
        yield {**turn, "content": words}
    else:
        yield {**turn, "content": words}
        yield {"role": "user", "content": [{"text": CONTINUE}]}
        yield {**turn, "content": tools}


def _add(turns: list[_Block], role: str, blocks: list[_Block]) -> None:
    if not blocks:
        return
    content = turns[-1]["content"] if turns and turns[-1]["role"] == role else None
    if isinstance(content, list):
        content += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _trim(content: object) -> None:
    """Take white space off the end of what has begun, which Claude refuses."""
    blocks = content if isinstance(content, list) else []
    last: _Block = next((one for one in reversed(blocks) if "cachePoint" not in one), {})
    if isinstance(text := last.get("text"), str):
        last["text"] = text.rstrip()


def _reminder(instructions: list[_Block]) -> list[_Block]:
    """Return instructions as blocks of the user's turn; where they were to be cached, it is."""
    text = "\n\n".join(str(block["text"]) for block in instructions if "text" in block)
    points = [block for block in instructions if "cachePoint" in block]
    if not text:
        return []
    return [{"text": f"<system-reminder>\n{text}\n</system-reminder>"}, *points[-1:]]


def _head(file: File) -> str:
    return " ".join(filter(None, (file.name, file.context)))


def _format(source: Source) -> str:
    kind = source.media_type or "application/pdf"
    if source.kind != "base64":
        raise _elsewhere("file")
    if kind not in _DOCUMENTS:
        raise _no_such("file", source)
    return _DOCUMENTS[kind]


def _no_such(what: str, source: Source, hint: str = "") -> Untranslatable:
    return Untranslatable(
        f"The target takes no {what} of the type `{source.media_type[:60]}`",
        hint=hint,
        param="messages",
    )


def _elsewhere(what: str) -> Untranslatable:
    return Untranslatable(
        f"The target takes no {what} by a URL or an id", hint="Send it as base64", param="messages"
    )
