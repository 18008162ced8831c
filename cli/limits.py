"""Rate limits as options of commands, and how they stand beside those who have them."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import typer

from tollway.cli import show
from tollway.cli.boundary import UsageProblem
from tollway.daemon.config import schema

Rpm = Annotated[
    int | None, typer.Option("--rpm", metavar="N", min=1, help="At most N calls a minute.")
]
Tpm = Annotated[
    int | None, typer.Option("--tpm", metavar="N", min=1, help="At most N tokens a minute.")
]
Rpd = Annotated[
    int | None, typer.Option("--rpd", metavar="N", min=1, help="At most N calls a day.")
]
Concurrent = Annotated[
    int | None, typer.Option("--concurrent", metavar="N", min=1, help="At most N calls at once.")
]
NoLimits = Annotated[
    bool, typer.Option("--no-limits", "--no-limit", help="It has no rate limits of its own.")
]

_WORDS = {
    "rpm": "calls a minute",
    "tpm": "tokens a minute",
    "rpd": "calls a day",
    "concurrent": "calls at once",
}


class Limit(msgspec.Struct, frozen=True):
    """A rate limit as the daemon has it; `whole_s`: seconds until all of it is free again."""

    scope: str
    name: str
    limit: str
    most: int
    left: int | None = None  # None where no daemon knows it
    whole_s: float | None = None


def said(
    rpm: int | None, tpm: int | None, rpd: int | None, concurrent: int | None
) -> dict[str, int]:
    """Return the limits that were named, as they stand in gateway.toml."""
    named = {"rpm": rpm, "tpm": tpm, "rpd": rpd, "concurrent": concurrent}
    return {name: most for name, most in named.items() if most is not None}


def chosen(named: Mapping[str, int], none: bool) -> dict[str, object]:
    """Return {"limits": ...} as `set` was told it, None to remove them; nothing where unsaid.

    Raises:
        UsageProblem: Both limits and none were asked for.
    """
    if named and none:
        raise UsageProblem("A limit and `--no-limits` exclude each other")
    return {"limits": dict(named) or None} if named or none else {}


def with_others(values: Mapping[str, object], now: schema.Limits) -> dict[str, object]:
    """Return values for gateway.toml in which the limits that were not named stay as they are."""
    named = values.get("limits")
    if not isinstance(named, dict):
        return dict(values)
    return {**values, "limits": plain(now) | named}


def plain(limits: schema.Limits) -> dict[str, int]:
    """Return the limits that there are, by name."""
    return said(limits.rpm, limits.tpm, limits.rpd, limits.concurrent)


def block(limits: Sequence[Limit]) -> str:
    """Return limits as a value of `show.pairs`, a line each."""
    return "\n".join(
        f"{one.most:,} {_WORDS.get(one.limit, one.limit)}"
        + ("" if one.left is None else f": {one.left:,} left{_whole(one)}")
        for one in limits
    )


def _whole(limit: Limit) -> str:
    again = limit.whole_s
    return f", all of it in {show.duration(again)}" if again and limit.left != limit.most else ""


def table(limits: Sequence[Limit]) -> None:
    """Print limits, none for none."""
    if not limits:
        return
    show.say()
    numbers = [show.Column(name, number=True) for name in ("most", "left")]
    show.table(
        ["limit of", "limit", *numbers, "all free in"],
        [
            (
                f"{one.scope} {one.name}".strip(),
                one.limit,
                f"{one.most:,}",
                "" if one.left is None else f"{one.left:,}",
                show.duration(one.whole_s) if one.whole_s else "",
            )
            for one in limits
        ],
    )
