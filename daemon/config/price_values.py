"""From TOML's values to what a price says by name: service tiers, and kinds of images."""

from decimal import Decimal

from tollway.daemon.config import units
from tollway.daemon.config.lines import At
from tollway.daemon.config.schema import ImageKind
from tollway.daemon.config.values import Reader, Reading, Wrong, dollars, kind_of
from tollway.providers.units import image_kind

_MOST_FACTOR = 1000  # of a service tier's price


def _factors(reading: Reading, raw: object, at: At) -> dict[str, Decimal]:
    if not isinstance(raw, dict):
        raise Wrong("expected factors of the price, such as { priority = 2.0, flex = 0.5 }")
    found = {}
    for name, factor in raw.items():
        if isinstance(factor, bool) or not isinstance(factor, int | Decimal):
            reading.wrong((*at, name), f"expected a factor such as 2.0, found {kind_of(factor)}")
        elif not Decimal(factor).is_finite() or not 0 < factor <= _MOST_FACTOR:
            reading.wrong((*at, name), f"expected a factor above 0, at most {_MOST_FACTOR}")
        else:
            found[name] = units.price(factor)
    return found


def _images(reading: Reading, raw: object, at: At) -> dict[ImageKind, Decimal]:
    if not isinstance(raw, dict) or not raw:
        raise Wrong('expected dollars by quality and size, such as { "high 1024x1024" = 0.17 }')
    found: dict[ImageKind, Decimal] = {}
    for name, usd in raw.items():
        kind = ImageKind(image_kind(name))
        if not kind:
            reading.wrong((*at, name), "names neither a quality nor a size")
        elif kind in found:
            reading.wrong((*at, name), "stands twice, in another order of its words")
        else:
            try:
                found[kind] = dollars(reading, usd, at)
            except (Wrong, units.WrongUnit) as fault:
                reading.wrong((*at, name), str(fault))
    return found


READERS: dict[object, Reader] = {
    dict[str, Decimal]: _factors,
    dict[ImageKind, Decimal]: _images,
}
