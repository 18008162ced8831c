"""`models logs`: what a model's own process has written, from its file; without a daemon."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from tollway.cli import edits, show
from tollway.cli.boundary import UsageProblem, printable
from tollway.cli.control import load_config
from tollway.cli.models import Name
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config.paths import state_paths
from tollway.providers.llamacpp.lifecycle import log_name
from tollway.providers.llamacpp.worker import LOG_BYTES

_POLL_S = 0.2
_USUAL = 50  # lines


def logs(
    name: Name,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it writes.")] = False,
    number: Annotated[
        int, typer.Option("-n", min=0, metavar="N", help="How many of its last lines.")
    ] = _USUAL,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model's own process has written.

    llama.cpp's words as it loads and runs, or those of a model's command, since it was loaded
    last. `-f` goes on until Ctrl-C, also over the next load. The calls are in `tollway logs`.

    Examples:
        tollway models logs smollm2
        tollway models logs smollm2 -f
    """
    loaded = load_config(config)
    edits.require_known(loaded, "models", name)
    path = state_paths(loaded.ledger.path).folder / log_name(name)
    if follow and as_json:
        raise UsageProblem("`-f` and `--json` exclude each other")
    file = _opened(path)
    text = file.read() if file else b""
    *lines, rest = text.decode("utf-8", "replace").split("\n")
    if rest and not follow:  # which goes on with it once it has ended
        lines.append(rest)
    shown = lines[-number:] if number else []
    if as_json:
        show.emit({"path": str(path), "lines": shown})
        return
    if file is None:
        show.note(f"`{name}` has not been loaded yet: its first call or `tollway models load` does")
    for line in shown:
        show.say(printable(line))
    if len(text) >= LOG_BYTES:
        show.note(
            f"These are the last of its first {LOG_BYTES // 2**20} MiB since it was loaded:"
            " what it wrote later was not kept"
        )
    if follow:
        try:
            for line in _new(path, file, rest.encode()):
                show.say(printable(line))
        except KeyboardInterrupt:
            return  # the way to end it, and no fault


def _new(path: Path, file: BinaryIO | None, rest: bytes) -> Iterator[str]:
    """Yield each line that is written from here on, and those of the files that come after."""
    while True:
        data = file.read() if file else b""
        if file is None or _is_another(path, file):
            file = _opened(path)
            data += file.read() if file else b""
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)
        sys.stdout.flush()
        show.pause(_POLL_S)


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is_another(path: Path, file: BinaryIO) -> bool:
    """Whether the name has gone to a newer file, whose process is another."""
    try:
        return os.stat(path).st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
