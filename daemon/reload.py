"""A new gateway.toml takes over: all of it or nothing.

The one rule: the gate is swapped only when everything that can fail has succeeded. A file that
changed by itself is trusted less than a person who says `tollway reload`: half-written TOML can
be valid, and what is missing from it may be a budget.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from tollway.daemon.config.check import budgets_of
from tollway.daemon.config.load import load
from tollway.daemon.config.schema import Budget, Config, Key, Member, Team
from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.limits import lost as lost_limits
from tollway.daemon.ledger.rows import Audited
from tollway.daemon.state import Daemon
from tollway.providers.errors import GatewayError
from tollway.providers.llamacpp.adapter import LocalModel
from tollway.providers.prices import PriceSource

log = logging.getLogger(__name__)

# What is fixed when the process starts, by the name it has in the file.
_NEEDS_RESTART: dict[str, Callable[[Config], object]] = {
    "server.listen": lambda config: (config.server.host, config.server.port),
    "server.admin_socket": lambda config: config.admin_socket,
    "ledger.path": lambda config: config.ledger.path,
    "ledger.sync": lambda config: config.ledger.sync,
}
_NAMES = {"server.host": "server.listen", "server.port": "server.listen"}
# Tables whose entries hold callers back: what goes missing here opens or frees something.
_GUARDED = ("keys", "users", "teams", "projects")
# Scopes whose budgets are guarded beside those, and where they stand in the file.
_SECTIONS = {"box": "server", "provider": "providers.", "route": "routes.", "tag": "tags."}
_NOTHING = (None, ())
_UNTOLD = frozenset({"hash", "previous"})
_LONGEST_TOLD = 2000
_NOT_SETTINGS = ("path", "warnings")

Holder = Key | Member | Team

Stamp = tuple[int, int, int]


class ConfigState(msgspec.Struct):
    """How the file on disk stands to what is served.

    "ok": it is what is served. "broken": it cannot be, `problem` says why and where. "pending":
    it waits for `tollway reload`, `problem` says for what. Times are unix seconds.
    """

    path: str
    loaded_at: float
    state: Literal["ok", "broken", "pending"] = "ok"
    problem: str = ""
    hint: str = ""
    needs_restart: list[str] = []


class Reloaded(msgspec.Struct, frozen=True):
    """What a reload did: the keys whose values changed, and those that wait for a restart."""

    changed: list[str]
    needs_restart: list[str]


class Reloader:
    """Watches the file, and swaps the daemon's gate for one built from it."""

    def __init__(
        self,
        daemon: Daemon,
        applied: Callable[[Config], None],
        *,
        every_s: float = 0.5,
        still_s: float = 1.0,
    ) -> None:
        """Begin with the configuration that `daemon` has; `applied` is told each later one."""
        self._daemon = daemon
        self._applied = applied
        self.every_s = every_s
        self.still_s = still_s
        self.looks = 0  # how often the watch has looked
        self._started_with = daemon.config
        self._path = daemon.config.path
        self._stamp = stamp_of(self._path)
        self._turn = asyncio.Lock()
        self.state = ConfigState(path=str(self._path), loaded_at=time.time())

    async def reload(self) -> Reloaded:
        """Serve what the file says now; also where nothing changed, since secrets may have.

        Raises:
            GatewayError: It cannot be served; the old configuration still is, whole.
        """
        async with self._turn:
            self._stamp = stamp_of(self._path)
            try:
                return await self._apply(await asyncio.to_thread(load, self._path))
            except GatewayError as error:
                self._broken(error)
                raise
            except Exception as fault:  # a bug must show in `status`, and the watch go on
                mistake = _mistake(fault)
                self._broken(mistake)
                raise mistake from fault

    async def watch(self) -> None:
        """Reload whenever the file has changed and been still for a second; never returns."""
        seen, since = self._stamp, 0.0
        while True:
            await asyncio.sleep(self.every_s)
            self.looks += 1
            if not self._daemon.config.server.watch:
                continue
            now = stamp_of(self._path)
            if now != seen:
                seen, since = now, time.monotonic()
            elif now != self._stamp and time.monotonic() - since >= self.still_s:
                await self._changed_by_itself()

    async def until_served(self) -> None:
        """Build the first gate once the ledger can be read; until then no call is taken."""
        while self._daemon.refusing:
            await self._daemon.ledger.ready()
            async with self._turn:
                try:
                    if self._daemon.refusing:
                        await self._apply(self._daemon.config)
                except LedgerUnavailable as error:
                    self._daemon.refusing = error

    async def remember(self) -> None:
        """Keep the file that is served in the history, so that a later mistake can be undone."""
        try:
            await asyncio.to_thread(_remember, self._path)
        except GatewayError as error:
            log.warning("this version is not in the history: %s", error.message)

    async def _changed_by_itself(self) -> None:
        async with self._turn:
            self._stamp = stamp_of(self._path)
            try:
                config = await asyncio.to_thread(load, self._path)
                if lost := removed(self._daemon.config, config):
                    self._pending(lost)
                else:
                    await self._apply(config)
            except GatewayError as error:
                self._broken(error)
            except Exception as fault:  # a bug must show in `status`, and the watch go on
                log.exception("the new configuration cannot be taken up")
                self._broken(_mistake(fault))

    async def _apply(self, config: Config) -> Reloaded:
        daemon = self._daemon
        before = daemon.config
        # `tollway prices update` may have put others in use.
        daemon.prices = await asyncio.to_thread(PriceSource)
        gate = await Gate.build(config, daemon)
        daemon.gate = gate
        daemon.config = config
        daemon.refusing = None
        self._applied(config)
        # It takes the new models over before it first waits: they change with the gate.
        await daemon.local.configure(local_models(config))
        waiting = [
            key
            for key, value in _NEEDS_RESTART.items()
            if value(config) != value(self._started_with)
        ]
        self.state = ConfigState(path=str(self._path), loaded_at=time.time(), needs_restart=waiting)
        done = Reloaded(changed(before, config), waiting)
        self._audit(done.changed, before, config)
        log.info("reloaded: %s", ", ".join(done.changed) or "nothing changed")
        if waiting:
            log.warning("these need a restart: %s", ", ".join(waiting))
        if done.changed:
            await self.remember()
        return done

    def _audit(self, keys: list[str], old: Config, new: Config) -> None:
        before, after = _flat(old), _flat(new)
        at_ms = time.time_ns() // 1_000_000
        for key in keys:
            row = Audited(
                at_ms, "owner", "configuration", key, _told(key, before), _told(key, after)
            )
            # A broken ledger keeps it until it heals; nobody waits for it here.
            self._daemon.ledger.audit(row).add_done_callback(_looked_at)

    def _broken(self, error: GatewayError) -> None:
        log.error("the old configuration stays: %s", error.message)
        self.state.state = "broken"
        self.state.problem, self.state.hint = error.message, error.hint

    def _pending(self, lost: list[str]) -> None:
        what = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        log.warning("the old configuration stays until `tollway reload`: removed %s", what)
        self.state.state = "pending"
        self.state.problem = f"The file no longer has {what}; the old configuration still serves"
        self.state.hint = "`tollway reload` confirms that this is meant"


def _mistake(fault: Exception) -> GatewayError:
    return GatewayError(
        f"Tollway made a mistake of its own with this file: {type(fault).__name__}",
        hint="The daemon's log says more",
    )


def _remember(path: Path) -> None:
    # Imported here, in a thread: editing takes tomlkit, and the start does not wait for that.
    from tollway.daemon.config.edit import remember  # noqa: PLC0415

    remember(path, who="daemon", what="taken up")


def local_models(config: Config) -> dict[str, LocalModel]:
    """Return the configuration's local models in the words of the layer below."""
    return {
        name: LocalModel(
            name=name,
            path=model.gguf,
            context=model.context,
            gpu_layers=model.gpu_layers,
            idle_unload_s=model.idle_unload,
            pinned=model.pinned,
        )
        for name, model in config.models.items()
    }


def stamp_of(path: Path) -> Stamp | None:
    """Return what tells one version of a file from the next; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def changed(old: Config, new: Config) -> list[str]:
    """Return the keys whose values differ, as they stand in the file, in alphabetical order."""
    before, after = _flat(old), _flat(new)
    for key in _NOT_SETTINGS:
        before.pop(key)
        after.pop(key)
    keys = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return sorted({_NAMES.get(key, key) for key in keys})


def removed(old: Config, new: Config) -> list[str]:
    """Return what held callers back and is gone: a key, a budget, a limit, an `except`, a date.

    A budget with another amount is not gone: one of its period is still there. One that now only
    warns is.
    """
    lost = lost_limits(old, new)
    for table in _GUARDED:
        now: dict[str, Holder] = getattr(new, table)
        entries: dict[str, Holder] = getattr(old, table)
        for name, entry in entries.items():
            if name in now:
                lost |= {f"{table}.{name}.{field}" for field in _emptied(entry, now[name])}
            else:
                lost.add(f"{table}.{name}")
    now_capped = dict(budgets_of(new))
    for (kind, name), budgets in budgets_of(old):
        if kind in _SECTIONS and _fewer(budgets, now_capped.get((kind, name), ())):
            lost.add(f"{_SECTIONS[kind]}{name.replace('=', '.', 1)}.budget")
    lost |= {
        f"so large a ledger.{name}"  # what is over it would be deleted
        for name in ("keep", "max_size", "keep_bodies")
        if getattr(new.ledger, name) < getattr(old.ledger, name)
    }
    for name, group in old.groups.items():
        kept = new.groups.get(name, group)
        if set(group.excluded) - set(kept.excluded):
            lost.add(f"groups.{name}.except")
    return sorted(lost)


def _emptied(old: Holder, new: Holder) -> Iterator[str]:
    for field in old.__struct_fields__:
        if getattr(old, field) not in _NOTHING and getattr(new, field) in _NOTHING:
            yield field
    if _fewer(old.budget, new.budget):
        yield "budget"


def _fewer(old: tuple[Budget, ...], new: tuple[Budget, ...]) -> bool:
    return bool(Counter(b.period for b in old if b.caps) - Counter(b.period for b in new if b.caps))


def _told(key: str, settings: dict[str, object]) -> str:
    """Return a setting as JSON for the audit, "" where it is unset or could hold a secret."""
    if key not in settings or key.rpartition(".")[2] in _UNTOLD:
        return ""
    told = msgspec.json.encode(settings[key], enc_hook=str).decode()
    return told[:_LONGEST_TOLD]


def _looked_at(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (fault := done.exception()):
        log.error("a change of configuration is not in the audit: %s", fault)


def _flat(value: object, key: str = "") -> dict[str, object]:
    """Return every setting under its dotted key; lists are settings as a whole."""
    if isinstance(value, msgspec.Struct):
        pairs = [
            (field.encode_name, getattr(value, field.name))
            for field in msgspec.structs.fields(value)
        ]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        return {key: value}
    found: dict[str, object] = {}
    for name, inner in pairs:
        found |= _flat(inner, f"{key}.{name}" if key else name)
    return found
