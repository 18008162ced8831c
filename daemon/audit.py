"""Who changed what in gateway.toml, and when: one row for each change, and one for each key in it.

The history says who made each version that a command wrote; what is in the file and in no such
version was written by hand. So a change is told the same whether the daemon ran meanwhile or not.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Error

import msgspec

from tollway.daemon.config import history, shown
from tollway.daemon.config.edit import kept
from tollway.daemon.config.history import Version, digest
from tollway.daemon.config.load import parse
from tollway.daemon.config.paths import state_paths
from tollway.daemon.config.schema import Budget, Config, Raise
from tollway.daemon.config.toml import read_text
from tollway.daemon.errors import ConfigError
from tollway.daemon.ledger.reading import open_read_only, reading
from tollway.daemon.ledger.rows import Audited
from tollway.providers.money import plain_usd

_NAMES = {"server.host": "server.listen", "server.port": "server.listen"}
_UNTOLD = frozenset({"hash", "previous"})
_LONGEST_TOLD = 2000
_NOT_SETTINGS = ("path", "warnings")
# Who the file's writer is, nobody can tell: whoever may write it owns the gateway.
_BY_HAND = ("owner", "edited by hand")
_FIRST = ("owner", "seen for the first time")
_NO_PERSON = ("", "daemon")  # in the history: who keeps a version that somebody else wrote


class Step(msgspec.Struct, frozen=True):
    """One change from a version to the next; None for one that is not known any more."""

    at_ms: int
    who: str
    what: str
    before: Config | None
    after: Config
    digest_before: str
    digest_after: str


def steps(old: Config | None, served: str, new: Config) -> list[Step]:
    """Return the changes that lead from one configuration to another, in order.

    What no version in the history explains is one change by hand. None where the file on disk
    is not the new configuration any more. Reads files.

    Args:
        old: What was in force, None where that is not known.
        served: The digest of its text; "" where that is not known.
        new: What is in force now.
    """
    now_ms = time.time_ns() // 1_000_000
    try:
        text = read_text(new.path)
        if changed(parse(text, path=new.path), new):
            return []  # changed again already: the next reload tells it all
        versions = _since(new, served)
    except ConfigError:
        return []
    found = []
    for version, config in _readable(versions, new):
        who, what = (version.who, version.what)
        if who in _NO_PERSON:
            who, what = _BY_HAND
        at_ms = int(datetime.fromisoformat(version.at).timestamp() * 1000)
        found.append(Step(at_ms, who, what, old, config, served, version.digest))
        old, served = config, version.digest
    last = digest(text)
    if served != last:
        known = served or (old and changed(old, new))
        who, what = _BY_HAND if known else _FIRST
        found.append(Step(now_ms, who, what, old, new, served, last))
    return found


def rows(change: Step) -> Iterator[Audited]:
    """Yield a change's rows: the file's, with both digests, and one for each key that differs."""
    path = str(change.after.path)
    said = (change.at_ms, change.who, change.what)
    yield Audited(*said, path, change.digest_before, change.digest_after)
    if change.before is None:
        return
    before, after = _flat(change.before), _flat(change.after)
    for key in changed(change.before, change.after):
        yield Audited(*said, key, _told(key, before), _told(key, after))


def last_served(ledger: Path, config: Config) -> tuple[str, Config | None]:
    """Return what of this file the audit has last: its digest, and itself if it is still kept.

    ("", None) where the audit has nothing of it, or cannot be read. Reads files.
    """
    try:
        with closing(open_read_only(ledger)) as db:
            found = db.execute(
                "SELECT after FROM audit WHERE subject = ? ORDER BY seq DESC LIMIT 1",
                (str(config.path),),
            ).fetchone()
    except Error:
        return "", None
    if found is None:
        return "", None
    try:
        versions = [one for one in kept(config) if one.digest == found[0]]
        folder = state_paths(config.ledger.path).history
        return found[0], parse(history.text_of(folder, versions[0]), path=config.path)
    except (ConfigError, IndexError):
        return found[0], None


def recent(ledger: Path, *, limit: int) -> list[Audited]:
    """Return the latest rows of the audit, oldest first.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(ledger) as db:
        found = db.execute(
            "SELECT at_ms, who, what, subject, before, after FROM audit ORDER BY seq DESC LIMIT ?",
            (limit,),
        ).fetchall()
    return [Audited(*row) for row in reversed(found)]


def changed(old: Config, new: Config) -> list[str]:
    """Return the keys whose values differ, as they stand in the file, in alphabetical order."""
    before, after = _flat(old), _flat(new)
    for key in _NOT_SETTINGS:
        before.pop(key)
        after.pop(key)
    keys = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return sorted({_NAMES.get(key, key) for key in keys})


def _since(config: Config, served: str) -> list[Version]:
    """Return the versions that came after one, oldest first; none where it is not kept."""
    found: list[Version] = []
    for version in kept(config):
        if version.digest == served:
            return found[::-1]
        found.append(version)
    return []


def _readable(versions: Sequence[Version], like: Config) -> Iterator[tuple[Version, Config]]:
    folder = state_paths(like.ledger.path).history
    for version in versions:
        try:
            yield version, parse(history.text_of(folder, version), path=like.path)
        except ConfigError:
            continue  # its change is then part of the next one's


def _told(key: str, settings: dict[str, object]) -> str:
    """Return a setting as JSON, "" where it is unset or could hold a secret."""
    if key not in settings or key.rpartition(".")[2] in _UNTOLD:
        return ""
    value = settings[key]
    if isinstance(value, tuple):
        value = [_item(one) for one in value]
    told = msgspec.json.encode(value, enc_hook=str).decode()
    return "***" if shown.holds_secret(told) else told[:_LONGEST_TOLD]


def _item(one: object) -> object:
    match one:
        case Budget():
            return one.text if one.at == "hard" else f"{one.text} {one.at}"
        case Raise():
            until = datetime.fromtimestamp(one.until, UTC).isoformat()
            return f"{one.text} +{plain_usd(one.nanousd)} until {until}"
        case _:
            return one


def _flat(value: object, key: str = "") -> dict[str, object]:
    """Return every setting under its dotted key; lists are settings as a whole."""
    if isinstance(value, msgspec.Struct):
        pairs = [
            (field.encode_name, getattr(value, field.name))
            for field in msgspec.structs.fields(value)
        ]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        return {key: value}
    found: dict[str, object] = {}
    for name, inner in pairs:
        found |= _flat(inner, f"{key}.{name}" if key else name)
    return found
