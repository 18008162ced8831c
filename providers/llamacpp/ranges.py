"""Numbers between bounds, as expressions of a grammar."""

import math

_FRACTION = '"." [0-9]{0,8} [1-9]'  # never zero, so that it is strictly between two numbers


def integer_rule(least: float, most: float) -> str:
    """Return what whole numbers from `least` to `most` look like; "" where there is none."""
    if least > most:
        return ""
    parts = []
    if least < 0:
        high = 1 if most >= 0 else -int(most)
        parts.append(f'"-" ({_positive(high, -least)})')
    if most >= 0:
        parts.append(_positive(max(0, least), most))
    return " | ".join(parts)


def number_rule(least: float, most: float, low: float, high: float) -> str:
    """Return what numbers look like: whole ones from `least` to `most`, fractions between bounds.

    `low` and `high` are the whole numbers that fractions stay between.
    """
    parts = []
    if whole := integer_rule(least, most):
        parts.append(f"({whole})")
    if high - 1 >= max(low, 0):
        parts.append(f"({_positive(max(0, low), high - 1)}) {_FRACTION}")
    if low + 1 <= min(high, 0):
        # -n.f lies between -n-1 and -n.
        begin = 0 if high >= 0 else -int(high)
        parts.append(f'"-" ({_positive(begin, -low - 1)}) {_FRACTION}')
    return " | ".join(parts)


def _positive(low: float, high: float) -> str:
    """Return the whole numbers from `low`, 0 at least, to `high`, which may be without end."""
    low = int(low)
    parts: list[str] = []
    if low == 0:
        parts.append('"0"')
        low = 1
    if math.isinf(high):
        digits = len(str(low))
        parts += _same_length(str(low), "9" * digits)
        if digits < 15:
            parts.append(f"[1-9] [0-9]{{{digits},14}}")
        return " | ".join(parts)
    while low <= high:
        end = min(int(high), 10 ** len(str(low)) - 1)
        parts += _same_length(str(low), str(end))
        low = end + 1
    return " | ".join(parts)


def _same_length(low: str, high: str) -> list[str]:
    """Return expressions for the numbers between two of equally many digits."""
    if low == high:
        return [f'"{low}"']
    if low[0] == high[0]:
        return [f'"{low[0]}" ({" | ".join(_same_length(low[1:], high[1:]))})']
    rest = len(low) - 1
    if not rest:
        return [f"[{low}-{high}]"]
    first, last = int(low[0]), int(high[0])
    parts: list[str] = []
    if low[1:] != "0" * rest:
        parts.append(f'"{first}" ({" | ".join(_same_length(low[1:], "9" * rest))})')
        first += 1
    whole_last = high[1:] == "9" * rest
    until = last if whole_last else last - 1
    if first <= until:
        parts.append(f"[{first}-{until}] [0-9]{{{rest}}}")
    if not whole_last:
        parts.append(f'"{last}" ({" | ".join(_same_length("0" * rest, high[1:]))})')
    return parts
