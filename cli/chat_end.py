"""What an answer came to that ended early: its stream says no cost, the ledger does."""

import time
from pathlib import Path

from tollway.cli import call_story, show
from tollway.cli.control import load_config
from tollway.daemon.ledger.calls import UNDER_WAY, CallRow, one
from tollway.providers.errors import GatewayError

# Settled in milliseconds, once the daemon has seen that its client left.
_WITHIN_S = 1.0
_AGAIN_S = 0.02


def told(row: CallRow) -> list[str]:
    """Return what it came to, in words: tokens, and money, an upper bound where it begins "~"."""
    out = show.counted(row.output_total, "out token")
    return [f"{row.input_total:,} in + {out}", call_story.cost(row)]


def ended(call: str, config: Path | None) -> CallRow | None:
    """Return a call once it is settled; None where that takes long, or nobody can say.

    `call` is its id, "" where it was not told yet.
    """
    if not call:
        return None
    gives_up_s = time.monotonic() + _WITHIN_S
    try:
        path = load_config(config).ledger.path
        while (row := one(path, call).call).state in UNDER_WAY:
            if time.monotonic() > gives_up_s:
                return None
            time.sleep(_AGAIN_S)
    except (GatewayError, KeyboardInterrupt):
        return None  # a courtesy; who presses Ctrl-C again wants no wait
    return row
