"""What a provider says that it charged: read where its row says so, to the nano-dollar."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.daemon.config.schema import PriceOverride
from tollway.providers.catalog import KINDS
from tollway.providers.price_report import is_believed, reported
from tollway.providers.prices import FREE, override

DOLLARS = KINDS["openrouter"].quirks
TICKS = KINDS["xai"].quirks
TOTAL = KINDS["perplexity"].quirks


@pytest.mark.parametrize(
    ("quirks", "usage", "nanousd"),
    [
        (DOLLARS, '{"cost":0.066407}', 66_407_000),
        (DOLLARS, '{"cost":0.0076509169000000005}', 7_650_917),
        (DOLLARS, '{"cost":1.4e-07}', 140),
        (DOLLARS, '{"cost":0}', 0),
        (DOLLARS, '{"cost":2}', 2_000_000_000),
        (TICKS, '{"cost_in_usd_ticks":955600}', 95_560),
        (TICKS, '{"cost_in_usd_ticks":5}', 0),  # half a nano-dollar: to the even neighbour
        (TICKS, '{"cost_in_usd_ticks":15}', 2),
        (TOTAL, '{"cost":{"input_tokens_cost":2e-05,"total_cost":0.00503}}', 5_030_000),
    ],
)
def test_a_stated_cost_is_read_exactly(quirks: frozenset[str], usage: str, nanousd: int) -> None:
    """Digits as they stand, no floats on the way."""
    assert reported(usage, quirks) == nanousd


def test_a_key_of_ones_own_at_the_seller_adds_what_the_seller_takes() -> None:
    """OpenRouter states its own fee alone; the rest is on the seller's bill."""
    usage = {"cost": 0.0005, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.01}}
    assert reported(json.dumps(usage), DOLLARS) == 10_500_000
    assert reported(json.dumps({**usage, "is_byok": False}), DOLLARS) == 500_000
    for unknown in ({"upstream_inference_cost": None}, None, {}):
        assert reported(json.dumps({**usage, "cost_details": unknown}), DOLLARS) is None
    assert reported(json.dumps({**usage, "cost": None}), DOLLARS) is None


@pytest.mark.parametrize(
    "cost",
    ['"0.1"', "null", "true", "-0.1", "NaN", "Infinity", "1e999999999", "100001", "[]", "{}"],
)
def test_what_is_no_cost_is_not_read(cost: str) -> None:
    """The tokens are billed then: a word that nobody understands is not $0."""
    assert reported(f'{{"cost":{cost}}}', DOLLARS) is None
    assert reported(f'{{"cost_in_usd_ticks":{cost}0000000000}}', TICKS) is None
    assert reported(f'{{"cost":{{"total_cost":{cost}}}}}', TOTAL) is None


@pytest.mark.parametrize("usage", ["", "{", "[]", "7", "null", "[" * 100_000])
def test_what_is_no_report_says_no_cost(usage: str) -> None:
    """Whatever a provider sends, a call is still settled."""
    for quirks in (DOLLARS, TICKS, TOTAL):
        assert reported(usage, quirks) is None


def test_a_cost_is_read_only_where_the_row_says_so() -> None:
    """Any server can write `cost` into its answer, and mean something else."""
    said = '{"cost":0.5,"cost_in_usd_ticks":5000000000}'
    reads = {name for name, kind in KINDS.items() if reported(said, kind.quirks) is not None}
    assert reads == {"openrouter", "xai"}


def test_a_price_of_gateway_toml_is_above_what_the_provider_says() -> None:
    """A person who sets a price wants that one billed."""
    own = override(PriceOverride(input=Decimal(1), output=Decimal(1)))
    assert not is_believed(own)
    assert not is_believed(FREE)
    assert is_believed(None)


@settings(max_examples=50)
@given(st.integers(0, 10**15))
def test_a_cost_survives_its_way_through_json(nanousd: int) -> None:
    """To a million dollars a call and more than a nano-dollar fine nothing is rounded twice."""
    written = f'{{"cost":{Decimal(nanousd) / 10**9:f}}}'
    expected = nanousd if nanousd <= 10**14 else None
    assert reported(written, DOLLARS) == expected
