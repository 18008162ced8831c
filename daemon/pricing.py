"""What today's configuration says of a target's price, for those who have no gate."""

from datetime import UTC, datetime
from decimal import Decimal

from tollway.daemon.config.schema import Config, HourPrice, Model, ModelPrice, PriceOverride
from tollway.daemon.ledger.reprice import InForce, Terms
from tollway.providers.canon import Price
from tollway.providers.catalog import KINDS
from tollway.providers.prices import (
    CALLERS,
    FREE,
    Overrides,
    PriceSource,
    PriceTable,
    by_the_hour,
    override,
)

LOCAL = "local"


def in_force(config: Config) -> InForce:
    """Return who tells the terms of a provider's model at a moment, as the gate would have them.

    A provider that is not in the file has no terms, nor has a local model that is not.
    """
    table = price_table(config, PriceSource())

    def terms(provider: str, model: str, at_ms: int) -> Terms:
        if provider == LOCAL:
            found = config.models.get(model)
            price = local_price(model, found, table) if found else None
            kind = KINDS[LOCAL]
            return Terms(price, kind.dialect, kind.also, kind.quirks)
        said = config.providers.get(provider)
        if said is None:
            return Terms(None)
        kind = KINDS[said.kind].of(model)
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        price = table.price(provider, kind.prices, model, at)
        if kind.deploys and not table.override_of(f"{provider}/{model}"):
            price = None  # a deployment's name does not say which model answered
        if said.auth == "caller":
            price = CALLERS
        return Terms(price, kind.dialect, kind.also, kind.quirks)

    return terms


def price_table(config: Config, source: PriceSource) -> PriceTable:
    """Return the prices of a configuration: its own above those of the data."""
    said = {name: price_said(one) for name, one in config.prices.items()}
    untiered = [
        name
        for name, one in config.prices.items()
        if isinstance(one, PriceOverride) and one.service_tiers is None
    ]
    return PriceTable(source, said, _discounts(config), untiered)


def local_price(name: str, model: Model, table: PriceTable) -> Price | None:
    """Return what a model of this box costs: its own `price`, else what [prices] says of it.

    None where neither says anything: the data know nothing of models of this box.
    """
    if model.price is not None:
        return price_said(model.price)
    # What the file says holds at all times.
    return table.price(LOCAL, None, name, datetime.now(UTC))


def local_said(config: Config, name: str) -> ModelPrice | None:
    """Return the value that `local_price` stands for, as gateway.toml has it."""
    own = config.models[name].price
    over = Overrides(config.prices).of(f"{LOCAL}/{name}")
    return own if own is not None or over is None else config.prices[over]


def _discounts(config: Config) -> dict[str, Decimal]:
    """Return the part of the list price that is paid, of each provider where that is not all."""
    return {name: one.discount for name, one in config.providers.items() if one.discount != 1}


def price_said(said: ModelPrice) -> Price:
    """Return the price that a value of gateway.toml stands for."""
    if isinstance(said, str):
        return FREE
    return by_the_hour(said.gpu_hour) if isinstance(said, HourPrice) else override(said)
