"""What a model's worker and the daemon say to each other, and how it is cut into frames.

A frame is four bytes of length (little-endian) and a MessagePack list: downwards of one
message, upwards of all that one engine step brought.
"""

import struct
from collections.abc import Sequence
from typing import Literal

import msgspec

from tollway.providers.llamacpp.fit import Offload

MAX_FRAME = 256 * 2**20
_LENGTH = struct.Struct("<I")

Reason = Literal["stop", "length", "tool_calls"]


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model made before; `arguments` is the JSON text that it wrote."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation, its text parts already joined.

    `name` and `call_id` say of a tool's result whose it is.
    """

    role: str
    content: str
    thought: str = ""
    calls: list[ToolCall] = []
    name: str = ""
    call_id: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call; `parameters` is its JSON schema.

    Where it is `strict`, a schema that cannot be promised is refused, not loosened.
    """

    name: str
    description: str = ""
    parameters: dict[str, object] = {}
    strict: bool = False


class Prompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be read, in one of three forms; tools and template variables go with messages."""

    text: str | None = None
    tokens: list[int] | None = None
    messages: list[Message] | None = None
    tools: list[Tool] = []
    variables: dict[str, object] = {}


class Shape(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the answer is held to.

    `calls` is the tool that must be called, "" for any of them. A `schema` is JSON schema, `{}`
    and `True` any value; `grammar` llama.cpp's own notation. With `calls` a `schema` is for
    answers that call none. With `auto` what comes before a call is free, and need not end in one.
    """

    schema: dict[str, object] | bool | None = None
    grammar: str | None = None
    calls: str | None = None
    auto: bool = False

    @property
    def forces_calls(self) -> bool:
        """Whether the answer is tool calls and nothing else."""
        return self.calls is not None and self.schema is None and not self.auto


# What judges the candidates for a token, one after the other: llama.cpp's own names and order.
SAMPLERS = (
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
)  # fmt: skip


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is chosen. The defaults are llama.cpp's own.

    What is not in `order` does nothing; `bias` comes first in any case.
    """

    temperature: float = 0.8  # 0: always the likeliest
    top_k: int = 40  # 0: all
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0  # 1: off
    presence: float = 0.0
    frequency: float = 0.0
    repeat: float = 1.0
    repeat_last: int = 64  # tokens that the three penalties look back; -1: all
    seed: int | None = None
    bias: dict[int, float] = {}
    endless: bool = False  # the model may not end its answer
    spread: float = 0.0  # of the temperature, by how sure the model is
    exponent: float = 1.0
    sigma: float = -1.0  # standard deviations below the likeliest; below 0: off
    xtc: float = 0.0  # how often the likeliest are left out
    xtc_threshold: float = 0.1
    dry: float = 0.0  # against repeated sequences
    dry_base: float = 1.75
    dry_allowed: int = 2
    dry_last: int = 64  # tokens that it looks back; -1: all
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0  # 1 or 2
    tau: float = 5.0
    eta: float = 0.1
    order: tuple[str, ...] = SAMPLERS

    @property
    def looks_back(self) -> int:
        """How many tokens of the prompt it must be told of; -1 for all."""
        back = (self.repeat_last, self.dry_last if self.dry else 0)
        return -1 if -1 in back else max(back)

    def within(self, context: int) -> "Sampling":
        """Return the same for a context of so many tokens, with numbers in place of "all"."""
        repeat, dry = (context if last < 0 else last for last in (self.repeat_last, self.dry_last))
        return msgspec.structs.replace(self, repeat_last=repeat, dry_last=dry)


# Downwards: from the daemon to the worker.


class Load(msgspec.Struct, frozen=True, tag="load"):
    """The first message: which model, and how. `gpu_layers` is -1 for all of them."""

    path: str
    context: int
    gpu_layers: int | None  # None: as many as fit by `offload`
    offload: Offload
    pooling: int | None  # llama.cpp's number; None for a model that generates
    version: str  # the only llama-cpp-python that will do
    slots: int = 1  # sequences, each with a context of its own
    kv: Literal["split", "unified"] = "split"
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    whole: bool = True  # a text that is to be embedded must be read in one step


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Generate (`n` choices for each prompt) or embed; the answer carries `id`.

    What is kept of it is for later calls of the same `owner` alone, as it reads only theirs; ""
    is everybody who shares. What is `fresh` reads nobody's, and is kept for nobody.
    """

    id: int
    kind: Literal["chat", "completions", "embeddings"]
    prompts: list[Prompt]
    n: int = 1
    max_tokens: int | None = None
    stop: list[str] = []
    sampling: Sampling = Sampling()
    dimensions: int | None = None
    logprobs: int | None = None  # with so many alternatives for each token
    shape: Shape | None = None
    parallel: bool = True  # more than one tool call in an answer
    owner: str = ""
    fresh: bool = False

    @property
    def private(self) -> bool:
        """Whether it shares what it reads with its owner at most."""
        return self.fresh or bool(self.owner)

    @property
    def grammar(self) -> str | None:
        """The grammar that its caller wrote, if there is one."""
        return self.shape.grammar if self.shape else None


class Count(msgspec.Struct, frozen=True, tag="count"):
    """Say how many tokens the prompts have, and with `show` which."""

    id: int
    kind: Literal["chat", "completions", "embeddings"]
    prompts: list[Prompt]
    show: bool = False
    private: bool = False  # whether somebody else's answer may not tell that these were here


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Nobody waits for this answer any more; unknown ids are fine."""

    id: int


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Finish what runs, then end."""


class Quit(msgspec.Struct, frozen=True, tag="quit"):
    """End now."""


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Say that the process runs, whatever its engine does."""


Down = Load | Submit | Count | Cancel | Drain | Quit | Ping

# Upwards: from the worker to the daemon.


class Used(msgspec.Struct, frozen=True):
    """Tokens. `cached` of the `prompt` were still in the model's memory from the last call.

    A token that ends the answer and is never shown is no part of `completion`.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    thought: int = 0  # of the completion, what the model said to itself


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The model is being loaded."""

    percent: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded with so many tokens of context.

    `marks`: its family marks tool calls, so that those that nobody forced can be held to schemas.
    """

    context: int
    gpu_layers: int
    slots: int = 1
    marks: bool = False


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be loaded, and trying again would end the same way."""

    kind: Literal["missing", "version", "file", "memory"]
    message: str


class Reading(msgspec.Struct, frozen=True, tag="reading"):
    """A prompt is being read; also the sign that the engine lives."""

    id: int
    done: int
    prompt: int
    cached: int


class CallPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a tool call: its `name` and `call_id` come first, then its arguments' text."""

    index: int
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class Likely(msgspec.Struct, frozen=True):
    """A token that could have come, with its natural logarithm of probability."""

    token: int
    data: bytes
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    """How likely a token was, before temperature and the like; and the likeliest ones."""

    chosen: Likely
    top: list[Likely]


class Token(msgspec.Struct, frozen=True, tag="token", omit_defaults=True):
    """One token of an answer. Its text is empty while it may be part of a character or stop.

    `logprobs`: of the tokens whose text is certain now.
    """

    id: int
    choice: int
    text: str
    thought: str = ""
    calls: list[CallPiece] = []
    logprobs: list[Logprob] = []


class ChoiceEnded(msgspec.Struct, frozen=True, tag="choice_ended", omit_defaults=True):
    """One choice is whole; the texts are what had been held back, `stop` what it stopped at."""

    id: int
    choice: int
    reason: Reason
    text: str
    thought: str = ""
    calls: list[CallPiece] = []
    stop: str = ""
    logprobs: list[Logprob] = []


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The call has ended, by itself or cancelled."""

    id: int
    usage: Used
    cancelled: bool = False


class Vectors(msgspec.Struct, frozen=True, tag="vectors"):
    """One embedding, of length one: little-endian 32-bit floats."""

    id: int
    index: int
    vector: bytes


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The call asks for what the model cannot do; the caller's fault."""

    id: int
    message: str
    param: str
    code: str = "invalid_request"


class Broken(msgspec.Struct, frozen=True, tag="broken", omit_defaults=True):
    """The engine failed at this call, and goes on with the next; `param` is what it failed at.

    "" where that is no part of the call: the caller can do nothing about it then.
    """

    id: int
    message: str
    param: str = ""


class Counted(msgspec.Struct, frozen=True, tag="counted"):
    """The answer to Count."""

    id: int
    tokens: int
    shown: list[list[int]] = []


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The answer to Ping."""


Up = (
    Progress
    | Ready
    | LoadFailed
    | Reading
    | Token
    | ChoiceEnded
    | Done
    | Vectors
    | Refused
    | Broken
    | Counted
    | Pong
)

_encoder = msgspec.msgpack.Encoder()
_down = msgspec.msgpack.Decoder(list[Down])
_up = msgspec.msgpack.Decoder(list[Up])


class FrameError(Exception):
    """What came over the link is no frame of ours."""


def pack(messages: Sequence[Down | Up]) -> bytes:
    """Return one frame."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


def frame_length(head: bytes) -> int:
    """Return how many bytes follow a frame's first four.

    Raises:
        FrameError: More than any frame has.
    """
    length: int = _LENGTH.unpack(head)[0]
    if length > MAX_FRAME:
        raise FrameError(f"a frame of {length} bytes")
    return length


def read_down(body: bytes) -> list[Down]:
    """Return the messages of a frame to the worker.

    Raises:
        FrameError: They cannot be read.
    """
    try:
        return _down.decode(body)
    except msgspec.DecodeError as fault:
        raise FrameError(str(fault)) from fault


def read_up(body: bytes) -> list[Up]:
    """Return the messages of a frame from the worker.

    Raises:
        FrameError: They cannot be read.
    """
    try:
        return _up.decode(body)
    except msgspec.DecodeError as fault:
        raise FrameError(str(fault)) from fault
