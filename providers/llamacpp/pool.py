"""Who stays in memory: pure functions over what is loaded."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec


class Loaded(msgspec.Struct, frozen=True):
    """A model in memory. `busy` is also one that somebody waits for."""

    name: str
    held: int  # bytes
    idle_s: float
    busy: bool = False
    pinned: bool = False
    apart: bool = False  # the model that comes may not run beside it

    @property
    def stays(self) -> bool:
        """Whether nothing may end it now."""
        return self.busy or self.pinned


def who_leaves(need: int, free: int, loaded: Sequence[Loaded]) -> list[str] | None:
    """Return whom to unload so that a model of `need` bytes can come; None where nothing helps.

    Those that it may not run beside leave in any case; of the others the longest idle, and none
    whose place is not needed. None, and not a shorter list: nobody leaves for a model that cannot
    come even then.
    """
    if any(one.apart and one.stays for one in loaded):
        return None
    out = [one for one in loaded if one.apart]
    free += sum(one.held for one in out)
    spare = sorted(
        (one for one in loaded if not one.apart and not one.stays), key=lambda one: -one.idle_s
    )
    more: list[Loaded] = []
    for one in spare:
        if need <= free:
            break
        free += one.held
        more.append(one)
    if need > free:
        return None
    # A small one that was idle for longest is not worth ending if a larger one must go too.
    for one in reversed(list(more)):
        if need <= free - one.held:
            free -= one.held
            more.remove(one)
    return [one.name for one in (*out, *more)]


def is_apart(one: str, other: str, apart: Mapping[str, Collection[str]]) -> bool:
    """Whether two models may not run together: it is enough that one of them says so."""
    return one != other and (other in apart.get(one, ()) or one in apart.get(other, ()))


def may_meet(names: Iterable[str], apart: Mapping[str, Collection[str]]) -> bool:
    """Whether these models may be in memory at the same time, were there room for all."""
    every = list(names)
    return not any(
        is_apart(one, other, apart) for at, one in enumerate(every) for other in every[at + 1 :]
    )
