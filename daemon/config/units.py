"""Sizes, times and amounts as people write them, with their units. Pure functions."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import get_args

from tollway.daemon.config import shown
from tollway.daemon.config.schema import Bytes, Calendar, Scope, ScopeKind, Seconds

_TIMES: Mapping[str, Decimal | int] = {
    "ms": Decimal("0.001"),
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86_400,
}
_SIZES: Mapping[str, Decimal | int] = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) *([A-Za-z]+)")
_BUDGET = re.compile(r"([^/\s]+) */ *(\S+)")
_ROLLING = re.compile(r"([1-9]\d{0,5})([mhd])")
_LONGEST_ROLLING_MS = 366 * 86_400_000
_MONEY = re.compile(r"\d{1,15}(?:\.\d{1,12})?")
_LONGEST_S = 100 * 366 * 86_400
_MOST_USD = 1_000_000_000  # the ledger counts in nano-dollars in 64 bits
_FINEST = Decimal("1E-9")
_FINEST_PRICE = Decimal("1E-12")


class WrongUnit(ValueError):
    """A size, time or amount that cannot be read; the text says how to write it."""


def seconds(raw: object) -> Seconds:
    """Return "30s", "15m", "2h" or "400d" as seconds.

    Raises:
        WrongUnit: It is anything else; a bare number most of all.
    """
    number, unit = _split(raw, example="30s", bare="s", units=_TIMES)
    found = number * _TIMES[unit]
    if found > _LONGEST_S:
        raise WrongUnit("a time of more than a hundred years")
    return Seconds(found)


def size(raw: object) -> Bytes:
    """Return "32MiB" or "64kB" as bytes.

    Raises:
        WrongUnit: It is anything else; a bare number most of all.
    """
    number, unit = _split(raw, example="32MiB", bare="MiB", units=_SIZES)
    found = number * _SIZES[unit]
    if found != int(found):
        raise WrongUnit("not a whole number of bytes")
    return Bytes(found)


def _split(
    raw: object, *, example: str, bare: str, units: Mapping[str, Decimal | int]
) -> tuple[Decimal, str]:
    if isinstance(raw, int | Decimal) and not isinstance(raw, bool):
        number = str(raw) if len(str(raw)) <= 12 else "30"
        raise WrongUnit(f'a number without a unit; write "{number}{bare}", with the unit you mean')
    found = _AMOUNT.fullmatch(raw) if isinstance(raw, str) else None
    if not found:
        raise WrongUnit(f'expected a number with a unit, such as "{example}"')
    if found[2] not in units:
        raise WrongUnit(f"unknown unit {found[2][:12]}; there are {', '.join(units)}")
    return Decimal(found[1]), found[2]


def budget_parts(text: str) -> tuple[Decimal, str]:
    """Return "5/day" as dollars and the period's name, which is not checked here.

    Raises:
        WrongUnit: It is not an amount, a slash and a period, or the amount is negative.
    """
    found = _BUDGET.fullmatch(text.strip()) if len(text) < 100 else None
    if found and found[1][:1] == "-" and _MONEY.fullmatch(found[1][1:]):
        raise WrongUnit(f'a sum is never negative; write "{found[1][1:]}/{found[2]}"')
    if not found or not _MONEY.fullmatch(found[1]):
        raise WrongUnit('expected dollars and a period, such as "5/day" or "0.50/month"')
    return Decimal(found[1]), found[2]


def rolling_ms(period: str) -> int | None:
    """Return how long a rolling period is in milliseconds; None for a period of the calendar."""
    found = _ROLLING.fullmatch(period)
    return int(found[1]) * int(_TIMES[found[2]]) * 1000 if found else None


def period(text: str) -> str:
    """Return a budget's period as it stands.

    Raises:
        WrongUnit: It is neither a word of the calendar nor a span of one minute to 366 days.
    """
    if text in get_args(Calendar):
        return text
    span = rolling_ms(text)
    if span is None:
        words = get_args(Calendar)
        near = shown.meant(text, words)
        raise WrongUnit(f'expected {", ".join(words)}, or a rolling span such as "24h"{near}')
    if span > _LONGEST_ROLLING_MS:
        raise WrongUnit("a rolling span of more than 366 days")
    return text


def scope(text: str) -> tuple[Scope, str | None]:
    """Return "team ml" or "team ml day" as the scope and the period, None where none is said.

    Raises:
        WrongUnit: It is no scope.
    """
    kinds: dict[str, ScopeKind] = {kind: kind for kind in get_args(ScopeKind)}
    kind, *rest = text.split() or [""]
    if kind not in kinds:
        raise WrongUnit(f'expected a scope such as "team ml"; there are {", ".join(kinds)}')
    name = "" if kind == "box" else rest.pop(0) if rest else None
    if name is None or len(rest) > 1:
        raise WrongUnit('expected a scope such as "box", "team ml" or "team ml day"')
    if kind == "tag" and "=" not in name:
        raise WrongUnit('expected a tag as "tag NAME=VALUE"')
    return (kinds[kind], name), period(rest[0]) if rest else None


def nanousd(usd: int | Decimal) -> int:
    """Return dollars as nano-dollars, exactly.

    Raises:
        WrongUnit: It is negative, not finite, too large, or finer than a nano-dollar.
    """
    amount = in_range(usd, most=_MOST_USD, what="dollars")
    if amount.quantize(_FINEST) != amount:
        raise WrongUnit("finer than a nano-dollar, nine places after the point")
    return int(amount * 10**9)


def price(usd: int | Decimal) -> Decimal:
    """Return dollars for a million tokens.

    Raises:
        WrongUnit: It is negative, not finite, too large, or too fine to be meant.
    """
    amount = in_range(usd, most=_MOST_USD, what="a number")
    if amount.quantize(_FINEST_PRICE) != amount:
        raise WrongUnit("more than twelve places after the point")
    return amount


def in_range(number: int | Decimal, *, most: int, what: str) -> Decimal:
    """Return a number as a Decimal.

    Raises:
        WrongUnit: It is not from 0 to `most`, which not-a-number never is.
    """
    # Checked before any arithmetic: int(Decimal("1e999999999")) would eat all memory.
    if (isinstance(number, Decimal) and not number.is_finite()) or not 0 <= number <= most:
        raise WrongUnit(f"expected {what}, from 0 to {most:,}")
    return Decimal(number)
