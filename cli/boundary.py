"""The one place where the command line catches errors and shows them to a person."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from tollway.cli.wrap import Piece, room, wrapped
from tollway.providers.errors import GatewayError

ANSWER_IS_NO = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130  # what shells report for a process ended by Ctrl-C

# Pydantic's words for a number that cannot be.
_NUMBERS = (
    (re.compile(r"Input should be greater than or equal to (\S+)"), r"expected at least \1"),
    (re.compile(r"Input should be less than or equal to (\S+)"), r"expected at most \1"),
    (re.compile(r"Input should be greater than (\S+)"), r"expected more than \1"),
    (re.compile(r"Input should be a valid integer.*"), "expected a whole number"),
    (re.compile(r"Input should be a valid number.*"), "expected a number"),
)
_CHOICES = re.compile(r"'([^']*)' is not one of (.*)")  # Typer's words for a wrong choice

# What other programs call an option; the first that the command has is meant.
_CALLED = {
    "limit": ("-n", "--top"),
    "tail": ("-n",),
    "lines": ("-n",),
    "last": ("--since",),
    "days": ("--since",),
    "from": ("--since",),
    "start": ("--since",),
    "start-date": ("--since",),
    **dict.fromkeys(("period", "month", "week", "day"), ("--since",)),
    "to": ("--until",),
    "end": ("--until",),
    "end-date": ("--until",),
    "group-by": ("--by",),
    "duration": ("--expires",),
    **dict.fromkeys(("team", "user", "project", "key", "route", "provider", "model"), ("--only",)),
    "output": ("--format", "--json"),
    "format": ("--json",),
    "o": ("--format", "--json"),
    **dict.fromkeys(("csv", "markdown", "html"), ("--format",)),
    **dict.fromkeys(("models", "allow"), ("--group",)),
}

# What other programs have an option for and gateway.toml a key.
_IN_THE_FILE = dict.fromkeys(
    ("port", "host", "bind", "listen"), "`listen` in [server] of gateway.toml says where it listens"
)

# By code and not by class, so that the classes need not be imported to show an error. An error
# that the daemon sent over its socket has the same code, and so the same exit code.
_EXITS = {"config_invalid": USAGE, "usage": USAGE, "daemon_unreachable": UNREACHABLE}

# What the system's refusals ask for, whatever it was that they refused.
_FIXES = {
    errno.ENOSPC: "Free some space where its output or files go, or name another disk",
    errno.EDQUOT: "Your share of that disk is used up: free some of it, or name another disk",
    errno.EROFS: "That disk is read-only: make it writable, or name a place on another",
    errno.EMFILE: "`ulimit -n 1024` lets this shell's commands open more files",
}


class UsageProblem(GatewayError):
    """The command was not called as it can be. The CLI exits with 2."""

    status = 400
    code = "usage"


@contextmanager
def boundary(*, debug: bool = False) -> Iterator[None]:
    """Turn every error into `error:` and `hint:` lines on stderr, and an exit code.

    stdout is left alone: with `--json` it is empty or whole. With `debug` the traceback is shown
    before the lines.

    Raises:
        SystemExit: An error was shown; its code is 1, 2, 3 or 130.
    """
    try:
        yield
    except GatewayError as error:
        _trace(debug)
        show_error(error.message, error.hint)
        raise SystemExit(_EXITS.get(error.code, ANSWER_IS_NO)) from error
    except typer.TyperException as error:
        _trace(debug)
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "tollway"
        hint = f"`{path} --help` shows how it is called"
        show_error(_usage(error), f"{_meant(error)}{hint}")
        raise SystemExit(USAGE) from error
    except (typer.Abort, KeyboardInterrupt) as error:
        print(file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except BrokenPipeError as error:
        _give_stdout_up()  # the reader (`| head`) has gone
        raise SystemExit(ANSWER_IS_NO) from error
    except OSError as error:
        _trace(debug)
        try:
            sys.stdout.flush()
        except OSError:  # it was what could not be written: on a full disk, say
            _give_stdout_up()
        where = f": `{error.filename}`" if error.filename else ""
        show_error(f"{error.strerror or error}{where}", _fix(error))
        raise SystemExit(ANSWER_IS_NO) from error
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        _trace(debug)
        show_error(
            "A word of this command is no text in UTF-8",
            "`iconv -t UTF-8` makes it one; see that the terminal's own encoding is UTF-8",
        )
        raise SystemExit(USAGE) from error
    except Exception as error:  # a bug: still one line, and the way to the rest
        _trace(debug)
        show_error(
            f"Tollway made a mistake of its own: {type(error).__name__}: {error}",
            "" if debug else "`--debug` shows where; please report it with that output",
        )
        raise SystemExit(ANSWER_IS_NO) from error


def _give_stdout_up() -> None:
    """Let what is left for stdout go nowhere: Python would complain when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fix(error: OSError) -> str:
    """Return what to do about a refusal of the system's, "" where its words are all there is."""
    return (
        closed_to_us() if isinstance(error, PermissionError) else _FIXES.get(error.errno or 0, "")
    )


def closed_to_us() -> str:
    """Return what to do about a file that this user may not use."""
    return f"It must be open to this user (uid {os.geteuid()}); `ls -ld` says whose it is"


def _meant(error: typer.TyperException) -> str:
    """Return "Did you mean `--json`? " for what is nearest to what was typed, "" for nothing."""
    # Typer's own nearness counts the dashes, which all options have.
    wrong = str(getattr(error, "option_name", "")).lstrip("-")
    has = _options_of(error) if wrong in _CALLED else set()
    near = [one for one in _CALLED.get(wrong, ()) if one in has][:1]
    if not near:
        options = {one.lstrip("-"): one for one in getattr(error, "possibilities", None) or ()}
        near = [options[name] for name in difflib.get_close_matches(wrong, options, n=2)]
    if wrong in _IN_THE_FILE:
        return f"{_IN_THE_FILE[wrong]}; "
    if said := _CHOICES.search(error.format_message()):
        near = difflib.get_close_matches(said[1], re.findall(r"'([^']*)'", said[2]), n=2)
    return f"Did you mean {' or '.join(f'`{one}`' for one in near[:2])}? " if near else ""


def _options_of(error: typer.TyperException) -> set[str]:
    """Return the options of the command that was called."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    return {one for param in getattr(command, "params", ()) for one in param.opts}


def _usage(error: typer.TyperException) -> str:
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    for theirs, ours in _NUMBERS:
        message = theirs.sub(ours, message)
    if message.startswith("Missing argument"):
        return re.sub(r"'\w+'", lambda name: name[0].upper(), message)
    if message.startswith("Missing option"):
        wants = getattr(getattr(error, "param", None), "metavar", None)
        return f"{message[:-1]} {wants}'" if wants and message.endswith("'") else message
    if message.startswith("No such option"):
        return message.partition(" (Possible options")[0]
    # The word too many may be a secret, and stderr may be a log.
    return message.partition(" (")[0] if message.startswith("Got unexpected extra") else message


def _trace(debug: bool) -> None:
    if debug:
        import traceback  # noqa: PLC0415 - an import that only --debug pays for

        traceback.print_exc()


def show_error(message: str, hint: str = "") -> None:
    """Print a message's lines as `error:` lines and the hint's as `hint:` lines on stderr."""
    for word, colour, text in (("error", "31", message), ("hint", "36", hint)):
        for line in text.splitlines():
            for told in _wrapped(f"{word}: {printable(line)}"):
                head = _painted(word, colour) if told.startswith(f"{word}: ") else ""
                print(f"{head}{told.removeprefix(word) if head else told}", file=sys.stderr)


def _wrapped(line: str) -> list[str]:
    if (width := room(sys.stderr)) is None:
        return [line]
    lines = wrapped([Piece(line)], width)
    return ["".join(piece.text for piece in one) for one in lines]


def _painted(word: str, colour: str) -> str:
    return f"\x1b[{colour}m{word}\x1b[0m" if has_colour(sys.stderr.isatty()) else word


def has_colour(terminal: bool) -> bool:
    """Return whether colour is wanted: a terminal, and nobody said NO_COLOR."""
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Return the text with control characters spelt out, so that none acts on a terminal.

    Names and messages come from files and from upstreams; an escape sequence in one could
    rewrite what the person reads.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
