"""Where one call goes: its targets in order, and the conversation that it is a part of."""

from typing import TYPE_CHECKING

from tollway.daemon.gate.affinity import Stay
from tollway.daemon.gate.attempt import Attempt
from tollway.daemon.gate.choose import Asked, choose
from tollway.daemon.gate.plan import Plan
from tollway.daemon.gate.route import Target

if TYPE_CHECKING:
    from tollway.daemon.gate.send import Exchange


class Course:
    """One call's targets, in the order to try them."""

    __slots__ = ("_plan", "_stay", "targets")

    # It is given its exchange, and does not hold it: two that hold each other, with all else of a
    # call, are freed by the collector alone.
    def __init__(self, exchange: "Exchange", plan: Plan) -> None:
        """Choose.

        Raises:
            ModelNotFound: The caller may use none of the targets that such a call goes to.
        """
        self._plan = plan
        self._stay: Stay | None = None
        self.targets = plan.targets
        if plan.fixed:  # as most are: this is all that choosing costs them
            return
        if plan.plain and not exchange.daemon.affinity.has_strayed(plan.found.name):
            return
        asked = _asked(exchange, plan)
        self._stay = asked.stay
        self.targets = choose(exchange.gate, plan, asked).targets

    def key_before(self, target: Target) -> str:
        """Return the key of a target's pool that served the conversation before, "" for none."""
        kept = self._stay.kept if self._stay else None
        return kept.key if kept and kept.target == target.name else ""

    def served(self, exchange: "Exchange", attempt: Attempt) -> None:
        """Take note of where the call was answered, for those of its conversation that follow.

        And of its model's longest answer, if that was told before. A refusal alone proves none: it
        may quote what its caller wrote, and is then met a second time.
        """
        target, plan = attempt.target, self._plan
        if attempt.version.longest is not None:
            exchange.daemon.longest.note(target, attempt.version.longest)
        if plan.plain and target.name != plan.targets[0].name:
            # Each time: as long as any conversation goes on elsewhere, it has to be looked for.
            exchange.daemon.affinity.stray(plan.found.name)
            self._stay = self._stay or _asked(exchange, plan).stay
        if self._stay:
            self._stay.served(target.name, answer=_to_go_on_from(attempt), key=target.key)


def _asked(exchange: "Exchange", plan: Plan) -> Asked:
    origin = exchange.origin
    return Asked(
        exchange.gate,
        plan,
        exchange.call,
        who=exchange.caller.who,
        tags=origin.tags.pairs,
        headers=origin.looked_at,
        session=origin.conversation(exchange.caller.run) if plan.stays else "",
        at_ms=exchange.at_ms,
    )


def _to_go_on_from(attempt: Attempt) -> str:
    """Return the id by which a client can have this answer gone on from, "" where it cannot."""
    is_stored = attempt.version.dialect.name == "openai_responses" and attempt.version.said is None
    return attempt.reader.upstream_id if is_stored else ""
