"""The longest answers of models, as their providers told in refusals.

No list of models has them for all, and what one has is old soon. To be told costs one refusal,
which is free; what was told, and then answered to, is known until the next reload.
"""

from tollway.daemon.gate.route import Target

_MOST_TARGETS = 10_000  # names a stranger makes up must not fill the memory


class Longest:
    """How many tokens an answer may have, by model and address."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], int] = {}

    def note(self, target: Target, tokens: int) -> None:
        """Note what a target's provider says of all answers of its model."""
        if len(self._known) < _MOST_TARGETS:
            self._known[target.base_url, target.model] = tokens

    def forget(self) -> None:
        """Forget all: what a server takes may be more by now."""
        self._known.clear()

    def of(self, target: Target) -> int | None:
        """Return the tokens that an answer of a target may have; None where nobody has said."""
        return self._known.get((target.base_url, target.model)) if self._known else None
