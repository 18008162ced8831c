"""What another program's file says and gateway.toml cannot: taken out of the tables, and told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tollway.daemon.config import shown
from tollway.daemon.config.lines import At
from tollway.daemon.config.load import faults

# Without one of these a table would mean something else: a provider its maker's own address, say.
_ALL_OR_NOTHING = {("providers", "base_url"), ("models", "command"), ("models", "base_url")}


def fit(tables: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Take out what `config check` would refuse; yield each key and what that would say.

    Other programs take numbers, names and combinations that have no place here, and nobody should
    lose a whole file to one of them. To be used up: only then are the tables right.
    """
    import tomli_w  # noqa: PLC0415 - only here

    server = {"single_user": True}
    while True:
        text = tomli_w.dumps({**tables, "server": {**server, **tables.get("server", {})}})
        wrong = faults(text, path=Path("gateway.toml"))
        if not wrong:
            return
        at, why = wrong[0]  # one by one: to take something out moves what stands behind it
        yield shown.key(_take_out(tables, at)), why


def _take_out(tables: dict[str, dict[str, Any]], at: At) -> At:
    """Remove the key, or the table that cannot be without it; return which it was."""
    longest = 2 if (at[0], *at[2:3]) in _ALL_OR_NOTHING else len(at)
    for end in range(longest, 1, -1):
        holder: Any = tables
        try:
            for part in at[: end - 1]:
                holder = holder[part]
            del holder[at[end - 1]]
        except (KeyError, IndexError, TypeError):
            continue  # what is missing cannot be removed: whatever lacks it can
        return at[:end]
    tables[str(at[0])].clear()
    return at[:1]
