"""What an answer waits for before its first word, on one line of a terminal that goes away."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from tollway.cli import show
from tollway.cli.boundary import has_colour, printable
from tollway.cli.control import Control, convert
from tollway.cli.markdown import undisturbed
from tollway.cli.queues import Queue
from tollway.cli.wrap import cells, columns
from tollway.providers.errors import GatewayError

_FIRST_S = 1.0  # most answers have begun by then
_EVERY_S = 1.0
_ASK_S = 5.0
_LOCAL = "local/"


class _Call(msgspec.Struct):
    state: str
    asked: str
    target: str
    age_s: float


class _Model(msgspec.Struct):
    name: str
    state: str
    percent: int = 0


class Live(msgspec.Struct):
    """What the daemon does at this moment, as far as it matters here."""

    under_way: list[_Call] = []
    queues: list[Queue] = []
    models: list[_Model] = []


class Waiting:
    """Tells on stderr what a call waits for, from its start until `over`.

    It draws with escape codes, so only a terminal that takes them is told anything.
    """

    def __init__(self, control: Control, model: str) -> None:
        self._control = Control(control.socket_path, timeout_s=_ASK_S)
        self._model = model
        self._began = time.monotonic()
        self._over = threading.Event()
        self._turn = threading.Lock()  # who draws
        self._drawn = False
        self._thread = threading.Thread(target=self._tell, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        if has_colour(sys.stderr.isatty()):
            with undisturbed():  # nor may the thread take a Ctrl-C that is to wait
                self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over()

    def then(self, write: Callable[[str], None]) -> Callable[[str], None]:
        """Return what writes, once the line is gone."""

        def first(text: str) -> None:
            self.over()
            write(text)

        return first

    def over(self) -> None:
        """Take the line away; nothing is told any more."""
        if self._over.is_set():
            return
        with undisturbed(), self._turn:
            self._over.set()
            if self._drawn:
                self._draw("")

    def _tell(self) -> None:
        wait_s = _FIRST_S
        while not self._over.wait(wait_s):
            wait_s = _EVERY_S
            age_s = time.monotonic() - self._began
            try:
                live = convert(self._control.get("/control/live"), Live)
            except GatewayError:
                continue  # the call itself will say what is wrong
            text = f"{reason(live, self._model, age_s)} · {_passed(age_s)}"
            with self._turn:
                if not self._over.is_set():
                    self._draw(text)
                    self._drawn = True

    def _draw(self, text: str) -> None:
        text = printable(text)
        room = columns(sys.stderr.fileno())
        while cells(text) >= room:
            text = text[:-1]
        sys.stderr.write(f"\r\x1b[2K\x1b[2m{text}\x1b[0m" if text else "\r\x1b[2K")
        sys.stderr.flush()


def _passed(age_s: float) -> str:
    return show.duration(age_s) if age_s >= 60 else f"{age_s:.0f}s"


def reason(live: Live, asked: str, age_s: float) -> str:
    """Return what a call that has gone on for `age_s` waits for.

    It is the one of those that ask for the same whose age is nearest.
    """
    calls = [one for one in live.under_way if one.asked == asked]
    call = min(calls, key=lambda one: abs(one.age_s - age_s), default=None)
    target = call.target if call and call.target else asked
    for model in live.models:
        if target == _LOCAL + model.name and model.state in ("starting", "loading"):
            return f"`{model.name}` is being loaded" + (
                f", {model.percent}%" if model.percent else ""
            )
    if call is None or call.state == "waiting":
        lines = (target, target.partition("/")[0])  # of a local model, or of a whole provider
        line = next((one for one in live.queues if one.target in lines and one.waiting), None)
        if line:
            return f"Waiting for a slot of `{line.target}`, {line.waiting} in line"
        return f"Waiting for `{target}`"
    return f"`{target}` is at work" if call.state == "answering" else f"Waiting for `{target}`"
