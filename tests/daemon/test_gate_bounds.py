"""What an attempt may cost and use at most, as its budgets and token limits leave it."""

import math
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.config.load import parse
from tollway.daemon.errors import Unpriced
from tollway.daemon.gate.budget import LEAST_OUTPUT, Terms, clamped, worst
from tollway.daemon.gate.limits import Applying, Limits, fitted, needed
from tollway.daemon.gate.rates import Rates
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Bound, Price, Rate
from tollway.providers.catalog import KINDS
from tollway.providers.errors import Unbounded
from tollway.providers.money import worst_case

TARGET = Target("up", "m", KINDS["openai"])
dollars = st.decimals(0, 100, places=2)
priced = st.builds(
    Price,
    id=st.just("some"),
    source=st.just("test"),
    input=st.builds(Rate, dollars),
    output=st.builds(Rate, dollars),
    audio_input=st.none() | st.builds(Rate, dollars),
    request_usd=st.sampled_from([Decimal(0), Decimal("0.01")]),
    search_usd=st.just(Decimal("0.02")),
)
bounds = st.builds(
    Bound,
    st.integers(1, 5000),
    st.none() | st.integers(0, 5000),
    beside=st.sampled_from([0, 0, 700]),
    choices=st.integers(1, 4),
    media=st.booleans(),
    searches=st.integers(0, 3),
)


def limited(tpm: int) -> Applying:
    """Return the limits of a caller with so many tokens a minute."""
    text = f"[users.ann]\nlimits = {{ tpm = {tpm} }}\n"
    limits = Limits(parse(text, path=Path("gateway.toml")), Rates(lambda: 0))
    return limits.applying(Who(user="ann"), "", TARGET)


@given(bounds, st.none() | priced, st.booleans(), st.integers(16, 9000))
def test_the_limit_that_is_held_is_the_limit_that_is_written(
    bound: Bound, price: Price | None, budgets: bool, default: int
) -> None:
    """A client's own limit is its own; where it has none, what is held binds if anything does."""
    terms = Terms(budgets, default)
    if price is None and budgets:
        with pytest.raises(Unpriced):
            worst(bound, price, TARGET, terms)
        return
    most = worst(bound, price, TARGET, terms)
    each = default if bound.output is None else bound.output
    assert most.output_tokens == (each + bound.beside) * bound.choices
    assert most.input_tokens == bound.input
    writes = bound.output is None and budgets and price is not None and not price.free
    assert most.write_output == (default if writes else None)
    if price is None:
        assert most.nanousd == 0
        return
    held = (most.input_tokens, most.output_tokens, price)
    assert most.nanousd == worst_case(*held, media=bound.media, searches=bound.searches)


@given(
    st.builds(Bound, st.integers(1, 5000), st.just(10), prompts=st.integers(1, 3)),
    st.booleans(),
    st.none() | st.integers(100, 4000),
    st.booleans(),
    st.none() | st.integers(1, 1000),
)
def test_an_input_is_held_at_the_least_that_bounds_it(
    bound: Bound, by_window: bool, window: int | None, stated: bool, share: int | None
) -> None:
    """Its bytes, a window for each prompt where the owner states it, and what such came to.

    Of an image no byte tells: nothing but a stated window bounds it.
    """
    bound = msgspec.structs.replace(bound, by_window=by_window)
    source = "gateway.toml" if stated else "test"
    rate = Rate(Decimal(1))
    price = Price("some", source, input=rate, output=rate, context_window=window)
    terms = Terms(budgets=True, default_output=16, share=share)
    known = window * bound.prompts if window and stated else None
    if by_window and known is None:
        with pytest.raises(Unbounded, match="context window"):
            worst(bound, price, TARGET, terms)
        return
    held = worst(bound, price, TARGET, terms).input_tokens
    if by_window:
        assert held == known
        return
    least = bound.input if share is None else math.ceil(Decimal(bound.input * share) / 1000)
    assert held == (least if known is None else min(least, known))


@given(bounds, st.none() | priced, st.integers(100, 20_000))
def test_a_call_without_a_limit_fits_every_token_limit_that_it_can(
    bound: Bound, price: Price | None, tpm: int
) -> None:
    """It is told of its size only where not even the shortest answer has room."""
    applying = limited(tpm)
    terms = fitted(Terms(budgets=False, default_output=16_384), bound, price, applying)
    most = worst(bound, price, TARGET, terms)
    if bound.output is not None:
        assert most.write_output is None
        return
    assert most.write_output is not None
    assert LEAST_OUTPUT <= most.write_output <= 16_384
    least = bound.input + (LEAST_OUTPUT + bound.beside) * bound.choices
    if least <= tpm:
        need = needed(most, price)
        assert need <= tpm
        assert most.write_output == 16_384 or tpm - need < bound.choices, "shorter than need be"


@given(bounds, priced, st.integers(0, 10**9))
def test_a_clamp_leaves_as_much_as_its_room_pays_for(bound: Bound, price: Price, room: int) -> None:
    """Never more than that, never less than it could be, never an answer that is none."""
    most = worst(bound, price, TARGET, Terms(budgets=True, default_output=4000))
    each = most.output_tokens // most.choices - bound.beside
    less = clamped(most, room, price, by="5/day of user ann")

    def costs(output: int) -> int:
        return most.cost((output + bound.beside) * bound.choices, price)

    if less is None:
        assert each < LEAST_OUTPUT or costs(LEAST_OUTPUT) > room
        return
    assert less.write_output is not None
    assert LEAST_OUTPUT <= less.write_output <= each
    assert less.output_tokens == (less.write_output + bound.beside) * bound.choices
    assert less.nanousd == costs(less.write_output) <= room
    assert less.write_output == each or costs(less.write_output + 1) > room
    assert less.clamped == "5/day of user ann"
