"""A year of calls, the same each time: teams with habits, tags, sessions, tools and mistakes.

The rows are made by the writer itself or, for many, by SQL and the function that repairs a
ledger. Weekdays are busier than weekends and prices rise in July, so that trends have a shape.
"""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from ledger_rows import PRICE

from tollway.daemon.ledger.derived import rebuild_calls, rebuild_roll_ups
from tollway.daemon.ledger.names import Names
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.schema import SETTLED, migrate, transaction
from tollway.providers.prices import discounted

BEGIN_MS = int(datetime(2025, 11, 1, tzinfo=UTC).timestamp()) * 1000
DAY_MS = 86_400_000
TEAMS = {"ml": ("anna", "bo"), "web": ("cy",), "": ("",)}
LESS = discounted(PRICE, Decimal("0.9"))
MODELS = ("openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "local/smol")


class Made(NamedTuple):
    """One call as it was made: what every report of it must add up to."""

    at_ms: int
    team: str
    user: str
    provider: str
    model: str
    branch: str
    session: str
    cost: int
    saved: int
    tokens: int


def calls(count: int, begin_ms: int = BEGIN_MS, seed: int = 11) -> Iterator[Made]:
    """Yield the calls of a year that begins at a moment, in the order of time."""
    said = random.Random(seed)  # noqa: S311 - the seed is the point
    moments = sorted(said.randrange(365 * DAY_MS) for _ in range(count))
    for number, moment in enumerate(moments):
        at_ms = begin_ms + moment
        team = said.choice(tuple(TEAMS))
        provider, _, model = said.choice(MODELS).partition("/")
        weekend = datetime.fromtimestamp(at_ms // 1000, UTC).weekday() > 4
        cost = 0 if provider == "local" else said.randrange(10**6, 10**9) // (4 if weekend else 1)
        yield Made(
            at_ms,
            team,
            said.choice(TEAMS[team]),
            provider,
            model,
            said.choice(("", "main", "fix/one")),
            said.choice(("", f"s{number // 20}")),
            cost,
            cost // 9 if provider == "anthropic" else 0,
            said.randrange(1, 5000),
        )


def write(
    path: Path, count: int, names: dict[str, str] | None = None, begin_ms: int = BEGIN_MS
) -> list[Made]:
    """Make a ledger of a year, roll-ups included; return its calls.

    `names` has other names for teams.
    """
    other = names or {}
    made = [one._replace(team=other.get(one.team, one.team)) for one in calls(count, begin_ms)]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path)
        db.execute("PRAGMA synchronous = off")
        with transaction(db):
            known = Names(db)
            for number, one in enumerate(made, 1):
                _insert(db, known, number, one)
            rebuild_calls(db)
            rebuild_roll_ups(db)
    return made


def _insert(db: sqlite3.Connection, names: Names, number: int, one: Made) -> None:
    account = names.account(Who("", one.user, one.team, ""), "fast", one.provider, one.model)
    head = f"{one.at_ms:012x}"
    tags = msgspec.json.encode({"branch": one.branch}).decode() if one.branch else ""
    common: tuple[Any, ...] = (names.word("chat"), names.word("openai_chat"), names.word("fast"))
    db.execute(
        "INSERT INTO calls (seq, id, state, account, admitted_ms, total_ms, endpoint, dialect,"
        " requested, tags, session, ending, attempts) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            *(number, f"{head[:8]}-{head[8:]}-7000-8000-{number:012}", SETTLED, account),
            *(one.at_ms, 900, *common, names.word_or_null(tags)),
            *(names.word_or_null(one.session), names.word("answered"), 1),
        ),
    )
    db.execute(
        "INSERT INTO attempts (call, number, account, started_ms, ending, cost_nanousd,"
        " saved_nanousd, reported_nanousd, input_tokens, price) VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            *(number, 1, account, one.at_ms, names.word("answered")),
            *(one.cost, one.saved, one.cost, one.tokens),
            names.price(LESS) if one.saved else None,
        ),
    )
