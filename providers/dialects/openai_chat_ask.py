"""Writes the neutral form as a chat completion request."""

import re
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from itertools import takewhile

import msgspec

from tollway.providers.conversation import (
    CONTINUE,
    Audio,
    Conversation,
    File,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Source,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    beginning,
    in_order,
)
from tollway.providers.dialects import mistral_parts as mistral
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.json_by_tool import beside_tools
from tollway.providers.dialects.openai_chat_options import options
from tollway.providers.dialects.openai_chat_parts import NAME
from tollway.providers.dialects.openai_chat_reasoning import details
from tollway.providers.dialects.wire import (
    as_text,
    as_url,
    fitting,
    is_work_done,
    object_text,
    one_answer,
    wrapped,
)
from tollway.providers.errors import Untranslatable

# What OpenAI takes as a function's name; ids have no pattern, but some targets count them.
tool_name = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_-]"), most=64)
# "Expected a string with maximum length 40" is what OpenAI says of longer ones, which vLLM gives
# (vercel/ai#5171, anomalyco/opencode#12653).
MOST_OF_ID = 40
_tool_id = partial(fitting, allowed=re.compile(r"[!-~]"), most=MOST_OF_ID)
_SHORT = re.compile(r"[a-zA-Z0-9]{9}")


def tool_id(name: str, quirks: frozenset[str]) -> str:
    """Return a call's id as the target bears it."""
    if quirk.SHORT_IDS in quirks and not _SHORT.fullmatch(name):
        return sha256(name.encode()).hexdigest()[:9]
    return _tool_id(name)


_SOUNDS = frozenset({"wav", "mp3"})
_THOUGHTS = ((quirk.TAKES_REASONING, "reasoning_content"), (quirk.TAKES_PLAIN, "reasoning"))
_INSTRUCTIONS = ("system", "developer")


def write_request(said: Conversation, facts: Facts) -> Written:
    """Return the request for a target.

    Raises:
        Untranslatable: The target cannot say it; `param` names the field.
    """
    if quirk.JSON_OR_TOOLS in facts.quirks:
        said = beside_tools(said)
    asked, said = said, _unthinking(said, facts.quirks)
    writer = _Messages(said, facts)
    if said is not asked and asked.reasoning is not None and asked.reasoning.mode != "off":
        writer.dropped.append("reasoning")
    body: dict[str, object] = {"model": facts.model, "messages": writer.messages()}
    if writer.begun and quirk.TEMPLATE_SWITCH in facts.quirks:
        # llama.cpp's server refuses both; others would take the answer for a thought.
        if said.reasoning is not None and said.reasoning.mode != "off":
            writer.dropped.append("reasoning")
        said = msgspec.structs.replace(said, reasoning=Reasoning("off"))
    body.update(options(said, facts, writer.dropped, tool_name))
    if writer.begun and quirk.CONTINUE_FLAG in facts.quirks:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    _leave_out(said, body, facts.refuses, writer.dropped)
    return Written(msgspec.json.encode(body), tuple(dict.fromkeys(writer.dropped)))


def _unthinking(said: Conversation, quirks: frozenset[str]) -> Conversation:
    """Return a request that asks for no thoughts where a tool must be called.

    "Thinking mode does not support this tool_choice" is what DeepSeek answers, whose models think
    unless they are told not to.
    """
    must = said.tool_choice is not None and said.tool_choice.mode in ("any", "tool") and said.tools
    if not must or quirk.THINKING_SWITCH not in quirks:
        return said
    return msgspec.structs.replace(said, reasoning=Reasoning("off"))


def _leave_out(
    said: Conversation, body: dict[str, object], refused: tuple[str, ...], dropped: list[str]
) -> None:
    """Take out, and name, what would fail the whole call there.

    Raises:
        Untranslatable: Several answers are wanted where there is but one.
    """
    for name in refused:
        if name == "n" and body.get("n") not in (None, 1):
            raise one_answer(said)
        within, _, field = name.rpartition(".")
        inner = body.get(within) if within else [body]
        for one in inner if isinstance(inner, list) else ():
            if one.pop(field, None) is not None and name != "n":
                dropped.append(name)


class _Messages:
    """Writes the messages, and notes in `dropped` what could not be written."""

    def __init__(self, said: Conversation, facts: Facts) -> None:
        self.dropped: list[str] = []
        self.begun = False  # the target goes on with the last turn
        self._said = said
        self._quirks = facts.quirks
        self._refuses = facts.refuses_back
        self._more: dict[int, list[object]] = {}  # what a message says beside its content
        self._marks = quirk.CACHE_CONTROL in facts.quirks
        off = said.reasoning is not None and said.reasoning.mode == "off"
        self._wants_thoughts = quirk.WANTS_REASONING in facts.quirks and not off
        # What refuses to be asked to think takes no thoughts either.
        self._thought_fields = [
            name for word, name in _THOUGHTS if word in facts.quirks and facts.efforts != ()
        ]
        self._mistrals = quirk.MISTRALS_PARTS in facts.quirks
        thinks = bool(facts.efforts) or facts.model.startswith("magistral")
        self._thinks_in_parts = self._mistrals and thinks

    def messages(self) -> list[dict[str, object]]:
        """Return all messages; pictures that a tool gave follow its result, as a user's."""
        written: list[dict[str, object]] = []
        for message in in_order(self._said.messages):
            if message.role == "tool":
                written += self._results(message)
            elif message.role == "assistant":
                said = self._assistant(message)
                if any(said.get(name) for name in _SAID):
                    written.append(said)
                elif any(said.get(name) for name in _THOUGHT):
                    self.dropped.append("thinking")
            elif message.parts:
                self._say(message, written)
        for place, more in self._more.items():
            written[place]["content"] = _joined([written[place]["content"], *more])
        if written and written[-1]["role"] == "assistant":
            self._end(written)
        return _bridged(written) if quirk.ANSWERS_TOOLS in self._quirks else written

    def _end(self, written: list[dict[str, object]]) -> None:
        """Say that the answer has begun with the last turn, or that here that turn is over."""
        last, begun = written[-1], beginning(self._said) is not None
        says = bool(last["content"]) and "tool_calls" not in last
        flags = {quirk.CONTINUES, quirk.CONTINUE_FLAG, quirk.PREFIX}
        if begun and says and flags & self._quirks:
            self.begun = True
            if quirk.PREFIX in self._quirks:
                last["prefix"] = True
            return
        if begun:
            self.dropped.append("prefill")
        if says and quirk.USER_LAST in self._quirks:
            written.append({"role": "user", "content": CONTINUE})

    def _say(self, message: Message, written: list[dict[str, object]]) -> None:
        """Add what the user says, or an instruction.

        Templates of open models take one system prompt, at the front, and turns that alternate:
        instructions behind it stand in the user's turn, marked as what they are, and what a user
        says in several messages is one.
        """
        said = self._spoken(message)
        if quirk.ALL_OF_OPENAI in self._quirks:
            written.append(said)
            return
        last = written[-1] if written else None
        if message.role in _INSTRUCTIONS:
            if said.pop("name", None):
                self.dropped.append("messages.name")
            if last is not None and last["role"] != "system":
                said = {"role": "user", "content": _reminder(said["content"])}
        if last is not None and _speaker(last) == _speaker(said):
            self._more.setdefault(len(written) - 1, []).append(said["content"])
        else:
            written.append(said)

    def _spoken(self, message: Message) -> dict[str, object]:
        """Return what the user says, or an instruction: one text where there is no more to it."""
        role: str = message.role
        if role == "developer" and quirk.ALL_OF_OPENAI not in self._quirks:
            role = "system"
        named: dict[str, object] = {"name": message.name} if message.name else {}
        # Whoever is behind OpenRouter may refuse an empty text beside others.
        parts = tuple(part for part in message.parts if part != Text("")) or message.parts[:1]
        marked = self._marks and any(getattr(part, "cache", None) for part in parts)
        if len(parts) == 1 and isinstance(parts[0], Text) and not marked:
            self._cache(parts[0])
            return {"role": role, "content": parts[0].text, **named}
        if role in _INSTRUCTIONS and not marked:
            # Templates of open models want one text here.
            return {"role": role, "content": self._joined(parts, "\n\n"), **named}
        content = [one for part in parts for one in self._pieces(part)]
        return {"role": role, "content": content, **named}

    def _joined(self, parts: tuple[Part, ...], between: str) -> str:
        texts: list[str] = []
        for part in parts:
            if isinstance(part, Text | Refusal):
                self._cache(part)
                texts.append(part.text)
            else:
                self._lost(part)
        return between.join(texts)

    def _assistant(self, message: Message) -> dict[str, object]:
        texts: list[Part] = []
        calls: list[dict[str, object]] = []
        thoughts: list[Thinking] = []
        written: dict[str, object] = {"role": "assistant"}
        refusals: list[str] = []
        for part in message.parts:
            if isinstance(part, Text):
                texts.append(part)
            elif isinstance(part, ToolCall):
                calls.append(self._call(part))
            elif isinstance(part, Thinking):
                thoughts.append(part)
            elif isinstance(part, Refusal):
                refusals.append(part.text)
            elif isinstance(part, Audio) and part.source.kind == "id" and self._said.by == NAME:
                written["audio"] = {"id": part.source.value}
            else:
                self._lost(part)
        if self._marks and any(getattr(part, "cache", None) for part in texts):
            written["content"] = [one for part in texts for one in self._pieces(part)]
        else:
            text = self._joined(tuple(texts), "")
            written["content"] = text if text or not (calls or refusals) else None
        if refusals:
            written["refusal"] = "".join(refusals)
        if message.name:
            written["name"] = message.name
        if calls:
            written["tool_calls"] = calls
        written.update(self._thoughts(thoughts, written))
        return written

    def _thoughts(
        self, thoughts: list[Thinking], turn: dict[str, object]
    ) -> Iterator[tuple[str, object]]:
        """Yield the fields for an earlier turn's thoughts, where the target takes them back."""
        if self._wants_thoughts and not any(part.text for part in thoughts):
            yield "reasoning_content", ""
        if not thoughts:
            return
        if self._thinks_in_parts and (turn["content"] or "tool_calls" in turn):
            yield "content", mistral.thought_first(turn["content"], thoughts)
        elif quirk.TAKES_DETAILS in self._quirks:
            yield "reasoning_details", details(thoughts)
        elif self._thought_fields and any(part.text for part in thoughts):
            text = "".join(part.text for part in thoughts)
            yield from ((name, text) for name in self._thought_fields)
        else:
            self.dropped.append("thinking")

    def _call(self, call: ToolCall) -> dict[str, object]:
        if call.cache is not None:
            self.dropped.append("cache_control")  # a call has no place for it
        called: dict[str, object] = {"id": tool_id(call.id, self._quirks)}
        name = tool_name(call.name)
        if call.kind == "custom" and quirk.ALL_OF_OPENAI in self._quirks:
            return {**called, "type": "custom", "custom": {"name": name, "input": call.arguments}}
        arguments = call.arguments or "{}"
        if call.kind == "custom":
            arguments = wrapped(call.arguments)
        elif quirk.ALL_OF_OPENAI not in self._quirks:
            # Ollama, vLLM and llama.cpp's server read them for their templates, and refuse what is
            # cut short, with which a session would end.
            arguments = object_text(arguments).decode()
        if call.by == "gemini" and "extra_content" not in self._refuses:
            called["extra_content"] = {"google": {"thought_signature": call.signature}}
        return {**called, "type": "function", "function": {"name": name, "arguments": arguments}}

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
                id_ = tool_id(result.id, self._quirks)
                shown.append({"type": "text", "text": f"Attached to the result of {id_}:"})
                shown += [one for part in others for one in self._pieces(part)]
            yield {
                "role": "tool",
                "tool_call_id": tool_id(result.id, self._quirks),
                "content": self._marked(result, text),
            }
        if shown:
            yield {"role": "user", "content": shown}

    def _marked(self, result: ToolResult, text: str) -> object:
        """Return what a tool's result says, with the mark of it or of one of its texts.

        The mark stands in the text alone: one beside it makes OpenRouter hang
        (NousResearch/hermes-agent#2391).
        """
        said: list[Part] = [result, *(part for part in result.parts if isinstance(part, Text))]
        marks = [mark for part in said if (mark := self._mark(part))]
        return [{"type": "text", "text": text, **marks[-1]}] if marks else text

    def _pieces(self, part: Part) -> Iterator[dict[str, object]]:
        """Yield a part as content, behind what is said about it where that has no other place."""
        if isinstance(part, File) and as_text(part.source).kind != "text":
            name = part.name if self._is_video(part) else ""
            if head := " ".join(filter(None, (name, part.context))):
                yield {"type": "text", "text": head}
        if (one := self._part(part)) is not None:
            yield one

    def _mark(self, part: Part) -> dict[str, object]:
        lifetime = self._cache(part)
        if lifetime is None:
            return {}
        ttl = {"ttl": "1h"} if lifetime == "1h" else {}
        return {"cache_control": {"type": "ephemeral"} | ttl}

    def _part(self, part: Part) -> dict[str, object] | None:
        mark = self._mark(part)
        match part:
            case Text() | Refusal():
                return {"type": "text", "text": part.text, **mark}
            case Image():
                detail = {"detail": part.detail} if part.detail else {}
                url = self._url(part.source, "image")
                return {"type": "image_url", "image_url": {"url": url, **detail}, **mark}
            case File():
                return {**self._file(part), **mark}
            case Audio():
                sound: object = _sound(part)
                if self._mistrals:
                    sound = part.source.value
                return {"type": "input_audio", "input_audio": sound, **mark}
            case Opaque() if part.by == NAME:
                return dict(msgspec.json.decode(part.payload, type=dict[str, msgspec.Raw]))
            case _:
                self._lost(part)
                return None

    def _is_video(self, file: File) -> bool:
        """Whether a file is what OpenRouter, vLLM and others take in a part of its own."""
        own = quirk.ALL_OF_OPENAI in self._quirks
        return file.source.media_type.startswith("video/") and not own

    def _url(self, source: Source, what: str) -> str:
        if source.kind == "id":
            raise Untranslatable(
                f"The {what} `{source.value[:80]}` is stored at another provider",
                hint=f"Send the {what} itself, as base64",
                param="messages",
            )
        return as_url(source)

    def _file(self, file: File) -> dict[str, object]:
        if file.cites:
            self.dropped.append("citations")
        if self._is_video(file):
            return {"type": "video_url", "video_url": {"url": self._url(file.source, "video")}}
        source = as_text(file.source)
        if source.kind == "text":
            head = " ".join(filter(None, (file.name, file.context)))
            text = f"{head}\n\n{source.value}" if head else source.value
            return {"type": "text", "text": text}
        if source.kind == "id" and self._said.by == NAME:
            if self._mistrals:
                return mistral.stored(source.value)
            return {"type": "file", "file": {"file_id": source.value}}
        if self._mistrals:
            return mistral.document(self._url(source, "file"), file.name)
        if source.kind == "url":
            raise Untranslatable(
                "The target takes no file by its URL", hint="Send it as base64", param="messages"
            )
        named = {"filename": file.name or _name_for(source.media_type)}
        return {"type": "file", "file": {**named, "file_data": self._url(source, "file")}}

    def _cache(self, part: Part) -> str | None:
        """Return for how long to cache up to a part, or note that it cannot be said."""
        lifetime = getattr(part, "cache", None)
        if lifetime is None:
            return None
        if not self._marks:
            self.dropped.append("cache_control")
            return None
        return str(lifetime)

    def _lost(self, part: Part) -> None:
        """Note what an assistant's turn loses; refuse what a user's would."""
        if isinstance(part, Thinking):
            self.dropped.append("thinking")
        elif isinstance(part, Opaque) and not is_work_done(part.type):
            raise Untranslatable(
                f"The target has no content of the type `{part.type}`", param="messages"
            )
        else:
            self.dropped.append(
                part.type if isinstance(part, Opaque) else type(part).__name__.lower()
            )


# Without any of them nothing is left of an assistant's turn: its provider's own work, or thoughts
# alone. Mistral and DeepSeek refuse a turn of no words, and so does Claude behind OpenRouter
# (tailcallhq/forgecode#3073).
_SAID = ("content", "tool_calls", "refusal", "audio")
_THOUGHT = ("reasoning_content", "reasoning", "reasoning_details")


def _speaker(said: dict[str, object]) -> tuple[object, object]:
    return said["role"], said.get("name")


def _bridged(messages: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return messages in which the assistant speaks between a tool's result and the user."""
    written: list[dict[str, object]] = []
    for message in messages:
        if written and written[-1]["role"] == "tool" and message["role"] == "user":
            written.append({"role": "assistant", "content": "OK."})
        written.append(message)
    return written


def _reminder(content: object) -> object:
    if isinstance(content, list):
        return [one | {"text": _reminder(one["text"])} for one in content if "text" in one]
    return f"<system-reminder>\n{content}\n</system-reminder>"


def _joined(contents: list[object]) -> object:
    """Return the contents of messages as that of one: a text, where all are."""
    texts = list(takewhile(lambda one: isinstance(one, str), contents))
    first = "\n\n".join(map(str, texts))
    if len(texts) == len(contents):
        return first
    parts: list[object] = [{"type": "text", "text": first}] if first else []
    for content in contents[len(texts) :]:
        if content:
            parts += content if isinstance(content, list) else [{"type": "text", "text": content}]
    return parts


def _sound(part: Audio) -> dict[str, object]:
    kind = part.source.media_type.removeprefix("audio/").replace("mpeg", "mp3").replace("x-", "")
    if part.source.kind != "base64" or kind not in _SOUNDS:
        raise Untranslatable(
            f"The target takes no sound of the type `{part.source.media_type or 'unknown'}` by its"
            f" {part.source.kind}",
            hint="Send WAV or MP3, as base64",
            param="messages",
        )
    return {"data": part.source.value, "format": kind}


def _name_for(media_type: str) -> str:
    return f"file.{media_type.rpartition('/')[2] or 'bin'}"
