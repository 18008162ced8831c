"""`top`: what happens now, live."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Annotated

import msgspec
import typer

from tollway.cli import show
from tollway.cli.boundary import UsageProblem, has_colour
from tollway.cli.control import Control, convert, reach
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.top_data import Live, Speed
from tollway.cli.wrap import room
from tollway.providers.errors import GatewayError

_LIVE = "/control/live"
_PIPED_COLUMNS = 160
_NO_LINES = 10_000  # a height that cuts nothing


def top(
    config: ConfigFile = None,
    once: Annotated[bool, typer.Option("--once", help="Show this moment, and end.")] = False,
    every: Annotated[
        float, typer.Option("--every", "-d", min=0.2, max=60, metavar="SECONDS", help="How often.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show calls, speed, lines, GPUs, local models and spending, live.

    By team, by model, and call by call. Rates are of the last minute, tokens a second of the
    last few seconds; those of answers under way are estimated from their text. `?` lists the
    keys. Without a terminal, on a dumb one, or with `--once`, it shows one moment; `--json`
    prints an object a line until Ctrl-C, and one with `--once`.

    Examples:
        tollway top
        tollway top --once --json
    """
    control = reach(config)
    if as_json:
        _objects(control, every, once=once)
    elif once or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        _moment(control)
    elif not sys.stdin.isatty():
        raise UsageProblem("Keys cannot be read: stdin is no terminal", hint="Add `--once`")
    else:
        _live(control, every)


def _objects(control: Control, every_s: float, *, once: bool) -> None:
    if once:
        show.emit(control.get(_LIVE))
        return
    try:
        while True:
            show.emit_line(control.get(_LIVE))
            show.pause(every_s)
    except KeyboardInterrupt:
        return  # the way to end it, and no fault


def _moment(control: Control) -> None:
    from tollway.cli.top_view import Choices, View, draw  # noqa: PLC0415 - Rich: 0.1 s

    now = _ask(control)
    speed = Speed()
    speed.add(now)
    terminal = sys.stdout.isatty()
    width = room(sys.stdout) or _PIPED_COLUMNS
    view = View(width, _NO_LINES, has_colour(terminal), _has_blocks())
    lines = draw(now, speed.of(now), Choices(), view)[:-1]
    print("\n".join(lines).rstrip())


def _live(control: Control, every_s: float) -> None:
    from tollway.cli.screen import Screen  # noqa: PLC0415 - of a terminal's systems alone
    from tollway.cli.top_view import Choices, View, draw  # noqa: PLC0415 - Rich: 0.1 s

    choices = Choices()
    shown = _ask(control)  # before anything is taken over: it may not be there
    with Screen() as screen, _Watch(control, every_s, shown, screen.wake) as watch:
        try:
            while True:
                if not choices.paused:
                    shown = watch.now
                view = View(*screen.size, has_colour(True), _has_blocks())
                screen.paint(draw(shown, watch.speed, choices, view, watch.trouble))
                if not all([choices.press(key) for key in screen.pressed()]):
                    return
        except KeyboardInterrupt:
            return  # the way to end it, and no fault


def _ask(control: Control) -> Live:
    return convert(control.get(_LIVE), Live)


def _has_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


class _Watch:
    """Asks the daemon again and again in a thread of its own: a slow answer stops no key."""

    def __init__(
        self, control: Control, every_s: float, first: Live, changed: Callable[[], None]
    ) -> None:
        self._control = control
        self._every_s = every_s
        self._changed = changed
        self._over = threading.Event()
        self._speed = Speed()
        self._thread = threading.Thread(target=self._watch, name="top", daemon=True)
        self.trouble = ""  # why there is nothing newer
        self._take(first)

    def __enter__(self) -> "_Watch":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; an answer that is on its way is not waited for."""
        self._over.set()

    def _take(self, now: Live) -> None:
        self._speed.add(now)
        self.now, self.speed = now, self._speed.of(now)

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._take(_ask(self._control))
                self.trouble = ""
            except GatewayError as error:
                self.trouble = f"{error.message}: tried again"
            except msgspec.ValidationError:
                self.trouble = "The daemon is of another version: start `tollway top` anew"
            self._changed()
