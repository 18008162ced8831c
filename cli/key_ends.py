"""Keys that end soon: whoever gave them out is told before their callers are."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from tollway.daemon.config.schema import Config

_SOON = timedelta(days=14)


def ending_soon(config: Config) -> Iterator[tuple[str, date]]:
    """Yield the keys whose last day is today or within two weeks, with that day."""
    today = datetime.now(ZoneInfo(config.server.timezone)).date()
    for name, key in config.keys.items():
        if key.revoked is None and key.expires and today <= key.expires <= today + _SOON:
            yield name, key.expires


def prolongs(name: str) -> str:
    """Return the command that gives a key more time."""
    return f"`tollway keys set {name} --expires 90d` gives it more time, its secret stays"
