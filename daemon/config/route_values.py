"""From TOML's values to what a route says: its targets, the cases of `when`, times of day."""

import re
from decimal import Decimal
from typing import get_args

from tollway.daemon.config import shown
from tollway.daemon.config.lines import At
from tollway.daemon.config.schema import (
    Aim,
    Between,
    Case,
    CaseEndpoint,
    Day,
    Globs,
    Part,
    Temperature,
    Words,
)
from tollway.daemon.config.values import Reader, Reading, Wrong, kind_of, listed, one_of

_CLOCK = re.compile(r"([01]\d|2[0-4]):([0-5]\d)")
_DAY_MINUTES = 24 * 60
_LONGEST_WORDS = 20_000
_MOST_CASES = 100  # each call may try them all


def _aims(reading: Reading, raw: object, at: At) -> tuple[Aim, ...]:
    found = []
    if raw == []:
        raise Wrong("has no target")
    for number, item in enumerate(listed(raw, fix='["PROVIDER/MODEL"]')):
        here = (*at, number)
        if isinstance(item, dict):
            aim = reading.struct(Aim, item, here)
        else:
            target = reading.value(str, item, here)
            aim = Aim(target) if isinstance(target, str) else None
        found += [aim] if aim else []
    return tuple(found)


def _cases(reading: Reading, raw: object, at: At) -> tuple[Case, ...]:
    items = listed(raw, fix="[{ team = ..., to = [...] }]")
    if len(items) > _MOST_CASES:
        raise Wrong(f"more than {_MOST_CASES} cases, which every call would have to try")
    found = [reading.struct(Case, item, (*at, number)) for number, item in enumerate(items)]
    return tuple(case for case in found if case)


def _globs(reading: Reading, raw: object, at: At) -> Globs:
    if raw == []:
        raise Wrong("an empty list, which nothing matches; leave the key out")
    if not isinstance(raw, list):
        return Globs((reading.text(raw, at),))
    return Globs(reading.texts(raw, at))


def _by_name(reading: Reading, raw: object, at: At) -> dict[str, Globs]:
    if not isinstance(raw, dict) or not raw:
        example = f'{at[-1]}.NAME = "value"'
        raise Wrong(f"expected values by name, such as {example}; found {kind_of(raw)}")
    found: dict[str, Globs] = {}
    for name, value in raw.items():
        here = (*at, name)
        known = name.lower() if at[-1] == "header" else name
        if known in found:
            reading.wrong(here, "stands twice, in another case")
        globs = reading.value(Globs, value, here)
        if isinstance(globs, tuple):
            found[known] = Globs(globs)
    return found


def _among(choices: tuple[str, ...]) -> Reader:
    def read(reading: Reading, raw: object, at: At) -> object:
        if isinstance(raw, str):
            return (one_of(choices, raw),)
        found = []
        for number, item in enumerate(listed(raw, fix=f'["{choices[0]}"]')):
            try:
                found.append(one_of(choices, item))
            except Wrong as fault:
                reading.wrong((*at, number), str(fault))
        if not raw:
            raise Wrong("names nothing; leave the key out")
        return tuple(dict.fromkeys(found))

    return read


def _between(_: Reading, raw: object, at: At) -> Between:
    if not isinstance(raw, list) or len(raw) != 2:
        raise Wrong('expected two times of day, such as ["09:00", "17:00"]')
    start, end = (_minutes(item) for item in raw)
    if start % _DAY_MINUTES == end % _DAY_MINUTES:
        raise Wrong("begins when it ends, so that it is always or never; leave the key out")
    return Between(start % _DAY_MINUTES, end)


def _minutes(raw: object) -> int:
    found = _CLOCK.fullmatch(raw) if isinstance(raw, str) else None
    minutes = int(found[1]) * 60 + int(found[2]) if found else _DAY_MINUTES + 1
    if minutes > _DAY_MINUTES:
        said = shown.value(raw) if isinstance(raw, str) else kind_of(raw)
        raise Wrong(f'expected a time of day from "00:00" to "24:00", found {said}')
    return minutes


def _part(_: Reading, raw: object, at: At) -> Part:
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal):
        raise Wrong(f"expected a part of the budget, such as 0.8, found {kind_of(raw)}")
    if not Decimal(raw).is_finite() or not 0 < raw <= 1:
        raise Wrong("expected over 0 and up to 1; four fifths is 0.8")
    return Part(Decimal(raw))


def _temperature(_: Reading, raw: object, at: At) -> Temperature:
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal):
        raise Wrong(f"expected a number from 0 to 2, found {kind_of(raw)}")
    if not Decimal(raw).is_finite() or not 0 <= raw <= 2:
        raise Wrong("expected a number from 0 to 2")
    return Temperature(float(raw))


def _words(_: Reading, raw: object, at: At) -> Words:
    if not isinstance(raw, str):
        raise Wrong(f"expected text in quotes, found {kind_of(raw)}")
    if not raw.strip() or len(raw) > _LONGEST_WORDS:
        raise Wrong(f"expected a text of 1 to {_LONGEST_WORDS:,} characters")
    if shown.holds_secret(raw):
        raise Wrong("holds what looks like a secret, which every provider would be sent")
    return Words(raw)


READERS: dict[object, Reader] = {
    tuple[Aim, ...]: _aims,
    tuple[Case, ...]: _cases,
    Globs: _globs,
    dict[str, Globs]: _by_name,
    tuple[Day, ...]: _among(get_args(Day)),
    tuple[CaseEndpoint, ...]: _among(get_args(CaseEndpoint)),
    Between: _between,
    Part: _part,
    Temperature: _temperature,
    Words: _words,
}
