"""How many calls there were, for limits by the day and, after a death, by the minute."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import head_of
from tollway.daemon.ledger.schema import ID_HEAD, OPEN, RECOVERED, SETTLED, TOKENS


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
# Ids are made as calls come: by the head of the earliest that may count, the index finds them.
_LATELY = f"""
SELECT c.seq, t.started_ms, {" + ".join(f"t.{one}" for one in TOKENS if one != "searches")},
    a.key, a.user, a.team, a.project, a.route, a.provider, a.model
FROM calls c JOIN attempts t ON t.call = c.seq JOIN accounts a ON a.id = t.account
WHERE c.seq >= (SELECT min(seq) FROM calls WHERE {ID_HEAD} >= ?)
    AND t.started_ms BETWEEN ? AND ?
    AND c.state IN ({SETTLED}, {OPEN}, {RECOVERED})
ORDER BY t.started_ms
"""  # noqa: S608 - our own names
_MOST_WAIT_MS = 600_000  # between a call's id and its first attempt, in a line


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


class Used(NamedTuple):
    """One attempt: when it began in unix milliseconds, and the tokens that it used.

    `first` is whether it is its call's first: a call counts once with `callers`, which are its
    route too, and each attempt with its `target`, a provider or a local model.
    """

    at_ms: int
    tokens: int
    first: bool
    callers: tuple[tuple[str, str], ...]
    target: tuple[str, str]


def lately(path: Path, since_ms: int, until_ms: int) -> list[Used]:
    """Return the attempts that began between two moments, the earliest first.

    Raises:
        LedgerUnavailable: There is no ledger, or it cannot be read.
    """
    found: list[Used] = []
    seen: set[int] = set()
    with reading(path) as db:
        asked = (head_of(since_ms - _MOST_WAIT_MS), since_ms + 1, until_ms)
        for seq, at_ms, tokens, *names in db.execute(_LATELY, asked):
            *callers, (_, provider), model = zip(_SCOPES, names, strict=True)
            found.append(
                Used(
                    at_ms,
                    tokens,
                    seq not in seen,
                    (("box", ""), *callers),
                    model if provider == _LOCAL else ("provider", provider),
                )
            )
            seen.add(seq)
    return found
