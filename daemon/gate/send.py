"""The upstream's side of a call: a supervised task that outlives the client's handler.

It holds, admits, sends, reads and settles; the handler only reads from its pipe. However it
ends (answered, refused, cut, left by its client, crashed), each attempt is settled once and
the call's row is ended once.
"""

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

import msgspec

from tollway.daemon.errors import BudgetSpent, NoTurn, OverLimit, RateLimited
from tollway.daemon.gate import entry
from tollway.daemon.gate.attempt import Attempt, ending_of, now_ms
from tollway.daemon.gate.authenticate import Caller
from tollway.daemon.gate.books import Charge
from tollway.daemon.gate.budget import worst
from tollway.daemon.gate.chain import Failure
from tollway.daemon.gate.course import Course
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.keep import build_on, keep, pipe_for
from tollway.daemon.gate.limits import UNFIT, Passage, Skipped, fitted, sooner
from tollway.daemon.gate.origin import Origin
from tollway.daemon.gate.pipe import Head
from tollway.daemon.gate.plan import Plan
from tollway.daemon.gate.receive import receive
from tollway.daemon.gate.route import Target
from tollway.daemon.gate.translate import Version, request_headers
from tollway.daemon.gate.turn import Had, Turn, Wanted
from tollway.daemon.ledger.responses import Response
from tollway.daemon.ledger.rows import AttemptEnded, AttemptOpened, CallEnded, Ending
from tollway.daemon.meter import Facts
from tollway.providers.canon import Call, Price
from tollway.providers.dialects.dialect import Dialect
from tollway.providers.errors import GatewayError, UpstreamError
from tollway.providers.headers import Headers
from tollway.providers.llamacpp.state import Terms
from tollway.providers.money import plain_usd
from tollway.providers.prices import FREE
from tollway.providers.transport import Answer, Request, Timeouts
from tollway.providers.units import UNITS, sold

if TYPE_CHECKING:
    from tollway.daemon.state import Daemon

log = logging.getLogger("tollway.gate")

# Refusals that get no row from here: a crash may come at any point, and what the ledger would
# not take it writes down as refused by itself.
_ROWLESS = frozenset({"internal_error", "ledger_unavailable"})
# How long a billed answer is read on after its client has left, where the provider says so.
_DRAIN_S = 60.0


class Exchange:
    """One call's way to its targets and back. `start` it once; read `pipe`; `leave` at the end."""

    def __init__(
        self,
        *,
        daemon: "Daemon",
        gate: Gate,
        dialect: Dialect,
        caller: Caller,
        call: Call,
        origin: Origin,
    ) -> None:
        self.daemon = daemon
        self.gate = gate
        self.dialect = dialect
        self.caller = caller
        self.call = call
        self.call_id = origin.call_id
        self.origin = origin
        self.pipe = pipe_for(gate)
        self.response: Response | None = None  # its answer, where later calls may build on it
        build_on(self)
        self.passage = Passage()
        self.turn = Turn()
        self.cost_nanousd = 0  # of all attempts that have ended
        self.target: Target | None = None  # of the attempt under way, or the last
        self.attempts = 0
        self.plan: Plan | None = None
        self._course: Course | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempt: Attempt | None = None
        self._ended: AttemptEnded | None = None  # an attempt that ended, its row not yet written
        self._last: AttemptEnded | None = None  # or written, and no other has begun since
        self._admitted = False
        self._settled = False
        self._begun = False
        self._cut_early = False
        self._left = False  # nobody will read what a further target says
        self._cut: Ending = "client_left"
        self.ending: Ending | None = None  # once it is settled
        self.facts = Facts()
        self.at_ms = daemon.books.now_ms()  # when it came: the moment that decides its periods
        self._tags = gate.purse.declared(origin.tags.pairs)
        self.charge: Charge | None = None  # of the attempt under way, or the last
        self.dropped = ""  # what the last translation left out, for the ledger

    def first(self) -> Target:
        """Return the target that would be asked first; nothing has begun.

        Raises:
            ModelNotFound: There is none for this caller.
        """
        self._course = Course(self, self.gate.plan(self.caller, self.call.model))
        return self._course.targets[0]

    def start(self) -> None:
        """Begin, in a task of its own that the daemon supervises."""
        self.daemon.active += 1
        self.daemon.exchanges.add(self)
        self._task = self.daemon.tasks.start(self._run(), name=f"call {self.call_id}")

    def leave(self) -> None:
        """Let go: the client has read it to the end, or is gone."""
        self._left = True
        self.pipe.close()
        if self._task is None or self._task.done() or self._settled:
            return
        attempt = self._attempt
        if attempt and attempt.sent and attempt.target.on_disconnect == "drain":
            asyncio.get_running_loop().call_later(_DRAIN_S, self.cut, "client_left")
        else:
            self.cut("client_left")

    def cut(self, ending: Ending) -> None:
        """End it now, settled by the rule of `ending`; nothing happens if it has ended."""
        if self._task and not self._task.done() and not self._settled:
            self._cut = ending
            if self._begun:
                self._task.cancel()
            else:
                # A task cancelled before its first step never runs, nor its `finally`.
                self._cut_early = True
                self.pipe.fail(_stopped())

    def once_settled(self, say: Callable[[], None]) -> None:
        """Call `say` when it is known how it ended: now, or later where its client has left."""
        if self._task is None or self._task.done() or self._settled:
            say()
        else:
            self._task.add_done_callback(lambda _: say())

    async def wait(self) -> None:
        """Return when it has ended and everything of it is on its way to the ledger."""
        if self._task:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        self._begun = True
        try:
            if not self._cut_early:
                await self._targets()
        except asyncio.CancelledError:
            self._abandon(self._cut, self._cut)
            self.pipe.fail(_stopped())
        except UpstreamError as error:
            if self._attempt:  # it broke after its client had seen some of it
                self._attempt.failed(Failure(error, again=False))
            self._abandon(ending_of(error), error.code)
            self.pipe.fail(error)
        except GatewayError as error:
            self._abandon("failed", error.code)
            self.pipe.fail(error)
        except Exception:  # a bug here must end its own call only, and be billed
            log.exception("call %s crashed", self.call_id)
            self._abandon("failed", "internal_error")
            self.pipe.fail(_crashed())
        finally:
            # A bug while it was settled must not keep its row open and its client waiting: the
            # ledger bills the hold.
            if self._admitted and not self._settled:
                self._finish(self._ended, "failed", "internal_error")
            if not self.pipe.has_ended:
                self.pipe.fail(_crashed())
            self.turn.forget()
            self.passage.leave()
            self.daemon.active -= 1
            self.daemon.served += 1
            self.daemon.meter.call(self)
            self.daemon.exchanges.discard(self)
            keep(self)

    async def _targets(self) -> None:
        """Try the targets in order until one has answered."""
        plan = self.plan = self.gate.plan(self.caller, self.call.model)
        course = self._course = self._course or Course(self, plan)
        chain = self.gate.chain(plan, course.targets, course.key_before)
        self.turn.until_s, self.turn.leaves = chain.until_s, chain.is_better_elsewhere
        translator = self.gate.translator(self.call, plan)
        full: Skipped | None = None
        unfit: GatewayError | None = None
        while step := chain.next():
            target = step.target
            try:
                version = translator.version(target, step.output, bare=step.bare)
                if chain.has_others and chain.too_small(self._least(target, version)):
                    continue
                entry.demand_own(self.origin.own, version, target)
                if step.wait_s:
                    self.write_ended()
                    await asyncio.sleep(step.wait_s)  # with neither slot nor hold
                    if chain.fails:  # others have found that out meanwhile
                        continue
                attempt = await self._open(target, plan, version)
            except UNFIT as refusal:
                unfit = unfit or refusal  # another target may have words, a price or a bound
                continue
            except (BudgetSpent, RateLimited, OverLimit, NoTurn) as refusal:
                if not refusal.skips:
                    raise
                full = sooner(full, refusal)
                continue
            chain.begun()
            attempt.again = step.repeats > 0
            failure = await self._try(attempt, chain.left_s)
            if failure is None:
                return
            log.info("call %s: %s failed: %s", self.call_id, target.name, failure.error.code)
            chain.failed(failure)
            if self._left:
                break
        for reason in (full if chain.mends else None, chain.error, full, unfit):
            if reason:
                raise reason

    def _least(self, target: Target, version: Version) -> int | None:
        """Return the tokens that the prompt has at least; None where nothing is known of them."""
        bound = version.bound
        return None if bound.by_window else self.daemon.learned.least(target.name, bound.input)

    async def _open(self, target: Target, plan: Plan, version: Version) -> Attempt:
        """Hold the attempt's worst case and write its row, committed, before anything is sent.

        Raises:
            BudgetSpent, Unpriced, Unbounded: Its worst case has no room or no bound.
            RateLimited, OverLimit: A rate limit has no room for it, now or ever.
            NoTurn: It did not get a slot of its target.
            LedgerUnavailable: The row cannot be written.
        """
        bound = version.bound
        counts = self.call.endpoint == "count_tokens"
        price = FREE if counts else self.gate.price(target, self.at_ms)
        if self.call.endpoint in UNITS:
            quirks = target.kind.quirks
            price, bound = sold(self.call.endpoint, price, bound, target.name, quirks)
        limits = self.gate.limits.applying(self.caller.who, plan.found.route, target)
        if counts:
            limits = limits.without_tokens()
        purse = self.gate.purse
        charge = purse.charge(self.caller.who, plan.found.route, target.provider, self._tags)
        terms = self.gate.terms(charge, plan, target, version.most_output)
        terms = fitted(terms, bound, price, limits)
        if target.local and price and not price.free and terms.budgets:
            self.write_ended()
            exact = await self.daemon.local.count(
                target.model, self.call.endpoint, version.call.body, self.caller.prefix_owner
            )
            if exact is not None:
                bound = msgspec.structs.replace(bound, input=exact)
        most = worst(bound, price, target, terms)
        self.target, self.charge = target, charge
        had = await self.turn.take(self, Wanted(target, charge, most, price, limits), plan)
        try:
            attempt = self._attempt = self._begin(target, version, price, had)
        except BaseException:  # a fault of the gateway's own must not keep what was just taken
            had.give_back()
            raise
        attempt.binding = terms.budgets and not terms.allow_unbounded and terms.share is None
        await self._write(attempt, plan)
        return attempt

    def _begin(self, target: Target, version: Version, price: Price | None, had: Had) -> Attempt:
        """Return the attempt that holds what its turn gave it."""
        attempt = Attempt(
            opened=AttemptOpened(
                call_id=self.call_id,
                number=self.attempts + 1,
                provider=target.provider,
                model=target.model,
                started_ms=max(now_ms(), self.at_ms),
                hold_nanousd=had.most.nanousd,
                price=price and had.most.unanswered(price),
                provider_key=target.key,
            ),
            target=target,
            version=version,
            price=price,
            worst=had.most,
            hold=had.hold,
        )
        attempt.taken, attempt.slot = had.taken, had.slot
        attempt.outing = self.daemon.health.begin(target)
        self.daemon.traffic.began(target.name)
        self.attempts += 1
        self.dropped = ",".join(version.dropped)
        return attempt

    async def _write(self, attempt: Attempt, plan: Plan) -> None:
        ended, self._ended, self._last = self._ended, None, None
        first = not self._admitted
        try:
            if first:
                self._admitted = True
                await self.daemon.ledger.admit(entry.opened(self, plan), attempt.opened)
            else:
                await self.daemon.ledger.next_attempt(ended, attempt.opened)
        except GatewayError:
            # Not written, so not sent: nothing is held, and an unadmitted call has no row.
            self._attempt = None
            self.daemon.traffic.ended(attempt.target.name)
            attempt.withdraw()
            self._admitted = not first
            raise

    def write_ended(self) -> None:
        """Write the end of the last attempt now: the next one has to wait.

        Meanwhile a reload may ask the ledger what was spent, and a kill must not bill its hold.
        """
        if self._ended:
            self.daemon.ledger.end_attempt(self._ended)
            self._last, self._ended = self._ended, None

    async def _try(self, attempt: Attempt, within_s: float) -> Failure | None:
        """Send one attempt; return None when it has answered, else why it failed."""
        try:
            attempt.answer = await self._send(attempt, within_s)
        except UpstreamError as error:
            attempt.progress.sent = attempt.sent and error.sent
            return self._failed(attempt, Failure(error, again=True))
        try:
            failure = await receive(self, attempt)
        finally:
            await attempt.answer.close()
        return self._failed(attempt, failure) if failure else None

    async def _send(self, attempt: Attempt, within_s: float) -> Answer:
        target = attempt.target
        timeouts = target.timeouts
        if within_s < timeouts.first_s:  # the route's deadline comes first
            connect_s = min(timeouts.connect_s, within_s)
            timeouts = Timeouts(connect_s, within_s, timeouts.idle_s)
            # What others, or the line before it, have left of the time blames nobody.
            attempt.hurried = attempt.opened.number > 1 or bool(self.turn.waited_s)
        version = attempt.version
        body = version.body(target, attempt.worst.write_output)
        limit_ms = attempt.worst.deadline_ms
        deadline_s = None if limit_ms is None else limit_ms / 1000
        first_s = None if timeouts.first_s == inf else timeouts.first_s
        owner = self.caller.prefix_owner
        terms = Terms(first_s, deadline_s, owner, attempt.again, attempt.at_work)
        if target.worker:
            attempt.progress.sent = True
            return await self.daemon.local.send(target.model, self.call.endpoint, body, terms)
        request = Request(
            url=target.base_url + target.kind.behind + version.path(target),
            headers=request_headers(self.origin.headers, version, target)
            + (self.origin.own if target.callers else ()),
            body=body,
            timeouts=timeouts,
            proxy=target.proxy,
            ca_file=target.ca_file,
            progress=attempt.progress,
        )
        if target.local:
            return await self.daemon.local.forward(target.model, request, terms)
        if target.signer is not None:
            request = await target.signer.sign(request)
        return await self.daemon.transport.send(request)

    def _failed(self, attempt: Attempt, failure: Failure) -> Failure:
        ending = failure.ending or ending_of(failure.error)
        attempt.failed(failure)
        attempt.died = bool(failure.error.death)
        self._ended = self._end(attempt, ending, failure.error.code)
        return failure

    def _end(self, attempt: Attempt, ending: Ending, error: str = "") -> AttemptEnded:
        self._attempt = None
        try:
            ended = attempt.end(ending, gate=self.gate, error=error)
        finally:
            self.daemon.traffic.ended(attempt.target.name, *attempt.pace)
        self.cost_nanousd += ended.cost_nanousd
        self.daemon.meter.attempt(self, attempt, ended)
        bound = attempt.worst.bound
        if ended.usage.input_total and not ended.usage.estimated and not bound.by_window:
            self.daemon.learned.record(attempt.target.name, bound.input, ended.usage.input_total)
        target = attempt.target.name
        if attempt.unbelieved is not None:
            self.daemon.alerts.unbelieved(target, self.call_id, attempt.unbelieved)
        if ended.overrun_nanousd:
            self.daemon.alerts.overrun(target, self.call_id, ended.overrun_nanousd)
            log.error(
                "call %s: %s passed its own limit; %d nano-dollars over the hold are booked",
                self.call_id,
                target,
                ended.overrun_nanousd,
            )
        return ended

    async def settle(self, attempt: Attempt, ending: Ending = "answered") -> None:
        """End an answered call; return when that is on disk, or the disk has stalled too long."""
        ending, error = attempt.outcome(ending)
        ended = self._end(attempt, ending, error)
        if self._course:
            self._course.served(self, attempt)
        done = self._finish(ended, ended.ending, error, attempt.first_ms)
        # Whatever became of the row: the client has paid for its answer.
        await self.daemon.ledger.settled(done)

    def lost(self, names: tuple[str, ...]) -> None:
        """Take note of what of an answer its client's dialect cannot say."""
        if names:
            said = [name for name in self.dropped.split(",") if name]
            self.dropped = ",".join(dict.fromkeys((*said, *names)))

    def break_off(self, attempt: Attempt, error: UpstreamError) -> None:
        """End a call whose provider reported an error after the client had seen some output."""
        attempt.failed(Failure(error, again=False))
        ended = self._end(attempt, "upstream_broke", error.code)
        self._finish(ended, "upstream_broke", error.code, attempt.first_ms)

    def cost_comment(self) -> bytes:
        """Return the cost as an SSE comment, which client libraries pass over."""
        waited = "" if self.turn.waited_ms is None else f" queue_ms={self.turn.waited_ms}"
        return f": tollway cost_usd={plain_usd(self.cost_nanousd)}{waited}\n\n".encode()

    def _finish(
        self, ended: AttemptEnded | None, ending: Ending, error: str, first_ms: int | None = None
    ) -> asyncio.Future[None]:
        self._settled = True
        self.ending = ending
        self.facts.end(ending, error)
        return self.daemon.ledger.settle(
            CallEnded(self.call_id, now_ms(), ending, first_ms, error, self.dropped), ended
        )

    def _abandon(self, ending: Ending, error: str) -> None:
        """Settle whatever is open, without waiting for anything."""
        if self._settled:
            return
        self.facts.end("refused" if ending == "failed" else ending, error)
        if attempt := self._attempt:
            attempt.unseen = self.pipe.was_full
            self._ended = self._end(attempt, ending, error)
        if self._admitted:
            known = self._ended or self._last
            first_ms = known.first_ms if known else None
            last = known.ending if known and ending == "failed" else ending
            self._finish(self._ended, last, error, first_ms)
        elif self.turn.end(self, ending, error, now_ms()):
            pass  # it had waited, and its row with it
        elif ending == "failed" and error not in _ROWLESS:
            self.daemon.ledger.refuse(entry.refused(self, error))

    @property
    def attempt(self) -> Attempt | None:
        """The attempt under way, None while it waits or once it has ended."""
        return self._attempt

    @property
    def budget_tags(self) -> tuple[str, ...]:
        """Its tags that gateway.toml declares, "name=value"."""
        return self._tags

    def head(self, attempt: Attempt, headers: Headers, *, whole: bool) -> Head:
        """Return the head of the client's answer; a whole one is settled, so its cost is known."""
        assert attempt.answer is not None  # noqa: S101 - it has answered
        ours = entry.headers(self, attempt, whole=whole)
        passed = self.gate.masked(headers)
        return Head(attempt.answer.status, (*passed, *ours), streamed=not whole)


def _crashed() -> GatewayError:
    return GatewayError("The gateway failed while it served this call")


def _stopped() -> GatewayError:
    error = GatewayError("The gateway is stopping and ended this call")
    error.status, error.code = 503, "draining"
    return error
