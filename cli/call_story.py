"""One call's whole story, in words: who asked, what was tried, what it took and what it cost."""

from collections.abc import Iterator, Sequence

import msgspec

from tollway.cli import show
from tollway.daemon.ledger.bodies import Body
from tollway.daemon.ledger.calls import UNDER_WAY, AttemptRow, CallDetail, CallRow
from tollway.daemon.ledger.schema import TOKENS
from tollway.providers.canon import Price
from tollway.providers.money import plain_usd

# Every `rows.Ending`; a test holds the two together.
ENDINGS = {
    "answered": "answered in full",
    "no_usage": "answered, but the provider did not say how many tokens it took",
    "client_left": "the client left before the end",
    "upstream_refused": "the provider refused it",
    "upstream_unreachable": "the provider could not be reached; nothing was sent",
    "upstream_timeout": "the provider was silent for too long",
    "upstream_broke": "the provider broke off before the end",
    "garbage": "the provider answered with something that is no answer",
    "drained": "the gateway stopped and ended it",
    "at_cap": "it passed its hold, and the gateway ended it",
    "failed": "it failed at the gateway",
    "recovered": "the gateway was killed meanwhile",
}
STATES = {
    "settled": "ended and billed",
    "open": "still under way: its worst case is held",
    "recovered": "cut short by a kill, and settled at the next start",
    "refused": "it was never sent, and cost nothing",
    "queued": "waiting for its turn",
}


# What was not sent, or has not ended.
_WITHOUT_COST = ("refused", *UNDER_WAY)
_EXCERPT = 1000  # characters of a body that a story shows


def plain(row: CallRow | AttemptRow) -> dict[str, object]:
    """Return a row for `--json`: its fields, and its cost in dollars as exact text."""
    data: dict[str, object] = msgspec.structs.asdict(row)
    counts = {name: data.pop(name) for name in TOKENS}
    return {**data, "cost_usd": plain_usd(row.cost_nanousd), **counts}


def cost(row: CallRow | AttemptRow) -> str:
    """Return what it cost: "~" before an estimate, "-" where nothing was sent or has ended.

    "unpriced" where nothing was counted, for want of a price.
    """
    if not row.cost_nanousd and isinstance(row, CallRow) and row.state in _WITHOUT_COST:
        return "-"
    if not row.cost_nanousd and _unpriced(row):
        return "unpriced"
    return f"{'~' if row.estimated else ''}{show.money(row.cost_nanousd)}"


def _unpriced(row: CallRow | AttemptRow) -> bool:
    if isinstance(row, CallRow):
        return row.unpriced
    return not _priced(row) and bool(row.input_total + row.output_total)


def _priced(attempt: AttemptRow) -> bool:
    return attempt.price is not None or attempt.reported_nanousd is not None


def tell_bodies(bodies: Sequence[Body], *, whole: bool) -> None:
    """Print what was kept of the prompt and the reply, or how each begins."""
    for one in bodies:
        show.say()
        head = f"{one.kind}, {show.size(one.size)}"
        left = one.text if whole else one.text[:_EXCERPT]
        if one.cut:
            head += f", of which the first {show.size(len(one.text.encode()))} were kept"
        show.say(show.Painted(head, "bold"))
        show.say(left)
        if len(left) < len(one.text):
            show.note(
                f"{show.counted(len(one.text) - len(left), 'character')} more; `--body` shows them"
            )


def tell(found: CallDetail) -> None:
    """Print the story: the call, then each attempt."""
    show.pairs([(name, value) for name, value in _call(found) if value])
    for attempt in found.attempts:
        show.say()
        show.say(
            show.Painted(f"attempt {attempt.number}: {attempt.provider}/{attempt.model}", "bold")
        )
        show.pairs([(f"  {name}", value) for name, value in _attempt(attempt) if value])


def _call(found: CallDetail) -> Iterator[tuple[str, str]]:
    call = found.call
    yield "call", call.id
    yield "state", f"{call.state}: {STATES.get(call.state, '')}"
    if call.state == "recovered" and not found.attempts:
        yield "ending", "the gateway was killed while it waited; it was never sent"
    else:
        yield "ending", _ending(call)
    yield "error", call.error
    if call.repeated:
        yield "stands for", f"{show.counted(1 + call.repeated, 'call')} just like it in one second"
    yield "asked for", call.requested + (f" (route {call.route})" if call.route else "")
    yield "as", f"{call.dialect}, {call.endpoint}{', streamed' if call.stream else ''}"
    names = ("key", "user", "team", "project")
    who = [f"{name} {getattr(call, name)}" for name in names if getattr(call, name)]
    yield "by", ", ".join(who)
    yield "client", call.client
    yield "tags", call.tags
    yield "session", call.session
    yield "left out", call.dropped
    yield "admitted", show.when(call.admitted_ms / 1000)
    yield "waited", "" if not call.queue_ms else f"{show.duration(call.queue_ms / 1000)} in line"
    yield "took", _times(call)
    yield "tokens", _tokens(call)
    yield "cost", _money(call)
    if any(not _priced(one) and _tokens(one) for one in found.attempts):
        yield "", "some of it had no price, and is not in the cost"


def _attempt(attempt: AttemptRow) -> Iterator[tuple[str, str]]:
    yield "ending", _ending(attempt)
    yield "provider's key", attempt.provider_key
    yield "status", "" if attempt.status is None else str(attempt.status)
    yield "error", attempt.error
    yield "started", show.when(attempt.started_ms / 1000)
    yield "took", _times(attempt)
    yield "GPU", "" if not attempt.gpu_ms else show.duration(attempt.gpu_ms / 1000)
    yield "tokens", _tokens(attempt)
    yield "price", _price(attempt.price)
    yield "cost", _money(attempt) if _priced(attempt) else "not known"
    listed = attempt.cost_nanousd + attempt.saved_nanousd
    yield "list price", f"${plain_usd(listed)}" if attempt.saved_nanousd else ""
    if attempt.reported_nanousd is not None:
        yield "provider's cost", f"${plain_usd(attempt.reported_nanousd)}, which is what is billed"
    yield "provider's id", attempt.upstream_id
    yield "provider's usage", attempt.usage


def _ending(row: CallRow | AttemptRow) -> str:
    if not row.ending:
        return ""
    # Until `ledger settle` has said what it cost.
    held = "; billed at its hold" if row.ending == "recovered" and row.estimated else ""
    return f"{row.ending}: {ENDINGS.get(row.ending, '')}{held}"


def _times(row: CallRow | AttemptRow) -> str:
    if row.total_ms is None:
        return ""
    first = "" if row.first_ms is None else f", the first token after {row.first_ms} ms"
    return f"{show.duration(row.total_ms / 1000)}{first}"


def _tokens(row: CallRow | AttemptRow) -> str:
    """Return the tokens, and by class where there is more than plain input and output."""
    classes = [
        f"{getattr(row, name):,} {name.removesuffix('_tokens').replace('_', ' ')}"
        for name in TOKENS
        if getattr(row, name)
    ]
    if not classes:
        return ""
    return ", ".join(classes) + (" (estimated, an upper bound)" if row.estimated else "")


def _money(row: CallRow | AttemptRow) -> str:
    parts = [f"${plain_usd(row.cost_nanousd)}"]
    if row.estimated:
        parts[0] += " (estimated, an upper bound)"
    if row.hold_nanousd:
        parts.append(f"held before it was sent: ${plain_usd(row.hold_nanousd)}")
    if row.overrun_nanousd:
        parts.append(f"over the hold: ${plain_usd(row.overrun_nanousd)}")
    return ", ".join(parts)


def _price(price: Price | None) -> str:
    if price is None:
        return "none known: the tokens are counted, the cost is not"
    if price.free:
        return f"free ({price.source})"
    rates = [("in", price.input), ("cached", price.cache_read), ("out", price.output)]
    said = ", ".join(f"${rate.usd:f} {name}" for name, rate in rates if rate)
    request = f", ${price.request_usd:f} a call" if price.request_usd else ""
    tier = f", service tier {price.service}" if price.service else ""
    paid = "" if price.discount == 1 else f", of which {price.discount * 100:.4g}% is paid"
    return f"{said} a million tokens{request} ({price.source}{tier}){paid}"
