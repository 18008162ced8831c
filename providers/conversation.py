"""The neutral form of a request: what the richest dialect can say, in types of ours.

A dialect's codec reads its request into a `Conversation`, and writes a `Conversation` as its own
request. JSON of others (schemas, payloads, fields that we do not know) stays text, so that it
passes byte for byte. This file imports nothing of ours, like `canon`.

The rules that every codec keeps:

* Instructions are messages of the role "system" or "developer", where they stood.
* Results of tools are messages of the role "tool", one for all results that stand together.
* What a provider signed or encrypted names the dialect it came from (`by`), and is written in
  that dialect alone, or carried through another in a place that it gives back (`carry`).
* An absent value (None, "", ()) is one that the client did not give; no default is filled in.
"""

from typing import Final, Literal, TypeAlias

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool"]
Lifetime = Literal["5m", "1h"]


class Source(msgspec.Struct, frozen=True):
    """Where the bytes of an image, a sound or a file are."""

    kind: Literal["base64", "url", "id", "text"]
    value: str  # base64 (or plain) text, the URL, or the provider's name for an uploaded file
    media_type: str = ""  # "image/png"; "" where the client did not say


class Citation(msgspec.Struct, frozen=True):
    """What a piece of an answer's text rests on.

    `start` and `end` are characters of the text part that the citation belongs to; both None
    where it is about the whole part; below zero, counted back from it, where a stream names a
    place of a part that is over. `payload` is its JSON in the dialect `by`.
    """

    url: str = ""
    title: str = ""
    quote: str = ""  # the words of the source
    start: int | None = None
    end: int | None = None
    by: str = ""
    payload: bytes = b""


class Text(msgspec.Struct, frozen=True):
    """Text; `signature` is what Gemini asks to be given back with it."""

    text: str
    citations: tuple[Citation, ...] = ()
    cache: Lifetime | None = None  # the prompt up to here is to be cached
    signature: str = ""
    by: str = ""


class Image(msgspec.Struct, frozen=True):
    """A picture; `detail` is how closely to look ("low", "high", "auto")."""

    source: Source
    detail: str = ""
    cache: Lifetime | None = None


class File(msgspec.Struct, frozen=True):
    """A document, a video, or any file that is neither picture nor sound."""

    source: Source
    name: str = ""
    cites: bool | None = None  # the answer is to cite it
    context: str = ""
    cache: Lifetime | None = None


class Audio(msgspec.Struct, frozen=True):
    """A sound; as a model's earlier answer its source is an id."""

    source: Source
    transcript: str = ""
    cache: Lifetime | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """What the model wants done: `arguments` is JSON text, or plain text for a custom tool.

    The text may be no valid JSON: models err, and a stream may be cut. `id` is "" where the
    provider gave none; a writer then makes one (`tool_ids`).
    """

    id: str
    name: str
    arguments: str
    kind: Literal["function", "custom"] = "function"
    cache: Lifetime | None = None
    signature: str = ""
    by: str = ""


class ToolResult(msgspec.Struct, frozen=True):
    """What came of a call: text, images, files. `name` is the tool's, where the dialect says."""

    id: str
    parts: tuple["Part", ...]
    is_error: bool = False
    name: str = ""
    cache: Lifetime | None = None


class Thinking(msgspec.Struct, frozen=True):
    """What the model thought: text that may be signed, or text that only its provider can read.

    `by` is the dialect whose provider signed or encrypted it; "" where nothing is. A redacted
    block of Anthropic's is `encrypted` without text; a reasoning item of the Responses API has
    an `id`, its summary as `text` (`summary`) and perhaps `encrypted` beside it.
    """

    text: str = ""
    signature: str = ""
    encrypted: str = ""
    by: str = ""
    id: str = ""
    summary: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """The model's words for why it will not answer."""

    text: str


class Opaque(msgspec.Struct, frozen=True):
    """A part that only the dialect `by` can say: `payload` is its JSON there.

    Hosted tools and their results, containers, what is newer than this file. A writer of
    another dialect drops it and says so, or refuses it where the answer would mean another thing.
    """

    by: str
    payload: bytes
    type: str = ""
    cache: Lifetime | None = None


Part: TypeAlias = Text | Image | File | Audio | ToolCall | ToolResult | Thinking | Refusal | Opaque


class Message(msgspec.Struct, frozen=True):
    """One turn, or one of several in a row by the same speaker."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""  # which of several users or assistants speaks


class Tool(msgspec.Struct, frozen=True):
    """A tool that the client runs. `schema` is the JSON Schema of its arguments, b"" for none.

    A `custom` tool takes plain text; its `schema` is then the JSON of the text's format.
    """

    name: str
    description: str = ""
    schema: bytes = b""
    strict: bool | None = None
    kind: Literal["function", "custom"] = "function"
    cache: Lifetime | None = None
    extras: tuple[tuple[str, bytes], ...] = ()  # fields of the dialect that it was read from


class HostedTool(msgspec.Struct, frozen=True):
    """A tool that the provider runs: its JSON in the dialect `by`, and its type there."""

    by: str
    type: str
    payload: bytes


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether a tool must be called: "any" of them, the one in `names`, or none.

    With "auto" or "any" and `names`, only those named may be called.
    """

    mode: Literal["auto", "any", "tool", "none"]
    names: tuple[str, ...] = ()
    kind: Literal["function", "custom"] = "function"
    hosted: bytes = b""  # a choice of a hosted tool, as JSON of the conversation's dialect


class Format(msgspec.Struct, frozen=True):
    """What shape the answer's text must have: any JSON object, or one of a schema."""

    kind: Literal["text", "json_object", "json_schema"]
    schema: bytes = b""
    name: str = ""
    description: str = ""
    strict: bool | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """How long to think before the answer.

    `mode` "adaptive" leaves it to the model. `effort` is one of `effort.EFFORTS`, `budget` is
    tokens; where a dialect has but one of the two the table in `effort` gives the other.
    """

    mode: Literal["on", "off", "adaptive"] | None = None
    effort: str = ""
    budget: int | None = None
    summary: str = ""  # "auto", "concise", "detailed"; "none" where thoughts are to stay hidden


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is drawn; `logit_bias` is JSON as OpenAI takes it."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: bytes = b""

    def asks(self, *names: str) -> list[str]:
        """Return those of some fields that ask for more than what is done anyway."""
        asked = [name for name in names if getattr(self, name) not in (None, b"")]
        return [name for name in asked if name not in _OFF_AT_ZERO or getattr(self, name) != 0]


_OFF_AT_ZERO = ("min_p", "frequency_penalty", "presence_penalty")


class Conversation(msgspec.Struct, frozen=True):
    """All that a request says, in no dialect. `by` is the dialect it was read from."""

    by: str
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool | HostedTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel: bool | None = None  # more than one tool call in an answer
    format: Format | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    n: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    reasoning: Reasoning | None = None
    output_limit: int | None = None  # tokens of one answer, thinking included
    user: str = ""  # the client's own user, for abuse reports
    metadata: bytes = b""  # the client's labels, JSON
    service_tier: str = ""
    cache_key: str = ""
    store: bool | None = None
    modalities: tuple[str, ...] = ()  # of the answer, where it is not text alone
    stream: bool = False
    wants_usage: bool = False  # of a stream
    begun: bool = False  # says that the last turn is the beginning of the answer, to go on with
    extras: tuple[tuple[str, bytes], ...] = ()  # fields that have no place here, as JSON
    unread: tuple[str, ...] = ()  # names of fields within others that nobody here knows


CONTINUE: Final = "(continue)"
"""What a user says behind an assistant's turn, for models that speak to users alone."""


def beginning(said: Conversation) -> Message | None:
    """Return the turn with which the answer has begun, None where it has not.

    To OpenAI's own models an assistant's turn is always one that is over, unless the request
    says what servers of other models understand.
    """
    last = next((message for message in reversed(said.messages) if message.parts), None)
    if last is None or last.role != "assistant":
        return None
    return last if said.begun or not said.by.startswith("openai") else None


def in_order(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return messages in which results of tools stand right behind their calls.

    Some dialects let a user speak in between; the others refuse that. And instructions are text
    alone: the pictures of one stand in the user's turn behind it.
    """
    messages = _shown_by_users(messages)
    last: Message | None = None
    for message in messages:
        if message.role == "tool" and last is not None and last.role not in ("assistant", "tool"):
            break
        last = message
    else:
        return messages
    # Each message with the results behind it; agents' sessions have thousands of both.
    groups: list[list[Message]] = []
    called: dict[str, int] = {}
    for message in messages:
        if message.role == "tool" and groups:
            asked = (part.id for part in message.parts if isinstance(part, ToolResult))
            groups[max((called.get(each, -1) for each in asked), default=-1)].append(message)
        else:
            groups.append([message])
        for part in message.parts:
            if isinstance(part, ToolCall):
                called[part.id] = len(groups) - 1
    return tuple(message for group in groups for message in group)


def without_thoughts(said: Conversation) -> Conversation:
    """Return a conversation without thoughts, and without the proofs of any that calls bear."""
    kept = [
        msgspec.structs.replace(
            message,
            parts=tuple(
                _unproven(part) for part in message.parts if not isinstance(part, Thinking)
            ),
        )
        for message in said.messages
    ]
    return msgspec.structs.replace(said, messages=tuple(one for one in kept if one.parts))


def _unproven(part: Part) -> Part:
    proven = isinstance(part, Text | ToolCall) and part.signature
    return msgspec.structs.replace(part, signature="", by="") if proven else part


_SEEN = Image | File | Audio
_SHOWN = Text("<system-reminder>\nPart of the instructions:\n</system-reminder>")


def _shown_by_users(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return messages in which no instruction holds a picture, a file or a sound."""
    if not any(_shows(message) for message in messages):
        return messages
    written: list[Message] = []
    shown: list[Part] = []
    for message in messages:
        if shown and message.role == "user":
            parts = (*shown, *message.parts)
            message = msgspec.structs.replace(message, parts=parts)  # noqa: PLW2901
            shown = []
        elif shown and message.role not in ("system", "developer"):
            written.append(Message("user", tuple(shown)))
            shown = []
        if _shows(message):
            shown += (_SHOWN, *(part for part in message.parts if isinstance(part, _SEEN)))
            rest = tuple(part for part in message.parts if not isinstance(part, _SEEN))
            message = msgspec.structs.replace(message, parts=rest)  # noqa: PLW2901
        if message.parts or message.role not in ("system", "developer"):
            written.append(message)
    return (*written, Message("user", tuple(shown))) if shown else tuple(written)


def _shows(message: Message) -> bool:
    return message.role in ("system", "developer") and any(
        isinstance(part, _SEEN) for part in message.parts
    )


_CARRIED = "tollway."


def carry(by: str, kind: str, text: str) -> str:
    """Return a signature or encrypted text of one dialect as another's clients may carry it."""
    return f"{_CARRIED}{by}.{kind}.{text}"


# In the place of a proof, where nobody signed what was thought: clients leave a thought without any
# out of what they give back (the Vercel AI SDK), or end (Microsoft's Agent Framework).
UNPROVEN: Final = carry("", "sig", "")


def carried(text: str) -> tuple[str, str, str] | None:
    """Return dialect, kind and text of what `carry` made; None for anything else.

    The dialect is "" for `UNPROVEN`.
    """
    if not text.startswith(_CARRIED):
        return None
    by, _, rest = text.removeprefix(_CARRIED).partition(".")
    kind, dot, text = rest.partition(".")
    return (by, kind, text) if dot else None
