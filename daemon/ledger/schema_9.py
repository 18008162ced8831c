"""The ninth version of the ledger: a refused call's row stands for more that were just like it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database


def apply(db: "Database") -> None:
    """Add how many more each refused call stands for: none, in rows of before."""
    view, place = "calls_readable", "FROM calls c"
    (text,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (view,)).fetchone()
    for statement in (
        "ALTER TABLE calls ADD COLUMN repeated INTEGER NOT NULL DEFAULT 0",
        f"DROP VIEW {view}",
        text.replace(place, f", c.repeated {place}", 1),
    ):
        db.execute(statement)
