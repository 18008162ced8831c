"""Sizes, times and money are read exactly, or refused with the way to write them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.config import units
from tollway.daemon.config.schema import Budget
from tollway.daemon.config.units import WrongUnit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("1.5 h", 5400), ("15m", 900), ("400d", 34_560_000)],
)
def test_times(text: str, seconds: float) -> None:
    """A number and ms, s, m, h or d."""
    assert units.seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("64kB", 64_000), ("32MiB", 2**25), ("0.5GiB", 2**29)]
)
def test_sizes(text: str, size: int) -> None:
    """Thousands and powers of two are told apart."""
    assert units.size(text) == size


@pytest.mark.parametrize(
    "raw",
    ["", "s", "5", "-5s", "5 s s", "1e9s", "9999999999999s", "5S", 5, True, None, [], "999999d"],
)
def test_what_is_no_time_is_refused(raw: object) -> None:
    """A unit is never guessed."""
    with pytest.raises(WrongUnit):
        units.seconds(raw)


def test_a_part_of_a_byte_is_refused() -> None:
    """0.3 kB is 300 bytes, 0.0001 kB is nothing."""
    assert units.size("0.3kB") == 300
    with pytest.raises(WrongUnit, match="whole number of bytes"):
        units.size("0.0001kB")


@given(st.integers(0, 10**18))
def test_money_survives_the_way_through_the_file(nanousd: int) -> None:
    """Nano-dollars to text and back, exactly, whatever the amount."""
    text = Budget(nanousd, "day").text
    amount, period = units.budget_parts(text)
    assert (units.nanousd(amount), period) == (nanousd, "day")


@pytest.mark.parametrize(("nanousd", "text"), [(100 * 10**9, "100/day"), (5 * 10**8, "0.5/day")])
def test_a_budget_is_shown_as_it_is_written(nanousd: int, text: str) -> None:
    """A hundred dollars are not one."""
    assert Budget(nanousd, "day").text == text


@pytest.mark.parametrize("bad", ["0.0000000001", "-1", "1e999999999", "nan", "inf", "1e10"])
def test_money_that_cannot_be_counted_is_refused(bad: str) -> None:
    """At once: an exponent of a thousand million must not be worked out."""
    with pytest.raises(WrongUnit):
        units.nanousd(Decimal(bad))
