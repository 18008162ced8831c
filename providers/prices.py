"""The price in force for a model on a day: the user's own, else that of genai-prices.

Its one rule: a price comes from gateway.toml or from the installed package's data, never from
the network, and what is unknown is None, never $0.
"""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import msgspec

from tollway.providers import price_file
from tollway.providers.canon import Price, Rate
from tollway.providers.money import times
from tollway.providers.price_data import (
    Model,
    PriceData,
    Provider,
    edges,
    identified,
    in_force,
)

log = logging.getLogger("tollway.prices")

FREE = Price(id="free", source="free", input=Rate(Decimal(0)), output=Rate(Decimal(0)))
# Of calls that the caller's own account at the provider pays for.
CALLERS = msgspec.structs.replace(FREE, id="caller", source="caller")

_RATES = (
    *("input", "output", "cache_read", "cache_write", "cache_write_1h", "audio_input"),
    *("reasoning", "audio_output", "image_input", "image_output"),
)
_FINE = Decimal("1e-6")
_EVER = datetime.max.replace(tzinfo=UTC)
_KEPT_NAMES = 10_000  # a bound, because callers choose the names


class Override(Protocol):
    """What gateway.toml says of a price, in dollars for a million tokens."""

    @property
    def input(self) -> Decimal:
        """Fresh input."""

    @property
    def output(self) -> Decimal:
        """Output that is neither reasoning nor audio."""

    @property
    def cached_input(self) -> Decimal | None:
        """Input read from the provider's cache; None: as input."""

    @property
    def cache_write(self) -> Decimal | None:
        """Input written to the provider's cache; None: as input."""

    @property
    def cache_write_1h(self) -> Decimal | None:
        """Input written for an hour; None: as `cache_write`."""

    @property
    def audio_input(self) -> Decimal | None:
        """Audio that goes in; None: as input."""

    @property
    def reasoning(self) -> Decimal | None:
        """Reasoning; None: as output."""

    @property
    def audio_output(self) -> Decimal | None:
        """Audio that comes out; None: as output."""

    @property
    def image_input(self) -> Decimal | None:
        """Images that go in; None: as input."""

    @property
    def image_output(self) -> Decimal | None:
        """Images that come out; None: as output."""

    @property
    def request(self) -> Decimal:
        """Dollars for each call, beside its tokens."""

    @property
    def search(self) -> Decimal | None:
        """Dollars for each paid search; None: not known."""

    @property
    def units(self) -> tuple[tuple[str, Decimal], ...]:
        """Dollars for what is sold in place of tokens, by the keys of `units.py`."""

    @property
    def longest_audio(self) -> Decimal | None:
        """Minutes that the model hears at most; None: not known."""

    @property
    def service_tiers(self) -> Mapping[str, Decimal] | None:
        """How many times the price each service tier costs, its fees apart."""

    @property
    def context_window(self) -> int | None:
        """Tokens that the model can take; None: not known."""


def override(said: Override) -> Price:
    """Return the price that a table in gateway.toml stands for."""
    services = tuple(
        _overridden(said, factor, service=service)
        for service, factor in (said.service_tiers or {}).items()
    )
    return _overridden(said, Decimal(1), services=services)


def discounted(price: Price, part: Decimal) -> Price:
    """Return a price of which only a part is paid: 0.9 for 10 % off. Its rates stay the list's."""
    services = tuple(discounted(each, part) for each in price.services)
    return identified(msgspec.structs.replace(price, discount=part, services=services))


def with_tiers_of(price: Price, listed: Price) -> Price:
    """Return a price with the dearer service tiers of a listed one, as many times dearer each.

    Which tier answers is up to the account at the provider: a price that says nothing of tiers
    is not the price of one that the data know to cost twice as much.
    """
    factors = ((one.service, _times_dearer(one, listed)) for one in listed.services)
    services = tuple(
        identified(msgspec.structs.replace(_scaled(price, factor), service=service, services=()))
        for service, factor in factors
        if factor > 1
    )
    return identified(msgspec.structs.replace(price, services=services)) if services else price


def _times_dearer(one: Price, listed: Price) -> Decimal:
    """Return how many times a listed price one of its tiers is, of the class where that is most."""
    pairs = ((getattr(one, name), getattr(listed, name)) for name in _RATES)
    ratios = [tier.usd / usual.usd for tier, usual in pairs if tier and usual and usual.usd]
    return max(ratios, default=Decimal(1)).quantize(_FINE, ROUND_CEILING)


def _scaled(price: Price, factor: Decimal) -> Price:
    rates = ((name, getattr(price, name)) for name in _RATES)
    dearer = {name: Rate(times(rate.usd, factor)) for name, rate in rates if rate is not None}
    return msgspec.structs.replace(price, **dearer)


def by_the_hour(usd: Decimal) -> Price:
    """Return the price of a model on this box that costs so many dollars for an hour's work."""
    nothing = Rate(Decimal(0))
    said = Price(id="", source="gateway.toml", input=nothing, output=nothing, gpu_hour_usd=usd)
    return identified(said)


def _overridden(
    said: Override, factor: Decimal, *, service: str = "", services: tuple[Price, ...] = ()
) -> Price:
    def rate(usd: Decimal | None) -> Rate | None:
        return None if usd is None else Rate(times(usd, factor))

    return identified(
        Price(
            id="",
            source="gateway.toml",
            input=Rate(times(said.input, factor)),
            output=Rate(times(said.output, factor)),
            cache_read=rate(said.cached_input),
            cache_write=rate(said.cache_write),
            cache_write_1h=rate(said.cache_write_1h),
            audio_input=rate(said.audio_input),
            reasoning=rate(said.reasoning),
            audio_output=rate(said.audio_output),
            image_input=rate(said.image_input),
            image_output=rate(said.image_output),
            request_usd=said.request,
            search_usd=said.search,
            units=said.units,
            longest_audio=said.longest_audio,
            context_window=said.context_window,
            service=service,
            services=services,
        )
    )


class InForce(msgspec.Struct, frozen=True):
    """A price, None where there is none, and from when until when that is the answer (UTC)."""

    price: Price | None
    since: datetime
    until: datetime


class PriceSource:
    """The bundled data. Made once for each daemon; reading it takes milliseconds.

    They are what `tollway prices update` put in use, else those of the installed package. The
    first one after an install or an upgrade runs `price_distil.py` for half a second and keeps
    what it prints in `cache_folder` (default: $XDG_CACHE_HOME/tollway). Where that cannot be
    written, every start pays the half second; where no process can be started, genai_prices is
    imported here and its memory kept.
    """

    def __init__(self, cache_folder: Path | None = None, *, data: PriceData | None = None) -> None:
        """Read the data in use, or take `data`; with a `cache_folder` the installed ones."""
        if data is None and cache_folder is None:
            applied = price_file.applied_file()
            data = price_file.read(applied)
            if data is None and applied.exists():
                log.error("%s is damaged or not ours alone: the installed prices hold", applied)
        self._data = data or price_file.installed(cache_folder or price_file.cache_folder())
        self._unpacked: dict[str, Provider] = {}

    @property
    def source(self) -> str:
        """Which data they are, as each price says it: "genai-prices 0.2.3"."""
        return self._data.source

    def providers(self) -> tuple[str, ...]:
        """Return the providers that there are prices for, as genai-prices names them."""
        return tuple(self._data.providers)

    def models(self, prices_id: str) -> tuple[Model, ...]:
        """Return a provider's own models, () for one that is not known."""
        provider = self._provider(prices_id)
        return provider.models if provider else ()

    def model(self, prices_id: str, name: str) -> Model | None:
        """Return the model that a name means at a provider, or None."""
        provider = self._provider(prices_id)
        return self._model(provider, name) if provider else None

    def find(self, prices_id: str, model: str, at: datetime) -> Price | None:
        """Return a model's price at a moment, or None where it is unknown.

        `prices_id` is a provider as genai-prices names it ("openai", "x-ai"), `model` any name
        that it knows the model by. Standard service tier; `at` has a time zone.
        """
        return self.in_force(prices_id, model, at).price

    def in_force(self, prices_id: str, model: str, at: datetime) -> InForce:
        """Return what `find` does, with the time for which it is true."""
        at = at.astimezone(UTC)
        provider = self._provider(prices_id)
        found = provider and self._model(provider, model)
        if not found:
            return InForce(None, at, _EVER)
        return InForce(in_force(found, at), at, min(edges(found, at), default=_EVER))

    def _provider(self, prices_id: str) -> Provider | None:
        wanted = prices_id.lower().strip()
        for exact in (True, False):
            for known, clause in self._data.names:
                if known == wanted if exact else clause is not None and clause.matches(wanted):
                    return self._unpack(known)
        return None

    def _unpack(self, known: str) -> Provider | None:
        if known not in self._unpacked and known in self._data.providers:
            packed = self._data.providers[known]
            self._unpacked[known] = msgspec.msgpack.decode(packed, type=Provider)
        return self._unpacked.get(known)

    def _model(self, provider: Provider, name: str) -> Model | None:
        lowered = name.lower()
        dashed = _COMPACT_DATE.sub(_with_dashes, lowered)
        for each in dict.fromkeys((lowered, dashed, _SELLERS_CHOICE.sub("", lowered))):
            for models in (provider.models, *self._resold(provider)):
                for model in models:
                    if model.match.matches(each):
                        return model
        return None

    def _resold(self, provider: Provider) -> list[tuple[Model, ...]]:
        resold = [self._unpack(other) for other in provider.resells]
        return [each.models for each in resold if each]


class Overrides:
    """The names under [prices], "provider/model", where `*` and `?` may stand for more.

    The exact name wins, then the glob with the most literal characters, then the one that stands
    first. As in the bundled data, names differ by more than case: whoever asks for "GPT-4o" is
    not to get another price than for "gpt-4o". Where two differ by case alone, each has its own.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names in the order of the file."""
        self._exact = dict.fromkeys(names)
        self._folded: dict[str, str] = {}
        for name in self._exact:
            self._folded.setdefault(name.lower(), name)
        self._globs = sorted(
            filter(is_glob, self._exact),
            key=lambda name: sum(character not in "*?" for character in name),
            reverse=True,
        )

    def of(self, target: str) -> str | None:
        """Return the name that decides a target's price, or None for none."""
        if target in self._exact:
            return target
        folded = target.lower()
        if folded in self._folded:
            return self._folded[folded]
        near = [glob for glob in self._globs if is_match(folded, glob.lower())]
        if not near:
            return None
        # Two that differ by case alone mean what each says.
        twins = [glob for glob in near if glob.lower() == near[0].lower()]
        return next((glob for glob in twins if is_match(target, glob)), near[0])


class PriceTable:
    """The prices of one gate: gateway.toml's first, then the bundled ones."""

    def __init__(
        self,
        source: PriceSource,
        overrides: Mapping[str, Price],
        discounts: Mapping[str, Decimal] | None = None,
        untiered: Collection[str] = (),
    ) -> None:
        """Take prices as `Overrides` are named, and which part is paid at a provider.

        `untiered` are those of them that say nothing of service tiers: the data do.
        """
        self._source = source
        self._discounts = discounts or {}
        self._said = dict(overrides)
        self._untiered = frozenset(untiered)
        self._overrides = Overrides(self._said)
        self._kept: dict[tuple[str, str | None, str], InForce] = {}
        self._alike: dict[str, Price] = {}

    def price(
        self, provider_name: str, prices_id: str | None, model: str, at: datetime
    ) -> Price | None:
        """Return the price in force at a moment, or None where none is known.

        `provider_name` is the table's name in gateway.toml, `prices_id` what genai-prices calls
        that provider (None: it has no bundled prices), `model` the name there.
        """
        return self.in_force(provider_name, prices_id, model, at).price

    def in_force(
        self, provider_name: str, prices_id: str | None, model: str, at: datetime
    ) -> InForce:
        """Return what `price` does, with the time for which it is true."""
        key = (provider_name, prices_id, model)
        known = self._kept.get(key)
        if known is None or not known.since <= at < known.until:
            known = self._look_up(key, at)
            if len(self._kept) >= _KEPT_NAMES:
                self._kept.clear()
            self._kept[key] = known
        return known

    def override_of(self, name: str) -> str | None:
        """Return the name of the override that decides a target's price, or None for none."""
        return self._overrides.of(name)

    def _look_up(self, key: tuple[str, str | None, str], at: datetime) -> InForce:
        found = self._listed(key, at)
        if found.price is None:
            return found
        part = self._discounts.get(key[0], Decimal(1))
        price = found.price if part == 1 else discounted(found.price, part)
        # One object for all models at a price: `money.py` works each out once, 0.2 ms of work.
        if len(self._alike) >= _KEPT_NAMES:
            self._alike.clear()
        return msgspec.structs.replace(found, price=self._alike.setdefault(price.id, price))

    def _listed(self, key: tuple[str, str | None, str], at: datetime) -> InForce:
        provider_name, prices_id, model = key
        said = self.override_of(f"{provider_name}/{model}")
        if said is not None:
            price = self._said[said]
            if said in self._untiered and prices_id is not None:
                found = self._source.in_force(prices_id, model, at)
                if found.price is not None:
                    tiered = with_tiers_of(price, found.price)
                    return msgspec.structs.replace(found, price=tiered)
            return InForce(price, at, _EVER)
        if prices_id is None:
            return InForce(None, at, _EVER)
        return self._source.in_force(prices_id, model, at)


def is_glob(name: str) -> bool:
    """Whether a name of [prices] may mean several targets."""
    return "*" in name or "?" in name


def is_match(name: str, glob: str) -> bool:
    """Whether a name is one that a glob of [prices] means: `*` and `?` alone are special."""
    return fnmatchcase(name, glob.replace("[", "[[]"))


# "-20251211", which some gateways write where the data have "-2025-12-11".
_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


# What OpenRouter is told behind a model's name of how to choose its seller, or to search first:
# the model is the same one.
_SELLERS_CHOICE = re.compile(r":(?:floor|nitro|exacto|online)(?=:|$)")


def _with_dashes(found: re.Match[str]) -> str:
    year, month, day = (int(group) for group in found.groups())
    try:
        return f"-{date(year, month, day)}"
    except ValueError:  # February 30: part of a name, no date
        return found.group()
