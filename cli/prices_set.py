"""`prices set` and `prices unset`: what gateway.toml says of a price, without an editor."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.price_views import LOCAL
from tollway.daemon.config import check, shown, units
from tollway.daemon.config.schema import Config, ModelPrice, PriceOverride
from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger.unpriced import unpriced
from tollway.daemon.pricing import local_said, price_said
from tollway.providers.prices import Overrides, is_glob, is_match

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

    from tollway.cli.edits import Change

# Options by the key that each of them sets.
_OPTIONS = {"input": "--input", "output": "--output", "cached_input": "--cached"}


Named = Annotated[
    str,
    typer.Argument(
        metavar="PROVIDER/MODEL",
        help="A target, or a glob of targets: 'box2/*'.",
        autocompletion=complete.targets,
    ),
]
UsdIn = Annotated[
    str | None, typer.Option("--input", metavar="USD", help="For a million tokens that go in.")
]
UsdOut = Annotated[
    str | None, typer.Option("--output", metavar="USD", help="For a million tokens that come out.")
]
UsdCached = Annotated[
    str | None, typer.Option("--cached", metavar="USD", help="For a million read from a cache.")
]
UsdHour = Annotated[
    str | None,
    typer.Option("--gpu-hour", metavar="USD", help="For an hour of a local model's work."),
]


def set_(  # noqa: PLR0913 - an argument is an option
    target: Named,
    *,
    price_input: UsdIn = None,
    price_output: UsdOut = None,
    cached: UsdCached = None,
    gpu_hour: UsdHour = None,
    free: Annotated[bool, typer.Option("--free", help="Its calls cost nothing.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """State a price in gateway.toml: what is named is replaced.

    It wins over the price that comes with Tollway, from the next call on; `ledger reprice` prices
    past calls anew. `local/NAME` sets that model's own `price`; anything else stands below
    [prices], where the closest of several globs wins. Other keys of a price, such as those of
    service tiers, stay as they are.

    Examples:
        tollway prices set box2/qwen3-32b --input 0.1 --output 0.4
        tollway prices set 'box2/*' --free
        tollway prices set local/smollm2 --gpu-hour 0.80
    """
    loaded = load_config(config)
    said = {"input": price_input, "output": price_output, "cached_input": cached}
    amounts = {key: _usd(_OPTIONS[key], text) for key, text in said.items() if text is not None}
    hour = None if gpu_hour is None else _usd("--gpu-hour", gpu_hour)
    _require_one_way(amounts, hour, free=free)
    section, name = _place(loaded, target)
    if hour is not None and section != "models":
        raise UsageProblem(
            "`--gpu-hour` is for a model of this box", hint="Name one, as `local/smollm2`"
        )
    if amounts and not isinstance(_before(loaded, section, name), PriceOverride):
        _require_whole(target, amounts)
    change = _change(section, name, amounts, hour)
    done = edits.apply(loaded.path, change, what=f"prices set {name}")
    if not as_json:
        said_now = _told(_before(done.config, section, name))
        already = "" if done.changed else " already"
        show.note(f"The price of {shown.value(_called(section, name))} is {said_now}{already}")
        _tell_of_past(done.config, _called(section, name))
    edits.report(done, _facts(done.config, section, name), (section, name), as_json=as_json)


def unset(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PROVIDER/MODEL",
            help="A target or a glob that gateway.toml prices.",
            autocompletion=complete.priced,
        ),
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take a price out of gateway.toml.

    Then a glob's price holds, or that which comes with Tollway; where there is neither, calls
    are refused while a budget applies.

    Example:
        tollway prices unset box2/qwen3-32b
    """
    loaded = load_config(config)
    section, name = _known(loaded, target)
    change = (
        edits.put("models", name, {"price": None})
        if section == "models"
        else edits.drop("prices", name)
    )
    done = edits.apply(loaded.path, change, what=f"prices unset {name}")
    if not as_json:
        show.note(f"gateway.toml no longer says a price of {shown.value(_called(section, name))}")
        _tell_what_holds(done.config, section, name)
    edits.report(done, _facts(done.config, section, name), (section, name), as_json=as_json)


def _require_one_way(amounts: Mapping[str, Decimal], hour: Decimal | None, *, free: bool) -> None:
    ways = [bool(amounts), hour is not None, free]
    if not any(ways):
        raise UsageProblem(
            "Which price is not said",
            hint="`--input USD --output USD`, for a million tokens, or `--free`",
        )
    if sum(ways) > 1:
        raise UsageProblem("A price by tokens, `--gpu-hour` and `--free` exclude each other")


def _require_whole(target: str, amounts: Mapping[str, Decimal]) -> None:
    """Return if amounts are a price by themselves; where one is there, others stay.

    Raises:
        UsageProblem: Half of it is missing.
    """
    missing = [_OPTIONS[key] for key in ("input", "output") if key not in amounts]
    if missing:
        raise UsageProblem(
            f"A new price of {shown.value(target)} needs {' and '.join(missing)}",
            hint="0 where it costs nothing; `--free` for both",
        )


def _usd(option: str, text: str) -> Decimal:
    try:
        return units.price(Decimal(text))
    except InvalidOperation as fault:
        raise UsageProblem(
            f"`{option}`: {shown.value(text)} is no number; expected dollars, such as 0.15"
        ) from fault
    except units.WrongUnit as fault:
        raise UsageProblem(f"`{option}`: {fault}") from fault


# --- where it stands ----------------------------------------------------------------------------


def _place(config: Config, target: str) -> tuple[str, str]:
    """Return the section and the name under which a target's price belongs.

    Raises:
        UsageProblem: It is no target.
        Unknown: There is no such provider or model.
    """
    provider, slash, model = target.partition("/")
    if not slash or check.name_wrong("prices", target):
        raise UsageProblem(
            f"{shown.value(target)} is no target",
            hint="A target is PROVIDER/MODEL: openai/gpt-4o-mini, or a glob: 'box2/*'",
        )
    if provider == LOCAL and not is_glob(model):
        edits.require_known(config, "models", model)
        return "models", model
    known = [*config.providers, LOCAL]
    if not any(is_match(one.lower(), provider.lower()) for one in known):
        near = shown.meant(provider, known).removeprefix("; ").replace("did", "Did")
        raise edits.Unknown(
            f"There is no provider {shown.value(provider)}",
            hint=near or "`tollway providers list` shows those there are",
        )
    return "prices", _written(config, target)


def _written(config: Config, target: str) -> str:
    """Return a name of [prices] as it stands there: letters may be large or small."""
    if target in config.prices:
        return target
    return next((one for one in config.prices if one.lower() == target.lower()), target)


def _known(config: Config, target: str) -> tuple[str, str]:
    """Return where gateway.toml prices a target.

    Raises:
        Unknown: It does not; the hint says what does, or names the nearest that it prices.
    """
    provider, _, model = target.partition("/")
    if provider == LOCAL and model in config.models and config.models[model].price is not None:
        return "models", model
    name = _written(config, target)
    if name in config.prices:
        return "prices", name
    priced = [*config.prices]
    priced += [f"{LOCAL}/{one}" for one, it in config.models.items() if it.price is not None]
    glob = Overrides(config.prices).of(target)
    near = shown.meant(target, priced).removeprefix("; ").replace("did", "Did")
    raise edits.Unknown(
        f"gateway.toml says no price of {shown.value(target)} itself",
        hint=f"{shown.value(glob)} prices it"
        if glob
        else near or "`tollway prices list` shows where each price comes from",
    )


def _called(section: str, name: str) -> str:
    return f"{LOCAL}/{name}" if section == "models" else name


def _before(config: Config, section: str, name: str) -> ModelPrice | None:
    if section == "models":
        return config.models[name].price
    return config.prices.get(name)


def _change(
    section: str, name: str, amounts: Mapping[str, Decimal], hour: Decimal | None
) -> Change:
    def alter(document: TOMLDocument) -> None:
        import tomlkit  # noqa: PLC0415 - 40 ms

        from tollway.daemon.config.document import in_line, table  # noqa: PLC0415 - as above

        usd = {key: tomlkit.value(f"{amount:f}") for key, amount in amounts.items()}
        if hour is not None:
            usd = {"gpu_hour": tomlkit.value(f"{hour:f}")}
        # What holds prices: of a model its own table, where the price is one of several keys.
        if section == "prices" and "prices" not in document:
            table(document, *(("prices",) if not usd else ("prices", name)))
        around = document["prices"] if section == "prices" else table(document, "models", name)
        key = name if section == "prices" else "price"
        there = around.get(key)
        if not usd:
            if there != "free":
                around[key] = "free"
        elif isinstance(there, dict) and hour is None and "gpu_hour" not in there:
            there.update(usd)
        elif section == "models":
            around[key] = in_line(usd)
        else:
            if there is not None and not isinstance(there, dict):
                del around[key]
            table(document, "prices", name).update(usd)

    return alter


# --- what is told -------------------------------------------------------------------------------


def _told(price: ModelPrice | None) -> str:
    if price is None:
        return "none"
    made = price_said(price)
    if made.free:
        return "nothing: it is free"
    if made.gpu_hour_usd is not None:
        return f"${made.gpu_hour_usd.normalize():f} for an hour of its work"
    cached = f", ${made.cache_read.usd.normalize():f} cached" if made.cache_read else ""
    into, out = (f"${rate.usd.normalize():f}" for rate in (made.input, made.output))
    return f"{into} in{cached}, {out} out for a million tokens"


def _tell_of_past(config: Config, target: str) -> None:
    """Say how many calls of the ledger wait for this price; nothing where it cannot be read."""
    ledger = config.ledger.path
    try:
        rows = unpriced(ledger) if ledger.exists() else []
    except LedgerUnavailable:
        return
    names = ((f"{row.provider}/{row.model}".lower(), row.attempts) for row in rows)
    if count := sum(attempts for name, attempts in names if is_match(name, target.lower())):
        calls = show.counted(count, "earlier call")
        show.note(f"{calls} had no price: `tollway ledger reprice` prices them")


def _tell_what_holds(config: Config, section: str, name: str) -> None:
    if section == "models":
        left = local_said(config, name)
        found = None if left is None else price_said(left)
    elif is_glob(name) or name.partition("/")[0] not in config.providers:
        return
    else:
        from tollway.cli.price_views import Prices  # noqa: PLC0415 - reads the price data

        found = Prices(config.path).of(name).price
    if found is not None:
        show.note(f"Its price comes from {found.source} now: `tollway prices show` tells it")
        return
    edits.warn("It has no price now: calls that a budget applies to are refused")
    edits.hint(f"`tollway prices set {_called(section, name)} --free`, or --input and --output")


def _facts(config: Config, section: str, name: str) -> dict[str, object]:
    """Return what gateway.toml says now: dollars as exact text, "free", or null for nothing."""
    price = _before(config, section, name)
    said: object = price
    if isinstance(price, msgspec.Struct):
        said = {
            key: f"{value:f}" if isinstance(value, Decimal) else value
            for key, value in msgspec.structs.asdict(price).items()
            if value is not None
        }
    return {"target": _called(section, name), "price": said}
