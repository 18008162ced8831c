"""What tokens cost: whole nano-dollars, no floats, one rounding for each attempt.

`cost` says what a usage came to, `worst_case` what a call could come to before it is sent; both
run on every call, so a price is turned into whole numbers once and kept.
"""

from bisect import bisect_right
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from functools import lru_cache
from math import lcm

import msgspec

from tollway.providers.canon import Price, Usage
from tollway.providers.price_service import STANDARD, reachable

NANO = 10**9
_HOUR_MS = 3_600_000
_NOTHING = Decimal(0)
_WIDE = Context(prec=1000, traps=[Inexact])
_KEPT_PRICES = 1024  # plenty for a day's models; a bound because names come from callers


class _Band(msgspec.Struct, frozen=True):
    """What each class costs a token between two tier starts, in the price's own fine unit."""

    rates: tuple[int, ...]  # in the order of Usage's fields
    dearest_input: int
    dearest_text: int  # of the classes of input that a request of text alone can use
    dearest_output: int
    last: int | None  # the most input tokens that still fall in this band; None: no end


class _Exact(msgspec.Struct, frozen=True):
    """A price in whole numbers of 1/`scale` nano-dollars, fine enough that nothing is lost."""

    price: Price  # the one it was made of
    scale: int
    starts: tuple[int, ...]  # of every band but the first
    bands: tuple[_Band, ...]
    request: int
    search: int
    listed: "_Exact | None" = None  # without the discount, where there is one


_kept: dict[str, _Exact] = {}


def cost(usage: Usage, price: Price) -> int:
    """Return what an attempt cost, in nano-dollars, rounded half-even.

    A class without a rate of its own costs what its parent does; a tier is reached by the
    call's input of every class together, and then holds for all of its tokens.

    Raises:
        ValueError: A token count is negative, which would give money back.
    """
    exact = _kept.get(price.id)
    if exact is None or exact.price is not price:
        exact = _keep(price)
    return _cost(usage, exact)


def saving(usage: Usage, price: Price) -> int:
    """Return what a discount takes off, in nano-dollars: the list price less what is paid.

    Both are rounded as `cost` does, so that they are right one by one.
    """
    if price.discount == 1:
        return 0
    paid = cost(usage, price)
    listed = _kept[price.id].listed
    return _cost(usage, listed) - paid if listed else 0


def _cost(usage: Usage, exact: _Exact) -> int:
    fresh, audio, seen, read = usage.input, usage.audio_input, usage.image_input, usage.cache_read
    write, write_1h = usage.cache_write, usage.cache_write_1h
    said, thought, spoken = usage.output, usage.reasoning, usage.audio_output
    shown, searches = usage.image_output, usage.searches
    if min(fresh, read, write, write_1h, audio, said, thought, spoken, seen, shown, searches) < 0:
        raise ValueError(f"negative token count: {usage}")
    band = exact.bands[0]
    if exact.starts:
        total = fresh + read + write + write_1h + audio + seen
        band = exact.bands[bisect_right(exact.starts, total)]
    rates = band.rates
    fine = exact.request + fresh * rates[0] + read * rates[1] + write * rates[2]
    fine += write_1h * rates[3] + audio * rates[4]
    fine += said * rates[5] + thought * rates[6] + spoken * rates[7]
    if seen or shown or searches:
        fine += seen * rates[8] + shown * rates[9] + searches * exact.search
    scale = exact.scale
    if scale == 1:
        return fine
    whole, rest = divmod(fine, scale)
    # Half-even: up when past the half, or at the half beside an odd number.
    return whole + (2 * rest + (whole & 1) > scale)


def worst_case(
    input_tokens: int,
    output_tokens: int,
    price: Price,
    *,
    media: bool = True,
    searches: int = 0,
    service: str = STANDARD,
) -> int:
    """Return the most that so many tokens can cost, in nano-dollars, rounded up.

    No usage with at most `input_tokens` in and `output_tokens` out costs more, however its
    tokens fall into classes, whichever tier they reach and whichever service tier answers.

    Args:
        input_tokens: At most so many go in.
        output_tokens: At most so many come out.
        price: The model's price.
        media: Whether some of the input may be images or audio, which may cost more than text.
        searches: Paid searches, at most; none where the price does not say what one costs.
        service: The service tier that the request asks for, as `Bound.service` has it.

    Raises:
        ValueError: A count is negative.
    """
    if input_tokens < 0 or output_tokens < 0 or searches < 0:
        raise ValueError(f"negative bound: {input_tokens} in, {output_tokens} out, {searches}")
    most = 0
    for one in reachable(price, service) if price.services else (price,):
        exact = _kept.get(one.id)
        if exact is None or exact.price is not one:
            exact = _keep(one)
        dearest = 0
        # Every band up to the one that the whole input reaches: a lower tier may be the dearer.
        for band in exact.bands[: bisect_right(exact.starts, input_tokens) + 1]:
            reach = input_tokens if band.last is None else min(input_tokens, band.last)
            rate = band.dearest_input if media else band.dearest_text
            dearest = max(dearest, reach * rate + output_tokens * band.dearest_output)
        fees = exact.request + searches * exact.search
        most = max(most, -(-(fees + dearest) // exact.scale))
    return most


def time_cost(ms: int, price: Price) -> int | None:
    """Return what so many milliseconds of a model cost, in nano-dollars, rounded half-even.

    None where the price is not one by the hour.
    """
    if price.gpu_hour_usd is None:
        return None
    return round(_fraction(price.gpu_hour_usd) * NANO * ms / _HOUR_MS)


def time_for(nanousd: int, price: Price) -> int:
    """Return how many whole milliseconds of a model so many nano-dollars pay for.

    Raises:
        ValueError: The price is not one by the hour, or is nothing.
    """
    if not price.gpu_hour_usd:
        raise ValueError("no price by the hour")
    return int(Fraction(nanousd * _HOUR_MS) / (_fraction(price.gpu_hour_usd) * NANO))


def dollars(nanousd: int) -> str:
    """Return an amount for a message: "$5.01", "$0.000042", "-$1,234.50".

    Cents, and below a dollar as many places as two digits need: for eyes, not for sums.
    """
    amount = abs(Decimal(nanousd)) / NANO
    places = max(2, 1 - amount.adjusted())
    whole, _, cents = f"{amount:,.{places}f}".partition(".")
    return f"{'-' if nanousd < 0 else ''}${whole}.{cents[:2]}{cents[2:].rstrip('0')}"


@lru_cache(maxsize=1024)  # an answer's cost is said in its head and in the log
def plain_usd(nanousd: int) -> str:
    """Return an amount to its last digit, for headers and files: "0.000042"."""
    whole, rest = divmod(abs(nanousd), NANO)  # on every answer: Decimal takes ten times as long
    sign = "-" if nanousd < 0 else ""
    return f"{sign}{whole}.{rest:09}".rstrip("0") if rest else f"{sign}{whole}"


def _keep(price: Price) -> _Exact:
    """Return `price` in whole numbers, and remember it under its id."""
    exact = _whole_numbers(price, price.discount)
    if price.discount != 1:
        exact = msgspec.structs.replace(exact, listed=_whole_numbers(price, Decimal(1)))
    if len(_kept) >= _KEPT_PRICES:
        _kept.clear()
    _kept[price.id] = exact
    return exact


def _whole_numbers(price: Price, part: Decimal) -> _Exact:
    paid = _fraction(part)
    write = price.cache_write or price.input
    rates = (
        price.input,
        price.cache_read or price.input,
        write,
        price.cache_write_1h or write,
        price.audio_input or price.input,
        price.output,
        price.reasoning or price.output,
        price.audio_output or price.output,
        price.image_input or price.input,
        price.image_output or price.output,
    )
    starts = tuple(sorted({tier.start for rate in rates for tier in rate.tiers if tier.start > 0}))
    # One dollar a million tokens is 1000 nano-dollars a token.
    exact = [[1000 * paid * _fraction(rate.at(start)) for rate in rates] for start in (0, *starts)]
    request, search = (
        NANO * paid * _fraction(fee or _NOTHING) for fee in (price.request_usd, price.search_usd)
    )
    parts = [request, search, *(amount for band in exact for amount in band)]
    scale = lcm(*(amount.denominator for amount in parts))
    bands = []
    for index, amounts in enumerate(exact):
        whole = [int(amount * scale) for amount in amounts]
        last = starts[index] - 1 if index < len(starts) else None
        bands.append(
            _Band(
                rates=tuple(whole),
                dearest_input=max(*whole[:5], whole[8]),
                dearest_text=max(whole[:4]),
                dearest_output=max(*whole[5:8], whole[9]),
                last=last,
            )
        )
    return _Exact(price, scale, starts, tuple(bands), int(request * scale), int(search * scale))


def times(usd: Decimal, factor: Decimal) -> Decimal:
    """Return a multiple of an amount to its last digit, without the rounding of a context."""
    return _WIDE.multiply(usd, factor)


def _fraction(usd: Decimal) -> Fraction:
    """Return an amount of dollars without the rounding of Decimal's context."""
    if not usd.is_finite() or usd < 0:
        raise ValueError(f"not a price: {usd}")
    return Fraction(usd)
