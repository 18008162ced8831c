"""The bundled prices say what genai-prices itself says, for every model that it knows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from pathlib import Path

import genai_prices
import pytest
from genai_prices import data, types

from tollway.providers.canon import Price, Usage
from tollway.providers.money import cost, worst_case
from tollway.providers.price_diff import later, summary
from tollway.providers.prices import PriceSource

DAYS = [
    datetime(2023, 6, 1, tzinfo=UTC),
    datetime(2025, 2, 8, 0, 29, 59, tzinfo=UTC),
    datetime(2025, 9, 1, 16, 30, tzinfo=UTC),
    datetime(2026, 10, 14, 3, 0, tzinfo=UTC),
    datetime(2027, 1, 1, 23, 59, 59, 999_999, tzinfo=UTC),
]
USAGES = [
    Usage(input=1),
    Usage(input=1234, output=567),
    Usage(input=7, cache_read=100_003, cache_write=13, output=3),
    Usage(input=11, cache_write=17, cache_write_1h=19, audio_input=23, output=29),
    Usage(input=40_000, cache_read=150_000, audio_input=9_999, cache_write=1, output=501),
    Usage(input=199_999, cache_read=2, output=31, reasoning=37, audio_output=41),
    Usage(input=5, image_input=43, output=47, image_output=53, searches=3),
    Usage(input=1_000_001, output=1),
]
# Why a model that genai-prices lists has no price here: what it lists, and what that would do.
UNKNOWN = {
    "nothing listed": "free models, seats and unknowns alike: nothing is not $0",
    "no tokens": "speech, transcription and scans are paid by the minute, character or page",
    "paid by something else too": "audio by the hour beside tokens",
    "a dearer class": "cached images count as cached text, video as images, which are cheaper",
    "audio unsaid": "a model that is named for its audio is listed with its rates of text alone",
}
# Whose prices they take for Azure's, and are not.
NOT_RESOLD = {"deepseek", "x-ai", "moonshotai"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PriceSource:
    """Return the bundled data, distilled afresh."""
    return PriceSource(tmp_path_factory.mktemp("prices"))


def in_their_words(usage: Usage, price: types.ModelPrice) -> types.Usage:
    """Return a usage as genai-prices counts: classes overlap, totals hold everything.

    We count video among images; it is video where a price has a rate for that.
    """
    films = price.output_video_mtok is not None
    return types.Usage(
        input_tokens=usage.input_total,
        output_tokens=usage.output_total,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write + usage.cache_write_1h,
        cache_write_1h_tokens=usage.cache_write_1h,
        input_audio_tokens=usage.audio_input,
        cache_audio_read_tokens=0,
        cache_image_read_tokens=0,
        input_image_tokens=usage.image_input,
        output_image_tokens=0 if films else usage.image_output,
        input_video_tokens=0,
        output_video_tokens=usage.image_output if films else 0,
        web_searches=usage.searches,
        output_reasoning_tokens=usage.reasoning,
        output_audio_tokens=usage.audio_output,
    )


_known: dict[int, tuple[types.ModelPrice, list[int]]] = {}


def their_costs(price: types.ModelPrice) -> list[int]:
    """Return what genai-prices asks for each of USAGES, in whole nano-dollars."""
    known = _known.get(id(price))  # its arithmetic is slow, and a price is in force on many days
    if known is None or known[0] is not price:
        usd = [price.calc_price(in_their_words(usage, price))["total_price"] for usage in USAGES]
        nanousd = [int((each * 10**9).to_integral_value(ROUND_HALF_EVEN)) for each in usd]
        known = _known[id(price)] = (price, nanousd)
    return known[1]


_ours: dict[int, tuple[Price, list[int]]] = {}


def our_costs(price: Price) -> list[int]:
    """Return what a price of ours asks for each of USAGES, in nano-dollars."""
    known = _ours.get(id(price))
    if known is None:
        known = _ours[id(price)] = (price, [cost(usage, price) for usage in USAGES])
    return known[1]


_asked: dict[tuple[str, str], types.ModelInfo | None] = {}


def asked(provider: types.Provider, name: str) -> types.ModelInfo | None:
    """Return the model that genai-prices finds by a name, None where it finds none."""
    if (provider.id, name) not in _asked:
        resold = [each for each in data.providers if each.id not in NOT_RESOLD or each is provider]
        _asked[provider.id, name] = provider.find_model(name, all_providers=resold)
    return _asked[provider.id, name]


def with_an_hour(model_id: str, price: types.ModelPrice) -> types.ModelPrice:
    """Return a price with the writes for an hour that Claude has at every seller."""
    of_hour = price.cache_write_1h_mtok is not None
    if "claude" not in model_id or price.cache_write_mtok is None or of_hour:
        return price
    fresh = price.input_mtok
    assert isinstance(fresh, Decimal | types.TieredPrices)
    twice: Decimal | types.TieredPrices
    if isinstance(fresh, Decimal):
        twice = 2 * fresh
    else:
        tiers = [types.Tier(start=tier.start, price=2 * tier.price) for tier in fresh.tiers]
        twice = types.TieredPrices(base=2 * fresh.base, tiers=tiers)
    return types.ModelPrice(**{**vars(price), "cache_write_1h_mtok": twice})


def texts(clause: types.MatchLogic) -> Iterator[str]:
    """Yield the words of a clause: names, beginnings and parts of names."""
    if isinstance(clause, types.ClauseOr):
        for each in clause.or_:
            yield from texts(each)
    elif isinstance(clause, types.ClauseAnd):
        for each in clause.and_:
            yield from texts(each)
    elif not isinstance(clause, types.ClauseRegex):
        yield from (str(text) for text in vars(clause).values())


def names(provider: types.Provider) -> list[str]:
    """Return names that may or may not be of a model that a provider has."""
    everyone = [model.id for each in data.providers[:6] for model in each.models[::5]]
    own = {model.id for model in provider.models}
    own |= {text for model in provider.models for text in texts(model.match)}
    more = {name.upper() for name in own} | {f"{name}-20251211" for name in own}
    return sorted(own | more | set(everyone))


def why_unknown(model_id: str, price: types.ModelPrice) -> str:
    """Return the reason, out of UNKNOWN, for which a price cannot be told by tokens."""
    listed = {key for key, value in vars(price).items() if value is not None}
    if not listed:
        return "nothing listed"
    if "input_mtok" not in listed:
        return "no tokens"
    if not any("audio" in key for key in listed) and "audio" in model_id:
        return "audio unsaid"
    if "cache_image_read_mtok" in listed or {"input_video_mtok", "input_image_mtok"} <= listed:
        return "a dearer class"
    assert any(key.endswith("_hours") for key in listed), listed
    return "paid by something else too"


def check_names(source: PriceSource, every: int) -> int:
    """Try one in so many names of every provider; return how many were of a model."""
    met = 0
    for provider in data.providers:
        found = source._provider(provider.id)
        assert found is not None
        for name in names(provider)[::every]:
            theirs = asked(provider, name)
            ours = source._model(found, name)
            assert (ours and ours.id) == (theirs and theirs.id), (provider.id, name)
            met += theirs is not None
    return met


def test_a_name_means_the_model_that_genai_prices_finds(source: PriceSource) -> None:
    """Their order, their case rules, their dates without dashes, one step of resale."""
    assert check_names(source, every=7) > 700


@pytest.mark.long
def test_every_name_means_the_model_that_genai_prices_finds(source: PriceSource) -> None:
    """As above, with each of the names."""
    assert check_names(source, every=1) > 5000


@pytest.mark.parametrize("at", DAYS, ids=lambda day: f"{day:%Y-%m-%d %H%M}")
def test_every_model_costs_what_genai_prices_says_to_the_nano_dollar(
    source: PriceSource, at: datetime
) -> None:
    """Every class of tokens, tiers, fees, dates and times of day; or a reason in UNKNOWN."""
    reasons: set[str] = set()
    for provider in data.providers:
        for model in provider.models:
            theirs = asked(provider, model.id)
            if theirs is None:  # a few ids are not among their own model's names
                assert source.find(provider.id, model.id, at) is None
                continue
            price = theirs.get_prices(at)
            ours = source.find(provider.id, model.id, at)
            if ours is None:
                reasons.add(why_unknown(theirs.id, price))
                continue
            costs = our_costs(ours)
            assert costs == their_costs(with_an_hour(theirs.id, price)), (provider.id, model.id, at)
            assert ours.context_window == theirs.context_window
    assert reasons == UNKNOWN.keys()


@pytest.mark.parametrize("at", DAYS, ids=lambda day: f"{day:%Y-%m-%d %H%M}")
def test_every_service_tier_costs_what_genai_prices_says(source: PriceSource, at: datetime) -> None:
    """Batch, flex, priority and fast, from the day on from which their rates are known."""
    met = 0
    for provider in data.providers:
        for model in provider.models:
            ours = source.find(provider.id, model.id, at)
            if ours is None or asked(provider, model.id) is not model:
                continue
            known = {each.service: each for each in ours.services}
            for variant in model.price_variants or ():
                theirs = model.get_prices(at, variant.when)
                service = "+".join(variant.when.values())
                costs = their_costs(with_an_hour(model.id, theirs))
                if service in known:
                    met += 1
                    price = known[service]
                else:
                    price = ours
                    if "search_type" in variant.when:  # tells one search from another
                        continue
                assert our_costs(price) == costs, (model.id, service)
            assert known.keys() <= {
                "+".join(variant.when.values()) for variant in model.price_variants or ()
            }
    assert met > (50 if at.year > 2026 else 0) - 1


def test_an_answer_holds_exactly_as_long_as_it_says(source: PriceSource) -> None:
    """What is kept until `until` may neither outlive a change of price nor miss one."""
    seen = 0
    for provider in data.providers:
        for model in provider.models:
            if isinstance(model.prices, types.ModelPrice):
                continue
            at, end = datetime(2025, 1, 1, 12, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)
            for _ in range(12):
                known = source.in_force(provider.id, model.id, at)
                last = min(known.until, end) - timedelta(microseconds=1)
                assert source.find(provider.id, model.id, last) == known.price
                if known.until >= end:
                    break
                at = known.until
                seen += 1
    assert seen > 100


def test_an_off_peak_price_ends_on_the_minute(source: PriceSource) -> None:
    """DeepSeek's night ran from 16:30 to 00:30 UTC; other time zones mean the same moment."""
    night = source.in_force("deepseek", "deepseek-chat", datetime(2025, 3, 1, 20, tzinfo=UTC))
    assert night.price is not None
    assert night.until == datetime(2025, 3, 2, 0, 30, tzinfo=UTC)
    day = source.find("deepseek", "deepseek-chat", night.until)
    assert day is not None
    assert day.input.usd > night.price.input.usd
    shifted = night.until.astimezone(timezone(timedelta(hours=9))) - timedelta(microseconds=1)
    assert source.find("deepseek", "deepseek-chat", shifted) == night.price


def test_deepseek_s_weekends_are_off_peak(source: PriceSource) -> None:
    """Its dear hours are Monday's to Friday's; genai-prices can say hours, and no days."""
    friday = datetime(2026, 11, 27, 9, 59, tzinfo=UTC)
    dear = source.find("deepseek", "deepseek-v4-pro", friday)
    cheap = source.in_force("deepseek", "deepseek-v4-pro", datetime(2026, 11, 28, 6, tzinfo=UTC))
    assert dear is not None
    assert cheap.price is not None
    assert dear.input.usd == 2 * cheap.price.input.usd
    assert source.find("deepseek", "deepseek-v4-pro", friday + timedelta(days=2)) == cheap.price
    monday = datetime(2026, 11, 30, 1, tzinfo=UTC)
    assert source.find("deepseek", "deepseek-v4-pro", monday) == dear
    night = monday - timedelta(microseconds=1)
    assert source.in_force("deepseek", "deepseek-v4-pro", night).until == monday
    old = datetime(2025, 3, 1, 12, tzinfo=UTC)  # a Saturday, of hours that knew no days
    assert source.in_force("deepseek", "deepseek-chat", old).until.hour == 16


@pytest.mark.parametrize(
    ("at", "then"),
    [
        (datetime(2026, 11, 26, 5, tzinfo=UTC), datetime(2026, 11, 26, 6, tzinfo=UTC)),
        (datetime(2026, 11, 26, 20, tzinfo=UTC), datetime(2026, 11, 27, 1, tzinfo=UTC)),
        (datetime(2026, 11, 27, 20, tzinfo=UTC), datetime(2026, 11, 30, 1, tzinfo=UTC)),
        (datetime(2026, 11, 29, 2, tzinfo=UTC), datetime(2026, 11, 30, 1, tzinfo=UTC)),
    ],
)
def test_the_next_price_by_the_hour_is_told_also_over_a_weekend(
    source: PriceSource, at: datetime, then: datetime
) -> None:
    """What begins on Monday is what a person must know on Friday: hours between change nothing."""
    model = source.model("deepseek", "deepseek-v4-pro")
    assert model is not None
    ((moment, said),) = later(model, at)
    assert moment == then
    assert said == summary(source.find("deepseek", "deepseek-v4-pro", then))


def test_prices_of_later_days_are_told_in_their_order(source: PriceSource) -> None:
    """Each once, and none that says the same."""
    at = datetime(2020, 1, 1, tzinfo=UTC)
    found = [list(later(model, at)) for name in source.providers() for model in source.models(name)]
    assert sum(len(each) > 1 for each in found) > 5
    for each in found:
        assert each == sorted(each) and all(a[1] != b[1] for a, b in pairwise(each))


def test_a_reseller_has_the_prices_of_those_it_resells(source: PriceSource) -> None:
    """Azure sells Anthropic's models at Anthropic's prices, one step away and no further."""
    at = DAYS[-1]
    resold = source.find("azure", "claude-3-5-haiku-latest", at)
    assert resold is not None
    assert resold == source.find("anthropic", "claude-3-5-haiku-latest", at)


@pytest.mark.parametrize("model", ["DeepSeek-R1", "deepseek-chat", "grok-4", "kimi-k2.5"])
def test_azure_s_own_prices_are_not_those_of_its_models_makers(
    source: PriceSource, model: str
) -> None:
    """It sells some of them for ten times as much: nothing is known, rather than too little."""
    assert source.find("azure", model, DAYS[-1]) is None


@pytest.mark.parametrize(
    ("seller", "model"),
    [
        ("openrouter", "anthropic/claude-opus-4.5"),
        ("openrouter", "anthropic/claude-sonnet-4.5"),
        ("google", "claude-opus-4-1@20250805"),
        ("aws", "us.anthropic.claude-sonnet-4-20250514-v1:0"),
    ],
)
def test_claude_s_cache_of_an_hour_costs_twice_its_input_at_every_seller(
    source: PriceSource, seller: str, model: str
) -> None:
    """Sellers list the cheaper writes of five minutes: a hold at those was passed by 60 %."""
    price = source.find(seller, model, DAYS[-1])
    assert price is not None
    for fresh in (10_000, 300_000):
        written = cost(Usage(cache_write_1h=fresh), price)
        assert written == 2 * cost(Usage(input=fresh), price)
        assert worst_case(fresh, 0, price) >= written


def test_how_a_seller_is_to_be_chosen_is_no_other_model(source: PriceSource) -> None:
    """OpenRouter reads it behind the name: such calls had no price, so that no budget let them."""
    plain = source.find("openrouter", "anthropic/claude-sonnet-4.5", DAYS[3])
    assert plain is not None
    for behind in (":floor", ":nitro", ":exacto", ":online", ":online:Floor"):
        said = f"anthropic/claude-sonnet-4.5{behind}"
        assert source.find("openrouter", said, DAYS[3]) == plain
    assert source.find("openrouter", "anthropic/claude-sonnet-4.5:batch", DAYS[3]) != plain
    for unknown in (":flooring", ":free", ":anything"):
        said = f"anthropic/claude-sonnet-4.5{unknown}"
        assert source.find("openrouter", said, DAYS[3]) is None


def test_a_provider_answers_to_its_other_names(source: PriceSource) -> None:
    """Whatever stands for a provider in genai-prices stands for it here."""
    at = DAYS[-1]
    assert source.find("xai", "grok-4", at) == source.find("x-ai", "grok-4", at) is not None
    assert source.find(" OpenAI ", "gpt-4o", at) == source.find("openai", "gpt-4o", at)
    assert source.find("nobody", "gpt-4o", at) is None


def test_a_price_says_where_it_comes_from(source: PriceSource) -> None:
    """A row in the ledger must lead back to its numbers, years later."""
    price = source.find("openai", "gpt-4o-mini", DAYS[-1])
    assert price is not None
    assert price.source == f"genai-prices {genai_prices.__version__}"
    assert (price.input.usd, price.output.usd) == (Decimal("0.15"), Decimal("0.6"))
    assert price.context_window == 128_000


def test_two_makings_of_the_data_give_the_same_prices(source: PriceSource, tmp_path: Path) -> None:
    """An id is a digest: a daemon that starts anew must find the rows that it wrote."""
    again = PriceSource(tmp_path)
    for model in ("gpt-4o", "gpt-4o-mini", "o3"):
        assert again.find("openai", model, DAYS[-1]) == source.find("openai", model, DAYS[-1])
