"""One upstream try: its hold, its reader, and what it is billed however it ends.

The settlement table stands in `Attempt.end`; it never awaits, so nothing can come between an
ending and its booking.
"""

import time
from typing import TYPE_CHECKING

import msgspec

from tollway.daemon.gate.books import Hold
from tollway.daemon.gate.budget import Worst
from tollway.daemon.gate.chain import Failure
from tollway.daemon.gate.health import Outing
from tollway.daemon.gate.limits import NOTHING
from tollway.daemon.gate.queue import Slot
from tollway.daemon.gate.route import Target
from tollway.daemon.gate.translate import Version
from tollway.daemon.ledger.rows import AttemptEnded, AttemptOpened, Ending
from tollway.providers.canon import Price, Usage
from tollway.providers.dialects.dialect import BROKE_OFF, AnswerReader
from tollway.providers.errors import UpstreamError, UpstreamGaveUp, UpstreamTimeout
from tollway.providers.money import NANO, saving, time_cost
from tollway.providers.price_report import MOST_USD, billed, is_believed, reported
from tollway.providers.transport import Answer, Progress
from tollway.providers.units import UNITS

if TYPE_CHECKING:
    from tollway.daemon.gate.gate import Gate

# Tokens that frame a visible answer without being visible: role, end of turn, tool markers.
_FRAME_TOKENS = 64

# Bytes. The longest in the vocabularies of today are runs of 128 spaces or dashes; the rest is for
# events that could not be read, which count with all of their JSON.
_LONGEST_TOKEN = 1024

# No answer costs more, or has more tokens: what says so is a mistake.
_MOST_NANOUSD = int(MOST_USD) * NANO
_MOST_TOKENS = 2**27

# Endings before which nothing can have been produced, whatever was sent.
_FREE: frozenset[Ending] = frozenset({"upstream_refused", "upstream_unreachable"})


def now_ms() -> int:
    """Return the wall clock in unix milliseconds."""
    return time.time_ns() // 1_000_000


class Attempt:
    """One try at one target."""

    def __init__(
        self,
        *,
        opened: AttemptOpened,
        target: Target,
        version: Version,
        price: Price | None,
        worst: Worst,
        hold: Hold,
    ) -> None:
        self.opened = opened
        self.target = target
        self.version = version
        self.price = price
        self.worst = worst
        self.hold = hold
        self.taken = NOTHING  # of the rate limits
        self.slot: Slot | None = None  # of its target, where that has slots
        self.outing: Outing | None = None  # through the breakers
        self.again = False  # a further try at the target of the one before
        self.died = False  # a process of this box died of it or beside it, before it was shown
        self.hurried = False  # it had less time than its target's own time-outs give
        self.reader: AnswerReader = version.dialect.reader(version.call, target.kind.quirks)
        # Where no budget caps it, or the owner allows what has no bound, its hold is an estimate.
        self.binding = False
        self.most_bytes = worst.output_tokens * _LONGEST_TOKEN
        self._reported_last: Usage | None = None
        self.unbelieved: int | None = None  # nano-dollars, of a report that cannot be true
        self.progress = Progress()
        self.unseen = False  # some of the answer came and was not read: its client was slow
        self.answer: Answer | None = None
        self.work: object = None  # at a model of this box: what it did, before it answered too
        self.first_ms: int | None = None
        self._started = time.monotonic()

    @property
    def sent(self) -> bool:
        """Whether some of the request has left: the provider may have begun to work."""
        return self.progress.sent

    def withdraw(self) -> None:
        """Give back all that it took: it was not written, so it was not sent."""
        self.hold.settle(0)
        self.taken.settle(0)
        if self.slot:
            self.slot.release()
        if self.outing:
            self.outing.over()

    def failed(self, failure: Failure) -> None:
        """Let its target's breakers know that it failed; before its `end`."""
        if self.outing is None or self.version.call.endpoint == "count_tokens":
            return  # who has no such endpoint may answer all else
        if self.hurried and isinstance(failure.error, UpstreamTimeout):
            return  # a target that was given what others had left of the time
        if failure.overflow or failure.sealed or failure.lower is not None:
            self.outing.answered()
        else:
            self.outing.failed(failure.error, failure.hint_s)

    def saw_first(self) -> None:
        """Note the moment of the first valid event."""
        if self.first_ms is None:
            if self.outing:
                self.outing.answered()
            self.first_ms = int((time.monotonic() - self._started) * 1000)

    @property
    def is_watched(self) -> bool:
        """Whether its stream can pass its hold at all: does `has_passed_hold` have to be asked."""
        return self.binding and self.opened.hold_nanousd > 0

    @property
    def pace(self) -> tuple[float | None, float, int]:
        """What tells how fast its target is, as `Traffic.ended` takes it; for one that answered."""
        usage = self.reader.usage
        output = usage.output_total if usage else 0
        if self.answer is None or self.first_ms is None or not output:
            return None, 0.0, 0
        took_s = time.monotonic() - self._started
        # Of a whole answer nobody has seen the first token.
        return (self.first_ms / 1000 if self.version.call.stream else None), took_s, output

    def at_work(self, work: object) -> None:
        """Take note that a model of this box has it; `work` tells what it has done of it."""
        self.work = work

    def has_passed_hold(self) -> bool:
        """Whether it is certain that the stream so far has cost more than was held for it.

        A report of usage is certain. Bytes of text are not: a token has one or many. But none
        has more than `_LONGEST_TOKEN`.
        """
        if not self.binding or not self.opened.hold_nanousd or self.reader.ended:
            return False
        usage = self.reader.usage
        if usage is not None and usage is not self._reported_last:
            self._reported_last = usage
            bill = self._billed(usage)
            if bill and bill[0] > self.opened.hold_nanousd:
                return True
        return self.reader.produced > self.most_bytes

    def outcome(self, ending: Ending) -> tuple[Ending, str]:
        """Return how an answer that came to its end ended, and the code of its error or "".

        One that its provider says to have broken off is passed on as it came, and is none.
        """
        if ending != "answered" or BROKE_OFF.isdisjoint(self.reader.finish_reasons):
            return ending, ""
        error = UpstreamGaveUp(f"`{self.target.provider}` broke its answer off")
        self.failed(Failure(error, again=False))
        return ending_of(error), error.code

    def end(self, ending: Ending, *, gate: "Gate", error: str = "") -> AttemptEnded:
        """Settle the hold by the ending's rule and return the row. Once only.

        Where a fault of the gateway's own comes in between, all that was taken is given back and
        the hold is what it cost: so the ledger books an attempt whose end it never hears.

        Args:
            ending: How it ended; "answered" becomes "no_usage" where no usage was reported.
            gate: Knows what another model costs that may have answered, and what is secret.
            error: The error's code, if there was one.
        """
        usage: Usage | None = None
        gpu_ms: int = getattr(self.answer or self.work, "gpu_ms", 0)
        if self.worst.deadline_ms is not None:
            # What was held pays for no more; what it takes to end the call there is not its own.
            gpu_ms = min(gpu_ms, self.worst.deadline_ms)
        cost, price, told = self.opened.hold_nanousd, None, None
        try:
            gate.answered(self)
            usage = self._reported(ending)
            bill = None if usage is None else self._billed(usage)
            if self._is_free(ending):
                usage, cost = Usage(), 0  # no fee for the request either
            elif usage is None or bill is None:
                usage, cost = self._upper(ending)
                if ending == "answered":
                    ending = "no_usage"
            else:
                cost, price, told = bill
            if self.price and not self._is_free(ending):
                timed = time_cost(gpu_ms, self.price)
                cost = cost if timed is None else timed
        finally:
            self.hold.settle(cost)
            if self.taken is not NOTHING:
                self.taken.settle(usage.input_total + usage.output_total if usage else None)
            if self.slot:
                self.slot.release(usage)
            if self.outing:
                self.outing.over()
        return AttemptEnded(
            call_id=self.opened.call_id,
            number=self.opened.number,
            ended_ms=now_ms(),
            ending=ending,
            usage=usage,
            cost_nanousd=cost,
            # Where the hold was an estimate, nobody broke a limit.
            overrun_nanousd=max(0, cost - self.opened.hold_nanousd) if self.binding else 0,
            status=self.answer.status if self.answer else None,
            first_ms=self.first_ms,
            error=error,
            upstream_id=gate.mask(self.reader.upstream_id)[:100],
            raw_usage=gate.mask(self.reader.raw_usage)[:4000],
            price=price,
            reported_nanousd=told,
            gpu_ms=gpu_ms if self.target.local else None,
            # Of a bound, or of what the provider says it charged, nobody knows the list price.
            saved_nanousd=saving(usage, price) if price and told is None else 0,
        )

    def _billed(self, usage: Usage) -> tuple[int, Price | None, int | None] | None:
        """Return the bill for a known usage, the price that made it, and what the provider said.

        What the provider says it charged is the bill, where its catalog row says so. None where
        no answer costs or has that much: the report is a mistake, and `unbelieved`.
        """
        price, told = None, None
        cost = 0
        if self.price is not None:
            asked, answered = self.worst.bound.service, self.reader.service
            cost, price = billed(usage, self.price, asked=asked, answered=answered)
        if is_believed(self.price):
            told = reported(self.reader.raw_usage, self.target.kind.quirks)
        bill = cost if told is None else told
        tokens = usage.input_total + usage.output_total
        if bill > max(_MOST_NANOUSD, self.opened.hold_nanousd) or tokens > _MOST_TOKENS:
            self.unbelieved = bill
            return None
        self.unbelieved = None  # a later report is the one that counts
        return bill, price, told

    def _reported(self, ending: Ending) -> Usage | None:
        """Return what is known exactly, or None where only an upper bound is."""
        exact: Usage | None = getattr(self.answer or self.work, "usage_so_far", None)
        if exact is not None:
            return exact
        usage = self.reader.usage
        # Once the answer has ended its report is final, whatever then became of the client.
        if usage is None or not (ending == "answered" or self.reader.ended):
            return None
        if self.version.call.endpoint in UNITS:
            return usage
        if not usage.input_total or (self.reader.produced and not usage.output_total):
            # There was a prompt, or text came out, and the report says none: it is no report.
            return None
        most = self.worst.input_tokens
        if usage.estimated and self.version.call.endpoint == "embeddings" and self.binding:
            # Nobody told it, so nobody passed a limit: no more goes in than was held.
            usage = msgspec.structs.replace(usage, input=min(usage.input, most))
        return usage

    def _is_free(self, ending: Ending) -> bool:
        """Whether nothing can have been billed: not sent, refused, or our own worker at rest."""
        # Where a model of this box was not at work yet, nothing counts; else it tells what it did.
        # Nor does its caller pay for what a process of this box took with it when it died.
        idle = self.target.local and self.answer is None and self.work is None
        return not self.sent or ending in _FREE or idle or self.died

    def _upper(self, ending: Ending) -> tuple[Usage, int]:
        """Return an upper bound of the usage and of its cost, marked estimated.

        The visible output bounds it only where the model has no hidden one and the answer came
        as a stream, to its end or from a provider that stops with its reader; else only the hold
        does. A token is at least one byte of text. An answer that was ended at the cap has passed
        its hold: what came bounds it, reported or visible. Input that was told is not guessed.
        """
        tokens = self.worst.output_tokens
        if ending == "at_cap" and self.price:
            usage = self.reader.usage
            bill = self._billed(usage) if usage else None
            if usage and bill and bill[0] > self.opened.hold_nanousd:
                return msgspec.structs.replace(usage, estimated=True), bill[0]
            tokens = max(tokens, self.reader.produced)
            usage = Usage(input=self.worst.input_tokens, output=tokens, estimated=True)
            return usage, self.worst.cost(tokens, self.price)
        kind, reader = self.target.kind, self.reader
        by_itself = ending == "answered" or reader.ended or reader.failed is not None
        stopped = by_itself or not kind.runs_on
        if stopped and reader.begun and not self.unseen and kind.shows_all(self.target.model):
            tokens = min(tokens, self.reader.produced + _FRAME_TOKENS * self.worst.choices)
        told = self._told_first()
        usage = told or Usage(input=self.worst.input_tokens)
        tokens = max(tokens, told.output_total) if told else tokens
        usage = msgspec.structs.replace(usage, output=tokens, reasoning=0, estimated=True)
        if self.price is None:
            return usage, 0
        bill = self._billed(usage) if told else None
        cost = bill[0] if bill else self.worst.cost(tokens, self.price)
        cost = min(cost, self.opened.hold_nanousd)
        if self.reader.usage and (bill := self._billed(self.reader.usage)):
            # Reported before the end, as some do on every piece: no less than that was used.
            cost = max(cost, bill[0])
        return usage, cost

    def _told_first(self) -> Usage | None:
        """Return what a provider reported that tells all of the input before it answers.

        None where it works on further prompts meanwhile, of tools that it runs itself.
        """
        kind, bound, usage = self.target.kind, self.worst.bound, self.reader.usage
        itself = self.target.base_url == kind.base_url or kind.part_of
        further = bound.prompts > 1 or bound.searches or bound.unbounded
        if not kind.counts_first or not itself or further:
            return None
        return usage if usage and usage.input_total else None


def ending_of(error: UpstreamError) -> Ending:
    """Return the ledger's word for what a provider did wrong."""
    return _ENDINGS.get(error.code, "upstream_broke")


_ENDINGS: dict[str, Ending] = {
    "upstream_unreachable": "upstream_unreachable",
    "upstream_timeout": "upstream_timeout",
    "upstream_refused": "upstream_refused",
    "upstream_auth": "upstream_refused",
    "upstream_garbage": "garbage",
    "local_model_failed": "failed",
    "local_model_busy": "failed",
}
