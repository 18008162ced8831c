"""Markdown as it streams: what is whole is drawn once and stays, what grows is drawn anew."""

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tollway.cli.boundary import has_colour, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r" {0,3}([-*+]|\d{1,9}[.)])\s|\s{2,}\S")
_EVERY_S = 1 / 15  # a block that grows is drawn so often: what a person can follow
_CONTROL = re.compile(r"[^\n\t]+")


def can_draw() -> bool:
    """Whether stdout is a terminal that shows Markdown: no pipe, no dumb one, no ASCII.

    Nor under `NO_COLOR`: what is drawn while it grows is drawn with escape codes.
    """
    return has_colour(sys.stdout.isatty()) and "utf" in (sys.stdout.encoding or "").lower()


def split(text: str) -> int:
    """Return how much of a growing text is whole blocks, which nothing that follows can change.

    Blocks end at a blank line, but not inside a fence, nor in a list, whose numbers go on.
    """
    whole = at = 0
    fence = ""
    listed = False
    for line in text.splitlines(keepends=True):
        at += len(line)
        found = _FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not line[found.end() :].strip():
                fence = ""
        elif found:
            fence = found[1]
            listed = False
        elif not line.strip():
            if line.endswith("\n") and not listed:
                whole = at
        elif _ITEM.match(line):
            listed = True
        elif line.endswith("\n"):  # else it may yet become an item
            if listed and text[: at - len(line)].endswith("\n\n"):
                whole = at - len(line)  # the list is over
            listed = False
    return whole


class Drawing:
    """Draws an answer on a terminal. Give it pieces; leave the block at its end.

    A block that has ended is printed and never touched again; the last one is drawn in place as
    it grows, as much of it as the terminal has lines.
    """

    def __init__(self) -> None:
        self._text = self._drawn = ""
        self._console: Console | None = None
        self._live: Live | None = None
        self._turn = threading.Lock()  # who draws
        self._over = threading.Event()
        # What came last is drawn though nothing comes behind it, as where a model thinks.
        self._painter = threading.Thread(target=self._paint, name="painter", daemon=True)

    def __enter__(self) -> Self:
        # Imported for terminals alone: 0.2 s.
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415

        self._console = Console(highlight=False, color_system="auto" if has_colour(True) else None)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="ellipsis",
            redirect_stderr=False,
            redirect_stdout=False,
        )
        with undisturbed():  # nor may the painter take a Ctrl-C that is to wait
            self._live.start()
            self._painter.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with undisturbed():
            self._over.set()
            self._painter.join()
            if self._live:
                self._live.update("")
                self._live.stop()
            if self._text.strip():
                self._print(self._text)
            self._text = ""

    def write(self, piece: str) -> None:
        """Take what came next."""
        with undisturbed(), self._turn:
            self._text += _CONTROL.sub(lambda found: printable(found[0]), piece)
            if whole := split(self._text):
                ended, self._text = self._text[:whole], self._text[whole:]
                self._grow("")
                self._print(ended)

    def _paint(self) -> None:
        while not self._over.wait(_EVERY_S):
            with self._turn:
                if self._text != self._drawn:
                    self._grow(self._text)

    def _grow(self, text: str) -> None:
        if self._live:
            self._live.update(_rendered(text) if text.strip() else "", refresh=True)
            self._drawn = text

    def _print(self, text: str) -> None:
        if self._console:
            self._console.print(_rendered(text.strip("\n")))
            self._console.print()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Ctrl-C until what is begun stands: half a drawing could not be taken away again."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _rendered(text: str) -> "RenderableType":
    from rich.markdown import Markdown  # noqa: PLC0415 - as above

    # Links stand beside their words: a model's link must not hide where it leads.
    return Markdown(text, hyperlinks=False, code_theme="ansi_dark")
