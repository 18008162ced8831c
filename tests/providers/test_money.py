"""What tokens cost, and what they can cost at most."""

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tollway.providers.canon import Price, Rate, Tier, Usage
from tollway.providers.money import cost, dollars, plain_usd, worst_case

MINI = Price("mini", "test", Rate(Decimal("0.15")), Rate(Decimal("0.60")), Rate(Decimal("0.075")))

# Up to 999.9999 dollars a million tokens, with the four places that real prices have.
amounts = st.decimals(0, 1000, places=4)
starts = st.integers(1, 400_000)
rates = st.builds(
    Rate,
    amounts,
    st.lists(st.builds(Tier, starts, amounts), max_size=3, unique_by=lambda tier: tier.start).map(
        tuple
    ),
)
maybe = st.none() | rates
prices = st.builds(
    Price,
    id=st.just("same id for all: content must count"),
    source=st.just("test"),
    input=rates,
    output=rates,
    cache_read=maybe,
    cache_write=maybe,
    cache_write_1h=maybe,
    audio_input=maybe,
    reasoning=maybe,
    audio_output=maybe,
    image_input=maybe,
    image_output=maybe,
    request_usd=amounts,
    search_usd=st.none() | amounts,
)
tokens = st.integers(0, 300_000)
searches = st.integers(0, 20)
usages = st.builds(Usage, *[tokens] * 10, searches)
CLASSES = tuple(name for name in Usage.__struct_fields__ if name != "estimated")


def by_hand(usage: Usage, price: Price) -> Decimal:
    """Return the exact nano-dollars, written as a person would say it."""
    total = usage.input_total
    write = price.cache_write or price.input
    with localcontext(prec=100):
        dollars_per_million = [
            usage.input * price.input.at(total),
            usage.cache_read * (price.cache_read or price.input).at(total),
            usage.cache_write * write.at(total),
            usage.cache_write_1h * (price.cache_write_1h or write).at(total),
            usage.audio_input * (price.audio_input or price.input).at(total),
            usage.output * price.output.at(total),
            usage.reasoning * (price.reasoning or price.output).at(total),
            usage.audio_output * (price.audio_output or price.output).at(total),
            usage.image_input * (price.image_input or price.input).at(total),
            usage.image_output * (price.image_output or price.output).at(total),
        ]
        fees = price.request_usd + usage.searches * (price.search_usd or Decimal(0))
        return sum(dollars_per_million, Decimal(0)) * 1000 + fees * 10**9


@given(usages, prices)
def test_a_cost_is_the_exact_sum_of_its_classes_rounded_once(usage: Usage, price: Price) -> None:
    """Each class at its own rate or its parent's, half-even, one rounding for the attempt."""
    exact = by_hand(usage, price)
    assert cost(usage, price) == int(exact.to_integral_value(ROUND_HALF_EVEN))


@given(usages, prices, tokens, tokens)
def test_no_usage_within_the_bound_costs_more_than_the_worst_case(
    usage: Usage, price: Price, more_input: int, more_output: int
) -> None:
    """However the tokens fall into classes, and whichever tier they reach."""
    bound = worst_case(
        usage.input_total + more_input,
        usage.output_total + more_output,
        price,
        searches=usage.searches,
    )
    assert cost(usage, price) <= bound
    assert by_hand(usage, price) <= bound


@given(prices, tokens, tokens, st.booleans())
def test_some_usage_within_the_bound_costs_as_much_as_the_worst_case(
    price: Price, input_tokens: int, output_tokens: int, media: bool
) -> None:
    """A bound that is looser than it must be refuses calls that fit."""
    names = ("cache_read", "cache_write_1h", "audio_input", "image_input")
    inputs = [price.cache_write or price.input, *(getattr(price, name) for name in names)]
    inputs = [price.input, *filter(None, inputs if media else inputs[:3])]
    thought = (price.reasoning, price.audio_output, price.image_output)
    outputs = [price.output, *filter(None, thought)]
    starts = {
        tier.start
        for name in Price.__struct_fields__
        if isinstance(rate := getattr(price, name), Rate)
        for tier in rate.tiers
    }
    exact = max(
        1000 * number * max(rate.at(number) for rate in inputs)
        + 1000 * output_tokens * max(rate.at(number) for rate in outputs)
        for number in {min(input_tokens, start - 1) for start in starts} | {input_tokens}
    )
    exact += price.request_usd * 10**9
    bound = worst_case(input_tokens, output_tokens, price, media=media)
    assert bound == int(exact.to_integral_value(ROUND_CEILING))


@given(usages, prices)
def test_text_alone_is_not_held_at_the_price_of_images(usage: Usage, price: Price) -> None:
    """Without images and audio in the request their rates are no part of the bound."""
    text = structs.replace(usage, audio_input=0, image_input=0)
    inputs, outputs = text.input_total, text.output_total
    bound = worst_case(inputs, outputs, price, media=False, searches=text.searches)
    assert cost(text, price) <= bound
    assert bound <= worst_case(inputs, outputs, price, searches=text.searches)


@given(usages, prices, st.sampled_from(CLASSES), st.integers(1, 1000))
def test_more_of_a_class_never_costs_less(usage: Usage, price: Price, name: str, more: int) -> None:
    """At one tier's rates: a longer prompt may reach a tier that is cheaper for the whole call."""
    flat = structs.replace(
        price,
        **{
            field: Rate(rate.usd)
            for field in Price.__struct_fields__
            if isinstance(rate := getattr(price, field), Rate)
        },
    )
    grown = structs.replace(usage, **{name: getattr(usage, name) + more})
    assert cost(grown, flat) >= cost(usage, flat)


@given(usages, prices)
def test_a_class_is_billed_once_and_apart_from_the_others(usage: Usage, price: Price) -> None:
    """Disjoint classes: their costs add up, but for one rounding each, within one tier."""
    flat = structs.replace(
        price,
        request_usd=Decimal(0),
        **{
            field: Rate(rate.usd)
            for field in Price.__struct_fields__
            if isinstance(rate := getattr(price, field), Rate)
        },
    )
    apart = [cost(Usage(**{name: getattr(usage, name)}), flat) for name in CLASSES]
    assert abs(sum(apart) - cost(usage, flat)) <= len(CLASSES)


@given(prices, tokens, tokens, tokens, tokens)
def test_a_larger_bound_never_has_a_smaller_worst_case(
    price: Price, one_in: int, other_in: int, one_out: int, other_out: int
) -> None:
    """A hold may not shrink because a call grows."""
    low = worst_case(min(one_in, other_in), min(one_out, other_out), price)
    assert low <= worst_case(max(one_in, other_in), max(one_out, other_out), price)


def test_a_known_call_costs_what_the_price_list_says() -> None:
    """1,000 fresh and 200 cached tokens in, 50 out, at gpt-4o-mini's prices: $0.000195."""
    assert cost(Usage(input=1000, cache_read=200, output=50), MINI) == 195_000


def test_a_tier_holds_from_its_start_on_for_the_whole_call() -> None:
    """Cached input counts towards the start, and the dearer price is for every token."""
    price = Price(
        "tiers",
        "test",
        Rate(Decimal(1), (Tier(100, Decimal(2)), Tier(200, Decimal(3)))),
        Rate(Decimal(10)),
        cache_read=Rate(Decimal(0)),
    )
    assert cost(Usage(input=99), price) == 99_000
    assert cost(Usage(input=99, cache_read=1), price) == 198_000
    assert cost(Usage(input=100, cache_read=100, output=1), price) == 310_000


def test_a_cheaper_upper_tier_does_not_lower_the_worst_case() -> None:
    """A call with a large bound may still turn out small, at the small calls' dearer price."""
    price = Price("falling", "test", Rate(Decimal(10), (Tier(101, Decimal(1)),)), Rate(Decimal(0)))
    assert worst_case(200, 0, price) == 1_000_000 == cost(Usage(input=100), price)


def test_an_hour_in_the_cache_costs_at_least_what_five_minutes_do() -> None:
    """Without a rate of its own the longer write is billed as the shorter, not as fresh input."""
    price = Price(
        "write", "test", Rate(Decimal(1)), Rate(Decimal(1)), cache_write=Rate(Decimal("1.25"))
    )
    assert cost(Usage(cache_write_1h=1000), price) == 1_250_000


@pytest.mark.parametrize(("count", "nanousd"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_halves_go_to_the_even_neighbour(count: int, nanousd: int) -> None:
    """Half a nano-dollar a token: 0.5, 1.5, 2.5 and 3.5."""
    price = Price("half", "test", Rate(Decimal("0.0005")), Rate(Decimal(0)))
    assert cost(Usage(input=count), price) == nanousd


def test_a_price_with_endless_digits_is_not_rounded_before_the_sum() -> None:
    """More digits than Decimal's context keeps: 27 nines after the point are less than a dollar."""
    price = Price("long", "test", Rate(Decimal("0." + "9" * 40)), Rate(Decimal(0)))
    assert cost(Usage(input=10**40), price) == 10**43 - 1000
    assert worst_case(1, 0, price) == 1000


def test_two_prices_under_one_id_are_not_mixed_up() -> None:
    """What is kept for speed is kept for one price, whatever it calls itself."""
    dear = Price(MINI.id, "test", Rate(Decimal(3)), Rate(Decimal(3)))
    assert [cost(Usage(input=1), price) for price in (MINI, dear, MINI)] == [150, 3000, 150]


def test_many_prices_cost_what_each_says() -> None:
    """What is kept for speed is bounded, and stays right when it is thrown away."""
    for usd in range(3000):
        price = Price(f"many {usd}", "test", Rate(Decimal(usd)), Rate(Decimal(0)))
        assert cost(Usage(input=2), price) == 2000 * usd


def test_negative_tokens_are_refused() -> None:
    """A provider that reports -1,000,000 tokens must not refill a budget."""
    with pytest.raises(ValueError, match="negative token count"):
        cost(Usage(input=10, output=-1), MINI)
    with pytest.raises(ValueError, match="negative bound"):
        worst_case(-1, 0, MINI)
    with pytest.raises(ValueError, match="negative bound"):
        worst_case(0, -1, MINI)


@pytest.mark.parametrize("usd", ["-1", "NaN", "Infinity"])
def test_what_is_no_price_is_refused(usd: str) -> None:
    """A price below nothing or beyond all numbers is a mistake, not a discount."""
    with pytest.raises(ValueError, match="not a price"):
        cost(Usage(), Price("bad", "test", Rate(Decimal(usd)), Rate(Decimal(0))))


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (0, "$0.00"),
        (5_010_000_000, "$5.01"),
        (1_234_500_000_000, "$1,234.50"),
        (-1_500_000_000, "-$1.50"),
        (500_000_000, "$0.50"),
        (15_000_000, "$0.015"),
        (42_000, "$0.000042"),
        (100_000, "$0.0001"),
        (1, "$0.000000001"),
        (999_999_999, "$1.00"),
    ],
)
def test_an_amount_reads_as_a_person_writes_it(nanousd: int, text: str) -> None:
    """Cents; below a dollar as many places as two digits need."""
    assert dollars(nanousd) == text


@given(st.integers(-(10**24), 10**24))
def test_a_plain_amount_loses_nothing(nanousd: int) -> None:
    """Headers and files carry the number to its last digit, without an exponent."""
    text = plain_usd(nanousd)
    assert Decimal(text) * 10**9 == nanousd
    assert "E" not in text
