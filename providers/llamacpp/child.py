"""The worker process: one model, one link to the daemon, and its end when the link ends.

Started as `python -m tollway.providers.llamacpp.child FD PARENT`, where FD is its end of a
socket pair and PARENT the daemon's process id. With a model's path and llama-cpp-python's version
behind those it is a worker's own helper, with the vocabulary alone: see `apart.py`. The only file
that imports llama_cpp, whose faults (segmentation faults and aborts among them) so never reach the
daemon.
"""

import contextlib
import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tollway.providers.llamacpp import grammars
from tollway.providers.llamacpp.binding import CannotLoad, LlamaCpp, vocabulary_of
from tollway.providers.llamacpp.engine import Engine
from tollway.providers.llamacpp.frames import (
    Cancel,
    Count,
    Done,
    Down,
    Drain,
    FrameError,
    Load,
    LoadFailed,
    Ping,
    Pong,
    Progress,
    Quit,
    Ready,
    Submit,
    Up,
    Used,
    frame_length,
    pack,
    read_down,
)
from tollway.providers.llamacpp.jobs import Arrived

if TYPE_CHECKING:
    llama: Any

PR_SET_PDEATHSIG = 1
# ggml's levels of log lines, and the one that continues a line.
_LOG_DEBUG, _LOG_ERROR, _LOG_GOES_ON = 1, 4, 5


class Reader(Protocol):
    """What reads calls: an `Engine`, in threads beside its steps."""

    def count(self, asked: Count) -> Up:
        """See `Engine.count`."""
        ...

    def doubts(self, job: Submit) -> bool:
        """See `Engine.doubts`."""
        ...

    def try_out(self, job: Submit) -> None:
        """See `Engine.try_out`."""
        ...

    def read(self, job: Submit) -> Arrived:
        """See `Engine.read`."""
        ...


class _Tried(NamedTuple):
    """Beside what the daemon says: a call has been tried out."""

    job: Submit


class Link:
    """The socket to the daemon: frames in through three threads, frames out from the main one.

    The first hears frames, and answers at once what only asks whether the process runs. The
    second takes what they say in its order, once it `serve`s an engine: what only asks for a count
    it answers itself, for callers wait for it before they are admitted, and a step of the model
    takes up to 150 ms; calls it hands over ready to run, so that no step waits for a prompt to be
    cut into tokens. Those that the engine doubts are tried out in the third: it takes seconds, for
    which nobody else should wait.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._sending = threading.Lock()
        self._engine: Reader | None = None
        self.inbox: queue.SimpleQueue[Down | Arrived] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[Down | _Tried] = queue.SimpleQueue()
        self._doubtful: queue.SimpleQueue[Submit] = queue.SimpleQueue()
        self._trying: set[int] = set()  # calls that are tried out, or wait for that
        self._held: list[Drain] = []  # not to be told before those have come
        for work, name in ((self._hear, "link"), (self._take, "calls"), (self._try, "trials")):
            threading.Thread(target=_for_ever, args=(work,), name=name, daemon=True).start()

    def serve(self, engine: "Reader") -> None:
        """Have calls counted and read by an engine from now on."""
        self._engine = engine

    def send(self, messages: list[Up]) -> None:
        """Send one frame; end the process if nobody is there to read it."""
        if messages:
            try:
                with self._sending:
                    self._link.sendall(pack(messages))
            except OSError:
                os._exit(0)  # the daemon is gone, and whatever we computed was for it

    def _take(self) -> None:
        message, engine = self._heard.get(), self._engine
        match message:
            case Count() if engine:
                self.send([engine.count(message)])
            case Submit() if engine and engine.doubts(message):
                self._trying.add(message.id)
                self._doubtful.put(message)
            case Submit() if engine:
                self.inbox.put(engine.read(message))
            case _Tried(job=job) if engine and job.id in self._trying:
                self._trying.remove(job.id)
                self.inbox.put(engine.read(job))
            case Cancel(id=call) if call in self._trying:
                self._trying.remove(call)
                self.send([Done(call, Used(), cancelled=True)])
            case Drain() if self._trying:
                self._held.append(message)
            case _Tried():
                pass  # nobody waits for it any more
            case _:
                self.inbox.put(message)
        if self._held and not self._trying:
            self.inbox.put(self._held.pop())

    def _try(self) -> None:
        job = self._doubtful.get()
        if self._engine and job.id in self._trying:
            self._engine.try_out(job)
        self._heard.put(_Tried(job))

    def _hear(self) -> None:
        try:
            length = frame_length(self._exactly(4))
            for message in read_down(self._exactly(length)):
                if isinstance(message, Ping):
                    self.send([Pong()])
                else:
                    self._heard.put(message)
        except (EOFError, OSError):
            # Not sys.exit: the main thread may be deep inside llama.cpp for seconds to come.
            os._exit(0)
        except FrameError as fault:
            print(f"unreadable frame: {fault}", file=sys.stderr, flush=True)
            os._exit(2)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._link.recv(min(count - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


def _for_ever(work: Callable[[], None]) -> None:
    try:
        while True:
            work()
    finally:  # a thread's end alone would leave a process that is deaf
        traceback.print_exc()
        os._exit(1)


def _import_llama(version: str) -> None:
    """Import llama_cpp into this module.

    Raises:
        CannotLoad: It is missing, does not load, or is of another version.
    """
    global llama  # noqa: PLW0603 - imported when a load is asked for, so that failing can be told
    try:
        import llama_cpp  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError) as fault:
        raise CannotLoad(
            LoadFailed("missing", f"llama-cpp-python cannot be imported: {fault}")
        ) from fault
    if llama_cpp.__version__ != version:
        raise CannotLoad(
            LoadFailed(
                "version",
                f"llama-cpp-python {llama_cpp.__version__} is installed and {version} is needed",
            )
        )
    llama = llama_cpp


def _log_to_stderr(*, quiet: bool = False) -> Any:
    """Send llama.cpp's log, or if `quiet` only its errors, to stderr.

    The result must be kept for as long as it may log.
    """
    told = True  # the line before, whose rest may follow

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, _data: object) -> None:
        nonlocal told
        # What is only for its developers comes at every step, and would be all that is left of
        # the lines that tell how a worker ended.
        if level != _LOG_GOES_ON:
            told = level == _LOG_ERROR if quiet else level != _LOG_DEBUG
        if not told:
            return
        with contextlib.suppress(OSError):
            os.write(2, text)

    llama.llama_log_set(log, None)
    return log


def _live_with(parent: int) -> None:
    """Make this process end with its parent, and harmless until then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            # Out of memory, the kernel should take a worker and not the daemon.
            Path("/proc/self/oom_score_adj").write_text("500")
    if os.getppid() != parent:  # it died before prctl: no signal will come any more
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which drains first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(link: Link, engine: Engine) -> None:
    """Work until told to end."""
    draining = False
    while engine.busy or not draining:
        while not link.inbox.empty() or not (engine.busy or draining):
            message = link.inbox.get()
            match message:
                case Arrived():
                    engine.take(message)
                case Submit():  # came before there was a model to read it for
                    engine.submit(message)
                case Cancel(id=call):
                    link.send(engine.cancel(call))
                case Drain():
                    draining = True
                case Quit():
                    return
                case Load() | Count() | Ping():
                    raise FrameError("a second load, or a count before the first")
        link.send(engine.step())


def _serve_grammars(link: socket.socket, path: str, version: str) -> int:
    try:
        _import_llama(version)
        _kept = _log_to_stderr(quiet=True)
        llama.llama_backend_init()
        words = vocabulary_of(llama, path)
    except CannotLoad as fault:
        print(f"the process for grammars: {fault}", file=sys.stderr, flush=True)
        return 3
    grammars.serve(link, words)
    return 0


def main() -> int:
    """Load one model and serve it; return the process's exit code."""
    _live_with(int(sys.argv[2]))
    ours = socket.socket(fileno=int(sys.argv[1]))
    if path := sys.argv[3:4]:
        return _serve_grammars(ours, path[0], sys.argv[4])
    link = Link(ours)
    load = link.inbox.get()
    if not isinstance(load, Load):
        return 2
    try:
        _import_llama(load.version)
        _kept = _log_to_stderr()
        llama.llama_backend_init()
        native = LlamaCpp(llama, load, lambda percent: link.send([Progress(percent)]))
    except CannotLoad as fault:
        link.send([fault.failed])
        return 3
    template = native.template()
    engine = Engine(native, template)
    link.serve(engine)
    marks = template is not None and bool(template.manner.style.begin)
    link.send([Ready(native.context, native.gpu_layers, native.slots, marks)])
    _serve(link, engine)
    native.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
