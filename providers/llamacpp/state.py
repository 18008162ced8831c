"""What a model of this box is, what there is to tell about it, and how patient we are with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from tollway.providers.llamacpp.fit import Layout, layout
from tollway.providers.llamacpp.install import gpu

State = Literal["registered", "starting", "loading", "ready", "draining", "stopped", "failed"]


class Command(msgspec.Struct, frozen=True):
    """A server of somebody else's that speaks OpenAI's API, and how it is run and asked.

    `${PORT}` in the words, the environment and the address stands for a free port.
    """

    words: tuple[str, ...]  # the program and its arguments; no shell
    base_url: str  # where calls go, "/v1" included
    health: str  # a path that answers 200 once calls can come; "" where any connection will do
    start_within_s: float
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()  # more of it, by where each value is kept
    model: str = ""  # what the server calls the model; "" for our own name
    memory: int = 0  # bytes of RAM that it takes; 0: not known


class LocalModel(msgspec.Struct, frozen=True):
    """A model as the configuration has it: a GGUF file for our own worker, or a command."""

    name: str
    path: Path
    context: int  # tokens
    gpu_layers: int | Literal["auto", "all"]
    idle_unload_s: float
    pinned: bool = False  # never unloaded for being idle, nor to make room
    slots: int = 1  # calls at once
    kv: Literal["split", "unified"] = "split"
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    apart_from: tuple[str, ...] = ()  # models that may not be in memory beside it
    load_at_start: bool = False
    command: Command | None = None

    @property
    def how(self) -> tuple[object, ...]:
        """What a loaded model cannot change without being loaded again."""
        memory = self.context, self.slots, self.kv, self.kv_type
        return *memory, self.gpu_layers, self.command

    @property
    def layout(self) -> Layout:
        """How its memory is laid out."""
        on_gpu = self.gpu_layers != 0 and gpu() is not None
        return layout(self.slots, self.kv, self.kv_type, on_gpu=on_gpu)


class Terms(msgspec.Struct, frozen=True):
    """How a call of our own worker is to be served.

    `first_s` is the time to the first token once the model is loaded, the wait behind earlier
    calls included; after `deadline_s` at work it ends with what it has, as one that has reached
    its longest answer. An `owner` shares kept prefixes with its own calls alone; "" is everybody
    who shares. Calls that come `again`, since their worker died, begin one after the other: one
    of them may be what it died of. `begun` gets the answer as soon as the worker has the call: what
    it has done by then is known of one that leaves, or is ended, before its first token too.
    """

    first_s: float | None = None
    deadline_s: float | None = None
    owner: str = ""
    again: bool = False
    begun: Callable[[object], None] | None = None


class ModelState(msgspec.Struct, frozen=True):
    """What there is to tell about a model; memory in bytes, `loaded_at` in unix seconds."""

    name: str
    state: State
    percent: int
    pid: int | None
    rss_bytes: int
    context: int  # 0 where a command serves it
    running: int
    waiting: int
    idle_s: float | None
    tokens_per_s: float | None  # of the last call, its first token not counted
    loaded_at: float | None
    problem: str
    log: tuple[str, ...]  # the worker's last lines
    warning: str = ""  # what of its configuration does nothing here, as it was loaded
    fix: str = ""


class Limits(msgspec.Struct, frozen=True):
    """How patient we are, in seconds."""

    deaths: int = 3  # so many within `deaths_within_s`: it stays failed
    deaths_within_s: float = 300.0
    back_off_s: tuple[float, ...] = (0.0, 0.5)  # before the restart after the 1st, 2nd ... death
    # Without a frame while loading or at work: it is killed. A command without a byte: doubted.
    hang_s: float = 300.0
    unanswered: int = 3  # so many calls in a row without a byte in `hang_s`: a command is killed
    deaf_s: float = 60.0  # at work, or in doubt, it does not answer that it runs: it is killed
    stopped_s: float = 15.0  # the same where the system says that it was stopped
    stop_within_s: float = 5.0
    count_s: float = 5.0  # a count that takes longer is done without: callers wait for it
    sweep_s: float = 2.0  # how often idle and hung workers are looked for
