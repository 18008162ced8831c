"""How many calls there were since a moment, for limits that count by the day."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tollway.daemon.ledger.reading import reading


class Counted(NamedTuple):
    """What to count: "key", "provider", "box" and so on, its name, and since when.

    `since_ms` is unix milliseconds, at a full quarter of an hour, as all midnights are.
    """

    scope: str
    name: str
    since_ms: int


_SCOPES = ("key", "user", "team", "project", "route", "provider", "model")
_SINCE = """
SELECT s.calls, s.attempts, a.key, a.user, a.team, a.project, a.route, a.provider, a.model FROM (
    SELECT account, sum(calls) AS calls, sum(attempts) AS attempts FROM spend_quarter
    WHERE quarter_ms >= ? GROUP BY account
) s JOIN accounts a ON a.id = s.account
"""
_LOCAL = "local"  # the provider of the models of this box


def counted(path: Path, wanted: Sequence[Counted]) -> list[int]:
    """Return how many calls each one made, as the ledger's roll-ups have it.

    A provider's and a local model's are attempts, since each is a request there. Each moment
    among `wanted` costs one pass over the roll-ups since then.

    Raises:
        LedgerUnavailable: There is no ledger, or it cannot be read.
    """
    found = [0] * len(wanted)
    with reading(path) as db:
        for since_ms in {one.since_ms for one in wanted}:
            for calls, attempts, *names in db.execute(_SINCE, (since_ms,)):
                has = {("box", ""), *zip(_SCOPES, names, strict=True)}
                for index, one in enumerate(wanted):
                    if one.since_ms != since_ms or (one.scope, one.name) not in has:
                        continue
                    if one.scope == "model" and ("provider", _LOCAL) not in has:
                        continue
                    found[index] += attempts if one.scope in ("provider", "model") else calls
    return found
