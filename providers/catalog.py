"""The providers we know: rows of data from catalog.toml."""

import re
import tomllib
from collections.abc import Mapping
from fnmatch import translate
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from tollway.providers.errors import GatewayError

Name = Literal["openai_chat", "openai_responses", "anthropic_messages", "gemini"]


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row: where a provider is, what it speaks, how it wants to be asked.

    `base_url` is None where gateway.toml must give it, `prices` (its id in genai-prices) where
    only gateway.toml can price it. `serves`, `shows` and `unbounded` are globs of model
    names. `dialect` is what a call is translated to that comes in none of its dialects.
    """

    auth: Literal["bearer", "optional", "none"]
    name: str = ""
    base_url: str | None = None
    dialect: Name = "openai_chat"
    also: tuple[Name, ...] = ()  # what it speaks at the same base URL besides
    reasons_in: Name | None = None  # what a call to a reasoning model is translated to instead
    key_header: str = "authorization"  # there behind "Bearer "; elsewhere the key alone
    headers: dict[str, str] = {}  # which every request carries, unless the client says otherwise
    serves: tuple[str, ...] = ()
    prices: str | None = None
    quirks: frozenset[str] = frozenset()
    shows: tuple[str, ...] = ()
    unbounded: tuple[str, ...] = ()

    def speaks(self, dialect: str) -> bool:
        """Whether a call in a dialect can be passed on as it is."""
        return dialect == self.dialect or dialect in self.also

    def shows_all(self, model: str) -> bool:
        """Whether a model hides no output, so that what was seen bounds what is billed."""
        return bool(_globs(self.shows).match(model))

    def is_unbounded(self, model: str) -> bool:
        """Whether a model bills what no limit of the request bounds: searches, pages it reads."""
        return bool(_globs(self.unbounded).match(model))


@lru_cache(maxsize=256)
def _globs(globs: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for names that match any of the globs; none match no globs."""
    return re.compile("|".join(map(translate, globs)) or r"(?!)")


def _load() -> Mapping[str, Kind]:
    text = files("tollway.providers").joinpath("catalog.toml").read_text("utf-8")
    rows = msgspec.convert(tomllib.loads(text), dict[str, Kind])
    return MappingProxyType(
        {name: msgspec.structs.replace(kind, name=name) for name, kind in rows.items()}
    )


KINDS: Final = _load()


def request_headers(kind: Kind, secret: str | None) -> tuple[tuple[str, str], ...]:
    """Return the headers that every request to a provider carries, its credential first.

    Raises:
        GatewayError: The secret holds a line end or another character that no header may; what
            it is, is not said.
    """
    always = (("content-type", "application/json"), *kind.headers.items())
    if kind.auth == "none" or not secret:
        return always
    if not all("\x21" <= char <= "\x7e" for char in secret):
        raise GatewayError(
            f"The API key for `{kind.name}` holds a space, a line end or a character that no"
            " HTTP header may hold",
            hint="Store it again with `tollway secrets set`",
        )
    bearer = "Bearer " if kind.key_header == "authorization" else ""
    return ((kind.key_header, f"{bearer}{secret}"), *always)
