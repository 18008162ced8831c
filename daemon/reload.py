"""A new gateway.toml takes over: all of it or nothing.

The one rule: the gate is swapped only when everything that can fail has succeeded. A file that
changed by itself is trusted less than a person who says `tollway reload`: half-written TOML can
be valid, and what is missing from it may be a budget.
"""

import asyncio
import logging
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from tollway.daemon import audit, tls
from tollway.daemon.config import shown
from tollway.daemon.config.check import budgets_of
from tollway.daemon.config.load import load
from tollway.daemon.config.schema import Budget, Config, Key, Member, Model, Team
from tollway.daemon.config.values import is_secret_ref
from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.limits import lost as lost_limits
from tollway.daemon.state import Daemon
from tollway.providers.errors import GatewayError
from tollway.providers.llamacpp.adapter import Command, LocalModel
from tollway.providers.prices import PriceSource

log = logging.getLogger(__name__)

# What is fixed when the process starts, by the name it has in the file.
_NEEDS_RESTART: dict[str, Callable[[Config], object]] = {
    "server.listen": lambda config: (config.server.host, config.server.port),
    "server.tls": lambda config: config.server.tls is None,  # another file is taken up at once
    "server.admin_socket": lambda config: config.admin_socket,
    "ledger.path": lambda config: config.ledger.path,
    "ledger.sync": lambda config: config.ledger.sync,
    "telemetry": lambda config: config.telemetry,
}
# Tables whose entries hold callers back: what goes missing here opens or frees something.
_GUARDED = ("keys", "users", "teams", "projects")
# Scopes whose budgets are guarded beside those, and where they stand in the file.
_SECTIONS = {"box": "server", "provider": "providers.", "route": "routes.", "tag": "tags."}
_NOTHING: tuple[object, ...] = (None, (), {}, False)

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
    """What a reload did: the keys whose values changed, and those that wait for a restart.

    `renewed` are keys that say what they said, of what is another now: a certificate, a secret;
    and "prices" where the price data are. `since` is when what was served before was read.
    """

    changed: list[str]
    renewed: list[str]
    needs_restart: list[str]
    since: float


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
        self.started_with = daemon.config
        self._path = daemon.config.path
        self._stamp = stamp_of(self._path)
        self._turn = asyncio.Lock()
        # Of the certificate that the last reload found: the daemon takes newer ones up by itself.
        self._certificate = daemon.front.now.stamp if daemon.front else None
        self._audited: str | None = None  # the digest of the text that the audit has last
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

    async def declare(self, tag: str, budgets: tuple[Budget, ...]) -> None:
        """Have the gate take one more tag, "name=value", with its budgets.

        Raises:
            LedgerUnavailable: What was spent before cannot be read.
        """
        async with self._turn:  # a gate that is being built might not know of it
            if not self._daemon.refusing:
                await self._daemon.gate.purse.declare(tag, budgets, self._daemon.ledger)

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

    async def begin(self) -> None:
        """Write into the audit what changed while no daemon ran, and keep this version."""
        await self._daemon.ledger.ready()
        async with self._turn:
            await self._audit(self._daemon.config, self._daemon.config)
        await self.remember()

    async def remember(self) -> None:
        """Keep the file that is served in the history, so that a later mistake can be undone."""
        try:
            await asyncio.to_thread(_remember, self._daemon.config)
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
        prices = daemon.prices
        daemon.prices = await asyncio.to_thread(PriceSource)
        certificate = await asyncio.to_thread(tls.read, config)
        gate = await Gate.build(config, daemon)
        renewed = [] if daemon.refusing else _other_secrets(daemon.gate, gate)
        if certificate is not None and config.server.tls == before.server.tls:
            renewed += ["server.tls"] if certificate.stamp != self._certificate else []
        self._certificate = certificate.stamp if certificate else None
        renewed += ["prices"] if prices.source != daemon.prices.source else []
        daemon.gate = gate
        daemon.config = config
        if daemon.front is not None and certificate is not None:
            daemon.front.use(certificate)
        if daemon.refusing:
            daemon.refusing = None
            daemon.runs.expect()
        self._applied(config)
        # It takes the new models over before it first waits: they change with the gate.
        await daemon.local.configure(local_models(config))
        waiting = [
            key
            for key, value in _NEEDS_RESTART.items()
            if value(config) != value(self.started_with)
        ]
        since = self.state.loaded_at
        self.state = ConfigState(path=str(self._path), loaded_at=time.time(), needs_restart=waiting)
        done = Reloaded(audit.changed(before, config), renewed, waiting, since)
        await self._audit(before, config)
        news = [*done.changed, *(f"{key} (what it names)" for key in renewed)]
        log.info("reloaded: %s", ", ".join(news) or "nothing changed")
        if waiting:
            log.warning("these need a restart: %s", ", ".join(waiting))
        if done.changed:
            await self.remember()
        return done

    async def _audit(self, before: Config, now: Config) -> None:
        """Write what changed since the audit's last row, while no daemon ran too."""
        daemon = self._daemon
        served = self._audited
        old: Config | None = before
        if served is None:
            last = await asyncio.to_thread(audit.last_served, daemon.ledger.path, now)
            served = last[0]
            old = last[1] if served else before
        for step in await asyncio.to_thread(audit.steps, old, served, now):
            self._audited = step.digest_after
            for row in audit.rows(step):
                # A broken ledger keeps it until it heals; nobody waits for it here.
                daemon.ledger.audit(row).add_done_callback(_looked_at)

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


def _other_secrets(before: Gate, now: Gate) -> list[str]:
    """Return the keys of providers' secrets that are others under the name that they had."""
    found = []
    for name, provider in now.config.providers.items():
        known = before.config.providers.get(name)
        same = known is not None and known.keys == provider.keys
        if same and before.secret_marks[name] != now.secret_marks[name]:
            key = "api_keys" if provider.api_keys else "api_key"
            found.append(shown.key(("providers", name, key)))
    return found


def _mistake(fault: Exception) -> GatewayError:
    return GatewayError(
        f"Tollway made a mistake of its own with this file: {type(fault).__name__}",
        hint="The daemon's log says more",
    )


def _remember(served: Config) -> None:
    # Imported here, in a thread: editing takes tomlkit, and the start does not wait for that.
    from tollway.daemon.config.edit import remember  # noqa: PLC0415

    remember(served.path, who="daemon", what="taken up", served=served)


def local_models(config: Config) -> dict[str, LocalModel]:
    """Return the configuration's local models in the words of the layer below."""
    return {
        name: LocalModel(
            name=name,
            path=model.gguf or Path(),
            context=model.context,
            gpu_layers=model.gpu_layers,
            idle_unload_s=model.idle_unload,
            pinned=model.pinned,
            slots=model.slots,
            kv=model.kv,
            kv_type=model.kv_type,
            apart_from=model.apart_from,
            load_at_start=model.load_at_start,
            command=_command(model),
        )
        for name, model in config.models.items()
    }


def _command(model: Model) -> Command | None:
    if model.command is None:
        return None
    return Command(
        words=tuple(shlex.split(model.command)),
        base_url=model.base_url,
        health=model.health,
        start_within_s=model.start_within,
        env=tuple(sorted(one for one in model.env.items() if not is_secret_ref(one[1]))),
        secrets=tuple(sorted(one for one in model.env.items() if is_secret_ref(one[1]))),
        model=model.served_as,
        memory=model.memory,
    )


def stamp_of(path: Path) -> Stamp | None:
    """Return what tells one version of a file from the next; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


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


def _looked_at(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (fault := done.exception()):
        log.error("a change of configuration is not in the audit: %s", fault)
