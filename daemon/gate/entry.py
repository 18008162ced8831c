"""What a call says of itself: to the ledger, when it opens or is refused, and to its client."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from tollway.daemon.gate.attempt import Attempt
from tollway.daemon.gate.plan import Plan
from tollway.daemon.gate.route import Target
from tollway.daemon.gate.translate import Version
from tollway.daemon.ledger.rows import CallOpened, CallRefused
from tollway.providers.dialects.rate_headers import rate_headers
from tollway.providers.errors import Untranslatable
from tollway.providers.headers import Headers
from tollway.providers.money import plain_usd

if TYPE_CHECKING:
    from tollway.daemon.gate.send import Exchange

# What stands as it is in a header; all else is percent-encoded.
_IN_HEADER = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
_LONGEST_NAME = 200


class NoOwnCredential(Untranslatable):
    """A provider that its callers pay cannot be asked with the credential that this call brings."""

    status = 401
    code = "invalid_api_key"


def demand_own(own: Headers, version: Version, target: Target) -> None:
    """Return where a target may be asked with the caller's own credential, or has the gateway's.

    Raises:
        NoOwnCredential: The call brings none, or one for another provider's API.
    """
    if not target.callers:
        return
    if version.said is not None:
        raise NoOwnCredential(
            f"`{target.name}` takes its caller's own credential, and a client of another API"
            " has none for it",
            hint="Call a model of your client's own provider",
        )
    if not own:
        raise NoOwnCredential(
            f"`{target.name}` takes its caller's own credential, and none was sent",
            hint="Log in with your client as you would without the gateway, and send the Tollway"
            " key in the header `x-tollway-key`",
        )


def opened(exchange: "Exchange", plan: Plan) -> CallOpened:
    """Return the row of a call that is about to be admitted."""
    call, origin, mask = exchange.call, exchange.origin, exchange.gate.mask
    return CallOpened(
        id=exchange.call_id,
        admitted_ms=exchange.at_ms,
        who=exchange.caller.who,
        dialect=call.dialect,
        endpoint=call.endpoint,
        requested=mask(call.model[:_LONGEST_NAME]),
        route=plan.found.route,
        stream=call.stream,
        client=mask(origin.client),
        tags=origin.tags.json and mask(origin.tags.json),
        budget_tags=exchange.budget_tags,
        session=origin.session and mask(origin.session),
        queue_ms=exchange.turn.waited_ms,
    )


def refused(exchange: "Exchange", error: str) -> CallRefused:
    """Return the row of a call that was never sent; `error` is the error's code."""
    call, mask = exchange.call, exchange.gate.mask
    return CallRefused(
        id=exchange.call_id,
        refused_ms=exchange.at_ms,
        who=exchange.caller.who,
        dialect=call.dialect,
        endpoint=call.endpoint,
        requested=mask(call.model[:_LONGEST_NAME]),
        route=exchange.plan.found.route if exchange.plan else "",
        stream=call.stream,
        error=error,
        client=mask(exchange.origin.client),
        tags=mask(exchange.origin.tags.json),
        budget_tags=exchange.budget_tags,
        session=mask(exchange.origin.session),
    )


def refusal_headers(exchange: "Exchange") -> tuple[tuple[str, str], ...]:
    """Return what the head of an error says of a call: its cost so far, and what is left."""
    purse = exchange.gate.purse
    ours = [("x-tollway-cost-usd", plain_usd(exchange.cost_nanousd))]
    if exchange.attempts and exchange.target:
        ours.append(("x-tollway-target", _in_header(exchange.target.name)))
        ours.append(("x-tollway-attempts", str(exchange.attempts)))
    left = purse.left(exchange.charge or purse.charge(exchange.caller.who))
    if left is not None:
        ours.append(("x-tollway-budget-remaining-usd", plain_usd(left)))
    return tuple(ours)


def headers(exchange: "Exchange", attempt: Attempt, *, whole: bool) -> list[tuple[str, str]]:
    """Return what the answer's head says besides the provider's own headers.

    A whole answer is settled, so its cost is known.
    """
    worst = attempt.worst
    ours = [
        # A client chooses the model's name, and no character of it may end the header.
        ("x-tollway-target", _in_header(attempt.target.name)),
        ("x-tollway-attempts", str(exchange.attempts)),
    ]
    if worst.write_output is not None:
        ours.append(("x-tollway-output-limit", str(worst.write_output)))
    if exchange.dropped:  # of the answer too, as far as it has come
        said = exchange.dropped.replace(",", ", ")
        ours.append(("x-tollway-dropped", quote(said, safe=_IN_HEADER + " ")))
    if changed := attempt.version.changed:
        ours.append(("x-tollway-changed", quote(", ".join(changed), safe=_IN_HEADER + " ")))
    if worst.clamped:
        ours.append(("x-tollway-clamped", quote(worst.clamped, safe=_IN_HEADER + " ")))
    if (waited_ms := exchange.turn.waited_ms) is not None:
        ours.append(("x-tollway-queue-ms", str(waited_ms)))
    if whole:
        ours.append(("x-tollway-cost-usd", plain_usd(exchange.cost_nanousd)))
    if exchange.charge and (left := exchange.gate.purse.left(exchange.charge)) is not None:
        ours.append(("x-tollway-budget-remaining-usd", plain_usd(left)))
    # Where the account is the caller's own, its limits have these names.
    if not attempt.target.callers and (standing := exchange.passage.standing()):
        ours.extend(rate_headers(exchange.call.dialect, standing, datetime.now(UTC)))
    return ours


@lru_cache(maxsize=1024)  # bounded: clients choose the names of models
def _in_header(name: str) -> str:
    return quote(name, safe=_IN_HEADER)
