"""The statements that write calls, attempts and roll-ups: any number of rows in one step.

Each step of SQLite gives up Python's lock and must win it back from a busy event loop, which
takes up to 5 ms each time. `executemany`, a step a row, wrote 770 calls/s beside a loop that
never rested; these wrote 18,000.
"""

from collections.abc import Sequence
from itertools import chain
from sqlite3 import Connection, register_adapter

from tollway.daemon.ledger.schema import TOKENS

_MOST_ROWS = 64  # in one statement


def _null(_: None) -> None:
    """Return NULL as it is."""


# Of a value that is no int, float or str, sqlite3 asks for an adapter, then its type and the value
# itself. That took a tenth of what the writer does: a row has a dozen NULLs.
register_adapter(type(None), _null)
# What is added up of an attempt besides its cost.
USED = (*TOKENS, "saved_nanousd")
NO_USE = (0,) * len(USED)


class Upsert:
    """An INSERT of any number of rows; `on` is its ON CONFLICT clause."""

    def __init__(self, table: str, columns: Sequence[str], on: str = "") -> None:
        # Our own names only: no value ever stands in the text.
        head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608
        row = f"({', '.join('?' * len(columns))})"
        sizes = [1 << power for power in range(_MOST_ROWS.bit_length())]
        self._sql = {size: f"{head}{', '.join([row] * size)} {on}" for size in sizes}

    def write(self, db: Connection, rows: Sequence[Sequence[object]]) -> None:
        """Write the rows, in steps of a power of two, so that few statements are prepared."""
        if len(rows) == 1:
            db.execute(self._sql[1], rows[0])
            return
        done = 0
        while left := len(rows) - done:
            size = min(1 << (left.bit_length() - 1), _MOST_ROWS)
            values = chain.from_iterable(rows[done : done + size])
            db.execute(self._sql[size], tuple(values))
            done += size


def _set(columns: Sequence[str], text: str) -> str:
    return ", ".join(f"{name} = {text.replace('#', name)}" for name in columns)


_SUMS = ("attempts", "hold_nanousd", "cost_nanousd", "overrun_nanousd")
_END = ("total_ms", "first_ms", "ending", "error", "dropped")
NEW_CALLS = Upsert(
    "calls",
    (
        *("seq", "id", "state", "account", "stream", "client", "dialect", "endpoint", "requested"),
        *("admitted_ms", "tags", "session", "budget_tags", "queue_ms"),
        *("attempts", "hold_nanousd", "total_ms", "error", "repeated"),
    ),
)
# Of rows that are there: the INSERT always meets its conflict and adds to the row.
CALL_CHANGES = Upsert(
    "calls",
    ("seq", "id", "state", "account", "admitted_ms", *_END, "estimated", *_SUMS, *USED),
    "ON CONFLICT (seq) DO UPDATE SET state = excluded.state, account = excluded.account,"
    f" {_set(_END, 'excluded.#')}, estimated = max(estimated, excluded.estimated),"
    f" {_set((*_SUMS, *USED), '# + excluded.#')}",
)
NEW_ATTEMPTS = Upsert(
    "attempts",
    ("call", "number", "account", "price", "started_ms", "hold_nanousd", "provider_key"),
)
_ATTEMPT_END = (
    *("total_ms", "first_ms", "status", "ending", "error", "cost_nanousd", "overrun_nanousd"),
    *("estimated", *USED, "upstream_id", "usage_shape", "usage_numbers", "gpu_ms"),
    *("price", "reported_nanousd"),
)
ENDED_ATTEMPTS = Upsert(
    "attempts",
    ("call", "number", *_ATTEMPT_END),
    f"ON CONFLICT (call, number) DO UPDATE SET {_set(_ATTEMPT_END, 'excluded.#')}",
)
ROLL_UP = (
    *("calls", "refused", "attempts", "cost_nanousd", "overrun_nanousd", "estimated_nanousd"),
    *("unpriced", *USED),
)
SPEND = Upsert(
    "spend_quarter",
    ("quarter_ms", "account", *ROLL_UP),
    f"ON CONFLICT (quarter_ms, account) DO UPDATE SET {_set(ROLL_UP, '# + excluded.#')}",
)
SPEND_TAG = Upsert(
    "spend_tag",
    ("quarter_ms", "tag", "account", *ROLL_UP),
    f"ON CONFLICT (quarter_ms, tag, account) DO UPDATE SET {_set(ROLL_UP, '# + excluded.#')}",
)
SPEND_LABEL = Upsert(
    "spend_label",
    ("quarter_ms", "tags", "session", "account", *ROLL_UP),
    "ON CONFLICT (quarter_ms, tags, session, account) DO UPDATE SET"
    f" {_set(ROLL_UP, '# + excluded.#')}",
)
ONE_CALL = (1, 0, 0, 0, 0, 0, 0, *NO_USE)


def refusals(count: int) -> tuple[int, ...]:
    """Return what so many refused calls add to a roll-up."""
    return (0, count, 0, 0, 0, 0, 0, *NO_USE)
