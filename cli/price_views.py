"""What the `prices` commands know: targets with their prices, and where each comes from."""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import msgspec

from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.daemon.config import shown
from tollway.daemon.config.lines import At, lines_of
from tollway.daemon.config.paths import find_config
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import ConfigError
from tollway.daemon.pricing import LOCAL, local_price, price_said, price_table
from tollway.providers.canon import Price
from tollway.providers.catalog import KINDS
from tollway.providers.price_data import Model
from tollway.providers.prices import PriceSource, PriceTable, is_glob, is_match

__all__ = ("LOCAL", "Prices", "Target")


class Target(msgspec.Struct, frozen=True):
    """A target and its price; `said_at` is "gateway.toml:12" where the file says the price.

    `said_for` is the name below [prices] that does.
    """

    target: str
    price: Price | None
    said_at: str = ""
    said_for: str = ""


class Prices:
    """The prices that hold for one gateway.toml, or those of the data alone where there is none."""

    def __init__(self, explicit: Path | None) -> None:
        """Read the file and the data.

        Raises:
            ConfigError: The file that was named is missing, or what there is is wrong.
        """
        self.now = datetime.now(UTC)
        self.source = PriceSource()
        self.config = _config(explicit)
        said = self.config.prices if self.config else {}
        self.own = {name: price_said(one) for name, one in said.items()}
        self.table = (
            price_table(self.config, self.source) if self.config else PriceTable(self.source, {})
        )
        self._lines: Mapping[At, int] = {}
        if self.config:
            self._lines = lines_of(self.config.path.read_text("utf-8"))

    @property
    def providers(self) -> dict[str, str | None]:
        """The providers of the file, else of the data, with what genai-prices calls each."""
        if self.config is None:
            return {name: name for name in self.source.providers()}
        return {name: KINDS[one.kind].prices for name, one in self.config.providers.items()}

    def chosen(self, provider: str | None) -> dict[str, str | None]:
        """Return the providers to show: one of the file or of the data, or all.

        Raises:
            UsageProblem: There is none of that name.
        """
        known = self.providers
        if provider is None:
            return known
        if provider in known:
            return {provider: known[provider]}
        if provider == LOCAL:
            return {}
        if self.source.models(provider):
            return {provider: provider}
        names = [*known, *self.source.providers()]
        raise UsageProblem(
            f"There is no provider `{provider}`{shown.meant(provider, names)}",
            hint="A name of gateway.toml, or one of genai-prices: openai, anthropic, google, x-ai",
        )

    def of(self, target: str) -> Target:
        """Return a target with its price.

        Raises:
            UsageProblem: Its provider is not known.
        """
        provider, slash, model = target.partition("/")
        if not slash or not model:
            raise UsageProblem(
                f"`{target}` is no target", hint="A target is PROVIDER/MODEL: openai/gpt-4o-mini"
            )
        if provider == LOCAL:
            return self._local(model)
        prices_id = self.chosen(provider)[provider]
        price = self.table.price(provider, prices_id, model, self.now)
        return self._said(target, price)

    def _said(self, target: str, price: Price | None) -> Target:
        name = self.table.override_of(target)
        return Target(target, price, self.place(name), name or "")

    def _local(self, model: str) -> Target:
        found = self.config.models.get(model) if self.config else None
        if found is None:
            names = self.config.models if self.config else {}
            raise UsageProblem(f"There is no model `{model}`{shown.meant(model, names)} here")
        target = f"{LOCAL}/{model}"
        price = local_price(model, found, self.table)
        if found.price is not None:
            return Target(target, price, self._line(("models", model, "price")))
        return self._said(target, price)

    def bundled(self, target: str) -> Price | None:
        """Return what the data say of a target, whatever the file says."""
        provider, _, model = target.partition("/")
        prices_id = self.providers.get(provider, provider)
        return self.source.find(prices_id, model, self.now) if prices_id else None

    def known(self, target: str) -> Model | None:
        """Return the model of the data that a target means."""
        provider, _, model = target.partition("/")
        prices_id = self.providers.get(provider, provider)
        return self.source.model(prices_id, model) if prices_id else None

    def targets(self, provider: str | None, glob: str | None) -> Iterator[Target]:
        """Yield the targets that there are names for, of all or of one provider.

        Those of the data, those that gateway.toml prices or routes lead to, and local models.
        """
        for name, prices_id in self.chosen(provider).items():
            models = [one.id for one in self.source.models(prices_id)] if prices_id else []
            said = [
                one.removeprefix(f"{name}/") for one in self._named() if one.startswith(name + "/")
            ]
            for model in sorted({*models, *said}):
                if _meant(f"{name}/{model}", glob):
                    yield self.of(f"{name}/{model}")
        if self.config and provider in (None, LOCAL):
            for model in self.config.models:
                if _meant(f"{LOCAL}/{model}", glob):
                    yield self._local(model)

    def near(self, target: str) -> str:
        """Return the name nearest to a target that has no price, "" for none."""
        provider, _, model = target.partition("/")
        prices_id = self.providers.get(provider, provider)
        models = [one.id for one in self.source.models(prices_id or "")]
        return next((f"{provider}/{one}" for one in get_close_matches(model, models, n=1)), "")

    def _named(self) -> Iterator[str]:
        yield from (name for name in self.own if not is_glob(name))
        yield from self.routed()

    def routed(self) -> list[str]:
        """Return every target that a route leads to, in the order of the file, each once."""
        routes = self.config.routes.values() if self.config else ()
        return list(dict.fromkeys(target for route in routes for target in route.every))

    def place(self, name: str | None) -> str:
        """Return where an override stands, "gateway.toml:12"; "" for none."""
        return self._line(("prices", name)) if name else ""

    def _line(self, at: At) -> str:
        if self.config is None:
            return ""
        line = self._lines.get(at) or self._lines.get(at[:2], 1)
        return f"{self.config.path.name}:{line}"


def _config(explicit: Path | None) -> Config | None:
    try:
        find_config(explicit)
    except ConfigError:
        if explicit is not None or "TOLLWAY_CONFIG" in os.environ:
            raise
        return None
    return load_config(explicit)


def _meant(target: str, glob: str | None) -> bool:
    if glob is None:
        return True
    wanted, name = glob.lower(), target.lower()
    return any(is_match(one, wanted) for one in (name, name.partition("/")[2]))
