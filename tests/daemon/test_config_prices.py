"""[prices] of gateway.toml: every key read, every mistake with its line."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from shell import running

from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import PriceOverride
from tollway.daemon.errors import ConfigError
from tollway.providers import price_file

HEAD = '[providers.box]\nkind = "vllm"\n[prices."box/m"]\ninput = 1\noutput = 2\n'


def test_every_key_of_a_price_is_read() -> None:
    """Whole numbers and decimals alike, to the last digit."""
    more = "image_input = 0.1\nimage_output = 3\nsearch = 0.005\n"
    config = parse(
        HEAD + more + "service_tiers = { priority = 1.75, flex = 0.5 }\n", path=Path("g")
    )
    price = config.prices["box/m"]
    assert isinstance(price, PriceOverride)
    assert (price.image_input, price.search) == (Decimal("0.1"), Decimal("0.005"))
    assert price.service_tiers == {"priority": Decimal("1.75"), "flex": Decimal("0.5")}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("imput = 1", 'gateway.toml:6: prices."box/m".imput: unknown key; did you mean input?'),
        ("search = -1", 'gateway.toml:6: prices."box/m".search: '),
        ("search = nan", 'gateway.toml:6: prices."box/m".search: '),
        ('search = "1"', 'gateway.toml:6: prices."box/m".search: expected a number, found text'),
        ("service_tiers = 2", 'gateway.toml:6: prices."box/m".service_tiers: expected factors'),
        (
            'service_tiers = { flex = "half" }',
            'gateway.toml:6: prices."box/m".service_tiers.flex: expected a factor such as 2.0',
        ),
        (
            "service_tiers = { flex = 0 }",
            'gateway.toml:6: prices."box/m".service_tiers.flex: expected a factor above 0',
        ),
        (
            "service_tiers = { flex = nan }",
            'gateway.toml:6: prices."box/m".service_tiers.flex: expected a factor above 0',
        ),
        ("images = 2", 'gateway.toml:6: prices."box/m".images: expected dollars by quality'),
        (
            'images = { "low" = 0.1 }',
            'gateway.toml:6: prices."box/m".images: say `image` too: what each other image costs',
        ),
        (
            'image = 1\nimages = { "auto" = 0.1 }',
            'gateway.toml:7: prices."box/m".images.auto: names neither a quality nor a size',
        ),
        (
            'image = 1\nimages = { "low 1x1" = 0.1, "1x1 LOW" = 0.2 }',
            'gateway.toml:7: prices."box/m".images."1x1 LOW": stands twice',
        ),
        (
            'image = 1\nimages = { low = "x" }',
            'gateway.toml:7: prices."box/m".images.low: expected a number',
        ),
        ('[prices."*"]\ninput = 1\noutput = 1', 'gateway.toml:6: prices."*": expected a target'),
        ('[prices."box/x"]\ninput = 1', 'gateway.toml:6: prices."box/x": output is missing'),
    ],
)
def test_a_mistake_in_a_price_is_told_with_its_line(lines: str, said: str) -> None:
    """A price that was meant otherwise is a bill that is wrong."""
    with pytest.raises(ConfigError) as error:
        parse(HEAD + lines + "\n", path=Path("gateway.toml"))
    assert said in error.value.message


async def test_a_reload_takes_up_price_data_that_were_put_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tollway prices update` ends with one; a damaged file leaves the installed prices."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    async with running("") as daemon:
        inner = daemon.server.daemon
        installed = inner.prices.source
        file = tmp_path / "data.json"
        model = {"id": "m", "match": {"equals": "m"}, "prices": {"input_mtok": 1}}
        provider = {"id": "p", "name": "P", "api_pattern": "p", "models": [model]}
        file.write_text(json.dumps([provider]))
        data, packed = price_file.from_file(file)
        price_file.write(price_file.applied_file(), packed)
        assert (await daemon.ask("POST", "/control/reload", admin=True)).status == 200
        assert inner.prices.source == data.source != installed
        price_file.applied_file().write_bytes(b"damaged")
        assert (await daemon.ask("POST", "/control/reload", admin=True)).status == 200
        assert inner.prices.source == installed
