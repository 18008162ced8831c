"""What version 6 of the ledger's file added: savings, spending by label, and imported use.

* `saved_nanousd`, beside each cost: the list price less what was paid. 0 where there is no
  discount, and in all rows of older versions.
* `spend_label`: as `spend_quarter`, by all tags and the session of a call. Calls that have
  neither are not in it: what it lacks of `spend_quarter` is theirs.
* `imports`: calls that did not pass this gateway, read from the logs of coding agents. They are
  in no cost, no budget and no other table. A row's `key` is what its log calls the answer: read
  again, it is not written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_SAVED = ("calls", "attempts", "spend_quarter", "spend_tag")
_VIEWS = {
    "calls_readable": ("FROM calls c", "c.saved_nanousd"),
    "attempts_readable": ("FROM attempts t", "t.saved_nanousd"),
    "spend_readable": ("FROM spend_quarter s", "s.saved_nanousd"),
    "spend_tag_readable": ("FROM spend_tag s", "s.saved_nanousd"),
}
_IMPORTS = """CREATE TABLE imports (
    seq INTEGER PRIMARY KEY,
    source INTEGER NOT NULL CHECK (source BETWEEN 1 AND 2),
    key TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    account INTEGER NOT NULL REFERENCES accounts (id),
    session INTEGER REFERENCES words (id),
    tags INTEGER REFERENCES words (id),
    price INTEGER REFERENCES prices (number),
    notional_nanousd INTEGER NOT NULL DEFAULT 0,
    {tokens},
    UNIQUE (source, key)
) STRICT"""
# All that a report adds up: it need not read the rows themselves.
_IMPORTS_AT = """CREATE INDEX imports_at ON imports (at_ms)"""
_IMPORTS_READABLE = """CREATE VIEW imports_readable AS SELECT
        i.seq, CASE i.source WHEN 1 THEN 'claude-code' ELSE 'codex' END AS source,
        strftime('%Y-%m-%d %H:%M:%f', i.at_ms / 1000.0, 'unixepoch', 'localtime') AS at_local,
        i.at_ms, i.key, a.user, a.team, a.provider, a.model, {tokens},
        i.notional_nanousd / 1e9 AS notional_usd, i.notional_nanousd,
        coalesce(session.word, '') AS session, coalesce(tags.word, '') AS tags, p.id AS price_id
    FROM imports i
        LEFT JOIN accounts a ON a.id = i.account
        LEFT JOIN words session ON session.id = i.session
        LEFT JOIN words tags ON tags.id = i.tags
        LEFT JOIN prices p ON p.number = i.price"""


def apply(db: Database, sums: tuple[str, ...]) -> None:
    """Change the tables and views; `sums` are the columns of roll-ups, in their order."""
    for table in _SAVED:
        db.execute(f"ALTER TABLE {table} ADD COLUMN saved_nanousd INTEGER NOT NULL DEFAULT 0")
    for view, (place, column) in _VIEWS.items():
        (text,) = db.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'view' AND name = ?", (view,)
        ).fetchone()
        db.execute(f"DROP VIEW {view}")
        db.execute(text.replace(place, f", {column} {place}", 1))
    tokens = sums[sums.index("unpriced") + 1 :]
    columns = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in tokens)
    db.execute(_IMPORTS.format(tokens=columns))
    db.execute(_IMPORTS_AT)
    db.execute(_IMPORTS_READABLE.format(tokens=", ".join(f"i.{name}" for name in tokens)))
    _labels(db, sums)


def _labels(db: Database, sums: tuple[str, ...]) -> None:
    columns = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in sums)
    # 0 for no tags and for no session: part of the key, where NULL cannot stand.
    db.execute(
        "CREATE TABLE spend_label (quarter_ms INTEGER NOT NULL, tags INTEGER NOT NULL,"
        " session INTEGER NOT NULL, account INTEGER NOT NULL REFERENCES accounts (id),"
        f" {columns}, saved_nanousd INTEGER NOT NULL DEFAULT 0,"
        " PRIMARY KEY (quarter_ms, tags, session, account)) STRICT, WITHOUT ROWID"
    )
    db.execute(
        "CREATE VIEW spend_label_readable AS SELECT"  # noqa: S608 - our own names
        " strftime('%Y-%m-%d %H:%M:%f', s.quarter_ms / 1000.0, 'unixepoch', 'localtime')"
        " AS quarter_local, s.quarter_ms, coalesce(tags.word, '') AS tags,"
        " coalesce(session.word, '') AS session, a.key, a.user, a.team, a.project, a.route,"
        f" a.provider, a.model, {', '.join(f's.{name}' for name in sums)},"
        " s.cost_nanousd / 1e9 AS cost_usd, s.saved_nanousd"
        " FROM spend_label s LEFT JOIN accounts a ON a.id = s.account"
        " LEFT JOIN words tags ON tags.id = s.tags"
        " LEFT JOIN words session ON session.id = s.session"
    )
    _fill(db, sums)


def _fill(db: Database, sums: tuple[str, ...]) -> None:
    """Add up the calls that are there, back to where retention has deleted rows."""
    plain = tuple(name for name in sums if name.endswith(("tokens", "searches")))
    money = ("cost_nanousd", "overrun_nanousd")
    used = " + ".join(f"t.{name}" for name in plain)
    of_attempts = {
        "attempts": "1",
        "estimated_nanousd": "t.estimated * t.cost_nanousd",
        "unpriced": f"t.price IS NULL AND t.reported_nanousd IS NULL AND {used} > 0",
        **{name: f"t.{name}" for name in (*money, *plain)},
    }
    of_calls = {"calls": "c.state <> 3", "refused": "c.state = 3"}
    keys = "c.admitted_ms / 900000 * 900000 AS quarter_ms, coalesce(c.tags, 0) AS tags,"
    keys += " coalesce(c.session, 0) AS session,"
    where = "(c.tags IS NOT NULL OR c.session IS NOT NULL)"
    of_call, of_attempt = (
        ", ".join(f"{known.get(name, '0')} AS {name}" for name in sums)
        for known in (of_calls, of_attempts)
    )
    db.execute(
        f"INSERT INTO spend_label (quarter_ms, tags, session, account, {', '.join(sums)})"  # noqa: S608
        f" SELECT quarter_ms, tags, session, account, {', '.join(f'sum({n})' for n in sums)} FROM ("
        f"SELECT {keys} c.account AS account, {of_call} FROM calls c"
        f" WHERE c.state IN (0, 2, 3) AND {where} UNION ALL"
        f" SELECT {keys} t.account AS account, {of_attempt} FROM calls c"
        f" CROSS JOIN attempts t ON t.call = c.seq WHERE t.ending IS NOT NULL AND {where})"
        " WHERE quarter_ms >= (SELECT value FROM meta WHERE name = 'pruned_before_ms')"
        " GROUP BY quarter_ms, tags, session, account"
    )
