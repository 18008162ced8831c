"""How a command's arguments and options stand in its help: in words of people, not of types."""

import re
from typing import Any

# Typer's words for a number's bounds, and its sixty. That a number is one of something goes without
# saying.
_BOUNDS = (
    (re.compile(r"(?:; )?\bx>=[01](?:\.0)?(?=\])"), ""),
    (re.compile(r"\b([\d.]+)<=x<=([\d.]+)\b"), r"\1 to \2"),
    (re.compile(r"\bx>=([\d.]+)"), r"at least \1"),
    (re.compile(r"\bx<=([\d.]+)"), r"at most \1"),
    (re.compile(r"\b(\d+)\.0\b"), r"\1"),
)
_NUMBER = re.compile(r"<(?:int|float)(?: range)?>")
_REQUIRED = re.compile(r"(?:; )?\brequired\b(?=\])")
_CHOICES = re.compile(r"<(\S+\|\S+)>")


def argument(param: Any) -> str:
    """Return an argument's name in capitals, or as its own metavar has it."""
    name = str(param.metavar or param.name.upper())
    return name if param.nargs == 1 or "." in name or " " in name or "[" in name else f"{name}..."


def in_usage(param: Any) -> str:
    """Return an argument as the usage line has it, in brackets where it may be left out."""
    name = argument(param)
    return name if param.required or name.startswith("[") else f"[{name}]"


def argument_row(param: Any, ctx: Any) -> tuple[str, str]:
    """Return an argument's name and what it is; what it may be, where that is a few words."""
    # That one must be there stands in the usage line, which has no brackets around it.
    text = _plain(_REQUIRED.sub("", param.get_help_record(ctx)[1]))
    choices = _CHOICES.search(param.display_type(ctx))
    return argument(param), f"{text}  [{choices[1]}]" if choices else text


def option_row(record: tuple[str, str]) -> tuple[str, str]:
    """Return an option's row without the names of types."""
    names, text = record
    return _NUMBER.sub("N", _CHOICES.sub(r"\1", names)), _plain(text)


def _plain(text: str) -> str:
    """Return an option's help with its bounds in words."""
    head, bracket, rest = text.rpartition("  [")
    if not bracket:
        return text
    for theirs, ours in _BOUNDS:
        rest = theirs.sub(ours, rest)
    return f"{head}{bracket}{rest}" if rest not in ("]", "") else head
