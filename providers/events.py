"""The neutral form of an answer: the events of a stream, and `Answer`, which they fold to.

What a reader promises and a writer may count on:

* `Start` comes first, once; `UsageReport` any number of times, each holding all before it;
  one `Stopped` for each choice. A `Failed` ends everything.
* The parts of a choice come one after the other and never interleave. A part is open from its
  first delta (or `ToolStart`) until `PartEnd`, until an event of another kind of part, or until
  `Stopped`. `Citation`s belong to the open text. A `PartWhole` comes in one piece.
* Between two choices (`choice` 0, 1, ...) events may alternate.
"""

from typing import Literal, TypeAlias

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.conversation import Citation, Part

StopReason = Literal[
    "end",  # the model was done
    "length",  # the output limit
    "window",  # the context window
    "stop_sequence",
    "tools",  # tools are to be called
    "refusal",  # the model would not
    "filtered",  # a filter cut it off
    "paused",  # a hosted tool's turn; send it back to go on
    "other",
]


class Logprob(msgspec.Struct, frozen=True, gc=False):
    """How likely a token was; `top` the likeliest in its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top: tuple["Logprob", ...] = ()


class Start(msgspec.Struct, frozen=True, gc=False):
    """An answer begins."""

    id: str = ""
    model: str = ""
    created: int | None = None  # seconds since 1970


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the answer's text; "" opens a part."""

    text: str
    choice: int = 0


class ThinkingDelta(msgspec.Struct, frozen=True, gc=False):
    """More of what the model thinks; "" opens a part."""

    text: str
    choice: int = 0
    summary: bool = False


class Signed(msgspec.Struct, frozen=True, gc=False):
    """The open part is signed: thinking, text or a tool call; a new thinking part where none is.

    `encrypted` and `id` are for thinking alone: an encrypted form beside the text, a name.
    """

    by: str
    signature: str = ""
    encrypted: str = ""
    id: str = ""
    choice: int = 0


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """More of why the model will not answer."""

    text: str
    choice: int = 0


class ToolStart(msgspec.Struct, frozen=True, gc=False):
    """A tool call begins. `id` is never "": a reader makes one where the provider gave none."""

    id: str
    name: str
    kind: Literal["function", "custom"] = "function"
    choice: int = 0
    signature: str = ""
    by: str = ""


class ToolDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the open tool call's arguments."""

    arguments: str
    choice: int = 0


class CitationAdded(msgspec.Struct, frozen=True):
    """The open text (or a new, empty one) rests on this; its `start` is within that part."""

    citation: Citation
    choice: int = 0


class LogprobsDelta(msgspec.Struct, frozen=True):
    """How likely the tokens were that came with the last text, or the last refusal."""

    tokens: tuple[Logprob, ...]
    choice: int = 0
    refusal: bool = False


class PartWhole(msgspec.Struct, frozen=True):
    """A part in one piece: an image, a sound, something opaque, encrypted thinking."""

    part: Part
    choice: int = 0


class PartEnd(msgspec.Struct, frozen=True, gc=False):
    """The open part is whole; what follows is another one, even of the same kind."""

    choice: int = 0


class UsageReport(msgspec.Struct, frozen=True):
    """What was used so far: all of it, not what came since the last report."""

    usage: Usage


class Stopped(msgspec.Struct, frozen=True, gc=False):
    """A choice is whole; `sequence` is the stop sequence that ended it, where known."""

    reason: StopReason
    sequence: str = ""
    choice: int = 0


class Failed(msgspec.Struct, frozen=True):
    """The provider failed within its answer: its status, and its error's body."""

    status: int
    message: str
    body: bytes = b""


Event: TypeAlias = (
    Start
    | TextDelta
    | ThinkingDelta
    | Signed
    | RefusalDelta
    | ToolStart
    | ToolDelta
    | CitationAdded
    | LogprobsDelta
    | PartWhole
    | PartEnd
    | UsageReport
    | Stopped
    | Failed
)


class Choice(msgspec.Struct, frozen=True):
    """One of the answers that were asked for; `stop` is None where the stream was cut."""

    parts: tuple[Part, ...] = ()
    stop: StopReason | None = None
    sequence: str = ""
    logprobs: tuple[Logprob, ...] = ()
    refusal_logprobs: tuple[Logprob, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """A whole answer. `usage` is None where the provider did not report it."""

    choices: tuple[Choice, ...]
    usage: Usage | None = None
    id: str = ""
    model: str = ""
    created: int | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the first choice holds."""
        return self.choices[0].parts if self.choices else ()

    @property
    def stop(self) -> StopReason | None:
        """Why the first choice ended."""
        return self.choices[0].stop if self.choices else None
