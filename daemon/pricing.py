"""What today's configuration says of a target's price, for those who have no gate."""

from datetime import UTC, datetime
from decimal import Decimal

from tollway.daemon.config.schema import Config, HourPrice, ModelPrice
from tollway.daemon.ledger.reprice import InForce, Terms
from tollway.providers.canon import Price
from tollway.providers.catalog import KINDS
from tollway.providers.prices import CALLERS, FREE, PriceSource, PriceTable, by_the_hour, override

_LOCAL = "local"


def in_force(config: Config) -> InForce:
    """Return who tells the terms of a provider's model at a moment, as the gate would have them.

    A provider that is not in the file has no terms, nor has a local model that is not.
    """
    table = PriceTable(
        PriceSource(),
        {name: price_said(said) for name, said in config.prices.items()},
        discounts(config),
    )

    def terms(provider: str, model: str, at_ms: int) -> Terms:
        if provider == _LOCAL:
            found = config.models.get(model)
            price = price_said(found.price) if found and found.price is not None else None
            kind = KINDS[_LOCAL]
            return Terms(price, kind.dialect, kind.also, kind.quirks)
        said = config.providers.get(provider)
        if said is None:
            return Terms(None)
        kind = KINDS[said.kind].of(model)
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        price = table.price(provider, kind.prices, model, at)
        if said.auth == "caller":
            price = CALLERS
        return Terms(price, kind.dialect, kind.also, kind.quirks)

    return terms


def discounts(config: Config) -> dict[str, Decimal]:
    """Return the part of the list price that is paid, of each provider where that is not all."""
    return {name: one.discount for name, one in config.providers.items() if one.discount != 1}


def price_said(said: ModelPrice) -> Price:
    """Return the price that a value of gateway.toml stands for."""
    if isinstance(said, str):
        return FREE
    return by_the_hour(said.gpu_hour) if isinstance(said, HourPrice) else override(said)
