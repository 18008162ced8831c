"""What follows from the rows: roll-ups, sums, and how calls that a kill cut short are settled.

The writer reaches the same by adding up; `verify` compares the two.
"""

from sqlite3 import Connection

from tollway.daemon.ledger.schema import (
    OPEN,
    QUARTER_MS,
    QUEUED,
    RECOVERED,
    REFUSED,
    SETTLED,
    TOKENS,
)

_SUMS = ("cost_nanousd", "overrun_nanousd", *TOKENS, "saved_nanousd")
ROLL_UP = ("calls", "refused", "attempts", "estimated_nanousd", "unpriced", *_SUMS)
# Tokens that neither a price nor the provider told the cost of. An attempt without tokens costs
# nothing at any price.
_USED = " + ".join(f"t.{name}" for name in TOKENS)
UNPRICED = f"t.price IS NULL AND t.reported_nanousd IS NULL AND {_USED} > 0"
_QUARTER = f"c.admitted_ms / {QUARTER_MS} * {QUARTER_MS}"

# Each call with each of the tags whose spending is added up.
_TAGGED = """
    CROSS JOIN words b ON b.id = c.budget_tags
    CROSS JOIN json_each(b.word) j
    CROSS JOIN words w ON w.word = j.value
"""


_LABELS = ", coalesce(c.tags, 0) AS tags, coalesce(c.session, 0) AS session"
_LABELLED = " AND (c.tags IS NOT NULL OR c.session IS NOT NULL)"


def _roll_ups(keys: str, attempts: str, more: str = "", joins: str = "", only: str = "") -> str:
    # Of calls, what is counted; of attempts, what is added up.
    return f"""
SELECT {keys}, {", ".join(f"sum({name}) AS {name}" for name in ROLL_UP)} FROM (
    SELECT {_QUARTER} AS quarter_ms, c.account{more}, c.state <> {REFUSED} AS calls,
        (c.state = {REFUSED}) * (1 + c.repeated) AS refused, 0 AS attempts,
        0 AS estimated_nanousd, 0 AS unpriced,
        {", ".join(f"0 AS {name}" for name in _SUMS)}
    FROM calls c{joins} WHERE c.state IN ({SETTLED}, {RECOVERED}, {REFUSED}){only}
    UNION ALL
    SELECT {_QUARTER}, t.account{more}, 0, 0, 1, t.estimated * t.cost_nanousd, {UNPRICED},
        {", ".join(f"t.{name}" for name in _SUMS)}
    FROM {attempts} WHERE t.ending IS NOT NULL{only}
)
WHERE quarter_ms >= (SELECT value FROM meta WHERE name = 'pruned_before_ms')
GROUP BY {keys}
"""  # noqa: S608 - our own names and numbers


BY_ACCOUNT = ("quarter_ms", "account")
BY_TAG = ("quarter_ms", "tag", "account")
BY_LABEL = ("quarter_ms", "tags", "session", "account")
ROLL_UPS = _roll_ups(", ".join(BY_ACCOUNT), "attempts t JOIN calls c ON c.seq = t.call")
TAG_ROLL_UPS = _roll_ups(
    ", ".join(BY_TAG),
    f"calls c {_TAGGED} CROSS JOIN attempts t ON t.call = c.seq",
    *(", w.id AS tag", _TAGGED),
)
LABEL_ROLL_UPS = _roll_ups(
    ", ".join(BY_LABEL),
    "calls c CROSS JOIN attempts t ON t.call = c.seq",
    _LABELS,
    only=_LABELLED,
)
OF_ATTEMPTS = f"""
SELECT call, count(*) AS attempts, sum(hold_nanousd) AS hold_nanousd,
    max(estimated) AS estimated, {", ".join(f"sum({name}) AS {name}" for name in _SUMS)}
FROM attempts GROUP BY call
"""  # noqa: S608
CALL_SUMS = ("attempts", "hold_nanousd", "estimated", *_SUMS)


def rebuild_roll_ups(db: Connection) -> None:
    """Write the roll-ups anew from the rows, back to where retention has deleted rows."""
    db.execute(
        "INSERT OR IGNORE INTO words (word) SELECT j.value FROM calls c"
        " CROSS JOIN words b ON b.id = c.budget_tags CROSS JOIN json_each(b.word) j"
    )
    for table, keys, made in (
        ("spend_quarter", BY_ACCOUNT, ROLL_UPS),
        ("spend_tag", BY_TAG, TAG_ROLL_UPS),
        ("spend_label", BY_LABEL, LABEL_ROLL_UPS),
    ):
        db.execute(
            f"DELETE FROM {table} WHERE quarter_ms >="  # noqa: S608 - our own names
            " (SELECT value FROM meta WHERE name = 'pruned_before_ms')"
        )
        db.execute(f"INSERT INTO {table} ({', '.join((*keys, *ROLL_UP))}) {made}")


def rebuild_calls(db: Connection) -> None:
    """Write the sums of calls anew from their attempts."""
    sets = ", ".join(f"{name} = s.{name}" for name in CALL_SUMS)
    db.execute(f"UPDATE calls SET {sets} FROM ({OF_ATTEMPTS}) s WHERE s.call = calls.seq")  # noqa: S608


def recover(db: Connection) -> int:
    """Settle every open call at what its open attempts held; return how many there were.

    A daemon was killed while they ran, so nobody knows what they used: the hold is the most.
    Those that waited in a queue held nothing and were not sent: they cost nothing.
    Runs in the caller's transaction, roll-ups included.
    """
    db.execute(f"UPDATE calls SET state = {OPEN} WHERE state = {QUEUED}")  # noqa: S608
    (found,) = db.execute(f"SELECT count(*) FROM calls WHERE state = {OPEN}").fetchone()  # noqa: S608
    if not found:
        return 0
    db.execute("INSERT OR IGNORE INTO words (word) VALUES ('recovered')")
    _recover_roll_ups(db, "spend_quarter", BY_ACCOUNT)
    _recover_roll_ups(db, "spend_tag", BY_TAG, (", w.id", _TAGGED, ""))
    _recover_roll_ups(db, "spend_label", BY_LABEL, (_LABELS, "", _LABELLED))
    db.execute(
        "UPDATE attempts SET cost_nanousd = hold_nanousd, estimated = 1,"  # noqa: S608
        " ending = (SELECT id FROM words WHERE word = 'recovered')"
        f" WHERE ending IS NULL AND call IN (SELECT seq FROM calls WHERE state = {OPEN})"
    )
    sets = ", ".join(f"{name} = s.{name}" for name in CALL_SUMS)
    own = f"(SELECT seq FROM calls WHERE state = {OPEN})"  # noqa: S608
    db.execute(
        f"UPDATE calls SET {sets} FROM"  # noqa: S608
        f" ({OF_ATTEMPTS.replace('GROUP BY', f'WHERE call IN {own} GROUP BY')}) s"
        f" WHERE calls.state = {OPEN} AND s.call = calls.seq"
    )
    db.execute(
        f"UPDATE calls SET state = {RECOVERED},"  # noqa: S608
        " ending = (SELECT id FROM words WHERE word = 'recovered')"
        f" WHERE state = {OPEN}"
    )
    return int(found)


def _recover_roll_ups(
    db: Connection,
    table: str,
    keys: tuple[str, ...],
    parts: tuple[str, str, str] = ("", "", ""),
) -> None:
    """Add what open calls held; `parts` are SQL: more of the key, joins, and which calls only."""
    names, (more, joins, only) = ", ".join(keys), parts
    db.execute(
        f"INSERT INTO {table} ({names}, attempts, cost_nanousd,"  # noqa: S608 - our own names
        f" estimated_nanousd) SELECT {_QUARTER}{more}, t.account, 1, t.hold_nanousd, t.hold_nanousd"
        f" FROM calls c {joins} CROSS JOIN attempts t ON t.call = c.seq"
        f" WHERE c.state = {OPEN} AND t.ending IS NULL{only}"
        f" ON CONFLICT ({names}) DO UPDATE SET attempts = attempts + 1,"
        " cost_nanousd = cost_nanousd + excluded.cost_nanousd,"
        " estimated_nanousd = estimated_nanousd + excluded.estimated_nanousd"
    )
    db.execute(
        f"INSERT INTO {table} ({names}, calls)"  # noqa: S608
        f" SELECT {_QUARTER}{more}, c.account, 1 FROM calls c {joins} WHERE c.state = {OPEN}{only}"
        f" ON CONFLICT ({names}) DO UPDATE SET calls = calls + 1"
    )
