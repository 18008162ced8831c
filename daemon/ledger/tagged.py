"""What the calls of one declared tag used, by target: read from the roll-ups of tags."""

from pathlib import Path

import msgspec

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.schema import TOKENS
from tollway.providers.canon import Usage


class Used(msgspec.Struct, frozen=True):
    """What a tag's calls used at one target; `calls` are counted with their last target."""

    provider: str
    model: str
    calls: int
    cost_nanousd: int
    estimated_nanousd: int
    unpriced: int  # attempts whose tokens had no price
    usage: Usage


_SUMS = ("calls", "cost_nanousd", "estimated_nanousd", "unpriced", *TOKENS)
_SQL = f"""
SELECT a.provider, a.model, {", ".join(f"sum(s.{name})" for name in _SUMS)}
FROM spend_tag s JOIN accounts a ON a.id = s.account
WHERE s.tag = (SELECT id FROM words WHERE word = ?)
GROUP BY a.provider, a.model ORDER BY sum(s.cost_nanousd) DESC, a.provider, a.model
"""  # noqa: S608 - our own names


def used(path: Path, tag: str) -> list[Used]:
    """Return what the calls with a tag, "name=value", have used, the dearest target first.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        rows = db.execute(_SQL, (tag,)).fetchall()
    return [
        Used(provider, model, calls, cost, estimated, unpriced, Usage(*tokens))
        for provider, model, calls, cost, estimated, unpriced, *tokens in rows
    ]
