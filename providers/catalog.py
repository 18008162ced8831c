"""The providers we know: rows of data from catalog.toml."""

import re
import tomllib
from collections.abc import Mapping
from fnmatch import translate
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from tollway.providers.errors import GatewayError

# What clients may speak, and what is spoken to providers alone.
ClientName = Literal["openai_chat", "openai_responses", "anthropic_messages", "gemini"]
Name = Literal[ClientName, "bedrock", "cohere"]
# "google" and "aws": a header for a key, and else a proof that is made anew for each request.
Auth = Literal["bearer", "optional", "none", "google", "aws"]


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a provider lists its models: what of its base URL is replaced (a pattern) by what."""

    of: str
    at: str


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row: where a provider is, what it speaks, how it wants to be asked.

    `base_url` is None where gateway.toml must give it, `prices` (its id in genai-prices) where
    only gateway.toml can price it. `serves`, `shows` and `unbounded` are globs of model
    names. `dialect` is what a call is translated to that comes in none of its dialects.

    A row that is `part_of` another is no kind of its own: it says how some of that one's models
    are asked, which the other names in `by_model`.
    """

    auth: Auth
    name: str = ""
    part_of: str = ""
    by_model: dict[str, str] = {}  # globs of model names, and the rows that say how those are asked
    base_url: str | None = None
    address: str = ""  # how the base URL that gateway.toml must give is made
    behind: str = ""  # what stands between the base URL and a call's path
    # Where a call's path is not its dialect's: by "chat", "stream" and "count_tokens".
    paths: dict[str, str] = {}
    lists: Listing | None = None  # where its models are, if not at `/models`
    dialect: Name = "openai_chat"
    also: tuple[Name, ...] = ()  # what it speaks at the same base URL besides
    reasons_in: Name | None = None  # what a call to a reasoning model is translated to instead
    key_header: str = "authorization"  # there behind "Bearer "; elsewhere the key alone
    headers: dict[str, str] = {}  # which every request carries, unless the client says otherwise
    serves: tuple[str, ...] = ()
    prices: str | None = None
    quirks: frozenset[str] = frozenset()
    shows: tuple[str, ...] = ()
    deploys: bool = False  # names are its owner's own: the answer says which model made it
    counts_first: bool = False  # it tells all of a prompt's tokens before it streams an answer
    runs_on: bool = False  # to the end of an answer whose reader has left, and bills all of it
    unbounded: tuple[str, ...] = ()
    efforts: dict[str, tuple[str, ...]] = {}  # globs, and the words of `reasoning_effort` there
    refuses: dict[str, tuple[str, ...]] = {}  # globs, and the fields that fail a call there
    lacks: tuple[str, ...] = ()  # endpoints of its dialects that it does not have
    refuses_back: tuple[str, ...] = ()  # fields of turns that clients give back of an answer

    def of(self, model: str) -> "Kind":
        """Return the row that says how a model is asked."""
        for globs, name in self.by_model.items():
            if _globs((globs,)).match(model):
                return PARTS[name]
        return self

    def path_of(self, call: str, model: str) -> str | None:
        """Return the path of a call ("chat", "stream", ...), None where it is its dialect's."""
        path = self.paths.get(call)
        return None if path is None else path.replace("{model}", quote(model, safe=""))

    def speaks(self, dialect: str, endpoint: str = "chat") -> bool:
        """Whether a call in a dialect can be passed on as it is."""
        return (dialect == self.dialect or dialect in self.also) and endpoint not in self.lacks

    def shows_all(self, model: str) -> bool:
        """Whether a model hides no output, so that what was seen bounds what is billed."""
        return bool(_globs(self.shows).match(model))

    def efforts_of(self, model: str) -> tuple[str, ...] | None:
        """Return the words for how long to think that a model knows; None where it is not known.

        Where some of a provider's models know any, the others refuse to be asked at all.
        """
        if not self.efforts:
            return None
        known = (words for glob, words in self.efforts.items() if _globs((glob,)).match(model))
        return next(known, ())

    def refused_by(self, model: str) -> tuple[str, ...]:
        """Return the fields that fail a call to a model: those of the first glob that it is of."""
        known = (fields for glob, fields in self.refuses.items() if _globs((glob,)).match(model))
        return next(known, ())

    def is_unbounded(self, model: str) -> bool:
        """Whether a model bills what no limit of the request bounds: searches, pages it reads."""
        return bool(_globs(self.unbounded).match(model.lower()))  # some take either case


@lru_cache(maxsize=256)
def _globs(globs: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for names that match any of the globs; none match no globs."""
    return re.compile("|".join(map(translate, globs)) or r"(?!)")


def _load() -> dict[str, Kind]:
    text = files("tollway.providers").joinpath("catalog.toml").read_text("utf-8")
    rows = msgspec.convert(tomllib.loads(text), dict[str, Kind])
    return {name: msgspec.structs.replace(kind, name=name) for name, kind in rows.items()}


_ROWS: Final = _load()
KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {name: row for name, row in _ROWS.items() if not row.part_of}
)
PARTS: Final[Mapping[str, Kind]] = MappingProxyType(
    {name: row for name, row in _ROWS.items() if row.part_of}
)


_KEY_PAIR = re.compile(r"A[A-Z0-9]{15,127}:[^:]+(?::[^:]+)?")


def is_signed(kind: Kind, secret: str | None) -> bool:
    """Whether each request needs a proof made for it: the credential is no key for a header.

    At Google that is a file of credentials, at AWS a pair of keys ("ID:SECRET", with ":TOKEN"
    behind a temporary one); for both, none at all: what the machine itself has.
    """
    if kind.auth == "google":
        return not secret or secret.startswith("{")
    return kind.auth == "aws" and (not secret or _KEY_PAIR.fullmatch(secret) is not None)


def request_headers(kind: Kind, secret: str | None) -> tuple[tuple[str, str], ...]:
    """Return the headers that every request to a provider carries, its credential first.

    Raises:
        GatewayError: The secret holds a line end or another character that no header may; what
            it is, is not said.
    """
    always = (("content-type", "application/json"), *kind.headers.items())
    if kind.auth == "none" or not secret or is_signed(kind, secret):
        return always
    if not all("\x21" <= char <= "\x7e" for char in secret):
        raise GatewayError(
            f"The API key for `{kind.name}` holds a space, a line end or a character that no"
            " HTTP header may hold",
            hint="Store it again with `tollway secrets set`",
        )
    bearer = "Bearer " if kind.key_header == "authorization" else ""
    return ((kind.key_header, f"{bearer}{secret}"), *always)
