"""Who can be asked: the breakers of all targets, providers and their keys, and what tries again.

It lives as long as the daemon, since a reload mends no provider. What calls themselves show is
always heeded; probes, where they are configured, add to it. HEALTH.md has the rules and reasons.
"""

import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import count
from typing import Literal, NamedTuple, TypeVar

import msgspec

from tollway.daemon.config.schema import Config, Provider
from tollway.daemon.gate.breaker import Breaker, Entry, Rules, State
from tollway.daemon.gate.few import Few
from tollway.daemon.gate.route import ProviderKey, Target
from tollway.providers.errors import AnswerHeldUp, LocalModelBusy, UpstreamError, UpstreamRefused
from tollway.providers.refusals import is_over_rate, verdict_of

log = logging.getLogger(__name__)

# Names a stranger makes up must not fill the memory; real ones are far fewer.
_MOST_KNOWN = 10_000
_LONGEST_TEXT = 300
# A key that its provider does not know stays unknown, and one without money empty, until a person
# acts: what is tried in between is to notice that.
_REFUSED_S = 600.0
_KEY_RULES = Rules(rest_s=5.0, longest_s=60.0)
# A quota that ends tomorrow may be raised today: one call now and then finds out.
_LONGEST_HINT_S = 600.0
_REFUSED_RULES = Rules(rest_s=_REFUSED_S, longest_s=3600.0)
_PROBE_RULES = Rules(failures=2, window_s=86_400.0)
_BEYOND_NEXT = 1.5  # times the pause between probes: the next one comes before a call on trial
# Tries beyond the first that a provider gets: so many a second, one for ten calls, saved up to so
# many. An outage then costs it a tenth more calls, not three times as many.
_RETRIES_A_S, _RETRIES_A_CALL, _MOST_RETRIES = 2.0, 0.1, 20.0

At = TypeVar("At")
Rank = Literal[0, 1, 2]  # ready; its keys rest; it is failing


class Standing(NamedTuple):
    """How a target stands: the lower the better, and among equals the sooner."""

    rank: Rank
    until_s: float


_WELL = Standing(0, 0.0)


class KeyHealth(msgspec.Struct, frozen=True):
    """A provider's key: by its place in `api_keys`, from 1, and where it is kept. Never itself.

    A provider without keys rests as one that has number 0 and no name; it is told while it does.
    """

    number: int
    name: str
    state: State
    why: str = ""
    model: str = ""  # the model that it rests for, "" for all
    rests_s: float = 0.0  # how much longer


class TargetHealth(msgspec.Struct, frozen=True):
    """A target that has failed of late."""

    target: str
    state: State
    failures: int  # within the window
    why: str
    rests_s: float = 0.0


class ProviderHealth(msgspec.Struct, frozen=True):
    """A provider: what its probes say, and its keys and targets that are not as they should be."""

    provider: str
    state: State  # by its probes; closed where there are none
    why: str
    targets: tuple[TargetHealth, ...]
    keys: tuple[KeyHealth, ...]
    retries_left: int


class Outing:
    """One attempt on its way through the breakers. Its end is told once; later words are not."""

    __slots__ = ("_began_s", "_ended", "_entries", "_health", "target")

    def __init__(
        self, health: "Health", target: Target, began_s: float, entries: list[tuple[Breaker, Entry]]
    ) -> None:
        self._health = health
        self._entries = entries
        self._ended = False
        self._began_s = began_s
        self.target = target

    def answered(self) -> None:
        """Say that it gave a valid event. What breaks afterwards is a failure all the same."""
        if not self._entries:  # as with most
            return
        now = self._health.clock()
        for breaker, entry in self._entries:
            if breaker.succeed(entry, now):
                log.info("%s serves again", breaker.name)
        # Breakers that others' failures have made since then.
        self._entries = []

    def failed(self, error: UpstreamError, hint_s: float | None = None) -> None:
        """Say by which error it failed; `hint_s` is how long its provider asks to wait."""
        if not self._ended:
            self._ended = True
            self._health.heed(self, error, hint_s)

    def over(self) -> None:
        """Say that it ended, and tells nothing more."""
        self._ended = True
        if self._entries:
            for breaker, entry in self._entries:
                breaker.drop(entry)
            self._entries = []

    def entry(self, breaker: Breaker) -> Entry:
        """Return its way through a breaker, which may have been made since it began."""
        for mine, entry in self._entries:
            if mine is breaker:
                return entry
        return Entry(self._began_s)


class _Allowance:
    """A token bucket of further tries."""

    __slots__ = ("at_s", "calls", "left")

    def __init__(self, now: float) -> None:
        self.left = _MOST_RETRIES
        self.at_s = now
        self.calls = 0  # since then

    def refill(self, now: float) -> None:
        self.left += (now - self.at_s) * _RETRIES_A_S + self.calls * _RETRIES_A_CALL
        self.left = min(self.left, _MOST_RETRIES)
        self.at_s = now
        self.calls = 0


class Health:
    """All breakers of the daemon."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self.chance = chance  # for the jitter of waits: from 0 to 1
        self._rules: Mapping[str, Rules] = {}
        self._targets: dict[tuple[str, str], Breaker] = {}
        self._keys: dict[tuple[str, str, str], Breaker] = {}  # provider, key, model or ""
        self._probed: dict[str, Breaker] = {}
        self._allowances: dict[str, _Allowance] = {}
        self._pools: Mapping[str, tuple[str, ...]] = {}
        self._known: dict[str, Provider] = {}
        self._few = Few(log)
        self._turns = count(1)
        self._used: dict[tuple[str, str], int] = {}

    def configure(self, config: Config) -> None:
        """Take a configuration: its rules, its keys, which are trusted anew, and its places.

        What was learned of a provider whose table has changed is forgotten.
        """
        for name, before in self._known.items():
            if config.providers.get(name) != before:
                self._forget(name)
        self._known = dict(config.providers)
        self._rules = {
            name: Rules(
                failures=one.breaker.failures,
                window_s=one.breaker.window,
                rest_s=one.breaker.rest,
                longest_s=max(one.breaker.longest, one.breaker.rest),
            )
            for name, one in config.providers.items()
        }
        self._pools = {name: tuple(map(str, one.keys)) for name, one in config.providers.items()}
        for at, breaker in tuple(self._targets.items()):
            if at[0] in self._rules:
                breaker.rules = self._rules[at[0]]
            elif at[0] != "local":
                del self._targets[at]
        for provider, key, model in tuple(self._keys):
            # A reload is how a person says that a key is good now.
            refused = self._keys[provider, key, model].rules is _REFUSED_RULES
            if refused or (key and key not in self._pools.get(provider, ())):
                del self._keys[provider, key, model]
        for provider in tuple(self._probed):
            if provider not in config.providers or config.providers[provider].probe is None:
                del self._probed[provider]

    def _forget(self, provider: str) -> None:
        self._targets = {at: one for at, one in self._targets.items() if at[0] != provider}
        self._keys = {at: one for at, one in self._keys.items() if at[0] != provider}
        self._probed.pop(provider, None)

    # --- before a call --------------------------------------------------------------------------

    @property
    def untroubled(self) -> bool:
        """Whether there is nothing on anybody: the usual state, and quickly asked."""
        return not (self._targets or self._keys or self._probed)

    def standing(self, target: Target) -> Standing:
        """Return how a target stands now."""
        if self.untroubled:
            return _WELL
        now = self.clock()
        late = 0.0
        for breaker in self._failing(target):
            if not breaker.ready(now):
                late = max(late, breaker.until_s, now)
        if late:
            return Standing(2, late)
        if not self._keys:
            return Standing(0, 0.0)
        waits = [self._key_wait(target, key, now) for key in _names(target)]
        return Standing(0, 0.0) if min(waits) == 0.0 else Standing(1, min(waits))

    def with_key(self, target: Target, *, prefer: str = "", tried: Collection[str] = ()) -> Target:
        """Return a target with the key of its pool to use now, which is not used by this.

        `prefer`, the key that served the conversation before, as long as it is ready; else of
        those that are ready the one used least recently, those `tried` already last. Where all
        rest, the one whose rest ends first.
        """
        if not target.keys:
            return target
        now = self.clock()

        def claim(key: ProviderKey) -> tuple[float, bool, bool, int]:
            wait = self._key_wait(target, key.name, now)
            used = self._used.get((target.provider, key.name), 0)
            return wait, key.name in tried, key.name != prefer, used

        best = min(target.keys, key=claim)
        return target.with_key(best)

    def another_key(self, target: Target, tried: Collection[str]) -> bool:
        """Whether a target has a key that is ready and was not `tried`."""
        now = self.clock()
        return any(
            key.name not in tried and self._key_wait(target, key.name, now) == 0.0
            for key in target.keys
        )

    def begin(self, target: Target) -> Outing:
        """Let an attempt through; end its outing whatever becomes of it."""
        now = self.clock()
        entries = []
        if target.key:
            self._used[target.provider, target.key] = next(self._turns)
        if not self.untroubled:
            found = [*self._failing(target), *self._of_key(target, target.key)]
            entries = [(breaker, breaker.begin(now)) for breaker in found]
        return Outing(self, target, now, entries)

    def may_retry(self, provider: str) -> bool:
        """Take one of a provider's further tries; False where none is left."""
        allowance = self._allowance(provider)
        allowance.refill(self.clock())
        if allowance.left < 1.0:
            return False
        allowance.left -= 1.0
        return True

    def retries_left(self, provider: str) -> int:
        """Return how many further tries a provider has now, for all calls together."""
        allowance = self._allowances.get(provider)
        if allowance is None:
            return int(_MOST_RETRIES)
        allowance.refill(self.clock())
        return int(allowance.left)

    def called(self, provider: str) -> None:
        """Count a call's first try, which earns its provider a part of a further one."""
        self._allowance(provider).calls += 1

    # --- after a call ---------------------------------------------------------------------------

    def heed(self, outing: Outing, error: UpstreamError, hint_s: float | None) -> None:
        """Draw the consequences of a failed attempt."""
        target = outing.target
        now = self.clock()
        if isinstance(error, AnswerHeldUp):
            outing.answered()
        if isinstance(error, AnswerHeldUp | LocalModelBusy):
            outing.over()
            return
        if not isinstance(error, UpstreamRefused):
            self._count(outing, error.code, now)
            return
        status = error.upstream_status or error.status
        if target.callers and status < 500:
            outing.answered()  # of the caller's own account: another's may be fine
        elif (of_key := verdict_of(error)) == "filtered":
            outing.answered()
        elif of_key:
            model = target.model if of_key == "model" else ""
            why = "out of money" if of_key == "unpaid" else "refused"
            self._rest(outing, model, f"{why} (HTTP {status})", _REFUSED_RULES, None)
        elif status == 429 or (status != 413 and is_over_rate(status, error.body)):
            # 413 is of this prompt alone, and others may fit.
            most_s = None if hint_s is None else min(hint_s, _LONGEST_HINT_S)
            self._rest(outing, target.model, "rate limited", _KEY_RULES, most_s)
        elif status >= 500:
            self._count(outing, f"HTTP {status}", now)
        else:
            outing.answered()  # no is an answer too
        outing.over()

    def _count(self, outing: Outing, why: str, now: float) -> None:
        target = outing.target
        breaker = self._targets.get((target.provider, target.model))
        if breaker is None:
            _make_room(self._targets)
            rules = self._rules.get(target.provider, Rules())
            breaker = self._targets[target.provider, target.model] = Breaker(rules, target.name)
        entry = outing.entry(breaker)
        if breaker.fail(entry, now, why):
            said = f"{target.name} is failing: {why}; calls go elsewhere first"
            self._few.warn(target.provider, now, said)
        # Where the model fails with every key, none of them is to blame.
        if len(target.keys) > 1 and breaker.state(now) == "closed":
            key = self._key(target.provider, target.key, target.model, _KEY_RULES)
            key.fail(outing.entry(key), now, why)
        outing.over()

    def _rest(
        self, outing: Outing, model: str, why: str, rules: Rules, hint_s: float | None
    ) -> None:
        target = outing.target
        key = self._key(target.provider, target.key, model, rules)
        now = self.clock()
        if key.rest(outing.entry(key), now, why, hint_s) and rules is _REFUSED_RULES:
            said = f"a key of {target.provider} rests: {target.key} "
            said = said if target.key else f"{target.provider} rests: "
            said += f"for {model} {why}" if model else why
            self._few.warn(target.provider, now, said)

    # --- probes ---------------------------------------------------------------------------------

    def probed(self, provider: str, fault: str, every_s: float) -> None:
        """Take note of what a probe found: "" where the provider is there.

        Two that fail in a row open its breaker, which stays open as long as they do.
        """
        now = self.clock()
        breaker = self._probed.get(provider)
        if breaker is None:
            breaker = self._probed[provider] = Breaker(_PROBE_RULES, provider)
        if fault:
            if breaker.fail(Entry(now), now, fault):
                log.warning("%s does not answer its probe: %s", provider, fault)
            if breaker.state(now) != "closed":
                breaker.rest(None, now, fault, _BEYOND_NEXT * every_s)
        elif breaker.state(now) == "closed":
            self._probed[provider] = Breaker(_PROBE_RULES, provider)
        elif breaker.succeed(Entry(now), now):
            log.info("%s answers its probe again", provider)
            for (name, _), one in self._targets.items():
                if name == provider:
                    one.hurry(now)

    # --- what is told ---------------------------------------------------------------------------

    def states(self) -> list[ProviderHealth]:
        """Return every provider of the configuration, and what is wrong with it now."""
        now = self.clock()
        names = dict.fromkeys([*self._pools, *(provider for provider, _ in self._targets)])
        return [self._provider(name, now) for name in names]

    def failing(self) -> dict[str, str]:
        """Return each provider and key that fails now, with a text that says how."""
        if self.untroubled:
            return {}
        now = self.clock()
        found: dict[str, str] = {}
        # One provider that is away with all its models is told once, and so is a key.
        for (name, model), one in self._targets.items():
            if one.state(now) != "closed":
                _add(found, name, f"{name}/{model} is failing: {one.why}")
        for name, one in self._probed.items():
            if one.state(now) != "closed":
                found[name] = f"{name} does not answer its probe: {one.why}"
        for (name, key, model), one in self._keys.items():
            if one.rules is _REFUSED_RULES and one.state(now) != "closed":
                pool = self._pools.get(name, ())
                whose = f"{name}, key {pool.index(key) + 1} ({key})" if key in pool else name
                said = f"{whose}: {one.why}" + (f" for {model}" if model else "")
                _add(found, whose, said)
        return {name: text[:_LONGEST_TEXT] for name, text in found.items()}

    def _provider(self, name: str, now: float) -> ProviderHealth:
        probed = self._probed.get(name)
        return ProviderHealth(
            provider=name,
            state=probed.state(now) if probed else "closed",
            why=probed.why if probed and probed.state(now) != "closed" else "",
            targets=tuple(
                TargetHealth(
                    target=f"{provider}/{model}",
                    state=one.state(now),
                    failures=one.failures(now),
                    why=one.why,
                    rests_s=_rests(one, now),
                )
                for (provider, model), one in self._targets.items()
                if provider == name and not one.idle
            ),
            keys=tuple(self._key_states(name, now)),
            retries_left=self.retries_left(name),
        )

    def _key_states(self, provider: str, now: float) -> Iterator[KeyHealth]:
        pool = list(enumerate(self._pools.get(provider, ()), 1))
        for number, key in pool or [(0, "")]:
            resting = [
                (model, one)
                for (name, which, model), one in self._keys.items()
                if name == provider and which in (key, "") and one.state(now) != "closed"
            ]
            if not resting and number:
                yield KeyHealth(number, key, "closed")
            for model, one in resting:
                yield KeyHealth(number, key, one.state(now), one.why, model, _rests(one, now))

    # --- inside ---------------------------------------------------------------------------------

    def _failing(self, target: Target) -> Iterator[Breaker]:
        if self._targets and (found := self._targets.get((target.provider, target.model))):
            yield found
        probed = self._probed.get(target.provider) if self._probed else None
        if probed and probed.state(self.clock()) != "closed":  # else it counts probes alone
            yield probed

    def _of_key(self, target: Target, key: str) -> Iterator[Breaker]:
        for model in ("", target.model):
            if found := self._keys.get((target.provider, key, model)):
                yield found

    def _key_wait(self, target: Target, key: str, now: float) -> float:
        """Return until when a key rests for a target's model; 0 where it is ready."""
        return max(
            (max(one.until_s, now) for one in self._of_key(target, key) if not one.ready(now)),
            default=0.0,
        )

    def _key(self, provider: str, key: str, model: str, rules: Rules) -> Breaker:
        found = self._keys.get((provider, key, model))
        # What it was found to be last counts: a rest of seconds is none of minutes.
        if found is None or found.rules is not rules:
            _make_room(self._keys)
            name = f"the key {key} of {provider}" if key else provider
            name += f" for {model}" if model else ""
            found = self._keys[provider, key, model] = Breaker(rules, name)
        return found

    def _allowance(self, provider: str) -> _Allowance:
        found = self._allowances.get(provider)
        if found is None:
            found = self._allowances[provider] = _Allowance(self.clock())
        return found


def _make_room(known: dict[At, Breaker]) -> None:
    if len(known) >= _MOST_KNOWN:
        for at in [at for at, one in known.items() if one.idle] or list(known)[:1]:
            del known[at]


def _add(found: dict[str, str], name: str, said: str) -> None:
    before = found.get(name, "")
    if len(before) < _LONGEST_TEXT:  # callers make up names of models
        found[name] = f"{before}; {said}" if before else said


def _names(target: Target) -> tuple[str, ...]:
    return tuple(key.name for key in target.keys) or ("",)


def _rests(breaker: Breaker, now: float) -> float:
    return 0.0 if breaker.state(now) == "closed" else max(0.0, breaker.until_s - now)
