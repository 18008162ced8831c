"""The eighth version of the ledger: answers of the Responses API that later calls build on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_STATEMENTS = (
    """CREATE TABLE responses (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        key TEXT NOT NULL,
        user TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        previous TEXT,
        input BLOB NOT NULL,
        body BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX responses_at ON responses (at_ms)",
    """CREATE TABLE response_items (
        id TEXT PRIMARY KEY,
        response INTEGER NOT NULL REFERENCES responses (seq)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX response_items_of ON response_items (response)",
)


def apply(db: "Database", local: str) -> None:
    """Add the tables and the view for people; `local` makes `at_ms` a local time in SQL."""
    for statement in _STATEMENTS:
        db.execute(statement)
    db.execute(
        "CREATE VIEW responses_readable AS SELECT id, previous, key, user,"  # noqa: S608
        f" {local} AS at_local, at_ms,"
        " length(input) + length(body) AS kept_bytes FROM responses"
    )
