"""`prices`: what models cost, where each price comes from, and new price data, read before used."""

from collections.abc import Iterator
from datetime import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from tollway.cli import complete, show
from tollway.cli.boundary import ANSWER_IS_NO, UsageProblem
from tollway.cli.control import reload_daemon
from tollway.cli.edits import agreed
from tollway.cli.options import AsJson, ConfigFile, Yes
from tollway.cli.price_views import LOCAL, Prices, Target
from tollway.daemon.config.check_prices import idle
from tollway.daemon.ledger.unpriced import unpriced
from tollway.providers import price_file
from tollway.providers.canon import Price, Rate
from tollway.providers.catalog import KINDS
from tollway.providers.price_diff import CLASSES, FEES, Change, changes, later, summary
from tollway.providers.price_report import is_believed, states_cost
from tollway.providers.prices import PriceSource, is_glob
from tollway.providers.units import unit_words

_MOST_SHOWN = 50

Provider = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="One of gateway.toml, or of genai-prices.",
        autocompletion=complete.entries("providers"),
    ),
]


class Listed(msgspec.Struct, frozen=True):
    """What `list --json` prints of a target: dollars for a million tokens as exact text."""

    target: str
    input: str | None
    cached_input: str | None
    output: str | None
    context_window: int | None
    service_tiers: tuple[str, ...]
    source: str
    said_at: str
    gpu_hour: str | None = None  # of a model on this box that is charged by its time


def list_(
    glob: Annotated[
        str | None, typer.Argument(metavar="GLOB", help="Such as 'gpt-5*' or 'openai/*mini*'.")
    ] = None,
    provider: Provider = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List what models cost.

    Prices are in dollars for a million tokens.

    Those of the providers in gateway.toml; without one, all that there are prices for. `+` stands
    where long prompts cost more, and `prices show` tells what.

    Examples:
        tollway prices list 'gpt-5*'
        tollway prices list --provider anthropic
    """
    prices = Prices(config)
    rows = [_listed(one) for one in prices.targets(provider, glob)]
    if as_json:
        show.emit(rows)
    elif rows:
        columns: list[str | show.Column] = [
            "target",
            *(show.Column(title, number=True) for title in ("in", "cached", "out", "context")),
            "service tiers",
            "from",
        ]
        show.table(columns, [_row(one) for one in rows])
    else:
        show.note(f"No model there is like `{glob}`" if glob else "There are no models with prices")


def _listed(one: Target) -> Listed:
    price = one.price
    if price is None:
        return Listed(one.target, None, None, None, None, (), "", one.said_at)
    if (hour := price.gpu_hour_usd) is not None:
        text = f"{hour.normalize():f}"
        return Listed(one.target, None, None, None, None, (), price.source, one.said_at, text)
    return Listed(
        target=one.target,
        input=_usd(price.input),
        cached_input=_usd(price.cache_read),
        output=_usd(price.output),
        context_window=price.context_window,
        service_tiers=tuple(other.service for other in price.services),
        source=price.source,
        said_at=one.said_at,
    )


def _usd(rate: Rate | None) -> str | None:
    return None if rate is None else f"{rate.usd.normalize():f}{'+' if rate.tiers else ''}"


def _row(one: Listed) -> list[show.Cell]:
    return [
        one.target,
        (one.gpu_hour and f"{one.gpu_hour}/h") or one.input or show.Painted("none", "yellow"),
        one.cached_input or "",
        one.output or "",
        show.tokens(one.context_window),
        " ".join(one.service_tiers),
        one.said_at or one.source,
    ]


def show_(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PROVIDER/MODEL", help="The target.", autocompletion=complete.targets
        ),
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a target's price.

    Exits with 1 where it has none.

    Every class of tokens with its tiers, fees, service tiers, from when until when it holds, and
    the line of gateway.toml that says it.

    Example:
        tollway prices show openai/gpt-5
    """
    prices = Prices(config)
    found = prices.of(target)
    if as_json:
        show.emit(_as_data(prices, found))
    else:
        show.pairs(_facts(prices, found))
    if found.price is None:
        if not as_json:
            if near := prices.near(target):
                show.note(f"hint: Did you mean {near}?")
            where = (
                f'[prices."{target}"] in gateway.toml states one: `input` and `output` in'
                ' dollars for a million tokens, or "free"'
                if not target.startswith(f"{LOCAL}/")
                else f"`price` in [models.{target.partition('/')[2]}] states one"
            )
            show.note(f"hint: {where}; `tollway prices set {target}` writes it")
        raise typer.Exit(ANSWER_IS_NO)


def _as_data(prices: Prices, found: Target) -> dict[str, object]:
    bundled = prices.bundled(found.target)
    return {
        "target": found.target,
        "price": None if found.price is None else _price_data(found.price),
        "said_at": found.said_at,
        "bundled": None if bundled is None else _price_data(bundled),
        "data": prices.source.source,
        "provider_states_cost": _states_cost(prices, found),
        "since": _since(prices, found),
        "later": [{"since": since, "price": text} for since, text in _later(prices, found)],
    }


def _price_data(price: Price) -> dict[str, object]:
    rates = {
        word: {
            "usd": f"{rate.usd.normalize():f}",
            "tiers": [
                {"from": tier.start, "usd": f"{tier.usd.normalize():f}"} for tier in rate.tiers
            ],
        }
        for field, word in CLASSES.items()
        if (rate := getattr(price, field)) is not None
    }
    fees = {
        word: None if (usd := getattr(price, field)) is None else f"{usd.normalize():f}"
        for field, word in FEES.items()
    }
    return {
        "id": price.id,
        "source": price.source,
        **rates,
        **fees,
        "units": {key: f"{usd.normalize():f}" for key, usd in price.units},
        "gpu_hour": None if (usd := price.gpu_hour_usd) is None else f"{usd.normalize():f}",
        "context_window": price.context_window,
        "discount": f"{price.discount.normalize():f}",
        "service_tiers": {other.service: _price_data(other) for other in price.services},
    }


def _facts(prices: Prices, found: Target) -> Iterator[tuple[str, show.Cell]]:
    price = found.price
    yield "target", found.target
    if price is None:
        yield "price", show.Painted("none known", "yellow")
        return
    said = f", {found.said_at}" if found.said_at else ""
    yield "price", f"{price.source}{said} (id {price.id})"
    if found.said_at:
        if found.said_for not in ("", found.target):
            yield "said for", found.said_for
        if bundled := prices.bundled(found.target):
            yield "instead of", f"{summary(bundled)} ({bundled.source})"
    sells = any(usd for _, usd in price.units)
    if (price.free and not sells) or price.gpu_hour_usd is not None:
        hour = price.gpu_hour_usd
        yield "costs", f"${hour.normalize():f} for an hour of its work" if hour else "nothing"
        return
    if since := _since(prices, found):
        yield "in force", f"since {since}"
    yield "rates", "dollars for a million tokens"
    yield from _rates(price)
    yield from _fees(price)
    for other in price.services:
        differing = [f"{name.strip()} {text}" for name, text in _rates(other)]
        yield f"tier {other.service}", ", ".join(differing)
    if price.context_window:
        yield "context", f"{price.context_window:,} tokens"
    for since, text in _later(prices, found):
        yield f"from {since}", text
    if _states_cost(prices, found):
        yield "billed", "what the provider says it charged; this price is for the hold"


def _fees(price: Price) -> Iterator[tuple[str, str]]:
    if price.discount != 1:
        why = "discount" if price.discount < 1 else "surcharge"
        yield "paid", f"{(price.discount * 100).normalize():f}% of it ({why})"
    if price.request_usd:
        yield "each call", f"${price.request_usd.normalize():f}"
    if price.search_usd is not None:
        yield "each search", f"${price.search_usd.normalize():f}"
    for key, usd in price.units:
        yield unit_words(key), f"${usd.normalize():f}"


def _rates(price: Price) -> Iterator[tuple[str, str]]:
    for field, word in CLASSES.items():
        rate: Rate | None = getattr(price, field)
        if rate is not None:
            tiers = [
                f"{tier.usd.normalize():f} from {tier.start:,} tokens in" for tier in rate.tiers
            ]
            yield f"  {word}", ", ".join([f"{rate.usd.normalize():f}", *tiers])


def _since(prices: Prices, found: Target) -> str:
    """Return the day from which the price in force holds, "" where the data have no other."""
    model = prices.known(found.target)
    if model is None or found.said_at:
        return ""
    days = [day for day in model.days() if day <= prices.now.date()]
    return f"{max(days)}" if days else ""


def _later(prices: Prices, found: Target) -> Iterator[tuple[str, str]]:
    """Yield the prices that the data have for later, and when each begins."""
    model = prices.known(found.target)
    if model is None or found.said_at:
        return
    for at, price in later(model, prices.now):
        yield f"{at:%Y-%m-%d}" if at.time() == time() else f"{at:%Y-%m-%d %H:%M} UTC", price


def _states_cost(prices: Prices, found: Target) -> bool:
    """Whether the provider's own word of what it charged is what is billed."""
    provider = found.target.partition("/")[0]
    if prices.config is None or provider not in prices.config.providers:
        return False
    kind = KINDS[prices.config.providers[provider].kind]
    return states_cost(kind.quirks) and is_believed(found.price)


# --- check --------------------------------------------------------------------------------------


class Finding(msgspec.Struct, frozen=True):
    """One thing about prices that a person should know; "unpriced" is what makes the exit 1."""

    kind: Literal["unpriced", "called unpriced", "differs", "same", "matches nothing"]
    subject: str
    message: str
    said_at: str = ""


def check(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Say which targets have no price, and which differ.

    Exits with 1 where a route leads to a target without one.

    Targets and local models without a price, models in the ledger that were called without one,
    and prices of gateway.toml that differ from the bundled ones or match nothing.

    Example:
        tollway prices check
    """
    prices = Prices(config)
    if prices.config is None:
        raise UsageProblem("There is no gateway.toml to check", hint="`tollway init` writes one")
    found = [*_without(prices), *_called(prices), *_overrides(prices)]
    if as_json:
        show.emit(found)
    for one in () if as_json else found:
        colour: show.Colour = "red" if one.kind == "unpriced" else "yellow"
        place = f"{one.said_at}: " if one.said_at else ""
        show.say([place, show.Painted(one.subject, colour), f" {one.message}"])
    if not found and not as_json:
        show.note(f"Every target has its price ({prices.source.source})")
    if any(one.kind == "unpriced" for one in found):
        raise typer.Exit(ANSWER_IS_NO)


def _without(prices: Prices) -> Iterator[Finding]:
    assert prices.config is not None  # noqa: S101 - `check` has seen to it
    local = [f"{LOCAL}/{name}" for name in prices.config.models]
    for target in dict.fromkeys([*prices.routed(), *local]):
        if prices.of(target).price is None:
            why = "has no price: while a budget applies it is refused, else its cost is not known"
            yield Finding("unpriced", target, why)


def _called(prices: Prices) -> Iterator[Finding]:
    assert prices.config is not None  # noqa: S101 - `check` has seen to it
    ledger = prices.config.ledger.path
    for row in unpriced(ledger) if ledger.exists() else ():
        target = f"{row.provider}/{row.model}"
        try:
            still = prices.of(target).price is None
        except UsageProblem:  # gone from the file since
            still = False
        now = "and still has none" if still else "and has one now, or is gone"
        message = f"was called {show.counted(row.attempts, 'time')} without a price, {now};"
        message += f" last in the quarter of an hour from {show.when(row.last_ms / 1000)}"
        yield Finding("called unpriced", target, message)


def _overrides(prices: Prices) -> Iterator[Finding]:
    assert prices.config is not None  # noqa: S101 - `check` has seen to it
    for name, own in prices.own.items():
        at = prices.place(name)
        if why := idle(name, prices.config):
            yield Finding("matches nothing", name, why, at)
        if why or name.partition("/")[0] == LOCAL or is_glob(name):
            continue
        bundled = prices.bundled(name)
        if bundled is None:
            continue
        ours, theirs = summary(own), summary(bundled)
        if _as_billed(own) == _as_billed(bundled):
            yield Finding("same", name, "says what the bundled data say already", at)
        else:
            message = f"says {ours or 'nothing'}; the bundled data: {theirs}"
            yield Finding("differs", name, message, at)


def _as_billed(price: Price) -> tuple[object, ...]:
    """Return the rates and fees that most calls are billed at."""
    classes = ("input", "output", "cache_read", "cache_write", "request_usd", "units")
    return tuple(getattr(price, one) for one in classes)


# --- update -------------------------------------------------------------------------------------


def update(
    file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A `data.json` of genai-prices; else none."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, change nothing.")] = False,
    yes: Yes = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what new price data change, and put them in use.

    With --from those of a file, without it those of the installed genai-prices: they are in use
    unless a file was put in use before. Nothing is fetched. Shown are the models of the providers
    in gateway.toml; --json has all. A running daemon takes the new prices up.

    Examples:
        tollway prices update --from data.json --dry-run
        tollway prices update --from data.json
        tollway prices update
    """
    prices = Prices(config)
    packed = None
    if file is None:
        after = PriceSource(data=price_file.installed(price_file.cache_folder()))
    else:
        with show.waiting("Reading the price file"):
            data, packed = price_file.from_file(file)
        after = PriceSource(data=data)
    found = list(changes(prices.source, after, prices.now))
    same = prices.source.source == after.source
    if as_json and (dry_run or same):
        show.emit(_told(prices, after, found, applied=False))
    elif not as_json:
        _show_changes(prices, after, found)
    if dry_run or same:
        return
    agreed(f"Put the prices of {after.source} in use?", yes=yes)
    _put_in_use(packed)
    served = reload_daemon(prices.config) if prices.config else None
    if as_json:
        show.emit(_told(prices, after, found, applied=True))
        return
    show.note(f"In use: {after.source}")
    if served is not None:
        show.note("The running daemon has taken them up; calls in flight keep their price")


def _put_in_use(packed: bytes | None) -> None:
    file = price_file.applied_file()
    try:
        if packed is None:
            file.unlink(missing_ok=True)
        else:
            price_file.write(file, packed)
    except OSError as fault:
        raise UsageProblem(f"`{file}` cannot be written: {fault.strerror}") from fault


def _told(
    prices: Prices, after: PriceSource, found: list[Change], *, applied: bool
) -> dict[str, object]:
    return {
        "before": prices.source.source,
        "after": after.source,
        "applied": applied,
        "changes": found,
    }


def _show_changes(prices: Prices, after: PriceSource, found: list[Change]) -> None:
    before = prices.source.source
    if before == after.source:
        show.note(f"{before} is in use already")
        return
    ours = {one for one in prices.providers.values() if one}
    mine = [one for one in found if one.provider in ours]
    for one in mine[:_MOST_SHOWN]:
        since = f" from {one.since}" if one.since else ""
        show.say([show.Painted(f"{one.provider}/{one.model}", "bold"), since])
        show.say([show.Painted("  - ", "red"), one.before or "no price"])
        show.say([show.Painted("  + ", "green"), one.after or "no price"])
    if len(mine) > _MOST_SHOWN:
        show.say(f"... and {len(mine) - _MOST_SHOWN} more: --json has them")
    others = len(found) - len(mine)
    more = f", and {others} of providers that gateway.toml does not have" if others else ""
    show.note(f"From {before} to {after.source}: {show.counted(len(mine), 'change')}{more}")
