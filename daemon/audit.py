"""Who changed what in gateway.toml, and when: one row for each change, and one for each key in it.

The history says who made each version that a command wrote; what is in the file and in no such
version was written by hand. So a change is told the same whether the daemon ran meanwhile or not.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from sqlite3 import Error

import msgspec

from tollway.daemon.config import history, shown
from tollway.daemon.config.edit import kept
from tollway.daemon.config.history import Version, digest
from tollway.daemon.config.load import parse
from tollway.daemon.config.paths import state_paths
from tollway.daemon.config.schema import Config
from tollway.daemon.config.toml import read_text
from tollway.daemon.errors import ConfigError
from tollway.daemon.ledger.reading import open_read_only, reading
from tollway.daemon.ledger.rows import Audited

_Key = tuple[str, ...]

_UNTOLD = frozenset({"hash", "previous"})
_LONGEST_TOLD = 2000
_NONE: object = object()
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
    for at in _changed(change.before, change.after):
        told = _told(at, change.before), _told(at, change.after)
        yield Audited(*said, shown.key(at), *told)


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
    """Return the keys whose values differ, as they stand in the file, in alphabetical order.

    What stands in neither file has not changed, whatever default it has.
    """
    return [shown.key(at) for at in _changed(old, new)]


def _changed(old: Config, new: Config) -> list[_Key]:
    before, after = old.stated, new.stated
    keys = before.keys() | after.keys()
    differ = {key for key in keys if before.get(key, _NONE) != after.get(key, _NONE)}
    # A table that was empty and is no more is told by what stands in it.
    around = {key[:end] for key in differ for end in range(1, len(key))}
    return sorted(differ - around)


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


def _told(at: _Key, config: Config) -> str:
    """Return a setting as JSON, as the file says it or else its default.

    "" where there is neither, or where it could hold a secret.
    """
    value = config.stated[at] if at in config.stated else _setting(config, at)
    if at[-1] in _UNTOLD or value is _NONE:
        return ""
    told = msgspec.json.encode(value, enc_hook=str).decode()
    return "***" if shown.holds_secret(told) else told[:_LONGEST_TOLD]


def _setting(config: Config, at: _Key) -> object:
    """Return what is in force under a key, `_NONE` for a table or nothing.

    Looked up, since a file of thousands of tables takes a second to walk, and a change is small.
    """
    found: object = config
    for part in at:
        if isinstance(found, msgspec.Struct):
            fields = {one.encode_name: one.name for one in msgspec.structs.fields(found)}
            found = getattr(found, fields[part]) if part in fields else _NONE
        elif isinstance(found, dict):
            found = found.get(part, _NONE)
        else:
            return _NONE
    return _NONE if isinstance(found, msgspec.Struct | dict) else found
