"""What the writer writes: operations become rows.

A `Book` holds what the open transaction's connection holds, and is thrown away when that rolls
back: its caches are read again from the file, so that they can never differ from it.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import add
from sqlite3 import Connection

import msgspec

from tollway.daemon.ledger.imports import write as write_imports
from tollway.daemon.ledger.local_time import write_times
from tollway.daemon.ledger.names import Names
from tollway.daemon.ledger.operations import (
    Admit,
    Alert,
    Audit,
    Import,
    Next,
    Operation,
    Queue,
    Refuse,
    Settle,
    Spent,
    Spread,
    Time,
    Unqueue,
    Withdraw,
)
from tollway.daemon.ledger.rows import (
    AttemptEnded,
    AttemptOpened,
    CallEnded,
    CallOpened,
    CallRefused,
    Who,
)
from tollway.daemon.ledger.schema import OPEN, QUARTER_MS, QUEUED, REFUSED, SETTLED
from tollway.daemon.ledger.spend import spent, spread
from tollway.daemon.ledger.statements import (
    CALL_CHANGES,
    ENDED_ATTEMPTS,
    NEW_ATTEMPTS,
    NEW_CALLS,
    NO_USE,
    ONE_CALL,
    SPEND,
    SPEND_LABEL,
    SPEND_TAG,
    refusals,
)
from tollway.providers.canon import Usage

log = logging.getLogger(__name__)


class _OpenAttempt(msgspec.Struct, gc=False):
    account: int
    started_ms: int
    hold_nanousd: int
    price: int | None


class _OpenCall(msgspec.Struct):
    seq: int
    id: str
    who: Who
    route: str
    account: int  # of its latest attempt
    admitted_ms: int
    tags: tuple[int, ...]  # those whose spending is added up
    label: tuple[int, int]  # all of its tags and its session, 0 where there is none
    attempts: dict[int, _OpenAttempt]

    @property
    def quarter_ms(self) -> int:
        return self.admitted_ms // QUARTER_MS * QUARTER_MS


class Book:
    """The rows of one transaction after another, on one connection."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM calls").fetchone()
        self._seq: int = last
        self._names = Names(db)
        self._open = _calls(db, OPEN)
        self._queued = _calls(db, QUEUED)
        self._new_calls: list[tuple[object, ...]] = []
        self._changes: list[tuple[object, ...]] = []
        self._waited: list[tuple[int, int]] = []
        self._new_attempts: list[tuple[object, ...]] = []
        self._ended_attempts: list[tuple[object, ...]] = []
        self._spend: defaultdict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
        self._spend_tag: defaultdict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
        self._spend_label: defaultdict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)

    def write(self, operations: Sequence[Operation]) -> None:
        """Write operations into the open transaction, in their order as far as it shows."""
        for operation in operations:
            match operation:
                case Admit():
                    self._admit(operation)
                case Settle(call=call, attempt=attempt):
                    self._settle(call, attempt)
                case Next():
                    self._next(operation)
                case Refuse(row=row):
                    self._refuse(row)
                case Queue() | Unqueue():
                    self._wait(operation)
                case Withdraw():
                    self._withdraw(operation)
                case Spent(queries=queries):
                    self._flush()
                    operation.answer = spent(self._db, queries)
                case Spread(queries=queries):
                    self._flush()
                    operation.answer = spread(self._db, queries)
                case Audit() | Alert() | Time() | Import():
                    self._note(operation)
                case _:  # Ready and Stop write nothing
                    pass
        self._flush()

    def _note(self, operation: Audit | Alert | Time | Import) -> None:
        match operation:
            case Audit(row=row):
                self._db.execute(
                    "INSERT INTO audit (at_ms, who, what, subject, before, after)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    msgspec.structs.astuple(row),
                )
            case Alert(name=name, at_ms=at_ms):
                found = self._db.execute(
                    "INSERT INTO alerts (id, at_ms) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                    (name, at_ms),
                )
                operation.new = found.rowcount == 1
            case Time(rows=rows):
                write_times(self._db, rows)
            case Import(rows=rows):
                operation.written = write_imports(self._db, rows)

    def _flush(self) -> None:
        # Rows come before what changes them; between calls the order makes no difference.
        for upsert, rows in (
            (NEW_CALLS, self._new_calls),
            (NEW_ATTEMPTS, self._new_attempts),
            (ENDED_ATTEMPTS, self._ended_attempts),
            (CALL_CHANGES, self._changes),
        ):
            if rows:
                upsert.write(self._db, rows)
                rows.clear()
        if self._waited:
            self._db.executemany("UPDATE calls SET queue_ms = ? WHERE seq = ?", self._waited)
            self._waited.clear()
        for upsert, sums in (
            (SPEND, self._spend),
            (SPEND_TAG, self._spend_tag),
            (SPEND_LABEL, self._spend_label),
        ):
            if sums:
                upsert.write(self._db, _summed(sums))
                sums.clear()

    def _admit(self, admit: Admit) -> None:
        if admit.withdrawn:
            return
        call, opened = admit.call, admit.attempt
        account = self._names.account(call.who, call.route, opened.provider, opened.model)
        if call.id in self._open:
            raise ValueError(f"call {call.id} is open already")
        known = self._queued.pop(call.id, None)
        if known:
            known.account = account
            self._waited.append((call.queue_ms or 0, known.seq))
            self._change(known, (0, 1, opened.hold_nanousd, 0, 0, *NO_USE))
        else:
            seq = self._new_call(call, OPEN, account, opened.hold_nanousd)
            known = self._known(call, seq, account)
        self._open[call.id] = known
        self._start(known, opened, account)

    def _known(self, call: CallOpened, seq: int, account: int) -> _OpenCall:
        tags = tuple(map(self._names.word, set(call.budget_tags)))
        return _OpenCall(
            *(seq, call.id, call.who, call.route, account, call.admitted_ms, tags),
            *(self._label(call), {}),
        )

    def _label(self, call: CallOpened | CallRefused) -> tuple[int, int]:
        if not call.tags and not call.session:
            return _NO_LABEL
        or_null = self._names.word_or_null
        return or_null(call.tags) or 0, or_null(call.session) or 0

    def _wait(self, change: Queue | Unqueue) -> None:
        """Begin a call's wait in a queue, or end one that came to nothing."""
        call = change.call
        if isinstance(change, Queue):
            account = self._names.account(change.call.who, change.call.route, "", "")
            seq = self._new_call(change.call, QUEUED, account)
            self._queued[call.id] = self._known(change.call, seq, account)
        elif known := self._queued.get(call.id):
            self._waited.append((change.queue_ms, known.seq))
            state = REFUSED if change.refused else SETTLED
            self._end_call(known, change.call, _NO_CHANGE, state)
        # Else its admission was written after all, and withdrawn.

    def _new_call(
        self, call: CallOpened | CallRefused, state: int, account: int, hold_nanousd: int = 0
    ) -> int:
        word, or_null = self._names.word, self._names.word_or_null
        rest: tuple[int | None, ...]
        tags = or_null(tag_list(call.budget_tags)) if call.budget_tags else None
        labels = or_null(call.tags), or_null(call.session), tags
        if isinstance(call, CallOpened):
            rest = call.queue_ms, int(state == OPEN), hold_nanousd, None, None, 0
            told = call.admitted_ms, *labels
        else:
            rest = None, 0, 0, 0, or_null(call.error), call.repeated
            told = call.refused_ms, *labels
        self._seq += 1
        self._new_calls.append(
            (
                *(self._seq, call.id, state, account, int(call.stream), or_null(call.client)),
                *(word(call.dialect), word(call.endpoint), word(call.requested), *told, *rest),
            )
        )
        return self._seq

    def _start(self, call: _OpenCall, opened: AttemptOpened, account: int) -> None:
        price = self._names.price(opened.price)
        call.attempts[opened.number] = _OpenAttempt(
            account, opened.started_ms, opened.hold_nanousd, price
        )
        self._new_attempts.append(
            (
                *(call.seq, opened.number, account, price, opened.started_ms),
                *(opened.hold_nanousd, self._names.word_or_null(opened.provider_key)),
            )
        )

    def _next(self, change: Next) -> None:
        call = self._open.get(change.opened.call_id)
        if call is None:
            raise ValueError(f"call {change.opened.call_id} is not open")
        sums = self._end_attempt(call, change.ended) if change.ended else _NO_CHANGE
        if change.withdrawn:
            self._change(call, sums)
            return
        opened = change.opened
        account = self._names.account(call.who, call.route, opened.provider, opened.model)
        call.account = account
        self._start(call, opened, account)
        estimated, _, _, *rest = sums
        self._change(call, (estimated, 1, opened.hold_nanousd, *rest))

    def _settle(self, ended: CallEnded | None, attempt: AttemptEnded | None) -> None:
        call_id = ended.id if ended else attempt.call_id if attempt else ""
        call = self._open.get(call_id)
        if call is None:
            # Its admission was cancelled and then could not be written: nothing was sent.
            log.info("call %s ended, but was never admitted", call_id)
            return
        sums = self._end_attempt(call, attempt) if attempt else _NO_CHANGE
        if ended is None:
            self._change(call, sums)
            return
        for number, left in tuple(call.attempts.items()):
            log.error("call %s left attempt %d open: billed at its hold", call.id, number)
            unknown = AttemptEnded(
                call_id=call.id,
                number=number,
                ended_ms=ended.ended_ms,
                ending=ended.ending,
                usage=Usage(estimated=True),
                cost_nanousd=left.hold_nanousd,
            )
            sums = _added(sums, self._end_attempt(call, unknown))
        self._end_call(call, ended, sums, SETTLED)

    def _end_call(self, call: _OpenCall, ended: CallEnded, sums: Sequence[int], state: int) -> None:
        end = (
            *(ended.ended_ms - call.admitted_ms, ended.first_ms),
            *(self._names.word(ended.ending), self._names.word_or_null(ended.error)),
            self._names.word_or_null(ended.dropped),
        )
        self._change(call, sums, state, end)
        (self._open if call.id in self._open else self._queued).pop(call.id)
        self._roll_up(call, call.account, refusals(1) if state == REFUSED else ONE_CALL)

    def _change(
        self,
        call: _OpenCall,
        sums: Sequence[int],
        state: int = OPEN,
        end: Sequence[int | None] = (None, None, None, None, None),
    ) -> None:
        self._changes.append(
            (call.seq, call.id, state, call.account, call.admitted_ms, *end, *sums)
        )

    def _end_attempt(self, call: _OpenCall, ended: AttemptEnded) -> tuple[int, ...]:
        """End an attempt; return what that adds to its call: `_NO_CHANGE` tells the order."""
        known = call.attempts.pop(ended.number, None)
        if known is None:
            log.warning("attempt %d of call %s is not open", ended.number, call.id)
            return _NO_CHANGE
        *tokens, estimated = msgspec.structs.astuple(ended.usage)
        cost, overrun = ended.cost_nanousd, ended.overrun_nanousd
        names = self._names
        shape, numbers = names.usage(ended.raw_usage)
        price = known.price if ended.price is None else names.price(ended.price)
        self._ended_attempts.append(
            (
                *(call.seq, ended.number, ended.ended_ms - known.started_ms, ended.first_ms),
                *(ended.status, names.word(ended.ending), names.word_or_null(ended.error)),
                *(cost, overrun, int(estimated), *tokens, ended.saved_nanousd),
                *(ended.upstream_id or None, shape, numbers, ended.gpu_ms),
                *(price, ended.reported_nanousd),
            )
        )
        unpriced = int(price is None and ended.reported_nanousd is None and any(tokens))
        rolled = (0, 0, 1, cost, overrun, cost if estimated else 0, unpriced, *tokens)
        self._roll_up(call, known.account, (*rolled, ended.saved_nanousd))
        return (int(estimated), 0, 0, cost, overrun, *tokens, ended.saved_nanousd)

    def _roll_up(self, call: _OpenCall, account: int, more: tuple[int, ...]) -> None:
        self._spend[call.quarter_ms, account].append(more)
        for tag in call.tags:
            self._spend_tag[call.quarter_ms, tag, account].append(more)
        if call.label != _NO_LABEL:
            self._spend_label[call.quarter_ms, *call.label, account].append(more)

    def _refuse(self, row: CallRefused) -> None:
        account = self._names.account(row.who, row.route, "", "")
        self._new_call(row, REFUSED, account)
        quarter_ms = row.refused_ms // QUARTER_MS * QUARTER_MS
        counted = refusals(1 + row.repeated)
        self._spend[quarter_ms, account].append(counted)
        for tag in set(row.budget_tags):
            self._spend_tag[quarter_ms, self._names.word(tag), account].append(counted)
        if (label := self._label(row)) != _NO_LABEL:
            self._spend_label[quarter_ms, *label, account].append(counted)

    def _withdraw(self, withdraw: Withdraw) -> None:
        of = withdraw.of
        attempt = of.attempt if isinstance(of, Admit) else of.opened
        call = self._open.get(attempt.call_id)
        if call is None or attempt.number not in call.attempts:
            return  # it was never written
        never_sent = AttemptEnded(
            call_id=call.id,
            number=attempt.number,
            ended_ms=withdraw.at_ms,
            ending="failed",
            usage=Usage(),
            cost_nanousd=0,
            error="ledger_unavailable",
        )
        sums = self._end_attempt(call, never_sent)
        if isinstance(of, Admit):
            ended = CallEnded(call.id, withdraw.at_ms, "failed", error="ledger_unavailable")
            self._end_call(call, ended, sums, REFUSED)


# What a change adds to its call: estimated, then `_SUMS`, then the tokens.
_NO_CHANGE = (0, 0, 0, 0, 0, *NO_USE)
_NO_LABEL = (0, 0)


def _added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    estimated, *sums = map(add, one, other)
    return (min(estimated, 1), *sums)


def _summed(
    spend: Mapping[tuple[int, ...], list[tuple[int, ...]]],
) -> list[tuple[int, ...]]:
    return [
        (*at, *(more[0] if len(more) == 1 else map(sum, zip(*more, strict=True))))
        for at, more in spend.items()
    ]


def tag_list(tags: Sequence[str]) -> str:
    """Return how `calls.budget_tags` holds tags; each of them counts once."""
    return msgspec.json.encode(sorted(set(tags))).decode()


def _calls(db: Connection, state: int) -> dict[str, _OpenCall]:
    found: dict[str, _OpenCall] = {}
    calls = db.execute(
        "SELECT c.seq, c.id, c.account, c.admitted_ms, a.route, w.word,"  # noqa: S608
        " coalesce(c.tags, 0), coalesce(c.session, 0),"
        " a.key, a.user, a.team, a.project FROM calls c JOIN accounts a ON a.id = c.account"
        f" LEFT JOIN words w ON w.id = c.budget_tags WHERE c.state = {state}"
    ).fetchall()
    for seq, call_id, account, admitted_ms, route, tags, *rest in calls:
        attempts = db.execute(
            "SELECT number, account, started_ms, hold_nanousd, price FROM attempts"
            " WHERE call = ? AND ending IS NULL",
            (seq,),
        )
        found[call_id] = _OpenCall(
            seq,
            call_id,
            Who(*rest[2:]),
            route,
            account,
            admitted_ms,
            _tag_words(db, tags),
            (rest[0], rest[1]),
            {number: _OpenAttempt(*known) for number, *known in attempts},
        )
    return found


def _tag_words(db: Connection, tags: str | None) -> tuple[int, ...]:
    found = db.execute(
        "SELECT w.id FROM json_each(?) t JOIN words w ON w.word = t.value", (tags or "[]",)
    )
    return tuple(number for (number,) in found)
