"""Who stays in memory: pure functions over what is loaded."""

from collections.abc import Sequence

import msgspec


class Loaded(msgspec.Struct, frozen=True):
    """A model in memory. `busy` is also one that somebody waits for."""

    name: str
    held: int  # bytes
    idle_s: float
    busy: bool = False
    pinned: bool = False


def make_room(need: int, free: int, loaded: Sequence[Loaded]) -> list[str] | None:
    """Return whom to unload so that `need` bytes fit, longest idle first; None if nobody helps.

    None, and not a shorter list: nothing is unloaded for a model that does not fit even then.
    """
    out: list[str] = []
    idle = [model for model in loaded if not model.busy and not model.pinned]
    for model in sorted(idle, key=lambda model: -model.idle_s):
        if need <= free:
            break
        free += model.held
        out.append(model.name)
    return out if need <= free else None
