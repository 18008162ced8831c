"""What prompts really came to, against their bound: for those who hold by what is expected.

The bound is in bytes, three to four times the tokens. `hold = "expected"` holds the share of it
that 999 of 1,000 calls of that model have stayed within, since this daemon started. That is no
proof: one call in a thousand may cost more than was held for it, and a cap can be passed by that.
"""

LEAST_CALLS = 1000  # before that the bound itself is held
_QUANTILE = (999, 1000)
_LEAST_QUANTILE = (1, 1000)
_MOST_BYTES_A_TOKEN = 8  # on average: English has four to five, code with deep indents six
_WHOLE = 1000  # shares are in thousandths
_ANEW_EVERY = 100  # calls, after which the quantile is looked up anew
_MOST_CALLS = 100_000  # then half of them are forgotten, so that a model's change shows
_MOST_TARGETS = 10_000  # names a stranger makes up must not fill the memory


class _Target:
    __slots__ = ("calls", "counts", "least", "least_at", "looked_at", "share")

    def __init__(self) -> None:
        self.counts = [0] * (_WHOLE + 1)
        self.calls = 0
        self.share: int | None = None
        self.least: int | None = None
        self.looked_at = self.least_at = 0  # how many calls there were at the last look


class Learned:
    """How large prompts were, by target; it lives as long as the daemon."""

    def __init__(self) -> None:
        self._targets: dict[str, _Target] = {}

    def record(self, target: str, bound: int, tokens: int) -> None:
        """Note that a prompt with a bound of so many tokens came to so many."""
        known = self._targets.get(target)
        if known is None:
            if len(self._targets) >= _MOST_TARGETS:
                return
            known = self._targets[target] = _Target()
        known.counts[min(_WHOLE, -(-_WHOLE * tokens // max(bound, 1)))] += 1
        known.calls += 1
        if known.calls >= _MOST_CALLS:
            known.counts = [count // 2 for count in known.counts]
            known.calls = known.looked_at = known.least_at = sum(known.counts)

    def share(self, target: str) -> int | None:
        """Return the thousandths of the bound that suffice; None while too few calls tell."""
        known = self._targets.get(target)
        if known is None or known.calls < LEAST_CALLS:
            return None
        if known.share is None or known.calls - known.looked_at >= _ANEW_EVERY:
            known.looked_at, known.share = known.calls, _quantile(known)
        return known.share

    def least(self, target: str, bound: int) -> int:
        """Return the tokens that a prompt with such a bound has at least, as good as surely.

        Of 1,000 calls 999 had more; of a model of which too little is known, no text that people
        write has fewer.
        """
        known = self._targets.get(target)
        if known is None or known.calls < LEAST_CALLS:
            return bound // _MOST_BYTES_A_TOKEN
        if known.least is None or known.calls - known.least_at >= _ANEW_EVERY:
            known.least_at, known.least = known.calls, _quantile(known, _LEAST_QUANTILE)
        return bound * max(0, known.least - 1) // _WHOLE


def _quantile(known: _Target, quantile: tuple[int, int] = _QUANTILE) -> int:
    within, of = quantile
    total = 0
    for share, count in enumerate(known.counts):
        total += count
        if total * of >= known.calls * within:
            return share
    return _WHOLE
