"""Which models were called whose tokens had no price."""

from pathlib import Path

import msgspec

from tollway.daemon.ledger.reading import reading


class Unpriced(msgspec.Struct, frozen=True):
    """A model, and in how many attempts nobody knew what it cost."""

    provider: str
    model: str
    attempts: int
    last_ms: int  # the quarter of an hour of the last one, unix milliseconds


def unpriced(path: Path) -> list[Unpriced]:
    """Return every such model of a ledger, the most called first.

    Raises:
        LedgerUnavailable: It cannot be read.
    """
    with reading(path) as db:
        rows = db.execute(
            "SELECT a.provider, a.model, sum(s.unpriced), max(s.quarter_ms)"
            " FROM spend_quarter s JOIN accounts a ON a.id = s.account WHERE s.unpriced > 0"
            " GROUP BY a.provider, a.model ORDER BY 3 DESC, 1, 2"
        ).fetchall()
    return [Unpriced(*row) for row in rows]
