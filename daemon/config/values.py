"""From TOML's values to the structs of `schema.py`: each field by its type, every fault noted.

Reading goes on after a fault, so that a person sees all of a file's faults at once. A message
never repeats a value that may be a secret.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import msgspec

from tollway.daemon.config import shown, support, units
from tollway.daemon.config.lines import At
from tollway.daemon.config.schema import (
    Alerts,
    Breaker,
    Budget,
    Bytes,
    Commit,
    HourPrice,
    Layers,
    Limits,
    ModelPrice,
    PreviousHash,
    PriceOverride,
    PriceSaid,
    Probe,
    ProviderTimeouts,
    Raise,
    Seconds,
    SecretRef,
    Tls,
)
from tollway.daemon.config.tables import BudgetTable, CommitTable, PreviousTable, RaiseTable

T = TypeVar("T", bound=msgspec.Struct)

_REF = re.compile(
    r"keyring:[A-Za-z0-9][A-Za-z0-9._@/+-]{0,99}|env:[A-Za-z_]\w{0,99}|file:(?!~(?!/)).+"
)
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_PROBLEMS = 200
_MOST_PARTS = 10  # of a budget that only warns, and so can be passed
_LONGEST = 4096  # of any text in the file: the longest path there can be


class Wrong(ValueError):
    """A value that cannot stand where it does; the text says why, without the value."""


class TooMany(Exception):
    """So many faults that the file is no configuration at all."""


class Reading:
    """One reading of a file: where relative paths begin, and what was found wrong so far."""

    def __init__(self, *, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.problems: list[tuple[At, str]] = []

    def wrong(self, at: At, message: str) -> None:
        """Note a fault.

        Raises:
            TooMany: There are so many that looking for more would only take time.
        """
        self.problems.append((at, message))
        if len(self.problems) >= _MOST_PROBLEMS:
            raise TooMany

    def struct(
        self, kind: type[T], raw: object, at: At, *, known: Collection[str] | None = None
    ) -> T | None:
        """Return a table as its struct, or None where a key that must be there is not.

        Keys that are wrong are noted and left at their defaults, so that what hangs on the
        rest of the table can still be checked. `known` are the keys there may be, where those
        are not the struct's.
        """
        if not isinstance(raw, dict):
            self.wrong(at, f"expected a table, found {kind_of(raw)}")
            return None
        fields = _fields(kind)
        given: dict[str, Any] = {}
        needed = {field.name: name for name, field in fields.items() if field.required}
        # What a refused key was to say would only be asked for a second time.
        if not any(support.refusal((*at, name), value) for name, value in raw.items()):
            for name in needed.values():
                if name not in raw:
                    self.wrong(at, f"{name} is missing")
        for name, value in raw.items():
            if self.live(name, value, at, fields if known is None else known):
                field = fields[name]
                read = self.value(field.type, value, (*at, name))
                if read is not None:
                    given[field.name] = read
        return kind(**given) if needed.keys() <= given.keys() else None

    def live(self, name: str, value: object, at: At, known: Collection[str]) -> bool:
        """Return whether a key is one of `known` and can be read; else note why it is not."""
        here = (*at, name)
        if refused := support.refusal(here, value):
            self.wrong(here, refused)
        elif name in known:
            return True
        elif not support.is_later(here):
            self.wrong(here, f"unknown key{shown.key_meant(name, known)}")
        return False

    def value(self, kind: object, raw: object, at: At) -> object:
        """Return a value as a field's type asks, or None where it is wrong, which is noted."""
        plain, bounds = _plain(kind)
        try:
            if get_origin(plain) is Literal:
                return one_of(get_args(plain), raw)
            found = READERS[plain](self, raw, at)
            if bounds and isinstance(found, int):
                _within(found, bounds)
            return found
        except (Wrong, units.WrongUnit) as fault:
            self.wrong(at, str(fault))
            return None

    def path(self, raw: object, at: At) -> Path:
        """Return a path, `~` as the home folder and relative ones from the file's folder.

        Raises:
            Wrong: It is no text, or no path.
        """
        text = self.text(raw, at)
        if not text:
            raise Wrong("expected a path, found nothing")
        if text == "~" or text.startswith("~/"):
            return self.home / text[2:]
        if text.startswith("~"):
            raise Wrong("only ~/ is understood, not the home folders of others")
        return self.folder / text

    def text(self, raw: object, at: At) -> str:
        """Return a text of one line.

        Raises:
            Wrong: It is no text, too long, or has control characters.
        """
        if not isinstance(raw, str):
            raise Wrong(f"expected text in quotes, found {kind_of(raw)}")
        if len(raw) > _LONGEST:
            raise Wrong(f"longer than {_LONGEST} characters")
        if not raw.isprintable():
            raise Wrong("has a line break or another character that cannot be printed")
        return raw

    def texts(self, raw: object, at: At) -> tuple[str, ...]:
        """Return a list of texts; items that are wrong are noted and left out.

        Raises:
            Wrong: It is no list.
        """
        found = [self.value(str, item, (*at, at_)) for at_, item in enumerate(listed(raw))]
        return tuple(item for item in found if isinstance(item, str))

    def shares(self, raw: object, at: At) -> tuple[Decimal, ...]:
        """Return parts of a budget in ascending order, each once; wrong items are noted.

        Raises:
            Wrong: It is no list.
        """
        found: set[Decimal] = set()
        for number, item in enumerate(listed(raw, fix="[0.5, 0.8, 1.0]")):
            if isinstance(item, bool) or not isinstance(item, int | Decimal):
                self.wrong((*at, number), f"expected a part of the budget, found {kind_of(item)}")
            elif not (isinstance(item, int) or item.is_finite()) or not 0 < item <= _MOST_PARTS:
                self.wrong((*at, number), f"expected over 0 and up to {_MOST_PARTS}; half is 0.5")
            else:
                found.add(Decimal(item))
        return tuple(sorted(found))

    def secret_ref(self, raw: object, at: At) -> SecretRef:
        """Return where a secret is kept.

        Raises:
            Wrong: It is no reference. What it is instead may be the secret: never shown.
        """
        text = raw if isinstance(raw, str) else ""
        place, _, name = text.partition(":")
        if _REF.fullmatch(text) and text.isprintable() and not shown.holds_secret(name):
            return SecretRef(text)
        if place in {"keyring", "env", "file"} and not shown.looks_secret(name):
            raise Wrong(f"no name that {place}: can have; letters, digits, `_`, `-` and `.` are")
        name = str(at[1]) if len(at) > 2 and shown.key((at[1],)) == at[1] else "NAME"
        raise Wrong(
            "expected keyring:NAME, env:NAME or file:PATH, never the secret itself; "
            f'run `tollway secrets set {name}`, then write {at[-1]} = "keyring:{name}"'
        )

    def secret_refs(self, raw: object, at: At) -> tuple[SecretRef, ...]:
        """Return where several secrets are kept; items that are wrong are noted and left out.

        Raises:
            Wrong: It is no list.
        """
        found = []
        for number, item in enumerate(listed(raw, fix='["keyring:one", "env:TWO"]')):
            try:
                found.append(self.secret_ref(item, (*at, number)))
            except Wrong as fault:
                self.wrong((*at, number), str(fault))
        return tuple(found)

    def budgets(self, raw: object, at: At) -> tuple[Budget, ...]:
        """Return a list of budgets; items that are wrong are noted and left out.

        Raises:
            Wrong: It is no list.
        """
        found = []
        for number, item in enumerate(listed(raw, fix=f"[{_quoted(raw)}]")):
            here = (*at, number)
            try:
                budget = self._budget(item, here)
            except (Wrong, units.WrongUnit) as fault:
                self.wrong(here, str(fault))
            else:
                found += [budget] if budget else []
        return tuple(found)

    def _budget(self, raw: object, at: At) -> Budget | None:
        if isinstance(raw, str):
            amount, period = units.budget_parts(raw)
            raw = {"usd": amount, "per": period}
        if isinstance(raw, int | Decimal) and not isinstance(raw, bool):
            raise Wrong(f"an amount without its period; write {_quoted(raw)}")
        if not isinstance(raw, dict):
            raise Wrong('expected a budget, such as "5/day" or { usd = 5, per = "day" }')
        said = self.struct(BudgetTable, raw, at)
        if said is None:
            return None
        return Budget(units.nanousd(said.usd), units.period(said.per), said.at)

    def commit(self, raw: object, at: At) -> Commit | None:
        """Return what is committed at a provider; None where the table is wrong, which is noted.

        Raises:
            Wrong: It is no table, or nothing is committed.
        """
        if not isinstance(raw, dict):
            raise Wrong('expected { usd = 500, per = "month" }')
        said = self.struct(CommitTable, raw, at)
        if said is None:
            return None
        if not (amount := units.nanousd(said.usd)):
            raise Wrong("nothing is committed; leave it out")
        return Commit(amount, said.per)

    def raises(self, raw: object, at: At) -> tuple[Raise, ...]:
        """Return a list of temporary raises; items that are wrong are noted and left out.

        Raises:
            Wrong: It is no list.
        """
        if not isinstance(raw, list):
            raise Wrong("expected a list of tables; write [[raises]]")
        found = [self._raise(item, (*at, number)) for number, item in enumerate(raw)]
        return tuple(item for item in found if item)

    def _raise(self, raw: object, at: At) -> Raise | None:
        said = self.struct(RaiseTable, raw, at)
        if said is None:
            return None
        try:
            scope, period = units.scope(said.scope)
        except units.WrongUnit as fault:
            self.wrong((*at, "scope"), str(fault))
            return None
        try:
            amount = units.nanousd(said.usd)
        except units.WrongUnit as fault:
            self.wrong((*at, "usd"), str(fault))
            return None
        return Raise(scope, amount, said.until.timestamp(), period, said.by)

    def price(self, raw: object, at: At) -> PriceOverride | Literal["free"] | None:
        """Return a price table or "free"; None where the table is wrong, which is noted.

        Raises:
            Wrong: It is neither.
        """
        if raw == "free":
            return "free"
        if not isinstance(raw, dict):
            raise Wrong('expected { input = 0.1, output = 0.4 } or "free"')
        found = self.struct(PriceOverride, raw, at)
        if found and found.images and found.image is None:
            self.wrong((*at, "images"), "say `image` too: what each other image costs at most")
        return found

    def model_price(self, raw: object, at: At) -> ModelPrice | None:
        """Return a model's price: as `price`, or by the hour.

        Raises:
            Wrong: It is neither.
        """
        if isinstance(raw, dict) and "gpu_hour" in raw:
            if len(raw) > 1:
                raise Wrong("by the hour or by tokens, not both; leave out gpu_hour or the rest")
            return self.struct(HourPrice, raw, at)
        return self.price(raw, at)

    def previous(self, raw: object, at: At) -> tuple[PreviousHash, ...]:
        """Return a rotated key's old hashes; items that are wrong are noted and left out.

        Raises:
            Wrong: It is no list.
        """
        found = [self._previous(item, (*at, number)) for number, item in enumerate(listed(raw))]
        return tuple(item for item in found if item)

    def _previous(self, raw: object, at: At) -> PreviousHash | None:
        said = self.struct(PreviousTable, raw, at)
        if said is None:
            return None
        if not is_hash(said.hash):
            self.wrong((*at, "hash"), NO_HASH)
            return None
        return PreviousHash(hash=said.hash, until=said.until.timestamp())


NO_HASH = "expected sha256: and 64 hex digits, as `tollway keys create` writes it"


def is_secret_ref(text: str) -> bool:
    """Whether a text names a place where a secret is kept, and is none itself."""
    return bool(_REF.fullmatch(text)) and not shown.holds_secret(text)


def is_hash(text: str) -> bool:
    """Whether a text is a stored key's hash."""
    return bool(_HASH.fullmatch(text))


@cache
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


@cache
def _plain(kind: object) -> tuple[object, msgspec.Meta | None]:
    """Return a field's type without `| None` and `Annotated`, and its bounds."""
    while True:
        if get_origin(kind) is Annotated:
            kind, bounds = get_args(kind)
            return kind, cast(msgspec.Meta, bounds)
        if get_origin(kind) not in {Union, UnionType} or NoneType not in get_args(kind):
            return kind, None
        kind = Union[tuple(one for one in get_args(kind) if one is not NoneType)]  # noqa: UP007


def _within(number: int, bounds: msgspec.Meta) -> None:
    low, high = bounds.ge, bounds.le
    if low is not None and high is not None and not low <= number <= high:
        raise Wrong(f"expected a number from {low} to {high}")


def one_of(choices: tuple[str, ...], raw: object) -> str:
    """Return one of the words there are to choose from; `Wrong` for any other."""
    if isinstance(raw, str) and raw in choices:
        return raw
    near = shown.meant(raw, choices) if isinstance(raw, str) else ""
    raise Wrong(f"expected {' or '.join(choices)}{near}")


def _whole(reading: Reading, raw: object, at: At) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise Wrong(f"expected a whole number, found {kind_of(raw)}")
    if abs(raw) > 2**53:
        raise Wrong("a number that large is not meant")
    return raw


def _flag(reading: Reading, raw: object, at: At) -> bool:
    if not isinstance(raw, bool):
        raise Wrong(f"expected true or false, found {kind_of(raw)}")
    return raw


def dollars(_reading: Reading, raw: object, _at: At) -> Decimal:
    """Return a price in dollars; `Wrong` for what is none."""
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal):
        raise Wrong(f"expected a number, found {kind_of(raw)}")
    return units.price(raw)


def _tags(reading: Reading, raw: object, at: At) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise Wrong('expected texts by name, such as { project = "bot" }')
    return {name: reading.text(value, (*at, name)) for name, value in raw.items()}


def _day(reading: Reading, raw: object, at: At) -> date:
    if isinstance(raw, datetime) or not isinstance(raw, date):
        raise Wrong(f"expected a date without quotes, such as 2027-01-31, found {kind_of(raw)}")
    return raw


def _moment(reading: Reading, raw: object, at: At) -> datetime:
    if not isinstance(raw, datetime) or raw.tzinfo is None:
        raise Wrong("expected a moment with its time zone, such as 2027-01-31T12:00:00Z")
    return raw


def _layers(reading: Reading, raw: object, at: At) -> int | str:
    if isinstance(raw, str) and raw in {"auto", "all"}:
        return raw
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= 10_000:
        return raw
    raise Wrong('expected "auto", "all" or a number of layers')


def listed(raw: object, fix: str = "[...]") -> list[object]:
    """Return a list as it is; `Wrong` for anything else."""
    if not isinstance(raw, list):
        raise Wrong(f"expected a list; write {fix}")
    return raw


def _quoted(raw: object) -> str:
    """Return how a budget would be written that was given as `raw`."""
    if isinstance(raw, str) and len(raw) < 20 and not shown.looks_secret(raw):
        return shown.quoted(raw)
    amount = str(raw) if isinstance(raw, int) and abs(raw) < 10**9 else "5"
    return f'"{amount}/day"'


def kind_of(raw: object) -> str:
    """Return what a value is, in a word for a person."""
    for kinds, word in _WORDS:
        if isinstance(raw, kinds):
            return word
    return "something else"


_WORDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    ((int, Decimal), "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a table"),
    (date, "a date"),
)

Reader = Callable[[Reading, object, At], object]
READERS: dict[object, Reader] = {
    str: Reading.text,
    bool: _flag,
    int: _whole,
    Seconds: lambda _, raw, __: units.seconds(raw),
    Bytes: lambda _, raw, __: units.size(raw),
    Decimal: dollars,
    dict[str, str]: _tags,
    date: _day,
    datetime: _moment,
    Path: Reading.path,
    SecretRef: Reading.secret_ref,
    tuple[SecretRef, ...]: Reading.secret_refs,
    tuple[str, ...]: Reading.texts,
    tuple[Decimal, ...]: Reading.shares,
    tuple[Budget, ...]: Reading.budgets,
    tuple[PreviousHash, ...]: Reading.previous,
    tuple[Raise, ...]: Reading.raises,
    PriceSaid: Reading.price,
    ModelPrice: Reading.model_price,
    Layers: _layers,
    Limits: lambda reading, raw, at: reading.struct(Limits, raw, at),
    Alerts: lambda reading, raw, at: reading.struct(Alerts, raw, at),
    Commit: Reading.commit,
    Tls: lambda reading, raw, at: reading.struct(Tls, raw, at),
    ProviderTimeouts: lambda reading, raw, at: reading.struct(ProviderTimeouts, raw, at),
    Probe: lambda reading, raw, at: reading.struct(Probe, raw, at),
    Breaker: lambda reading, raw, at: reading.struct(Breaker, raw, at),
}
