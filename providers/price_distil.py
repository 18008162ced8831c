"""Distils the bundled price data of genai-prices to what the gate needs.

Its rule: the daemon never imports genai_prices. The package is 1.6 MB of Python that builds ten
thousand objects and brings pydantic; `python -m tollway.providers.price_distil` imports it in a
process of its own and prints the distillate, which `prices.py` keeps in a file. Nothing here
touches the network: the data are those of the installed package.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import msgspec
from genai_prices import types as genai
from genai_prices.data import providers as bundled

from tollway.providers.canon import Price, Rate, Tier
from tollway.providers.price_data import (
    AllOf,
    AnyOf,
    Clause,
    Conditional,
    Contains,
    Daily,
    EndsWith,
    Equals,
    FromDay,
    Model,
    PriceData,
    Provider,
    Regex,
    StartsWith,
    Variant,
    identified,
)

Rates = Mapping[str, Decimal | genai.TieredPrices]
Hours = frozenset[tuple[time, time]]

# Rates that `Usage` can meter, by the name that genai-prices gives them.
_METERED = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "output_image_mtok": "image_output",
}
# Tokens that `Usage` does not tell apart from the class named here.
_COUNTED_AS = {
    "input_text_mtok": "input_mtok",
    "input_video_mtok": "input_image_mtok",
    "input_tool_mtok": "input_mtok",
    "cache_write_5m_mtok": "cache_write_mtok",
    "output_text_mtok": "output_mtok",
    "output_video_mtok": "output_image_mtok",
    "output_citation_mtok": "output_mtok",
}
_VIDEO = {"input_video_mtok": "input_image_mtok", "output_video_mtok": "output_image_mtok"}
_REQUESTS = "requests_kcount"
_SEARCHES = "web_searches_kcount"
# Who is listed as reselling others' models at their prices, and does so of these alone. Azure's own
# prices of DeepSeek's, xAI's and Moonshot's models are higher, up to ten times (its price list).
_RESELLS = {"azure": frozenset({"openai", "anthropic"})}
# DeepSeek's dear hours are those of Beijing's offices, "Monday through Friday" since 23 August 2026
# (api-docs.deepseek.com, "Models & Pricing"). Its older ones were every day's.
_WORKDAYS = {"deepseek": frozenset({(time(1), time(4)), (time(6), time(10))})}
# Nothing that a plain call reaches: tools run by the provider are bounded or refused by the
# gate, and cached audio is counted as what it mostly is, cached text.
_BESIDE = re.compile(r"(social|storage)_searches_kcount|code_executions_kcount|cache_audio_.*")


def distil(file: Path | None = None) -> PriceData:
    """Return the installed package's data, or those of a `data.json` that it publishes.

    Raises:
        ValueError, OSError: The file is something else, or cannot be read.
    """
    providers: list[genai.Provider] = bundled
    source = f"genai-prices {version('genai-prices')}"
    if file is not None:
        raw = file.read_bytes()
        # A version is not in the file: what is in it tells it from any other.
        source = f"genai-prices data {sha256(raw).hexdigest()[:12]}"
        listed = json.loads(raw, parse_float=Decimal)
        if not isinstance(listed, list) or not listed:
            raise ValueError("expected a list of providers")
        providers = genai._providers_from_raw(listed)
    packed = {}
    for each in providers:
        offices = _WORKDAYS.get(each.id, frozenset())
        models = tuple(_model(model, source, offices) for model in each.models)
        provider = Provider(models, tuple(_resells(each)))
        packed[each.id] = msgspec.Raw(msgspec.msgpack.encode(provider))
    names = tuple(
        (each.id, _clause(each.provider_match) if each.provider_match else None)
        for each in providers
    )
    return PriceData(source, names, packed)


def _resells(provider: genai.Provider) -> Iterator[str]:
    for other in provider.fallback_model_providers or ():
        if other in _RESELLS.get(provider.id, (other,)):
            yield other


def _model(model: genai.ModelInfo, source: str, offices: Hours) -> Model:
    listed = model.prices
    if isinstance(listed, genai.ModelPrice):
        listed = [genai.ConditionalPrice(prices=listed)]
    prices = tuple(
        Conditional(
            _when(each.constraint, offices),
            price(_listed(model, each.prices), source, model.context_window),
        )
        for each in listed
    )
    variants = tuple(filter(None, (_variant(model, one) for one in model.price_variants or ())))
    return Model(model.id, _clause(model.match), prices, variants)


def _listed(model: genai.ModelInfo, prices: genai.ModelPrice) -> dict[str, object]:
    """Return what is listed for a model, and what is known of it besides.

    Claude's writes for an hour cost twice its input, whoever sells it (platform.claude.com/docs,
    "Pricing"). Most sellers' lists have the cheaper ones of five minutes alone. Models that are
    named for their audio charge more for it than for text: where no rate of it is listed, nothing
    is known.
    """
    listed = {key: value for key, value in prices.__dict__.items() if value is not None}
    if "claude" in model.id and "cache_write_mtok" in listed and "input_mtok" in listed:
        listed.setdefault("cache_write_1h_mtok", _twice(listed["input_mtok"]))
    if "-audio-preview" in model.id and "input_audio_mtok" not in listed:
        return {}
    return listed


def _twice(rate: Decimal | genai.TieredPrices) -> Decimal | genai.TieredPrices:
    if isinstance(rate, Decimal):
        return 2 * rate
    tiers = [genai.Tier(start=tier.start, price=2 * tier.price) for tier in rate.tiers]
    return genai.TieredPrices(base=2 * rate.base, tiers=tiers)


def _variant(model: genai.ModelInfo, variant: genai.PriceVariant) -> Variant | None:
    """Return what a service tier charges; None where it charges what the standard one does.

    A tier with a rate that is not metered is left out: it is billed as the standard one, and
    where it was asked for by name and a budget applies, refused.
    """
    rates = _rates(_listed(model, variant.prices))
    rates.pop(_SEARCHES, None)
    if not rates or rates.keys() - _METERED.keys():
        return None
    return Variant(
        "+".join(variant.when.values()),
        _when(variant.constraint),
        {_METERED[theirs]: _rate(rate) for theirs, rate in rates.items()},
    )


def _rates(listed: Mapping[str, object]) -> dict[str, Decimal | genai.TieredPrices]:
    rates = {
        key: value
        for key, value in listed.items()
        if isinstance(value, Decimal | genai.TieredPrices) and not _BESIDE.fullmatch(key)
    }
    for video, image in _VIDEO.items():
        if video in rates:
            # `Usage` counts video among images.
            rates.setdefault(image, rates[video])
    return rates


def price(listed: Mapping[str, object], source: str, context_window: int | None) -> Price | None:
    """Return what genai-prices lists for a model, or None where tokens alone don't say the cost.

    Nothing listed is nothing known, not free. A class that we cannot tell from a cheaper one
    (cached images that cost more than cached text) would be billed too low, so it is unknown as
    well.
    """
    rates = _rates(listed)
    requests, searches = rates.get(_REQUESTS, Decimal(0)), rates.get(_SEARCHES)
    known = _METERED.keys() | _COUNTED_AS.keys() | {_REQUESTS, _SEARCHES}
    if "input_mtok" not in rates or rates.keys() - known or not isinstance(requests, Decimal):
        return None
    if any(_dearer(rates, key, parent) for key, parent in _COUNTED_AS.items() if key in rates):
        return None
    classes = {ours: _rate(rates[theirs]) for theirs, ours in _METERED.items() if theirs in rates}
    return identified(
        Price(
            id="",
            source=source,
            input=classes["input"],
            # Embeddings and classifiers list no output: there is none to pay for.
            output=classes.get("output", Rate(Decimal(0))),
            cache_read=classes.get("cache_read"),
            cache_write=classes.get("cache_write"),
            cache_write_1h=classes.get("cache_write_1h"),
            audio_input=classes.get("audio_input"),
            reasoning=classes.get("reasoning"),
            audio_output=classes.get("audio_output"),
            image_input=classes.get("image_input"),
            image_output=classes.get("image_output"),
            request_usd=requests / 1000,
            search_usd=searches / 1000 if isinstance(searches, Decimal) else None,
            context_window=context_window,
        )
    )


def _dearer(rates: Rates, key: str, parent: str) -> bool:
    """Return whether a class may cost more than the one it is counted as."""
    return parent not in rates or max(_amounts(rates[key])) > min(_amounts(rates[parent]))


def _amounts(rate: Decimal | genai.TieredPrices) -> Iterator[Decimal]:
    if isinstance(rate, Decimal):
        yield rate
    else:
        yield rate.base
        yield from (tier.price for tier in rate.tiers)


def _rate(rate: Decimal | genai.TieredPrices) -> Rate:
    if isinstance(rate, Decimal):
        return Rate(rate)
    # Their tiers begin above `start`, ours at it.
    return Rate(rate.base, tuple(Tier(tier.start + 1, tier.price) for tier in rate.tiers))


def _when(
    constraint: genai.StartDateConstraint | genai.TimeOfDateConstraint | None,
    offices: Hours = frozenset(),
) -> FromDay | Daily | None:
    """Return when a price holds; `offices` are the hours that count from Monday to Friday."""
    match constraint:
        case None:
            return None
        case genai.StartDateConstraint(start_date=day):
            return FromDay(day)
        case genai.TimeOfDateConstraint(start_time=start, end_time=end):
            hours = (_utc(start), _utc(end))
            return Daily(*hours, workdays=hours in offices)


def _utc(moment: time) -> time:
    """Return a time of day in UTC; one without a zone is in UTC already."""
    if moment.tzinfo is None:
        return moment
    return datetime.combine(date(2000, 1, 2), moment).astimezone(UTC).time()


def _clause(match: genai.MatchLogic) -> Clause:
    match match:
        case genai.ClauseOr(or_=clauses):
            return AnyOf(tuple(_clause(each) for each in clauses))
        case genai.ClauseAnd(and_=clauses):
            return AllOf(tuple(_clause(each) for each in clauses))
        case genai.ClauseRegex(regex=pattern):
            return Regex(pattern)
        case genai.ClauseEquals(equals=text):
            return Equals(text)
        case _:
            return _part(match)


def _part(
    match: genai.ClauseStartsWith | genai.ClauseEndsWith | genai.ClauseContains,
) -> Clause:
    match match:
        case genai.ClauseStartsWith(starts_with=text):
            return StartsWith(text)
        case genai.ClauseEndsWith(ends_with=text):
            return EndsWith(text)
        case genai.ClauseContains(contains=text):
            return Contains(text)


if __name__ == "__main__":
    named = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    sys.stdout.buffer.write(msgspec.msgpack.encode(distil(named)))
