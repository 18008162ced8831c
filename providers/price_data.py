"""The shape of the price data that `price_distil.py` makes and `prices.py` reads.

Which names a model answers to, when each of its prices holds, and the prices themselves, ready
to use. Prices that no number of tokens can tell (by the minute, by the page) are None.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from hashlib import sha256

import msgspec

from tollway.providers.canon import Price, Rate

FORMAT = 5  # to be raised with every change of these shapes or of what `distil` puts in them
_SATURDAY = 5


class StartsWith(msgspec.Struct, frozen=True, tag="starts_with", array_like=True):
    """A model whose name starts so."""

    text: str

    def matches(self, name: str) -> bool:
        """Return whether a name in lower case is meant."""
        return name.startswith(self.text.lower())


class EndsWith(msgspec.Struct, frozen=True, tag="ends_with", array_like=True):
    """A model whose name ends so."""

    text: str

    def matches(self, name: str) -> bool:
        """Return whether a name in lower case is meant."""
        return name.endswith(self.text.lower())


class Contains(msgspec.Struct, frozen=True, tag="contains", array_like=True):
    """A model with this in its name."""

    text: str

    def matches(self, name: str) -> bool:
        """Return whether a name in lower case is meant."""
        return self.text.lower() in name


class Equals(msgspec.Struct, frozen=True, tag="equals", array_like=True):
    """The model of this name."""

    text: str

    def matches(self, name: str) -> bool:
        """Return whether a name in lower case is meant."""
        return name == self.text.lower()


class Regex(msgspec.Struct, frozen=True, tag="regex", array_like=True):
    """A model with this pattern somewhere in its name; the pattern minds its case."""

    pattern: str

    def matches(self, name: str) -> bool:
        """Return whether a name in lower case is meant."""
        return re.search(self.pattern, name) is not None


class AnyOf(msgspec.Struct, frozen=True, tag="any", array_like=True):
    """A model that one of the clauses means."""

    clauses: tuple["Clause", ...]

    def matches(self, name: str) -> bool:
        """Return whether a name in lower case is meant."""
        return any(clause.matches(name) for clause in self.clauses)


class AllOf(msgspec.Struct, frozen=True, tag="all", array_like=True):
    """A model that every one of the clauses means."""

    clauses: tuple["Clause", ...]

    def matches(self, name: str) -> bool:
        """Return whether a name in lower case is meant."""
        return all(clause.matches(name) for clause in self.clauses)


Clause = StartsWith | EndsWith | Contains | Equals | Regex | AnyOf | AllOf


class FromDay(msgspec.Struct, frozen=True, tag="from", array_like=True):
    """Holds from the start of a day on, in UTC."""

    day: date


class Daily(msgspec.Struct, frozen=True, tag="daily", array_like=True):
    """Holds each day from one time to another, in UTC; past midnight where `end` is earlier.

    With `workdays` from Monday to Friday alone, which are UTC's too.
    """

    start: time
    end: time
    workdays: bool = False


class Conditional(msgspec.Struct, frozen=True, array_like=True):
    """A price, and when it holds. `price` is None where no number of tokens says the cost."""

    when: FromDay | Daily | None
    price: Price | None


class Variant(msgspec.Struct, frozen=True, array_like=True):
    """What a service tier charges otherwise than the standard one, and when it does.

    `rates` are by the names of `Price`'s fields. Of several variants of one tier that hold, the
    first that names a rate decides it.
    """

    service: str
    when: FromDay | Daily | None
    rates: dict[str, Rate]


class Model(msgspec.Struct, frozen=True, array_like=True):
    """A model's names and its prices, of which the last that holds is in force."""

    id: str
    match: Clause
    prices: tuple[Conditional, ...]
    variants: tuple[Variant, ...] = ()

    def days(self) -> set[date]:
        """Return the days on which one of its prices begins to hold."""
        whens = [one.when for one in self.prices] + [one.when for one in self.variants]
        return {when.day for when in whens if isinstance(when, FromDay)}


class Provider(msgspec.Struct, frozen=True, array_like=True):
    """The models of one provider, tried in order, then those of the providers it resells."""

    models: tuple[Model, ...]
    resells: tuple[str, ...]


class PriceData(msgspec.Struct, frozen=True):
    """Everything, with each provider still packed: few are ever asked for."""

    source: str
    names: tuple[tuple[str, Clause | None], ...]  # ids, and what else may stand for them
    providers: dict[str, msgspec.Raw]


def holds(when: FromDay | Daily | None, at: datetime) -> bool:
    """Return whether a price's condition is met at a moment in UTC."""
    match when:
        case None:
            return True
        case FromDay(day):
            return at.date() >= day
        case Daily(workdays=True) if at.weekday() >= _SATURDAY:
            return False
        case Daily(start, end) if end < start:
            return at.time() >= start or at.time() < end
        case Daily(start, end):
            return start <= at.time() < end


def changes(when: FromDay | Daily | None, at: datetime) -> Iterator[datetime]:
    """Yield the next moments after `at` at which `holds` may change its mind."""
    match when:
        case FromDay(day) if day > at.date():
            yield datetime.combine(day, time(), UTC)
        case Daily(start, end):
            for edge in (start, end):
                today = datetime.combine(at.date(), edge, UTC)
                yield today if today > at else today + timedelta(days=1)


def in_force(model: Model, at: datetime) -> Price | None:
    """Return a model's price at a moment in UTC, with those of its service tiers."""
    # The last one that holds; the first where none does, as genai-prices has it.
    active = [each for each in model.prices if holds(each.when, at)]
    standard = (active[-1] if active else model.prices[0]).price if model.prices else None
    if standard is None:
        return None
    rates: dict[str, dict[str, Rate]] = {}
    for variant in model.variants:
        if holds(variant.when, at):
            rates[variant.service] = {**variant.rates, **rates.get(variant.service, {})}
    if not rates:
        return standard
    services = tuple(
        identified(msgspec.structs.replace(standard, id="", service=service, **said))
        for service, said in rates.items()
    )
    return identified(msgspec.structs.replace(standard, id="", services=services))


def edges(model: Model, at: datetime) -> Iterator[datetime]:
    """Yield the next moments after `at` at which `in_force` may say something else."""
    whens = [each.when for each in model.prices] + [each.when for each in model.variants]
    for when in whens:
        yield from changes(when, at)


def identified(price: Price) -> Price:
    """Return the price with its id: a digest of all the rest, the same on every machine."""

    def plain(rate: Rate | None) -> str:
        if rate is None:
            return "-"
        tiers = sorted((tier.start, Fraction(tier.usd)) for tier in rate.tiers)
        return " ".join([str(Fraction(rate.usd)), *(f"{start}:{usd}" for start, usd in tiers)])

    # Fractions, because 0.5 and 0.50 are one price.
    parts = [price.source, str(Fraction(price.request_usd)), str(price.context_window)]
    parts += [
        plain(price.input),
        plain(price.output),
        plain(price.cache_read),
        plain(price.cache_write),
        plain(price.cache_write_1h),
        plain(price.audio_input),
        plain(price.reasoning),
        plain(price.audio_output),
    ]
    # What was added later is said only where there is any: older ids stay as they are.
    parts += [
        f"{name} {text}"
        for name, text in (
            ("image_input", plain(price.image_input)),
            ("image_output", plain(price.image_output)),
            ("search", "-" if price.search_usd is None else str(Fraction(price.search_usd))),
            ("units", " ".join(f"{key}:{Fraction(usd)}" for key, usd in price.units) or "-"),
            ("longest", "-" if price.longest_audio is None else str(price.longest_audio)),
            ("hour", "-" if price.gpu_hour_usd is None else str(Fraction(price.gpu_hour_usd))),
            ("service", price.service or "-"),
            ("services", " ".join(each.id for each in price.services) or "-"),
            ("discount", "-" if price.discount == 1 else str(Fraction(price.discount))),
        )
        if text != "-"
    ]
    digest = sha256("\n".join(parts).encode()).hexdigest()[:16]
    return msgspec.structs.replace(price, id=digest)
