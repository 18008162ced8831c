"""The keys of `tollway run`: each lives as long as the program that it was made for.

They are in memory alone: a daemon that makes way for another tells it of them. The command says
twice a second that it still runs, so that a daemon that began without a word from the one before
it learns of them, and a run whose command was killed ends by itself.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from tollway.daemon.config.check import RUN as TAG
from tollway.daemon.config.check import is_run
from tollway.daemon.config.schema import Budget
from tollway.daemon.gate.tags import Tags, read
from tollway.providers.errors import GatewayError

# How long a run lives on without a word from its command: a laptop's lid may be shut for a while.
LEASE_S = 600.0
# How long a daemon that was told of no runs expects them to tell of themselves: they do so twice a
# second, on a machine that may have all its daemons and programs to start.
EXPECTED_S = 30.0
# How the secret of a run begins, by which one that is not known here is told from other keys.
PREFIX = "tw-run-"


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a command asks for. `hash` is of the secret that it made, which nobody else knows."""

    id: str
    hash: str  # "sha256:" and 64 hex digits
    key: str | None = None  # the key of gateway.toml whose calls they are; None: the owner's
    tags: dict[str, str] = {}
    budget_nanousd: int | None = None

    @property
    def wrong(self) -> str:
        """Why it cannot be, "" where it can."""
        if not is_run(TAG, self.id):
            return "the id is none"
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", self.hash):
            return "the hash is none"
        if self.budget_nanousd is not None and not 0 < self.budget_nanousd < 1 << 62:
            return "the budget is none"
        return f"the tag `{TAG}` is the run's own" if TAG in self.tags else ""


class Run(msgspec.Struct, frozen=True):
    """A run: whose calls they are, and the tags that each of them has."""

    id: str
    key: str | None
    tags: Tags
    budgets: tuple[Budget, ...] = ()

    @property
    def tag(self) -> str:
        """The tag that its calls alone have, "run=ID"."""
        return f"{TAG}={self.id}"


def run_of(asked: Asked) -> Run:
    """Return the run that is asked for.

    Raises:
        RequestInvalid: Its tags are none.
    """
    said = {**asked.tags, TAG: asked.id}
    tags = read([",".join(f"{name}={value}" for name, value in said.items())])
    cap = asked.budget_nanousd
    # It shortens the last answer to what is left, rather than leave a part that fits none.
    budgets = () if cap is None else (Budget(cap, "total", "clamp"),)
    return Run(asked.id, asked.key, tags, budgets)


class Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run as one daemon tells the next of it. No secret: `hash` opens nothing."""

    id: str
    hash: str
    left_s: float  # of its lease
    key: str | None = None
    tags: dict[str, str] = {}
    budget_nanousd: int | None = None
    refusals: "Refusals | None" = None


class Refusals(msgspec.Struct):
    """The calls of a run that were refused, and what was said of the last one, with its hint.

    `spent`: one of them because the run's own budget had no room for it.
    """

    count: int = 0
    last: str = ""
    spent: bool = False
    hint: str = ""


class _Known(msgspec.Struct):
    asked: Asked
    run: Run
    until_s: float


class Runs:
    """All runs there are. `clock` tells seconds, and does not count a machine's sleep."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[bytes, _Known] = {}
        self._refusals: dict[str, Refusals] = {}
        self._expected_until_s = clock() + EXPECTED_S
        self._ended: set[bytes] = set()  # of those that could be expected still

    def keep(self, asked: Asked) -> Run | None:
        """Keep a run that is known for another while, and return it; None where it is not."""
        self._forget_old()
        known = self._known.get(_digest(asked))
        if known is None:
            return None
        known.until_s = self._clock() + LEASE_S
        return known.run

    def add(self, asked: Asked, run: Run) -> None:
        """Take a run: from now on its secret opens the gateway."""
        self._known[_digest(asked)] = _Known(asked, run, self._clock() + LEASE_S)
        self._refusals.setdefault(run.id, Refusals())

    def find(self, digest: bytes) -> Run | None:
        """Return the run whose secret has this SHA-256, None where none lives."""
        known = self._known.get(digest)
        return known.run if known and known.until_s > self._clock() else None

    def expects(self, digest: bytes) -> bool:
        """Whether a run that is not known here may still tell of itself."""
        return self._clock() < self._expected_until_s and digest not in self._ended

    def expect(self) -> None:
        """Expect runs to tell of themselves again: until now nobody listened."""
        self._expected_until_s = self._clock() + EXPECTED_S

    def end(self, name: str) -> Run | None:
        """End a run now; return it, None where there is none of that id."""
        found = [digest for digest, known in self._known.items() if known.run.id == name]
        if not found:
            return None
        if self.expects(found[0]):
            self._ended.add(found[0])
        return self._known.pop(found[0]).run

    def refused(self, name: str, why: GatewayError, *, spent: bool) -> None:
        """Count a call of a run that was refused; `spent`: by the run's own budget."""
        if found := self._refusals.get(name):
            found.count += 1
            found.last, found.hint = why.message, why.hint
            found.spent = found.spent or spent

    def take_refusals(self, name: str) -> Refusals:
        """Return what was refused of a run that has ended, and forget it."""
        return self._refusals.pop(name, Refusals())

    def budgets(self) -> Mapping[str, tuple[Budget, ...]]:
        """Return the budgets of each run's tag; none, too, is added up by the ledger."""
        return {one.run.tag: one.run.budgets for one in self._known.values()}

    def carried(self) -> tuple[Carried, ...]:
        """Return all runs, for the daemon that serves after this one."""
        self._forget_old()
        now = self._clock()
        return tuple(
            Carried(
                id=one.asked.id,
                hash=one.asked.hash,
                left_s=one.until_s - now,
                key=one.asked.key,
                tags=one.asked.tags,
                budget_nanousd=one.asked.budget_nanousd,
                refusals=self._refusals.get(one.asked.id),
            )
            for one in self._known.values()
        )

    def take(self, carried: Iterable[Carried] | None) -> None:
        """Know the runs of the daemon that served before this one; no others are expected.

        None: it told of none, or there was none. Then they are.
        """
        if carried is None:
            return
        for one in carried:
            asked = Asked(one.id, one.hash, one.key, one.tags, one.budget_nanousd)
            self.add(asked, run_of(asked))
            self._known[_digest(asked)].until_s = self._clock() + one.left_s
            if one.refusals:
                self._refusals[one.id] = one.refusals
        self._expected_until_s = self._clock()

    def __bool__(self) -> bool:
        return bool(self._known)

    def _forget_old(self) -> None:
        now = self._clock()
        for known in [one for one in self._known.values() if one.until_s <= now]:
            self.end(known.run.id)
            self._refusals.pop(known.run.id, None)


def _digest(asked: Asked) -> bytes:
    return bytes.fromhex(asked.hash.removeprefix("sha256:"))
