"""What would happen to a call, without sending it: `tollway routes explain`."""

import random
from collections.abc import Iterator

import msgspec

from tollway.daemon.config.schema import HoldBy
from tollway.daemon.config.shown import meant
from tollway.daemon.errors import ModelNotFound
from tollway.daemon.gate.affinity import conversation_in
from tollway.daemon.gate.authenticate import Caller
from tollway.daemon.gate.authorise import allowed
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.gate.budget import worst
from tollway.daemon.gate.choose import Asked, Choice, choose, expected, load
from tollway.daemon.gate.conditions import Checked
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.limit import LimitState
from tollway.daemon.gate.limits import UNFIT, Passage, Skipped, fitted, needed
from tollway.daemon.gate.plan import Branch, Plan
from tollway.daemon.gate.route import Target
from tollway.daemon.gate.tags import said as said_tags
from tollway.daemon.gate.translate import Translator, asked_in
from tollway.providers.canon import Bound, Call, Endpoint
from tollway.providers.catalog import ClientName
from tollway.providers.dialects.dialect import InUrl
from tollway.providers.dialects.features import Features
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.errors import GatewayError, Untranslatable


class Question(msgspec.Struct, frozen=True):
    """A call to explain. `key` is a key's name; None asks as the owner."""

    model: str
    key: str | None = None
    tokens: int = 1000  # of input
    output: int | None = None  # the output limit the client would set
    endpoint: Endpoint = "chat"
    dialect: ClientName = "openai_chat"  # what the client speaks
    body: msgspec.Raw = msgspec.Raw()  # a request, whose tokens and fields then count
    stream: bool = False
    headers: dict[str, str] = {}
    tags: tuple[str, ...] = ()  # "name=value"


class TargetAnswer(msgspec.Struct, frozen=True):
    """One target: whether it would be tried, and what would be held for it."""

    target: str
    kind: str
    allowed: bool
    why: str = ""  # why it would not be tried, or refused
    url: str = ""
    price: str = ""  # where its price comes from; "" for none
    input_usd: str = ""  # for a million tokens
    output_usd: str = ""
    hold_nanousd: int | None = None  # None too where there is no price: nothing is held
    output_limit: int | None = None  # that the gateway would write into the request
    dialect: str = ""  # in which it would be asked
    passes: bool = True  # the client's own bytes would reach it: nothing is translated
    dropped: tuple[str, ...] = ()  # of the request, what that dialect cannot say
    callers: bool = False  # it is asked with the caller's own credential
    hold: HoldBy = "strict"  # "expected" once enough calls have told what to expect
    skips: bool = False  # it is full, and the next target would be tried
    slots: int | None = None  # calls that it takes at once, None for any number
    running: int | None = None  # of them now, None where it has no slots
    waiting: int | None = None  # for one of them, None where it has none
    chosen: bool = True  # such a call goes there at all; False: only others by the same name do
    route: str = ""  # the route that leads there: the one asked for, or one behind it
    case: str = ""  # "when[0]" where a case of that route does
    strategy: str = ""  # by which its place in the order was found
    weight: int = 1
    health: str = "ok"  # or "resting", all its keys being at rest, or "failing"
    window: int | None = None  # tokens that the model takes, where known
    expected_nanousd: int | None = None  # what such a call is likely to cost; no bound
    first_ms: int | None = None  # to the first token of a stream, of late
    tokens_s: float | None = None  # a second behind it
    load: float = 0.0  # of what it can take at once; 1 is full
    changed: tuple[str, ...] = ()  # of the request, by the route
    # Further tries that its provider is allowed now, of all calls; None where the call has none.
    retries_left: int | None = None


class CaseAnswer(msgspec.Struct, frozen=True):
    """A case of a route's `when`: whether it takes the call, and what its conditions saw."""

    route: str
    case: str
    takes: bool
    conditions: tuple[Checked, ...]


class Explanation(msgspec.Struct, frozen=True):
    """Where a call would go, as whom, and which budgets and rate limits it must fit into."""

    model: str
    how: str
    route: str
    key: str
    user: str
    team: str
    project: str
    levels: tuple[str, ...]  # the levels with lists that must all allow it
    targets: tuple[TargetAnswer, ...]
    budgets: tuple[BudgetState, ...]
    limits: tuple[LimitState, ...] = ()
    also: tuple[str, ...] = ()  # other providers that serve the bare name
    cases: tuple[CaseAnswer, ...] = ()  # of `when`, up to the first that takes the call
    input_tokens: int = 0  # as conditions see them
    retries: int = 0  # of each target, as far as its provider's allowance goes
    stays: str = ""  # the target that has the conversation, which is why it comes first
    refused: str = ""  # the words the caller would get, "" where the call would be sent


async def explain(gate: Gate, question: Question) -> Explanation:
    """Return what would happen to a call; nothing is held or sent.

    Raises:
        ModelNotFound: The key or the model does not exist. (The owner asks, so what is
            forbidden is told from what is unknown.)
    """
    caller = _caller(gate, question.key)
    found = gate.router.find(question.model)
    if found is None:
        raise ModelNotFound(
            f"`{question.model}` is no route, no `provider/model`, and no provider serves it"
            f"{meant(question.model, gate.router.names())}",
            hint="`tollway routes list` shows the names",
        )
    names = (
        list(found.targets)
        if caller.everything
        else allowed(caller.levels, found.name, found.targets)
    )
    tags = said_tags(question.tags, caller.tags).pairs
    plan = gate.plan_for(found, found.targets)
    call = _call(question)
    asked = _asked(gate, plan, question, call, caller, tags)
    choice = choose(gate, plan, asked)
    charged = gate.purse.declared(tags)
    translator = gate.translator(call, plan) if bytes(question.body) else None
    targets = []
    for target in (*choice.targets, *_others(plan, choice)):
        answer = _target(
            gate, caller, plan, _way(target, question, translator), charged,
            may=target.name in names,
        )  # fmt: skip
        targets.append(_placed(answer, gate, target, plan, choice, asked))
    return Explanation(
        model=question.model,
        how=found.how,
        route=found.route,
        key=caller.who.key,
        user=caller.who.user,
        team=caller.who.team,
        project=caller.who.project,
        levels=tuple(level.name for level in caller.levels),
        targets=tuple(targets),
        budgets=tuple(
            gate.purse.states(
                caller.who, found.route, [one.provider for one in plan.targets], charged
            )
        ),
        limits=tuple(_limits(gate, caller, plan)),
        also=found.also,
        cases=tuple(_cases(plan, asked)),
        input_tokens=asked.features.tokens,
        retries=_retries(gate, plan),
        stays=choice.stays,
        refused=_refused(tuple(targets)) if names else "This key may not use the model",
    )


def _caller(gate: Gate, key: str | None) -> Caller:
    if key is None:
        return gate.keyring.owner
    known = gate.keyring.callers.get(key)
    if known is None:
        near = meant(key, gate.keyring.callers)
        raise ModelNotFound(f"There is no key `{key}`{near}", hint="`tollway keys list` shows them")
    return known


class _Steady(random.Random):
    """Dice for an explanation: no look at a slow target, and weights in their order."""

    def random(self) -> float:
        """Return a half."""
        return 0.5


def _call(question: Question) -> Call:
    """Return the question's request, or one of its size.

    Raises:
        RequestInvalid: It is no request of that dialect.
    """
    if not bytes(question.body):
        return Call(
            question.endpoint,
            question.dialect,
            question.model,
            b"",
            stream=question.stream,
            output_limit=question.output,
        )
    dialect = DIALECTS[question.dialect].dialect
    said = msgspec.json.decode(question.body)
    stream = question.stream or (isinstance(said, dict) and said.get("stream") is True)
    if isinstance(said, dict) and question.dialect != "gemini":
        said["model"] = question.model
    body = msgspec.json.encode(said)
    return dialect.peek(question.endpoint, body, InUrl(question.model, stream))


def _asked(
    gate: Gate,
    plan: Plan,
    question: Question,
    call: Call,
    caller: Caller,
    tags: tuple[str, ...],
) -> Asked:
    headers = tuple((name.lower(), value) for name, value in question.headers.items())
    return Asked(
        gate,
        plan,
        call,
        who=caller.who,
        tags=tags,
        headers=headers,
        session=conversation_in(headers),
        at_ms=gate.daemon.books.now_ms(),
        known=None if call.body else Features(tokens=question.tokens),
        dice=_Steady(),
    )


def _others(plan: Plan, choice: Choice) -> list[Target]:
    """Return the targets of a plan to which other calls go, but not such a one."""
    chosen = {target.name for target in choice.targets}
    return [target for target in plan.targets if target.name not in chosen]


def _cases(plan: Plan, asked: Asked) -> Iterator[CaseAnswer]:
    for fork in plan.forks:
        for branch in fork.branches:
            if branch.when is None:
                break
            checked = branch.when.check(asked)
            takes = all(one.holds for one in checked)
            yield CaseAnswer(fork.route, branch.place, takes, checked)
            if takes:
                break


def _placed(
    answer: TargetAnswer, gate: Gate, target: Target, plan: Plan, choice: Choice, asked: Asked
) -> TargetAnswer:
    """Return a target's answer with what its place in the order comes from."""
    pace = gate.daemon.traffic.pace(target.name)
    health = gate.daemon.health
    rank = health.standing(target).rank
    route, branch, weight = _branch_of(target, plan, choice)
    return msgspec.structs.replace(
        answer,
        chosen=branch is not None,
        why=answer.why if branch or answer.why else "not for such a call",
        route=route,
        case=branch.place if branch else "",
        strategy=branch.strategy if branch else "",
        weight=weight,
        health=("ok", "resting", "failing")[rank],
        window=gate.window(target),
        expected_nanousd=expected(gate, (target,), asked)[0].nanousd,
        first_ms=None if pace.first_s is None else round(pace.first_s * 1000),
        tokens_s=round(1 / pace.token_s, 1) if pace.token_s else None,
        load=round(load(gate, target), 3),
        retries_left=health.retries_left(target.provider) if _retries(gate, plan) else None,
    )


def _retries(gate: Gate, plan: Plan) -> int:
    route = gate.config.routes.get(plan.found.route)
    return route.retries if route else 0


def _branch_of(target: Target, plan: Plan, choice: Choice) -> tuple[str, Branch | None, int]:
    """Return the route and the branch that lead to a target, and its weight there."""
    for fork, branch in zip(plan.forks, choice.taken, strict=True):
        for one, weight in zip(branch.targets, branch.weights, strict=True):
            if one.name == target.name:
                return fork.route, branch, weight
    return "", None, 1


def _limits(gate: Gate, caller: Caller, plan: Plan) -> Iterator[LimitState]:
    every = (
        limit
        for target in plan.targets
        for limit in gate.limits.applying(caller.who, plan.found.route, target).each()
    )
    for limit in dict.fromkeys(every):
        yield limit.state()


def _refused(targets: tuple[TargetAnswer, ...]) -> str:
    """Return the first refusal that no later target makes up for, or "" where there is none."""
    first = ""
    if not any(target.allowed and target.chosen for target in targets):
        return "Such calls go where this key may not call"
    for target in targets:
        if target.allowed and target.chosen:
            if not target.skips:
                return target.why
            first = first or target.why
    return first


class _Way(msgspec.Struct, frozen=True):
    """How a call would reach a target: in which dialect, with what left out, of which size."""

    target: Target
    dialect: str
    passes: bool
    bound: Bound
    dropped: tuple[str, ...] = ()
    refused: str = ""
    changed: tuple[str, ...] = ()


def _way(target: Target, question: Question, translator: Translator | None) -> _Way:
    passes = target.kind.speaks(question.dialect)
    output = 0 if question.endpoint == "embeddings" else question.output
    most = target.overrides.max_output if target.overrides else None
    longer = most is not None and (output is None or output > most)
    shortened = longer and question.endpoint == "chat"
    bound = Bound(question.tokens, most if shortened else output)
    spoken = question.dialect if passes else asked_in(target)
    changed = (f"output={most}",) if shortened else ()
    way = _Way(target, spoken, passes, bound, changed=changed)
    if translator is None:
        refused = ""
        if target.callers and not passes:
            refused = "It takes its caller's own credential, which a client of another API lacks"
        return msgspec.structs.replace(way, refused=refused)
    try:
        version = translator.version(target)
    except Untranslatable as error:
        return msgspec.structs.replace(way, refused=error.message)
    return msgspec.structs.replace(
        way,
        dialect=version.dialect.name,
        bound=version.bound,
        dropped=version.dropped,
        changed=version.changed,
    )


def _target(
    gate: Gate, caller: Caller, plan: Plan, way: _Way, tags: tuple[str, ...], *, may: bool
) -> TargetAnswer:
    target, bound = way.target, way.bound
    price = gate.price(target, gate.daemon.books.now_ms())
    line = gate.daemon.queue.state(target)
    answer = TargetAnswer(
        slots=line.slots if line else None,
        running=line.running if line else None,
        waiting=line.waiting if line else None,
        target=target.name,
        kind=target.kind.name,
        allowed=may,
        why=way.refused if may else "not allowed for this key",
        skips=bool(way.refused),
        dialect=way.dialect,
        passes=way.passes,
        dropped=way.dropped,
        changed=way.changed,
        callers=target.callers,
        url=target.base_url,
        price=price.source if price else "",
        input_usd=f"{price.input.usd:f}" if price else "",
        output_usd=f"{price.output.usd:f}" if price else "",
    )
    limits = gate.limits.applying(caller.who, plan.found.route, target)
    charge = gate.purse.charge(caller.who, plan.found.route, target.provider, tags)
    if way.refused:
        return answer
    try:
        terms = fitted(gate.terms(charge, plan, target), bound, price, limits)
        held_by = "strict" if terms.share is None else "expected"
        terms = msgspec.structs.replace(terms, share=None)  # the question is in tokens already
        most = gate.purse.check(charge, worst(bound, price, target, terms), price)
        Passage().check(limits, needed(most, price))
    except GatewayError as error:
        skips = isinstance(error, UNFIT)
        skips = skips or (isinstance(error, Skipped) and error.skips)
        return msgspec.structs.replace(answer, why=answer.why or error.message, skips=skips)
    return msgspec.structs.replace(
        answer,
        hold_nanousd=most.nanousd if price else None,
        output_limit=most.write_output,
        hold=held_by,
    )
