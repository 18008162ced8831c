"""What differs between two sets of price data: what a person reads before the new one is used."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import msgspec

from tollway.providers.canon import Price, Rate
from tollway.providers.price_data import Daily, Model, edges, in_force
from tollway.providers.prices import PriceSource

# The fields of a price by the words of gateway.toml.
CLASSES = {
    "input": "input",
    "output": "output",
    "cache_read": "cached_input",
    "cache_write": "cache_write",
    "cache_write_1h": "cache_write_1h",
    "audio_input": "audio_input",
    "reasoning": "reasoning",
    "audio_output": "audio_output",
    "image_input": "image_input",
    "image_output": "image_output",
}
FEES = {"request_usd": "request", "search_usd": "search"}
_WEEK = timedelta(days=7)


class Change(msgspec.Struct, frozen=True):
    """One model's price that is not what it was; "" where there is none, dollars a million.

    `since` is the day from which it holds, "" for today.
    """

    provider: str
    model: str
    before: str
    after: str
    since: str = ""


def changes(before: PriceSource, after: PriceSource, at: datetime) -> Iterator[Change]:
    """Yield what the prices in force at a moment are in one and not in the other, and later ones.

    Every provider and model that either knows; `at` has a time zone.
    """
    at = at.astimezone(UTC)
    for provider in sorted({*before.providers(), *after.providers()}):
        old = {model.id: model for model in before.models(provider)}
        new = {model.id: model for model in after.models(provider)}
        for name in sorted(old.keys() | new.keys()):
            yield from _of_model(provider, name, (old.get(name), new.get(name)), at)


def _of_model(
    provider: str, name: str, models: tuple[Model | None, Model | None], at: datetime
) -> Iterator[Change]:
    days = {day for model in models if model for day in model.days() if day > at.date()}
    said: tuple[str, str] | None = None
    for moment in (at, *(datetime.combine(day, time(), UTC) for day in sorted(days))):
        prices = [in_force(model, moment) if model else None for model in models]
        texts = (summary(prices[0]), summary(prices[1]))
        if texts != said and texts[0] != texts[1]:
            since = "" if moment == at else f"{moment:%Y-%m-%d}"
            yield Change(provider, name, *texts, since)
        said = texts


def summary(price: Price | None) -> str:
    """Return a price in one line, in the words of gateway.toml; "" for none."""
    if price is None:
        return ""
    parts = [
        f"{word} {_rate(rate)}"
        for field, word in CLASSES.items()
        if (rate := getattr(price, field)) is not None
    ]
    parts += [
        f"{word} {usd.normalize():f} each"
        for field, word in FEES.items()
        if (usd := getattr(price, field))
    ]
    parts += [f"{other.service} ({_differing(other, price)})" for other in price.services]
    return ", ".join(parts)


def later(model: Model, at: datetime) -> Iterator[tuple[datetime, str]]:
    """Yield the moments (UTC) at which a model's price becomes another, and its `summary` then.

    Of prices by the hour the next alone, as there is no last one; it may be days away, since some
    hours count from Monday to Friday.
    """
    at = at.astimezone(UTC)
    said = summary(in_force(model, at))
    whens = [one.when for one in model.prices] + [one.when for one in model.variants]
    hourly = any(isinstance(when, Daily) for when in whens)
    end = at + _WEEK
    while (moment := min(edges(model, at), default=None)) is not None:
        at, then = moment, summary(in_force(model, moment))
        if then != said:
            yield at, then
        if hourly and (then != said or at > end):
            return
        said = then


def _rate(rate: Rate) -> str:
    tiers = "".join(f" ({tier.usd.normalize():f} from {tier.start:,})" for tier in rate.tiers)
    return f"{rate.usd.normalize():f}{tiers}"


def _differing(other: Price, price: Price) -> str:
    said = [
        f"{word} {_rate(rate)}"
        for field, word in CLASSES.items()
        if (rate := getattr(other, field)) is not None and rate != getattr(price, field)
    ]
    return ", ".join(said) or "the same"
