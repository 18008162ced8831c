"""Rate limits: how often, how much and how many at once, at every level that has limits.

All the limits of an attempt are taken in one step without an await, or none of them; the same
step takes the budgets' hold (`send.py`). `RATES.md` says what the limits mean.
"""

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from math import inf
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.config import schema
from tollway.daemon.config.schema import Config, Key, Member, Model, Provider, Route, Team
from tollway.daemon.errors import BudgetSpent, NoTurn, OverLimit, RateLimited, Unpriced
from tollway.daemon.gate.budget import LEAST_OUTPUT, Terms, Worst
from tollway.daemon.gate.limit import (
    CallRate,
    Concurrent,
    DayLimit,
    Limit,
    LimitState,
    TokenRate,
)
from tollway.daemon.gate.rates import Place, Rates
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.counts import Counted, counted, lately
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Bound, Price
from tollway.providers.dialects.rate_headers import Rate, Standing
from tollway.providers.errors import Unbounded, Untranslatable

_Limited = Provider | Model | Route | Team | Member | Key
# The sections whose tables have limits, and what one of each is called.
_SCOPES: Final[Mapping[str, str]] = {
    "server": "box",
    "providers": "provider",
    "models": "model",
    "routes": "route",
    "teams": "team",
    "users": "user",
    "projects": "project",
    "keys": "key",
}
Skipped = BudgetSpent | RateLimited | OverLimit | NoTurn  # what may let another target be tried
# By these a target cannot be asked such a call, or not within a budget; another one may.
UNFIT: Final = (Untranslatable, Unpriced, Unbounded)
_OF_CALLS = ("rpm", "rpd")
REPLAYED_MS: Final = 120_000  # the last minute would not say whether the one before was used up
# Names a stranger makes up must not fill the memory; real ones are far fewer.
_MOST_KNOWN = 10_000


class Applying:
    """The limits of one caller's attempts at one target."""

    __slots__ = ("_calls", "_tokens", "any", "by_attempt", "by_call", "least_tpm", "tokens")

    def __init__(
        self, callers: Iterable[Limit] = (), route: Iterable[Limit] = (), to: Iterable[Limit] = ()
    ) -> None:
        """`callers` refuse the call, whatever the target; those of the route and of `to` skip."""
        shown = tuple(callers)
        self._calls = tuple(one for one in shown if one.what in _OF_CALLS)
        self._tokens = tuple(one for one in shown if isinstance(one, TokenRate))
        every = (*shown, *route, *to)
        self.any = bool(every)
        self.tokens = tuple(one for one in every if isinstance(one, TokenRate))
        # A call is one call to whom it belongs and to its route, however many targets it tries.
        self.by_call = tuple(one for one in (*shown, *route) if one not in self.tokens)
        self.by_attempt = tuple(one for one in to if one not in self.tokens)
        self.least_tpm = min((one.most for one in self.tokens), default=None)

    def each(self) -> tuple[Limit, ...]:
        """Return every limit, the caller's first."""
        return (*self.by_call, *self.by_attempt, *self.tokens)

    @property
    def counted(self) -> tuple[Limit, ...]:
        """The target's limits of which each attempt uses one for good, and not while it lasts."""
        return tuple(one for one in self.by_attempt if one.what in _OF_CALLS)

    def without_tokens(self) -> "Applying":
        """Return the limits of a call that makes a model say nothing."""
        found = copy(self)
        found.tokens, found.least_tpm = (), None
        return found

    def standing(self, full: Limit | None = None) -> Standing | None:
        """Return what the reply's headers say: the caller's tightest limits, or the full one."""
        calls, tokens = _tightest(self._calls), _tightest(self._tokens)
        if full and full.what in _OF_CALLS:
            calls = _rate(full, full.left())
        elif isinstance(full, TokenRate):
            tokens = _rate(full, full.left())
        return Standing(calls, tokens) if calls or tokens else None


def _tightest(limits: tuple[Limit, ...]) -> Rate | None:
    """Return the limit of which least is left, None for none."""
    least, tightest = 0, None
    for one in limits:
        left = one.left()
        if tightest is None or left < least:
            least, tightest = left, one
    return _rate(tightest, least) if tightest else None


def _rate(limit: Limit, left: int) -> Rate:
    return Rate(limit.most, left, limit.whole_s() or 0.0)


_NONE: Final = Applying()


class Taken:
    """What one attempt has taken. `settle` it once; a second time does nothing."""

    __slots__ = ("_limits", "_marks", "_reserved")

    def __init__(self, applying: Applying, tokens: int) -> None:
        """Take what each attempt takes; it must fit."""
        for limit in applying.by_attempt:
            limit.take(1)
        self._limits = applying.by_attempt
        self._marks = [(rate, rate.reserve(tokens)) for rate in applying.tokens]
        self._reserved = tokens

    def settle(self, tokens: int | None = None) -> None:
        """Say how many tokens were really used; None: as many as were reserved."""
        unused = 0 if tokens is None else self._reserved - tokens
        for rate, mark in self._marks:
            rate.settle(mark, unused)
        for limit in self._limits:
            limit.leave()
        self._marks, self._limits = [], ()


NOTHING: Final = Taken(_NONE, 0)


class Passage:
    """One call's way past the limits: a `take` for each attempt, a `leave` at the end."""

    __slots__ = ("_applying", "_entered", "_taken")

    def __init__(self) -> None:
        self._applying = _NONE
        self._entered: tuple[Limit, ...] = ()
        self._taken = NOTHING

    def check(self, applying: Applying, tokens: int) -> None:
        """Return where an attempt that needs at most so many tokens has room now.

        Raises:
            OverLimit: It is larger than a limit, so it will never have room.
            RateLimited: A limit is full.
        """
        for limit in (*self._fresh(applying), *applying.by_attempt):
            if wait_s := limit.wait_s(1):
                raise _refusal(limit, wait_s, 1, applying)
        for rate in applying.tokens:
            if tokens > rate.most:
                raise _over(rate, tokens)
            if wait_s := rate.wait_s(tokens):
                raise _refusal(rate, wait_s, tokens, applying)

    def take(self, applying: Applying, tokens: int) -> Taken:
        """Take an attempt's share of every limit that applies, or of none.

        Raises:
            OverLimit, RateLimited: As `check`.
        """
        if not applying.any:
            return NOTHING
        self.check(applying, tokens)
        fresh = self._fresh(applying)
        for limit in fresh:
            limit.take(1)
        self._entered += fresh
        self._applying = applying
        self._taken = Taken(applying, tokens)
        return self._taken

    def _fresh(self, applying: Applying) -> tuple[Limit, ...]:
        if not self._entered:
            return applying.by_call
        return tuple(one for one in applying.by_call if one not in self._entered)

    def leave(self) -> None:
        """Say that the call has ended, however it did; a second time does nothing."""
        self._taken.settle()
        for limit in self._entered:
            limit.leave()
        self._entered = ()

    def standing(self) -> Standing | None:
        """Return how the caller's own limits stand, for the reply's headers; None without any."""
        return self._applying.standing() if self._applying.any else None


def _refusal(limit: Limit, wait_s: float, units: int, applying: Applying) -> RateLimited:
    left, whose = limit.left(), limit.whose
    need = f", and this call may need {units:,}" if limit.what == "tpm" else ""
    return RateLimited(
        f"{whose[0].upper()}{whose[1:]} is at its limit of {limit.said}: {left:,} left{need}",
        hint=limit.advice(wait_s),
        retry_after_s=wait_s,
        skips=limit.skips,
        standing=applying.standing(limit),
    )


def spent(limit: Limit) -> RateLimited:
    """Return the refusal of an attempt at a target by what the same call's earlier ones use."""
    whose = limit.whose
    return RateLimited(
        f"{whose[0].upper()}{whose[1:]} would be at its limit of {limit.said}: the attempts"
        " before this one use what is left",
        hint="",
        retry_after_s=limit.whole_s() or 0.0,
        skips=limit.skips,
    )


def _over(rate: TokenRate, tokens: int) -> OverLimit:
    return OverLimit(
        f"This call may need {tokens:,} tokens, more than {rate.whose} may ever use in a"
        f" minute: {rate.most:,} (`tpm`)",
        hint="A smaller `max_tokens` or a shorter prompt needs less",
        skips=rate.skips,
    )


def sooner(one: Skipped | None, other: Skipped) -> Skipped:
    """Return which of two refusals a caller hears: the one after which it may come back first."""
    if one is None:
        return other
    return min(one, other, key=_wait_s)


def _wait_s(refusal: Skipped) -> float:
    return inf if refusal.retry_after_s is None else refusal.retry_after_s


def needed(most: Worst, price: Price | None) -> int:
    """Return the tokens that an attempt may use at most, as far as token limits go.

    A prompt counts as no more than the model's context window, wherever that is known from: a
    bound in bytes would keep out long prompts that fit. What a wrong window lets through is made
    up for when the attempt is settled.
    """
    return _input(most.input_tokens, most.bound, price) + most.output_tokens


def _input(tokens: int, bound: Bound, price: Price | None) -> int:
    window = price.context_window if price else None
    return min(tokens, window * bound.prompts) if window else tokens


def fitted(terms: Terms, bound: Bound, price: Price | None, applying: Applying) -> Terms:
    """Return the terms of an attempt as the token limits leave them.

    A call without an output limit gets one that its tightest token limit has room for, since the
    server's default may be more than that ever admits.
    """
    if applying.least_tpm is None:
        return terms
    room = (applying.least_tpm - _input(bound.input, bound, price)) // bound.choices - bound.beside
    most = min(terms.default_output, max(room, LEAST_OUTPUT))
    return msgspec.structs.replace(terms, default_output=most, writes=True)


class Limits:
    """The limits of one configuration."""

    def __init__(self, config: Config, rates: Rates) -> None:
        self._routes = config.routes
        self._rates = rates
        self._zone = ZoneInfo(config.server.timezone)
        self._limits: dict[Place, list[Limit]] = {}
        rates.keep_days({(_SCOPES[at], name) for at, name, said in limits_of(config) if said.rpd})
        for section, name, said in limits_of(config):
            place = (_SCOPES[section], name)
            if limits := list(self._read(place, said)):
                self._limits[place] = limits
        self._known: dict[tuple[str, str, str, str], Applying] = {}

    def _read(self, place: Place, said: schema.Limits) -> Iterator[Limit]:
        if said.concurrent is not None:
            yield Concurrent(place, said.concurrent, self._rates)
        if said.rpd is not None:
            yield DayLimit(place, said.rpd, self._rates, self._zone)
        if said.rpm is not None:
            yield CallRate(place, said.rpm, self._rates)
        if said.tpm is not None:
            yield TokenRate(place, said.tpm, self._rates)

    def seed(self, path: Path) -> None:
        """Count the calls of today that the ledger knows of, where nothing counts them yet.

        After a death, which left nothing else to go by, those of the last two minutes too.
        Blocks while it reads the ledger's file.

        Raises:
            LedgerUnavailable: It cannot be read.
        """
        if not self._rates.begun:
            self._replay(path)
            self._rates.begun = True
        days = [one for one in self.every() if isinstance(one, DayLimit) and not one.day.seeded]
        if not days:
            return
        now = self._rates.now_ms()
        wanted = [Counted(one.scope, one.name, one.day.start_ms(now)) for one in days]
        for one, calls in zip(days, counted(path, wanted), strict=True):
            one.day.used += calls
            one.day.seeded = True

    def _replay(self, path: Path) -> None:
        rates = {
            (one.scope, one.name, one.what): one
            for one in self.every()
            if isinstance(one, CallRate)
        }
        if not rates:
            return
        now_ms, clock_ns = self._rates.now_ms(), self._rates.clock_ns()
        used: dict[tuple[str, str, str], list[tuple[int, int]]] = {at: [] for at in rates}
        for one in lately(path, now_ms - REPLAYED_MS, now_ms):
            at_ns = clock_ns - (now_ms - one.at_ms) * 1_000_000
            for place in (*one.callers, one.target):
                if (at := (*place, "rpm")) in used and (one.first or place == one.target):
                    used[at].append((at_ns, 1))
                if (at := (*place, "tpm")) in used:
                    used[at].append((at_ns, one.tokens))
        since_ns = clock_ns - REPLAYED_MS * 1_000_000
        for at, rate in rates.items():
            rate.bucket.replay(used[at], rate.most, since_ns)

    def applying(self, who: Who, route: str, target: Target) -> Applying:
        """Return the limits of a caller's attempts at a target of a route; "" for no route."""
        if not self._limits:
            return _NONE
        # A key says which user, project and team it is.
        asked = (who.key, route, target.provider, target.model)
        found = self._known.get(asked)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[asked] = self._applying(who, route, target)
        return found

    def _applying(self, who: Who, route: str, target: Target) -> Applying:
        way = self._of("route", self._by_way_of(route, target.name))
        place = ("model", target.model) if target.local else ("provider", target.provider)
        return Applying(self._callers(who), way, self._of(*place))

    def _callers(self, who: Who) -> list[Limit]:
        return [
            *self._of("key", who.key),
            *self._of("user", who.user),
            *self._of("project", who.project),
            *self._of("team", who.team),
            *self._of("box", ""),
        ]

    def _of(self, scope: str, name: str) -> list[Limit]:
        return self._limits.get((scope, name), [])

    def _by_way_of(self, route: str, target: str) -> str:
        """Return the route that names a target: the one asked for, or one it falls back to."""
        routes = [route] if route else []
        for name in routes:  # grows while it is walked
            if self._routes[name].leads_to(target):
                return name
            routes += [one for one in self._routes[name].fallback if one not in routes]
        return ""

    def every(self) -> list[Limit]:
        """Return every limit there is."""
        return [one for many in self._limits.values() for one in many]

    def states(self, who: Who | None = None) -> list[LimitState]:
        """Return how the limits of a caller stand, or all there are."""
        limits = self.every() if who is None else self._callers(who)
        return [one.state() for one in limits]


def limits_of(config: Config) -> Iterator[tuple[str, str, schema.Limits]]:
    """Yield each table's limits, those that say nothing too: its section, its name ("")."""
    yield "server", "", config.server.limits
    tables: Mapping[str, Mapping[str, _Limited]] = {
        "providers": config.providers,
        "models": config.models,
        "routes": config.routes,
        "teams": config.teams,
        "users": config.users,
        "projects": config.projects,
        "keys": config.keys,
    }
    for section, table in tables.items():
        for name, one in table.items():
            yield section, name, one.limits


def lost(old: Config, new: Config) -> set[str]:
    """Return the limits that are gone from tables that are still there: "keys.ci.limits.rpm"."""
    now = {(section, name): said for section, name, said in limits_of(new)}
    found = set()
    for section, name, said in limits_of(old):
        kept = now.get((section, name))
        for what in said.__struct_fields__ if kept else ():
            if getattr(said, what) is not None and getattr(kept, what) is None:
                found.add(".".join(filter(None, (section, name, "limits", what))))
    return found
