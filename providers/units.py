"""Endpoints whose answers are paid for by something else than tokens, and by what.

One table: which path, which key of [prices] says the price of one, how many of the counted things
that price is for, and how many a request can come to. A target serves such an endpoint where its
price has the key, or is "free"; what it sold stands in the ledger's column of paid searches.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec

from tollway.providers.canon import Bound, Endpoint, Price, Rate
from tollway.providers.dialects.openai_quirks import seconds_billed
from tollway.providers.errors import Untranslatable
from tollway.providers.price_data import identified
from tollway.providers.price_service import AUTO, STANDARD

_NOTHING = Rate(Decimal(0))
_IMAGE = "image"
_FINE = Decimal("1e-18")


class Unit(msgspec.Struct, frozen=True):
    """What an endpoint sells: `key` of [prices] is dollars for `per` of the things counted."""

    path: str
    key: str
    words: str
    per: int = 1
    multipart: bool = False


UNITS: Final[Mapping[Endpoint, Unit]] = MappingProxyType(
    {
        "rerank": Unit("/rerank", "rerank", "dollars for each search unit"),
        "images": Unit("/images/generations", _IMAGE, "dollars for each image"),
        "moderations": Unit("/moderations", "moderation", "dollars for each call"),
        "speech": Unit("/audio/speech", "speech", "dollars for a million characters", 1_000_000),
        "transcriptions": Unit(
            "/audio/transcriptions", "audio_minute", "dollars for each minute", 60, multipart=True
        ),
    }
)


def image_kind(*words: object) -> str:
    """Return one name for a quality and a size, in whichever order and letters; "" for none.

    "auto" names nothing: the provider chooses.
    """
    said = {part for word in words if isinstance(word, str) for part in word.lower().split()}
    return " ".join(sorted(said - {"auto"}))


def of_image(kind: str) -> str:
    """Return the key, among a price's units, of images of a kind."""
    return f"{_IMAGE} {kind}"


def unit_words(key: str) -> str:
    """Return what a key of a price's units is for: "each image", "each image, hd 1024x1024"."""
    plain, _, kind = key.partition(" ")
    words = next(unit.words for unit in UNITS.values() if unit.key == plain)
    return words.removeprefix("dollars for ") + (f", {kind}" if kind else "")


class NotThere(Untranslatable):
    """The target has no such endpoint; another one may."""

    status = 404
    code = "endpoint_not_served"


class NoUnit(NotThere):
    """The target's price does not say what an endpoint's answers cost; another target's may."""

    code = "endpoint_not_priced"


def sold(
    endpoint: Endpoint, price: Price | None, bound: Bound, name: str, quirks: frozenset[str]
) -> tuple[Price, Bound]:
    """Return the price of one thing that an endpoint sells, and how many a call may come to.

    Args:
        endpoint: One of `UNITS`.
        price: The target's, None for none.
        bound: Of the request; a recording whose length it does not say is bounded by the price.
        name: The target's, "provider/model".
        quirks: The words of its provider's row in the catalog.

    Raises:
        NoUnit: The price does not say it.
    """
    unit = UNITS[endpoint]
    found = None if price is None else unit_price(price, endpoint)
    if price is None or found is None:
        raise NoUnit(
            f"`{name}` has no price for `/v1{unit.path}`, so that it is not served there",
            hint=f'Add `{unit.key} = ...` ({unit.words}) to [prices."{name}"] in gateway.toml, with'
            f' `input = 0` and `output = 0` where it sells no tokens; or "{name}" = "free" below'
            " [prices]",
            param="model",
        )
    found, service = _as_asked(found, bound.service)
    bound = msgspec.structs.replace(bound, service=service)
    if unit.multipart and bound.unbounded and price.longest_audio is not None:
        most = int((price.longest_audio * unit.per).to_integral_value(ROUND_CEILING))
        bound = msgspec.structs.replace(bound, searches=most, unbounded=())
    if unit.multipart:
        seconds = seconds_billed(quirks, bound.searches)
        bound = msgspec.structs.replace(bound, searches=seconds)
    return found, bound


@lru_cache(maxsize=1024)  # one price object for each, so that it is turned into numbers once
def unit_price(price: Price, endpoint: Endpoint) -> Price | None:
    """Return the price of one thing that an endpoint of `UNITS` sells, or None if it is not said.

    What is free stays so.
    """
    if price.source in ("free", "caller"):
        return price
    unit = UNITS[endpoint]
    units = dict(price.units)
    usd = units.get(unit.key)
    if usd is None:
        return None
    kinds = {
        key.removeprefix(of_image("")): of_kind
        for key, of_kind in units.items()
        if unit.key == _IMAGE and key.startswith(of_image(""))
    }
    # Without a word of its kind an image costs what the dearest does.
    dearest = _each(price, max(usd, *kinds.values()) / unit.per if kinds else usd / unit.per)
    if not kinds:
        return dearest
    services = tuple(_each(price, one, kind) for kind, one in kinds.items())
    return identified(msgspec.structs.replace(dearest, services=services))


def _each(price: Price, usd: Decimal, kind: str = "") -> Price:
    return identified(
        Price(
            id="",
            source=price.source,
            input=_NOTHING,
            output=_NOTHING,
            search_usd=usd.quantize(_FINE, ROUND_CEILING),
            discount=price.discount,
            service=kind,
        )
    )


def _as_asked(price: Price, kind: str) -> tuple[Price, str]:
    """Return the price of the kind of image that a request names, and what it leaves open.

    A kind is priced as a service tier is: where none is named, the answer says which it was.
    """
    if not price.services:
        return price, STANDARD
    for one in price.services:
        if one.service == kind:
            return one, STANDARD
    return price, AUTO
