"""What waits in the writer's queue. A future is None where nobody waits for the operation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from tollway.daemon.ledger.imports import Imported, Written
from tollway.daemon.ledger.responses import Forget, Response
from tollway.daemon.ledger.rows import (
    AttemptEnded,
    AttemptOpened,
    Audited,
    CallEnded,
    CallOpened,
    CallRefused,
    LocalTime,
    SpentQuery,
)


class Admit(msgspec.Struct):
    """A call and its first attempt. `withdrawn` once its caller was told that it failed."""

    call: CallOpened
    attempt: AttemptOpened
    done: asyncio.Future[None]
    withdrawn: bool = False


class Next(msgspec.Struct):
    """The end of one attempt and the start of the next; `withdrawn` is of the start alone."""

    ended: AttemptEnded | None  # None where that was written before
    opened: AttemptOpened
    done: asyncio.Future[None]
    withdrawn: bool = False


class Settle(msgspec.Struct):
    """The end of a call, of an attempt, or of both."""

    call: CallEnded | None
    attempt: AttemptEnded | None
    done: asyncio.Future[None] | None = None


class Withdraw(msgspec.Struct):
    """Undo of what may have been written after its caller was told that it failed."""

    of: Admit | Next
    at_ms: int
    done: None = None


class Queue(msgspec.Struct):
    """A call that waits for its turn: nothing is held or sent."""

    call: CallOpened
    done: None = None


class Unqueue(msgspec.Struct):
    """The end of a call that waited and was never admitted; it had waited for `queue_ms`."""

    call: CallEnded
    queue_ms: int
    refused: bool  # by us; else it left
    done: None = None


class Refuse(msgspec.Struct):
    """A call that was never sent."""

    row: CallRefused
    done: None = None


class Audit(msgspec.Struct):
    """A change of configuration, key or budget."""

    row: Audited
    done: asyncio.Future[None]


class Alert(msgspec.Struct):
    """The name of something that is to be told once; `new` says whether it stood there not yet."""

    name: str
    at_ms: int
    done: asyncio.Future[bool]
    new: bool = False


class Time(msgspec.Struct):
    """How long local models were at work and idle since this was last told; nobody waits."""

    rows: tuple[LocalTime, ...]
    done: None = None


class Import(msgspec.Struct):
    """Calls that did not pass this gateway; `written` says how many were not there yet."""

    rows: Sequence[Imported]
    done: asyncio.Future[Written]
    written: Written = msgspec.field(default_factory=Written)


class Spent(msgspec.Struct):
    """A question; its answer waits for the commit of what it has seen."""

    queries: Sequence[SpentQuery]
    done: asyncio.Future[list[int]]
    answer: list[int] = []


class Spread(msgspec.Struct):
    """The same question, answered quarter of an hour by quarter of an hour."""

    queries: Sequence[SpentQuery]
    done: asyncio.Future[list[dict[int, int]]]
    answer: list[dict[int, int]] = []


class Ready(msgspec.Struct):
    """Done when the ledger can be written, however long that takes."""

    done: asyncio.Future[None]


class Packed(msgspec.Struct, frozen=True):
    """One body, ready for the file: what `bodies` holds of it."""

    kind: int
    encoding: int
    size: int
    body: bytes


class Keep(msgspec.Struct):
    """What a call said and got. Not of the groups that calls wait for: see `upkeep.py`."""

    call_id: str
    at_ms: int
    parts: tuple[Packed, ...]
    waited: int  # bytes of memory that it took until now
    response: Response | None = None  # packed too, where later calls may build on it
    done: None = None


class Tend(msgspec.Struct):
    """Look now at what is too old."""

    done: None = None


class Stop(msgspec.Struct):
    """The last operation."""

    done: asyncio.Future[None]


Operation = (
    Admit
    | Next
    | Settle
    | Withdraw
    | Queue
    | Unqueue
    | Refuse
    | Audit
    | Alert
    | Time
    | Import
    | Spent
    | Spread
    | Ready
    | Keep
    | Forget
    | Tend
    | Stop
)
