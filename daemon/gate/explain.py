"""What would happen to a call, without sending it: `tollway routes explain`."""

from collections.abc import Iterator

import msgspec

from tollway.daemon.config.schema import HoldBy
from tollway.daemon.errors import ModelNotFound
from tollway.daemon.gate.authenticate import Caller
from tollway.daemon.gate.authorise import allowed
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.gate.budget import worst
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.limit import LimitState
from tollway.daemon.gate.limits import Passage, Skipped, fitted, needed
from tollway.daemon.gate.plan import Plan
from tollway.daemon.gate.route import Target
from tollway.daemon.gate.translate import Translator, asked_in
from tollway.providers.canon import Bound, Endpoint
from tollway.providers.catalog import ClientName
from tollway.providers.dialects.dialect import InUrl
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
    hold_nanousd: int | None = None
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
    refused: str = ""  # the words the caller would get, "" where the call would be sent


async def explain(gate: Gate, question: Question) -> Explanation:
    """Return what would happen to a call; nothing is held or sent.

    Raises:
        ModelNotFound: The key or the model does not exist. (The owner asks, so what is
            forbidden is told from what is unknown.)
    """
    caller = gate.keyring.owner
    if question.key is not None:
        known = gate.keyring.callers.get(question.key)
        if known is None:
            raise ModelNotFound(
                f"There is no key `{question.key}`", hint="`tollway keys list` shows them"
            )
        caller = known
    found = gate.router.find(question.model)
    if found is None:
        raise ModelNotFound(
            f"`{question.model}` is no route, no `provider/model`, and no provider serves it",
            hint="`tollway routes list` shows the names",
        )
    names = (
        list(found.targets)
        if caller.everything
        else allowed(caller.levels, found.name, found.targets)
    )
    plan = gate.plan_for(found, found.targets)
    translator = _translator(gate, plan, question)
    targets = tuple(
        _target(gate, caller, plan, _way(target, question, translator), may=target.name in names)
        for target in plan.targets
    )
    return Explanation(
        model=question.model,
        how=found.how,
        route=found.route,
        key=caller.who.key,
        user=caller.who.user,
        team=caller.who.team,
        project=caller.who.project,
        levels=tuple(level.name for level in caller.levels),
        targets=targets,
        budgets=tuple(
            gate.purse.states(caller.who, found.route, [target.provider for target in plan.targets])
        ),
        limits=tuple(_limits(gate, caller, plan)),
        also=found.also,
        refused=_refused(targets) if names else "This key may not use the model",
    )


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
    for target in targets:
        if target.allowed:
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


def _translator(gate: Gate, plan: Plan, question: Question) -> Translator | None:
    """Return what gives the question's request in each target's dialect, None without one.

    Raises:
        RequestInvalid: It is no request of that dialect.
    """
    if not bytes(question.body):
        return None
    dialect = DIALECTS[question.dialect].dialect
    said = msgspec.json.decode(question.body)
    stream = isinstance(said, dict) and said.get("stream") is True
    if isinstance(said, dict) and question.dialect != "gemini":
        said["model"] = question.model
    body = msgspec.json.encode(said)
    call = dialect.peek(question.endpoint, body, InUrl(question.model, stream))
    return gate.translator(call, plan)


def _way(target: Target, question: Question, translator: Translator | None) -> _Way:
    passes = target.kind.speaks(question.dialect)
    bound = Bound(question.tokens, 0 if question.endpoint == "embeddings" else question.output)
    spoken = question.dialect if passes else asked_in(target)
    way = _Way(target, spoken, passes, bound)
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
        way, dialect=version.dialect.name, bound=version.bound, dropped=version.dropped
    )


def _target(gate: Gate, caller: Caller, plan: Plan, way: _Way, *, may: bool) -> TargetAnswer:
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
        callers=target.callers,
        url=target.base_url,
        price=price.source if price else "",
        input_usd=f"{price.input.usd:f}" if price else "",
        output_usd=f"{price.output.usd:f}" if price else "",
    )
    limits = gate.limits.applying(caller.who, plan.found.route, target)
    charge = gate.purse.charge(caller.who, plan.found.route, target.provider)
    if way.refused:
        return answer
    try:
        terms = fitted(gate.terms(charge, plan, target), bound, price, limits)
        held_by = "strict" if terms.share is None else "expected"
        terms = msgspec.structs.replace(terms, share=None)  # the question is in tokens already
        most = gate.purse.check(charge, worst(bound, price, target, terms), price)
        Passage().check(limits, needed(most, price))
    except GatewayError as error:
        skips = isinstance(error, Skipped) and error.skips
        return msgspec.structs.replace(answer, why=answer.why or error.message, skips=skips)
    return msgspec.structs.replace(
        answer, hold_nanousd=most.nanousd, output_limit=most.write_output, hold=held_by
    )
