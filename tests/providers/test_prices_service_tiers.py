"""Which of a model's prices a call can reach, and which one its answer is billed at."""

from decimal import Decimal
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.daemon.config.schema import PriceOverride
from tollway.providers.canon import Price, Usage
from tollway.providers.money import cost, worst_case
from tollway.providers.price_report import billed
from tollway.providers.price_service import is_known, reachable, served
from tollway.providers.prices import override

FACTORS = {"flex": Decimal("0.5"), "priority": Decimal("1.75"), "batch": Decimal("0.5")}
PRICE = override(PriceOverride(input=Decimal(1), output=Decimal(4), service_tiers=FACTORS))
DEAR_BATCH = override(
    PriceOverride(input=Decimal(1), output=Decimal(4), service_tiers={"batch": Decimal(9)})
)
ASKED = ("auto", "default", "standard", "flex", "priority", "batch")
USAGE = Usage(input=1000, output=100)


def names(prices: tuple[Price, ...]) -> list[str]:
    """Return the service tiers of some prices; "" is the standard one."""
    return [price.service for price in prices]


def test_a_choice_left_to_the_provider_reaches_every_tier_but_batch() -> None:
    """An OpenAI project may be set to "priority"; a request that says nothing then is, too."""
    assert names(reachable(PRICE, "auto")) == ["", "flex", "priority"]
    assert worst_case(1000, 100, PRICE, service="auto") == 1_750 * 1_400
    assert worst_case(1000, 100, DEAR_BATCH, service="auto") == 1_400_000


def test_a_tier_asked_for_by_name_reaches_itself_and_the_standard_one() -> None:
    """A provider may answer "priority" in the standard tier, and "flex" never above it."""
    assert names(reachable(PRICE, "priority")) == ["", "priority"]
    assert names(reachable(PRICE, "flex")) == ["", "flex"]
    assert names(reachable(PRICE, "default")) == names(reachable(PRICE, "on_demand")) == [""]
    assert worst_case(1000, 100, PRICE, service="flex") == 1_400_000


def test_a_tier_without_a_price_is_not_known() -> None:
    """What it costs could be anything: the gate refuses it while a budget applies."""
    assert not is_known(PRICE, "scale")
    assert all(is_known(PRICE, asked) for asked in ASKED)
    plain = override(PriceOverride(input=Decimal(1), output=Decimal(4)))
    assert not is_known(plain, "priority")
    assert is_known(plain, "flex")  # never dearer than the standard one


def test_an_answer_is_billed_at_the_tier_that_it_names() -> None:
    """Whatever was asked for: "priority" that was answered in the standard tier costs that."""
    for asked in ASKED:
        assert billed(USAGE, PRICE, asked=asked, answered="default") == (1_400_000, PRICE)
        spent, price = billed(USAGE, PRICE, asked=asked, answered="priority")
        assert (spent, price.service) == (2_450_000, "priority")
    assert served(PRICE, "flex") == PRICE.services[0]
    # One that never costs more needs no price to be told from "priority".
    assert served(DEAR_BATCH, "flex") == DEAR_BATCH


def test_an_answer_that_names_no_tier_is_billed_at_the_one_asked_for() -> None:
    """Never below the standard price: "flex" that nobody confirmed may have been none."""
    for answered in ("", "some-new-tier"):
        spent = {asked: billed(USAGE, PRICE, asked=asked, answered=answered)[0] for asked in ASKED}
        assert spent == {asked: 1_400_000 for asked in ASKED} | {"priority": 2_450_000}


@settings(max_examples=50)
@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.dictionaries(
        st.sampled_from(["flex", "priority", "fast", "batch"]),
        st.decimals("0.01", 10, places=2),
    ),
)
def test_no_tier_that_a_call_can_reach_costs_more_than_its_hold(
    inputs: int, outputs: int, factors: dict[str, Decimal]
) -> None:
    """Whatever was asked, whatever answers within what can be reached."""
    price = override(
        PriceOverride(input=Decimal("1.25"), output=Decimal(10), service_tiers=factors)
    )
    usage = Usage(input=inputs, output=outputs)
    for asked, answered in product(("auto", "default", *factors), ("", "default", *factors)):
        reached = [one.service or "default" for one in reachable(price, asked)]
        spent, one = billed(usage, price, asked=asked, answered=answered)
        assert spent == cost(usage, one)
        if answered in ("", *reached):
            assert spent <= worst_case(inputs, outputs, price, service=asked)
