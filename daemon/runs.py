"""The keys of `tollway run`: each lives as long as the program that it was made for.

They are in memory alone. The command says every few seconds that it still runs, so that a restart
of the daemon learns of them again, and one whose command was killed ends by itself.
"""

import re
import time
from collections.abc import Callable, Mapping

import msgspec

from tollway.daemon.config.schema import Budget
from tollway.daemon.gate.tags import Tags, read

TAG = "run"  # the tag that tells a run's calls; nobody else may set it for them
# How long a run lives on without a word from its command: a laptop's lid may be shut for a while.
LEASE_S = 600.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
        if not _ID.fullmatch(self.id):
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


class Refusals(msgspec.Struct):
    """The calls of a run that were refused, and what was said of the last one."""

    count: int = 0
    last: str = ""


class Runs:
    """All runs there are. `clock` tells seconds, and does not count a machine's sleep."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_digest: dict[bytes, Run] = {}
        self._until_s: dict[str, float] = {}
        self._refusals: dict[str, Refusals] = {}

    def put(self, asked: Asked) -> tuple[Run, bool]:
        """Keep a run for another while; return it, and whether it is new.

        Raises:
            RequestInvalid: Its tags are none.
        """
        self._forget_old()
        self._until_s[asked.id] = self._clock() + LEASE_S
        digest = bytes.fromhex(asked.hash.removeprefix("sha256:"))
        if known := self._by_digest.get(digest):
            return known, False
        said = {**asked.tags, TAG: asked.id}
        tags = read([",".join(f"{name}={value}" for name, value in said.items())])
        cap = asked.budget_nanousd
        # It shortens the last answer to what is left, rather than leave a part that fits none.
        budgets = () if cap is None else (Budget(cap, "total", "clamp"),)
        run = self._by_digest[digest] = Run(asked.id, asked.key, tags, budgets)
        self._refusals.setdefault(asked.id, Refusals())
        return run, True

    def find(self, digest: bytes) -> Run | None:
        """Return the run whose secret has this SHA-256, None where none lives."""
        run = self._by_digest.get(digest)
        return run if run and self._until_s[run.id] > self._clock() else None

    def end(self, name: str) -> Run | None:
        """End a run now; return it, None where there is none of that id."""
        self._until_s.pop(name, None)
        found = [digest for digest, run in self._by_digest.items() if run.id == name]
        return self._by_digest.pop(found[0]) if found else None

    def refused(self, name: str, why: str) -> None:
        """Count a call of a run that was refused."""
        if found := self._refusals.get(name):
            found.count += 1
            found.last = why

    def take_refusals(self, name: str) -> Refusals:
        """Return what was refused of a run that has ended, and forget it."""
        return self._refusals.pop(name, Refusals())

    def budgets(self) -> Mapping[str, tuple[Budget, ...]]:
        """Return the budgets of each run's tag; none, too, is added up by the ledger."""
        return {run.tag: run.budgets for run in self._by_digest.values()}

    def __bool__(self) -> bool:
        return bool(self._by_digest)

    def _forget_old(self) -> None:
        now = self._clock()
        for name in [name for name, until_s in self._until_s.items() if until_s <= now]:
            self.end(name)
            self._refusals.pop(name, None)
