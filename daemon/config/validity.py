"""How long keys work: the rule that the gate, and what changes gateway.toml, go by."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from tollway.daemon.config.schema import Config, Key


def hashes_of(key: Key, zone: ZoneInfo) -> Iterator[tuple[str, float]]:
    """Yield each hash by which a key works, and until when in unix seconds; infinity for ever."""
    if key.revoked is not None:
        return
    ends = _end(key, zone)
    yield key.hash, ends
    for old in key.previous:
        yield old.hash, min(ends, old.until)


def revived(before: Config, after: Config, now_s: float) -> list[str]:
    """Return the keys of `after`, in order, of which a secret works now that does not in `before`.

    Revoked, expired, removed or rotated away: a secret that somebody took out of service.
    """
    known = {one for key in _working(before, now_s).values() for one in key}
    return [name for name, hashes in _working(after, now_s).items() if hashes - known]


def _working(config: Config, now_s: float) -> dict[str, set[str]]:
    zone = ZoneInfo(config.server.timezone)
    return {
        name: {text for text, until_s in hashes_of(key, zone) if now_s < until_s}
        for name, key in config.keys.items()
    }


def _end(key: Key, zone: ZoneInfo) -> float:
    if key.expires is None or key.expires == date.max:
        return float("inf")
    # The day named is the last on which the key works.
    after = key.expires + timedelta(days=1)
    return datetime(after.year, after.month, after.day, tzinfo=zone).timestamp()
