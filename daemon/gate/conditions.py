"""What a call must be like for an item of a route's `when` to take it. docs/routing.md is the page.

A condition that the call says nothing about (a tag it does not have, a team it is in none of)
does not hold. All conditions of an item must hold; the first item of which all do wins.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from fnmatch import translate
from typing import Protocol, get_args

import msgspec

from tollway.daemon.config.schema import Between, Case, Day, Globs
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Endpoint
from tollway.providers.dialects.features import Features

DAYS: tuple[str, ...] = get_args(Day)
# To shorten or to count a conversation is to ask about it: it goes where that goes.
_AS_CHAT = frozenset({"compact", "count_tokens"})
_FLAGS = ("tools", "images", "files", "schema", "reasoning")


class Facts(Protocol):
    """What conditions may ask of a call. What costs something to know is read when asked for."""

    @property
    def who(self) -> Who:
        """Whom it is billed to."""
        ...

    @property
    def requested(self) -> str:
        """The name that it asks for."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """What it asks of the model."""
        ...

    @property
    def stream(self) -> bool:
        """Whether it wants its answer piece by piece."""
        ...

    @property
    def tags(self) -> Iterable[str]:
        """Its tags, each "name=value"."""
        ...

    def header(self, name: str) -> tuple[str, ...]:
        """Return the values of a header, by its name in lower case."""
        ...

    @property
    def output(self) -> int:
        """The most tokens it may be answered with: its own limit, else the default."""
        ...

    @property
    def features(self) -> Features:
        """What its request uses."""
        ...

    @property
    def moment(self) -> datetime:
        """When it came, in the server's time zone."""
        ...

    @property
    def used(self) -> Decimal:
        """The fullest of the budgets that it is booked on: what is spent, as a part of its cap."""
        ...


class Checked(msgspec.Struct, frozen=True):
    """One condition of an item, what it saw of a call, and whether it holds."""

    condition: str
    seen: str
    holds: bool


class _Condition(msgspec.Struct, frozen=True):
    name: str  # as the file has it, value included
    sees: Callable[[Facts], object]
    holds: Callable[[object], bool]


class Conditions:
    """Those of one item of `when`, cheapest to ask first."""

    def __init__(self, case: Case) -> None:
        self._all = [*_named(case), *_said(case), *_sized(case), *_timed(case), *_used(case)]

    def match(self, call: Facts) -> bool:
        """Whether all of them hold for a call; asks no more of it than it needs to."""
        return all(one.holds(one.sees(call)) for one in self._all)

    def check(self, call: Facts) -> tuple[Checked, ...]:
        """Return what each of them saw, all of them."""
        found = []
        for one in self._all:
            seen = one.sees(call)
            found.append(Checked(one.name, _shown(seen), one.holds(seen)))
        return tuple(found)


def _named(case: Case) -> Iterable[_Condition]:
    """Yield the conditions on who calls, by what name, with which labels."""
    owners: tuple[tuple[str, Globs, Callable[[Facts], object]], ...] = (
        ("team", case.team, lambda call: call.who.team),
        ("user", case.user, lambda call: call.who.user),
        ("project", case.project, lambda call: call.who.project),
        ("key", case.key, lambda call: call.who.key),
        ("model", case.model, lambda call: call.requested),
    )
    for name, globs, sees in owners:
        if globs:
            yield _Condition(_text(name, globs), sees, _matcher(globs))
    for name, globs in case.tag.items():
        yield _Condition(_text(f"tag.{name}", globs), _tag(name), _matcher(globs))
    for name, globs in case.header.items():
        yield _Condition(_text(f"header.{name}", globs), _header(name), _matcher(globs))


def _said(case: Case) -> Iterable[_Condition]:
    """Yield the conditions on what the request says by the way."""
    if case.endpoint:
        yield _Condition(_text("endpoint", case.endpoint), endpoint_of, _among(case.endpoint))
    if case.stream is not None:
        yield _flag("stream", case.stream, lambda call: call.stream)
    over, under = case.output_over, case.output_under
    if over is not None or under is not None:
        yield _Condition(_range("output", over, under), lambda call: call.output, _in(over, under))


def _sized(case: Case) -> Iterable[_Condition]:
    """Yield the conditions for which the whole request must be read."""
    for name in _FLAGS:
        wanted: bool | None = getattr(case, name)
        if wanted is not None:
            yield _flag(name, wanted, _feature(name))
    over, under = case.input_over, case.input_under
    if over is not None or under is not None:
        yield _Condition(
            _range("input", over, under), lambda call: call.features.tokens, _in(over, under)
        )


def _timed(case: Case) -> Iterable[_Condition]:
    if case.between or case.days:
        said = [case.between.text] if case.between else []
        said += [" ".join(case.days)] if case.days else []
        times, days = case.between, case.days
        yield _Condition(
            f"between {' on '.join(said)}" if times else f"on {said[0]}",
            lambda call: call.moment,
            lambda seen: isinstance(seen, datetime) and is_then(seen, times, days),
        )


def _used(case: Case) -> Iterable[_Condition]:
    share = case.budget_over
    if share is not None:
        yield _Condition(
            f"budget_over = {share}",
            lambda call: call.used,
            lambda seen: isinstance(seen, Decimal) and seen >= share,
        )


def endpoint_of(call: Facts) -> str:
    """Return the endpoint that conditions go by."""
    return "chat" if call.endpoint in _AS_CHAT else call.endpoint


def is_then(moment: datetime, times: Between | None, days: tuple[Day, ...]) -> bool:
    """Whether a moment is on one of some days and between two times of day.

    Where midnight lies between the two, the hours after it belong to the day before.
    """
    day = moment.weekday()
    if times is not None:
        minute = moment.hour * 60 + moment.minute
        if times.start < times.end:
            if not times.start <= minute < times.end:
                return False
        elif minute < times.end:
            day = (day - 1) % 7
        elif minute < times.start:
            return False
    return not days or DAYS[day] in days


def _tag(name: str) -> Callable[[Facts], object]:
    start = f"{name}="

    def sees(call: Facts) -> object:
        return next((tag[len(start) :] for tag in call.tags if tag.startswith(start)), None)

    return sees


def _header(name: str) -> Callable[[Facts], object]:
    return lambda call: call.header(name) or None


def _feature(name: str) -> Callable[[Facts], object]:
    return lambda call: getattr(call.features, name)


def _flag(name: str, wanted: bool, sees: Callable[[Facts], object]) -> _Condition:
    return _Condition(f"{name} = {str(wanted).lower()}", sees, lambda seen: seen is wanted)


def _matcher(globs: Globs) -> Callable[[object], bool]:
    pattern = re.compile("|".join(map(translate, globs)))

    def holds(seen: object) -> bool:
        if isinstance(seen, tuple):
            return any(pattern.match(one) for one in seen)
        # Nobody's team is no team, which `*` is not to match.
        return isinstance(seen, str) and seen != "" and bool(pattern.match(seen))

    return holds


def _among(words: tuple[str, ...]) -> Callable[[object], bool]:
    return lambda seen: seen in words


def _in(over: int | None, under: int | None) -> Callable[[object], bool]:
    def holds(seen: object) -> bool:
        return (
            isinstance(seen, int)
            and (over is None or seen > over)
            and (under is None or seen < under)
        )

    return holds


def _text(name: str, values: Iterable[str]) -> str:
    return f"{name} = {', '.join(values)}"


def _range(name: str, over: int | None, under: int | None) -> str:
    limits = {f"{name}_over": over, f"{name}_under": under}
    return ", ".join(f"{key} = {value:,}" for key, value in limits.items() if value is not None)


def _shown(seen: object) -> str:
    if seen is None or seen == "":
        return "none"
    if isinstance(seen, bool):
        return str(seen).lower()
    if isinstance(seen, int):
        return f"{seen:,}"
    if isinstance(seen, datetime):
        return seen.strftime("%a %H:%M %Z")
    if isinstance(seen, Decimal):
        return f"{seen:.3f}"
    return ", ".join(seen) if isinstance(seen, tuple) else str(seen)


def headers_of(cases: Iterable[Case]) -> frozenset[str]:
    """Return the names of the headers that some cases look at, in lower case."""
    named: list[Mapping[str, Globs]] = [case.header for case in cases]
    return frozenset(name for one in named for name in one)
