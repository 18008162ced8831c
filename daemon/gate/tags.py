"""Tags of a call, from the header `x-tollway-tags: run=42,env=ci`.

All of them are written into the ledger; those that gateway.toml declares have budgets.
"""

from collections.abc import Iterable

import msgspec
from aiohttp import hdrs

from tollway.daemon.config.check import RUN, is_run, tag_value_wrong, tag_wrong
from tollway.providers.errors import RequestInvalid

NAME = "x-tollway-tags"
# Of aiohttp's own type, which is compared without folding its case each time.
HEADER = type(hdrs.AUTHORIZATION)(NAME)
_MOST = 16
_LONGEST = 2048  # of the header


class Tags(msgspec.Struct, frozen=True, gc=False):
    """A call's tags as "name=value", in their order, and as a JSON object."""

    pairs: tuple[str, ...] = ()
    json: str = ""

    def over(self, others: "Tags") -> "Tags":
        """Return these tags and, behind them, those of `others` that have other names."""
        if not self.pairs or not others.pairs:
            return self if self.pairs else others
        names = {pair.partition("=")[0] for pair in self.pairs}
        rest = [pair for pair in others.pairs if pair.partition("=")[0] not in names]
        return of((*self.pairs, *rest))


NO_TAGS = Tags()


def read(values: Iterable[str]) -> Tags:
    """Return the tags of a request's headers of that name, all of them together.

    Raises:
        RequestInvalid: They are malformed, or too many; it names the header.
    """
    text = ",".join(values)
    if not text.strip():
        return NO_TAGS
    if len(text) > _LONGEST:
        raise _wrong(f"is longer than {_LONGEST} characters")
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or tag_wrong(name) or tag_value_wrong(value):
            raise _wrong(
                f"has `{_shown(part)}` where NAME=VALUE was expected; names have letters, digits"
                " and . _ -, values printable ASCII without space and comma"
            )
        if name in found:
            raise _wrong(f"names `{name}` twice")
        found[name] = value
    if len(found) > _MOST:
        raise _wrong(f"has more than {_MOST} tags")
    return of(f"{name}={value}" for name, value in found.items())


def said(values: Iterable[str], own: Tags) -> Tags:
    """Return the tags of a request's headers, behind those that all calls of its caller have.

    Whose call it is decides whether it is of a run, not what it says: a run's budget would
    otherwise be anybody's to use up, and its cost anybody's to add to.

    Raises:
        RequestInvalid: As `read`, or they name a run of `tollway run` that does not call.
    """
    every = own.over(read(values))
    for pair in every.pairs:
        name, _, value = pair.partition("=")
        if is_run(name, value) and pair not in own.pairs:
            raise RequestInvalid(
                f"The header `{NAME}` says `{pair}`, but this call is not of that run",
                hint="Only what `tollway run` started is of its run, by the key that it was given;"
                f" leave the tag out, or number your own runs otherwise: `{RUN}=42`",
                param=NAME,
            )
    return every


def of(pairs: Iterable[str]) -> Tags:
    """Return tags that are known to be well-formed, each "name=value"."""
    every = tuple(pairs)
    named = dict(pair.split("=", 1) for pair in every)
    return Tags(every, msgspec.json.encode(named).decode())


def demand(tags: Tags, required: tuple[str, ...]) -> None:
    """Return where a call has every tag that its key requires.

    Raises:
        RequestInvalid: One is missing; it names the tag.
    """
    for name in required:
        if not any(pair.startswith(f"{name}=") for pair in tags.pairs):
            raise RequestInvalid(
                f"This key's calls must have the tag `{name}`",
                hint=f"Send the header `{NAME}: {name}=VALUE`",
                param=NAME,
            )


def _wrong(what: str) -> RequestInvalid:
    return RequestInvalid(
        f"The header `{NAME}` {what}",
        hint=f"Write it as `{NAME}: run=42,env=ci`",
        param=NAME,
    )


def _shown(part: str) -> str:
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in part.strip())[:64]
