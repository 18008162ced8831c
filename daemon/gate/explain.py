"""What would happen to a call, without sending it: `tollway routes explain`."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import msgspec
from multidict import CIMultiDict

from tollway.daemon.config.shown import meant
from tollway.daemon.errors import ModelNotFound
from tollway.daemon.gate.affinity import conversation_in
from tollway.daemon.gate.authenticate import Caller
from tollway.daemon.gate.authorise import allowed
from tollway.daemon.gate.budget import Terms, worst
from tollway.daemon.gate.chain import Chain, Failure
from tollway.daemon.gate.choose import Asked, Choice, choose, expected, load
from tollway.daemon.gate.entry import NoOwnCredential
from tollway.daemon.gate.explanation import CaseAnswer, Explanation, Question, TargetAnswer
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.limit import Limit, LimitState
from tollway.daemon.gate.limits import UNFIT, Passage, Skipped, fitted, needed, sooner, spent
from tollway.daemon.gate.plan import Branch, Plan
from tollway.daemon.gate.route import Found, Target
from tollway.daemon.gate.session import session_of
from tollway.daemon.gate.tags import Tags, demand
from tollway.daemon.gate.tags import said as said_tags
from tollway.daemon.gate.translate import Translator, asked_in, out_of_reach
from tollway.providers.canon import Bound, Call
from tollway.providers.dialects.dialect import InUrl
from tollway.providers.dialects.features import Features
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.errors import GatewayError, RequestInvalid, UpstreamUnreachable


class _Way(msgspec.Struct, frozen=True):
    """How a call would reach a target: in which dialect, with what left out, of which size."""

    target: Target
    dialect: str
    passes: bool
    bound: Bound
    dropped: tuple[str, ...] = ()
    refusal: GatewayError | None = None
    counted: bool = False  # its input is said in tokens, and not bounded by bytes
    changed: tuple[str, ...] = ()
    most_output: int | None = None


class _Try(msgspec.Struct, frozen=True):
    """One target as the call would meet it."""

    way: _Way
    answer: TargetAnswer
    refusal: GatewayError | None = None

    @property
    def skips(self) -> bool:
        """Whether the next target would be tried after that refusal."""
        return isinstance(self.refusal, UNFIT) or (
            isinstance(self.refusal, Skipped) and self.refusal.skips
        )


async def explain(gate: Gate, question: Question) -> Explanation:
    """Return what would happen to a call; nothing is held or sent.

    Raises:
        ModelNotFound: The key or the model does not exist. (The owner asks, so what is
            forbidden is told from what is unknown.)
    """
    caller = _caller(gate, question.key)
    found = _found(gate, question.model)
    names = (
        list(found.targets)
        if caller.everything
        else allowed(caller.levels, found.name, found.targets)
    )
    tags = said_tags(question.tags, caller.tags)
    plan, own = gate.plan_for(found, found.targets), gate.plan_for(found, names)
    call = _call(question)
    asked = _asked(gate, own, question, call, caller, tags)
    choice, stays = choose(gate, plan, asked), ""
    charged = gate.purse.declared(tags.pairs)
    translator = gate.translator(call, plan) if bytes(question.body) else None
    tries = {}
    for target in (*choice.targets, *_others(plan, choice)):
        way = _way(target, question, translator)
        one = _try(gate, caller, plan, way, charged, may=target.name in names)
        placed = _placed(one.answer, gate, target, plan, choice, asked)
        tries[target.name] = msgspec.structs.replace(one, answer=placed)
    turns: list[_Try] = []
    with suppress(ModelNotFound):
        mine = choose(gate, own, asked)
        stays = mine.stays
        turns = _in_turn(gate, caller, plan, [tries[target.name] for target in mine.targets])
    reached = {one.answer.target for one in turns}
    turns += [one for name, one in tries.items() if name not in reached]
    return Explanation(
        model=question.model,
        how=found.how,
        route=found.route,
        key=caller.who.key,
        user=caller.who.user,
        team=caller.who.team,
        project=caller.who.project,
        levels=tuple(level.name for level in caller.levels),
        targets=tuple(one.answer for one in turns),
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
        stays=stays,
        refused=_refused_before(gate, caller, tags)
        or (_refused(turns) if names else "This key may not use the model"),
    )


def _found(gate: Gate, model: str) -> Found:
    found = gate.router.find(model)
    if found is None:
        raise ModelNotFound(
            f"`{model}` is no route, no `provider/model`, and no provider serves it"
            f"{meant(model, gate.router.names)}",
            hint="`tollway routes list` shows the names",
        )
    return found


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
    tags: Tags,
) -> Asked:
    headers = tuple((name.lower(), value) for name, value in question.headers.items())
    named = session_of(CIMultiDict(question.headers), tags, caller.run)
    return Asked(
        gate,
        plan,
        call,
        who=caller.who,
        tags=tags.pairs,
        headers=headers,
        session=conversation_in(headers) or ("" if named == caller.run else named),
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
    rivals = branch.targets if branch else (target,)
    likely = dict(zip((one.name for one in rivals), expected(gate, rivals, asked), strict=True))
    return msgspec.structs.replace(
        answer,
        chosen=branch is not None,
        why="not for such a call" if answer.allowed and not branch else answer.why,
        route=route,
        case=branch.place if branch else "",
        strategy=branch.strategy if branch else "",
        weight=weight,
        health=("ok", "resting", "failing")[rank],
        window=gate.window(target),
        expected_nanousd=likely[target.name].nanousd,
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


def _in_turn(gate: Gate, caller: Caller, plan: Plan, tries: list[_Try]) -> list[_Try]:
    """Return a call's tries in the order in which they would be made if none of them answered.

    What it would not get to stands behind: a failing target is asked only where nobody else was.
    """
    known = {one.answer.target: one for one in tries}
    chain = Chain([one.way.target for one in tries], gate.daemon.health, window=gate.window)
    found: list[_Try] = []
    used: Counter[Limit] = Counter()
    while step := chain.next():
        one = known[step.target.name]
        if chain.has_others and chain.too_small(_least(gate, one.way)):
            continue
        del known[step.target.name]
        if one.refusal is None:
            limits = gate.limits.applying(caller.who, plan.found.route, step.target).counted
            one = _after(one, limits, used)
        found.append(one)
        if one.refusal is None:
            chain.sent = True
            chain.failed(Failure(UpstreamUnreachable(""), again=True))
        elif not one.skips:
            break
    ended = bool(found) and not (found[-1].refusal is None or found[-1].skips)
    for one in known.values():
        answer = one.answer
        why = "fails at the moment, and is asked only where nobody else was"
        if ended:
            why = "the refusal before it ends the call"
        if not answer.why and (ended or answer.health == "failing"):
            answer = msgspec.structs.replace(answer, why=why, skips=True)
        found.append(msgspec.structs.replace(one, answer=answer))
    return found


def _after(one: _Try, limits: tuple[Limit, ...], used: Counter[Limit]) -> _Try:
    """Return a try as it is after those before it, which `used` some of its target's limits."""
    for limit in limits:
        if limit.left() <= used[limit]:
            refusal = spent(limit)
            answer = msgspec.structs.replace(
                one.answer, why=one.answer.why or refusal.message, skips=True, hold_nanousd=None
            )
            return msgspec.structs.replace(one, answer=answer, refusal=refusal)
    used.update(limits)
    return one


def _least(gate: Gate, way: _Way) -> int | None:
    """Return the tokens that the prompt has at least; None where nothing is known of them."""
    if way.counted or way.bound.by_window:
        return None if way.bound.by_window else way.bound.input
    return gate.daemon.learned.least(way.target.name, way.bound.input)


def _refused_before(gate: Gate, caller: Caller, tags: Tags) -> str:
    """Return why such a call is refused wherever it would go, or "" where it is not."""
    key = caller.who.key
    if key and not gate.keyring.works(key, gate.now_s()):
        return f"The key `{key}` does not work any more: it has expired or was revoked"
    try:
        demand(tags, caller.require_tags)
    except RequestInvalid as refusal:
        return refusal.message
    return ""


def _refused(tries: list[_Try]) -> str:
    """Return the words that the caller would get, or "" where the call would be sent."""
    tries = [one for one in tries if one.answer.allowed and one.answer.chosen]
    if not tries:
        return "Such calls go where this key may not call"
    full: Skipped | None = None
    unfit: GatewayError | None = None
    for one in tries:
        if one.refusal is None:
            return ""
        if not one.skips:
            return one.refusal.message
        if isinstance(one.refusal, Skipped):
            full = sooner(full, one.refusal)
        else:
            unfit = unfit or one.refusal
    reason = full or unfit
    return reason.message if reason else ""


def _way(target: Target, question: Question, translator: Translator | None) -> _Way:
    passes = target.kind.speaks(question.dialect, question.endpoint)
    output = 0 if question.endpoint == "embeddings" else question.output
    most = target.overrides.max_output if target.overrides else None
    longer = most is not None and (output is None or output > most)
    shortened = longer and question.endpoint == "chat"
    bound = Bound(question.tokens, most if shortened else output)
    spoken = question.dialect if passes else asked_in(target)
    changed = (f"output={most}",) if shortened else ()
    way = _Way(target, spoken, passes, bound, changed=changed, counted=translator is None)
    if target.callers and not passes:
        return msgspec.structs.replace(way, refusal=NoOwnCredential(
            "It takes its caller's own credential, which a client of another API lacks"
        ))  # fmt: skip
    if translator is None:
        never = None if passes else out_of_reach(target, question.endpoint)
        return msgspec.structs.replace(way, refusal=never)
    try:
        version = translator.version(target)
    except GatewayError as error:
        return msgspec.structs.replace(way, refusal=error)
    return msgspec.structs.replace(
        way,
        dialect=version.dialect.name,
        bound=version.bound,
        dropped=version.dropped,
        changed=version.changed,
        most_output=version.most_output,
    )


def _try(
    gate: Gate, caller: Caller, plan: Plan, way: _Way, tags: tuple[str, ...], *, may: bool
) -> _Try:
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
        why="" if may else "not allowed for this key",
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
    refusal = way.refusal
    if refusal is None:
        try:
            terms = fitted(gate.terms(charge, plan, target, way.most_output), bound, price, limits)
            answer, terms = _held_by(answer, terms)
            most = gate.purse.check(charge, worst(bound, price, target, terms), price)
            Passage().check(limits, needed(most, price))
        except GatewayError as error:
            refusal = error
        else:
            hold = most.nanousd if price else None
            answer = msgspec.structs.replace(
                answer, hold_nanousd=hold, output_limit=most.write_output
            )
    one = _Try(way, answer, refusal)
    if refusal is None:
        return one
    said = msgspec.structs.replace(answer, why=answer.why or refusal.message, skips=one.skips)
    return msgspec.structs.replace(one, answer=said)


def _held_by(answer: TargetAnswer, terms: Terms) -> tuple[TargetAnswer, Terms]:
    if terms.share is None:
        return answer, terms
    # The question is in tokens already.
    terms = msgspec.structs.replace(terms, share=None)
    return msgspec.structs.replace(answer, hold="expected"), terms
