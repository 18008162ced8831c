"""What LiteLLM's file says and gateway.toml cannot: taken out of the tables, and listed."""

from pathlib import Path
from typing import Any

from tollway.cli.litellm_file import Translated
from tollway.cli.litellm_words import not_taken
from tollway.daemon.config import shown
from tollway.daemon.config.lines import At
from tollway.daemon.config.load import faults

_SECTIONS = ("server", "providers", "routes", "prices")


def fit(found: Translated) -> None:
    """Take out what `config check` would refuse, and list it with what that would say.

    LiteLLM takes numbers, names and combinations that have no place here, and nobody should lose
    the whole file to one of them.
    """
    import tomli_w  # noqa: PLC0415 - only here

    while True:
        tables: dict[str, Any] = {name: getattr(found, name) for name in _SECTIONS}
        text = tomli_w.dumps({**tables, "server": {"single_user": True, **found.server}})
        wrong = faults(text, path=Path("gateway.toml"))
        if not wrong:
            return
        at, why = wrong[0]  # one by one: to take something out moves what stands behind it
        out = _take_out(tables, at)
        found.left_out.append(not_taken(shown.key(out), why))
        found.secrets = [name for name in found.secrets if name in found.providers]


def _take_out(tables: dict[str, Any], at: At) -> At:
    """Remove the key, or the table that cannot be without it; return which it was.

    A provider without the address that was meant would be asked at its maker's.
    """
    of_address = at[0] == "providers" and at[2:3] == ("base_url",)
    for end in range(2, 1, -1) if of_address else range(len(at), 1, -1):
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
