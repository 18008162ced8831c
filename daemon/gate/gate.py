"""All that a call needs, built from one `Config` and replaced whole by a reload."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING

import msgspec

from tollway.daemon import secrets
from tollway.daemon.config.schema import Config, HourPrice, Model, Provider
from tollway.daemon.errors import ModelNotFound
from tollway.daemon.gate.authenticate import Caller, Keyring
from tollway.daemon.gate.authorise import allowed
from tollway.daemon.gate.books import Charge
from tollway.daemon.gate.budget import Terms
from tollway.daemon.gate.chain import Chain
from tollway.daemon.gate.limits import Limits
from tollway.daemon.gate.plan import Plan, plan_of
from tollway.daemon.gate.purse import Purse
from tollway.daemon.gate.route import LOCAL, Found, ProviderKey, Router, Target
from tollway.daemon.gate.translate import Translator
from tollway.daemon.log import Mask
from tollway.daemon.pricing import local_price, price_table
from tollway.providers.canon import Call, Price
from tollway.providers.catalog import KINDS, request_headers
from tollway.providers.errors import LocalModelFailed
from tollway.providers.headers import Headers
from tollway.providers.money import worst_case
from tollway.providers.prices import CALLERS
from tollway.providers.signing import signer_of, within
from tollway.providers.transport import Timeouts
from tollway.providers.units import UNITS

if TYPE_CHECKING:
    from tollway.daemon.gate.attempt import Attempt
    from tollway.daemon.state import Daemon

log = logging.getLogger("tollway.gate")

# Names a stranger makes up must not fill the memory; real ones are far fewer.
_MOST_KNOWN = 10_000
_LONGEST_MODEL = 200  # characters of a name that an answer says
_MOST_NAMED = 5  # names of models in a hint
_MOST_LOOKED_AT = 500  # of the names that there are, for it: a millisecond or two
# Of a model that is charged by its time and says no other: what is held for a call is bounded.
_DEADLINE_MS = 600_000
# A model of this box may read or think for as long as it takes: whether it hangs is looked at, and
# its `deadline` and its route's end what takes too long.
_AS_LONG_AS_IT_LIVES = Timeouts(first_s=math.inf, idle_s=math.inf)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Gate:
    """One configuration at work. Make it with `build`."""

    def __init__(
        self, config: Config, daemon: "Daemon", credentials: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.config = config
        self.daemon = daemon
        self.built_s = time.time()
        # What no log may say.
        self.hidden = frozenset(
            part
            for said in chain.from_iterable(credentials.values())
            for part in (said, *within(said))
        )
        self.mask = Mask()
        self.mask.hide(self.hidden)
        # Tells a provider's secrets from others, and nothing more of them.
        self.secret_marks = {name: hash(said) for name, said in credentials.items()}
        # Whether some provider takes its callers' own credentials.
        self.callers_pay = any(one.auth == "caller" for one in config.providers.values())
        self.keyring = Keyring(config, daemon.runs)
        self.router = Router(config)
        runs = daemon.runs.budgets()
        self.purse = Purse(config, daemon.books, daemon.alerts.refused, runs)
        self.limits = Limits(config, daemon.rates)
        self._providers = {
            name: _target(name, provider, credentials[name])
            for name, provider in config.providers.items()
        }
        # The CA files to check providers by; None stands for the system's authorities alone.
        secure = [one for one in self._providers.values() if one.base_url.startswith("https:")]
        self.authorities = {one.ca_file for one in secure}
        self._prices = price_table(config, daemon.prices)
        self._local_prices = {
            name: local_price(name, model, self._prices) for name, model in config.models.items()
        }
        # By the key's name ("" for the owner): a caller is long to hash.
        self._plans: dict[tuple[str, str], Plan] = {}
        # By provider and model: from when (in unix milliseconds) until when which price holds.
        self._in_force: dict[tuple[str, str], tuple[int, int, Price | None]] = {}
        # By route, provider, model and whether a budget holds back; and whether, beside them, the
        # share of the input to hold is to be learned.
        self._terms: dict[tuple[str, str, str, bool], tuple[Terms, bool]] = {}

    @classmethod
    async def build(cls, config: Config, daemon: "Daemon") -> "Gate":
        """Return a gate for a configuration, ready to serve.

        Raises:
            SecretError: Providers' secrets cannot be had; the message has a line for each.
            LedgerUnavailable: What budgets and daily limits have used cannot be read.
        """
        credentials = await asyncio.to_thread(_credentials, config)
        gate = cls(config, daemon, credentials)
        await gate.purse.open(daemon.ledger)
        await asyncio.to_thread(gate.limits.seed, daemon.ledger.path)
        return gate

    def now_s(self) -> float:
        """Return the time in unix seconds, by the books' clock that never goes back."""
        return self.daemon.books.now_ms() / 1000

    def plan(self, caller: Caller, name: str) -> Plan:
        """Return where a caller's calls by a name may go; `choose` orders that for each call.

        Raises:
            ModelNotFound: There is no such model for this caller: unknown or forbidden.
        """
        known = self._plans.get((caller.who.key, name))
        if known is None:
            known = self._plan(caller, name)
            if len(self._plans) >= _MOST_KNOWN:
                self._plans.clear()
            self._plans[caller.who.key, name] = known
        return known

    def _plan(self, caller: Caller, name: str) -> Plan:
        found = self.router.find(name)
        names = list(found.targets) if found else []
        if found and not caller.everything:
            names = allowed(caller.levels, found.name, found.targets)
        if not found or not names:
            raise ModelNotFound(
                f"The model `{name[:200]}` does not exist or this key may not use it",
                hint=self._instead(caller),
                param="model",
            )
        return self.plan_for(found, names)

    def plan_for(self, found: Found, names: Iterable[str]) -> Plan:
        """Return the plan for a name, whichever of its targets may be used."""
        route = self.config.routes.get(found.route)
        targets = tuple(self.target(one) for one in names)
        return plan_of(found, targets, stays=route is None or route.affinity)

    def concurrent(self, target: Target) -> int | None:
        """Return how many calls at once a target's provider is allowed; None for any number."""
        known = self.config.providers.get(target.provider)
        return known.limits.concurrent if known else None

    def may_list(self, caller: Caller, name: str) -> bool:
        """Whether a caller may ask for one of the names that can be listed."""
        found = self.router.find(name)
        if found is None:
            return False
        return caller.everything or bool(allowed(caller.levels, found.name, found.targets))

    def _instead(self, caller: Caller) -> str:
        """Return what to call instead of a name that is none; a few words, however many there are.

        Agents show the words of an error, and nobody who uses one asks for a list. Whoever is
        refused in a row must not keep the others waiting: some names are looked at, not all.
        """
        names = self.router.names
        may = (name for name in names[:_MOST_LOOKED_AT] if self.may_list(caller, name))
        first = [f"`{name}`" for name in islice(may, _MOST_NAMED + 1)]
        if not first:
            if len(names) > _MOST_LOOKED_AT:
                return "`GET /v1/models` lists what it may call"
            return "None is listed for it: `tollway routes explain` says what a name leads to"
        all_told = len(first) <= _MOST_NAMED and len(names) <= _MOST_LOOKED_AT
        more = "" if all_told else ", and more: `GET /v1/models` lists them"
        return f"It may call {', '.join(first[:_MOST_NAMED])}{more}"

    def target(self, name: str) -> Target:
        """Return the target that "provider/model" names."""
        provider, _, model = name.partition("/")
        if provider == LOCAL:
            command = self.config.models[model].command
            kind = KINDS["local" if command is None else "openai-compatible"]
            return Target(LOCAL, model, kind, timeouts=_AS_LONG_AS_IT_LIVES)
        return self._providers[provider].at(model)

    def masked(self, headers: Headers) -> Headers:
        """Return an answer's headers without a secret that the provider may have echoed."""
        text = "\n".join([value for _, value in headers])
        if self.mask(text) == text:
            return headers
        return tuple((name, self.mask(value)) for name, value in headers)

    def price(self, target: Target, at_ms: int) -> Price | None:
        """Return the price in force for a target at a moment, or None for an unpriced one."""
        if target.local:
            return self._local_prices[target.model]
        if target.callers:
            return CALLERS
        price = None
        if target.kind.deploys and not self._prices.override_of(target.name):
            models = self.daemon.deployed.models(target)
            known = (found for one in models if (found := self._price(target, one, at_ms)))
            price = max(known, key=_dearness, default=None)
        return price or self._price(target, target.model, at_ms)

    def _price(self, target: Target, model: str, at_ms: int) -> Price | None:
        key = (target.provider, model)
        known = self._in_force.get(key)
        if known is None or not known[0] <= at_ms < known[1]:
            at = datetime.fromtimestamp(at_ms / 1000, UTC)
            found = self._prices.in_force(target.provider, target.kind.prices, model, at)
            until_ms = (found.until - _EPOCH) // timedelta(milliseconds=1)
            if len(self._in_force) >= _MOST_KNOWN:
                self._in_force.clear()
            known = self._in_force[key] = (at_ms, until_ms, found.price)
        return known[2]

    def answered(self, attempt: "Attempt") -> None:
        """Price an attempt as the model that its answer names, where its target's name is none.

        Not where gateway.toml has a price for the target.
        """
        target, model = attempt.target, attempt.reader.model
        if not target.kind.deploys or not 0 < len(model) <= _LONGEST_MODEL or target.callers:
            return
        endpoint = attempt.version.call.endpoint
        if endpoint in UNITS or endpoint == "count_tokens":
            return
        price = self._price(target, model, attempt.hold.at_ms)
        if price is None or self._prices.override_of(target.name):
            return
        is_new = self.daemon.deployed.heard(target, model)
        other = attempt.price is None or price.id != attempt.price.id
        if other:
            attempt.price = price
        if is_new and other:
            log.warning(
                "%s is answered by `%s`: billed at that model's price, and held at that of the"
                " dearest that answers",
                *(target.name, self.mask(model)),
            )

    def list_price(self, target: Target, at: datetime) -> Price | None:
        """Return what a provider's model costs at a moment, whoever pays; None for no price."""
        return self._prices.price(target.provider, target.kind.prices, target.model, at)

    def terms(self, charge: Charge, plan: Plan, target: Target, longest: int | None) -> Terms:
        """Return what decides an attempt's worst case, at a target whose answers are no longer."""
        key = (plan.found.route, target.provider, target.model, bool(charge.caps))
        known = self._terms.get(key)
        if known is None:
            known = self._new_terms(charge, plan, target)
            if len(self._terms) >= _MOST_KNOWN:
                self._terms.clear()
            self._terms[key] = known
        terms, learns = known
        if longest is not None and longest < terms.default_output:
            terms = msgspec.structs.replace(terms, default_output=longest)
        share = self.daemon.learned.share(target.name) if learns else None
        return terms if share is None else msgspec.structs.replace(terms, share=share)

    def _new_terms(self, charge: Charge, plan: Plan, target: Target) -> tuple[Terms, bool]:
        route = self.config.routes.get(plan.found.route)
        local = self.config.models.get(target.model) if target.local else None
        default = (
            (route and route.default_output)
            or (local and local.default_output)
            or self.config.server.default_output
        )
        expected = ((route and route.hold) or self.config.server.hold) == "expected"
        terms = Terms(
            budgets=bool(charge.caps),
            default_output=default,
            allow_unbounded=bool(route and route.allow_unbounded),
            # Of a command's model only its server knows.
            context=local.context if local and local.command is None else None,
            deadline_ms=_deadline_ms(local) if local else None,
        )
        # A local model counts its prompts: nothing need be learned of them.
        return terms, expected and not local

    def chain(
        self, plan: Plan, targets: Sequence[Target], prefer: Callable[[Target], str]
    ) -> Chain:
        """Return a call's way along its targets, which stand in the order to try them.

        `prefer` names the key of a target's pool to use, "" for any.
        """
        route = self.config.routes.get(plan.found.route)
        health = self.daemon.health
        return Chain(
            targets,
            health,
            retries=route.retries if route else 0,
            until_s=health.clock() + route.deadline if route else float("inf"),
            window=self.window,
            prefer=prefer,
        )

    def window(self, target: Target) -> int | None:
        """Return how many tokens a target's model takes; None where that is not known.

        The bundled figures are good enough to choose by, and prove nothing.
        """
        if target.local and (context := self.context(target.model)):
            return context
        price = self.price(target, self.daemon.books.now_ms())
        if target.callers:
            price = self.list_price(target, datetime.now(UTC))
        return price.context_window if price else None

    def widest(self, names: Iterable[str]) -> int | None:
        """Return how many tokens go to some target of a name's; None where one's is not known.

        A prompt that is too long for the first of them goes to one that takes more.
        """
        windows = [self.window(self.target(name)) for name in names]
        return None if None in windows else max(filter(None, windows), default=None)

    def context(self, model: str) -> int | None:
        """Return how many tokens fit into a model of this box; None where its command knows."""
        known = self.config.models[model]
        if known.command is not None:
            return None
        try:
            return self.daemon.local.context_of(model)  # less, where it was trained on less
        except LocalModelFailed:  # a reload has just taken it away
            return known.context

    def default_output(self, route: str) -> int:
        """Return the tokens that an answer may have where its call names no limit."""
        known = self.config.routes.get(route)
        return (known and known.default_output) or self.config.server.default_output

    def translator(self, call: Call, plan: Plan) -> Translator:
        """Return what gives a call in the dialect of each of its targets."""
        route = self.config.routes.get(plan.found.route)
        limit = self.default_output(plan.found.route)
        strict = bool(route and route.on_loss == "refuse")
        longest = self.daemon.longest.of
        return Translator(call, strict=strict, default_output=limit, longest=longest)


def _dearness(price: Price) -> int:
    """Return what orders prices, by what a usual call comes to."""
    return worst_case(10_000, 1_000, price)


def _deadline_ms(model: Model) -> int | None:
    """Return how long one attempt may be at work, in milliseconds; None for no end."""
    if model.deadline is None:
        return _DEADLINE_MS if isinstance(model.price, HourPrice) else None
    return max(1, int(model.deadline * 1000))


def _target(name: str, provider: Provider, credentials: tuple[str, ...]) -> Target:
    kind = KINDS[provider.kind]
    ca_file = str(provider.ca_file) if provider.ca_file else None
    pool = tuple(
        ProviderKey(
            str(ref),
            request_headers(kind, credential),
            signer_of(kind, credential, provider.proxy, ca_file),
        )
        for ref, credential in zip(provider.keys, credentials, strict=True)
    )
    if not pool:
        signer = signer_of(kind, None, provider.proxy, ca_file)
        pool = (ProviderKey("", request_headers(kind, None), signer),)
    return Target(
        provider=name,
        model="",
        kind=kind,
        base_url=(provider.base_url or kind.base_url or "").rstrip("/"),
        headers=pool[0].headers,
        timeouts=Timeouts(
            connect_s=provider.timeout.connect,
            first_s=provider.timeout.first,
            idle_s=provider.timeout.idle,
        ),
        proxy=provider.proxy,
        ca_file=ca_file,
        on_disconnect=provider.on_disconnect,
        callers=provider.auth == "caller",
        signer=pool[0].signer,
        keys=pool if len(pool) > 1 else (),
    )


def _credentials(config: Config) -> dict[str, tuple[str, ...]]:
    """Fetch every provider's secrets; in a thread, since a keyring may take its time."""
    found = secrets.demand(config)
    for name, provider in config.providers.items():
        # Here, since what signs for a cloud takes a third of a second to import.
        for credential in found[name] or (None,):
            signer_of(KINDS[provider.kind], credential)
    return found
