"""The bill of every recorded answer: as a person would add it up, and as the provider did."""

import json
import os
import re
from decimal import Decimal

import pytest
from recording_costs import DIALECTS, GOLDEN, Bill, bills, dialect_of, rate, text
from wire.recordings import WIRE

from tollway.providers.canon import Usage
from tollway.providers.money import cost
from tollway.providers.price_report import billed
from tollway.providers.prices import PriceSource

SOURCE = PriceSource()
BILLS = list(bills(SOURCE))
STATED = [bill for bill in BILLS if bill.stated is not None]
# Where the tokens do not come to what the provider says, what they leave out, in nano-dollars.
OTHERWISE = {
    # Three searches at a cent, which the price list does not have.
    "openrouter/chat_annotations_reasoning-details_gpt-5-2": 30_000_000,
    # One search at $0.007, and another seller's price: $0.2574 and $1.0287 for a million tokens
    # where the list of that day has $0.38 and $0.89.
    "openrouter/chat_stream_annotations_deepseek-chat": 7_000_000
    + round(2317 * (257.4 - 380) + 53 * (1028.7 - 890)),
    # A search's fee is $5 for a thousand at the smallest of three sizes; the list has the
    # largest, $12, for the hold. Shown to 10^-5 dollars.
    "perplexity/chat_json-schema_citations_sonar": -7_000_000,
    "perplexity/chat_stream_citations_sonar": -7_000_000,
    # One search at half a cent.
    "xai/responses_web-search-call_annotations_cache-read_grok-4-fast-reasoning": 5_000_000,
}
USAGE = re.compile(r'"usage(Metadata)?": ?\{ ?"')
MAKERS_NAMES = {"grok-4.1-fast": "grok-4-1-fast-reasoning"}
# Shown to so many places, where it is fewer than nano-dollars.
PLACES = {"perplexity": 5}


def name(bill: Bill) -> str:
    """Name a test after its recording."""
    return bill.id


def test_the_bills_of_all_recordings_are_those_that_a_person_has_checked() -> None:
    """A change of a reader, a price or the arithmetic shows as a difference to be read."""
    now = text(SOURCE)
    if os.environ.get("TOLLWAY_WRITE_GOLDEN"):
        GOLDEN.write_text(now)
    assert GOLDEN.read_text() == now, (
        "read the difference, then write it down with"
        " TOLLWAY_WRITE_GOLDEN=1 pytest tests/providers/test_prices_recordings.py"
    )


def test_no_recorded_usage_is_left_out() -> None:
    """Every answer that states usage, and whose dialect has a reader, has its bill."""
    billed_ids = {bill.id for bill in BILLS}
    left = set()
    for path in WIRE.glob("*/*.json"):
        said = json.loads(path.read_text())
        response = said["response"].get("sse") or json.dumps(said["response"])
        found = f"{path.parent.name}/{path.stem}"
        if said["response"]["status"] == 200 and USAGE.search(response) and dialect_of(said):
            left |= {found} - billed_ids
    assert left == set()
    assert len(BILLS) >= 90


def test_every_kind_of_api_has_a_place_among_the_dialects() -> None:
    """A recording of an api that nobody named here would be left out in silence."""
    apis = {json.loads(path.read_text())["api"] for path in WIRE.glob("*/*.json")}
    unread = {api for api in apis if not {api, api.rpartition(".")[2]} & set(DIALECTS)}
    unread -= {"gemini.batchEmbedContents"}  # which tells no usage
    assert {api for api in unread if not api.endswith(("models", "_tokens"))} == set()


@pytest.mark.parametrize("bill", STATED, ids=name)
def test_what_a_provider_says_it_charged_is_what_is_billed(bill: Bill) -> None:
    """To the rounding that it shows, whoever sold it and whatever it searched."""
    assert bill.stated is not None
    assert bill.nanousd is not None
    shown = Decimal(10) ** -PLACES.get(bill.provider, 9)
    ours = Decimal(bill.nanousd).scaleb(-9)
    assert abs(ours - bill.stated) <= shown / 2


@pytest.mark.parametrize("bill", STATED, ids=name)
def test_tokens_and_fees_explain_what_a_provider_says(bill: Bill) -> None:
    """Our own arithmetic comes to the same, but for what OTHERWISE names to the nano-dollar."""
    assert bill.stated is not None
    if bill.stated == 0:
        assert bill.model.endswith(":free")
        return
    by_tokens = bill.by_tokens
    if by_tokens is None:
        # OpenRouter passes on what the maker asks for; these two its own list does not have.
        maker, _, model = bill.model.partition("/")
        price = SOURCE.find(maker, MAKERS_NAMES.get(model, model), bill.at)
        assert price is not None
        by_tokens = cost(bill.usage, price)
    shown = Decimal(10) ** -PLACES.get(bill.provider, 9)
    ours = Decimal(by_tokens + OTHERWISE.get(bill.id, 0)).scaleb(-9)
    assert abs(ours - bill.stated) <= shown / 2


def test_sixteen_answers_and_a_free_one_state_their_cost() -> None:
    """If a reader loses them, the tests above would try nothing."""
    assert len(STATED) == 17
    assert sum(bill.stated == 0 for bill in STATED) == 1


@pytest.mark.parametrize("bill", [bill for bill in BILLS if bill.price], ids=name)
def test_pricing_the_same_usage_again_changes_nothing(bill: Bill) -> None:
    """Classes are apart: by hand, class by class, the sum is the same; and so is a second look."""
    assert bill.price is not None
    total = bill.usage.input_total
    by_hand = sum(
        (
            getattr(bill.usage, field) * rate(bill.price, field).at(total)
            for field in Usage.__struct_fields__
            if field not in ("estimated", "searches")
        ),
        Decimal(0),
    )
    fees = bill.price.request_usd + bill.usage.searches * (bill.price.search_usd or 0)
    assert abs(by_hand * 1000 + fees * 10**9 - (bill.by_tokens or 0)) <= Decimal("0.5")
    assert cost(bill.usage, bill.price) == bill.by_tokens
    again, price = billed(bill.usage, bill.price, asked=bill.asked, answered=bill.answered)
    assert (again, price) == (bill.by_tokens, bill.price)
