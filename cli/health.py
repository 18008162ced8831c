"""What fails or rests, as `status` and `providers list` show it."""

from collections.abc import Iterator

import msgspec

from tollway.cli import show

_COLOURS: dict[str, show.Colour] = {"closed": "green", "half-open": "yellow", "open": "red"}
_STATES = {"closed": "serves", "half-open": "on trial", "open": "failing"}


Row = tuple[str, show.Painted, str, str]


class Target(msgspec.Struct):
    """A target that has failed of late."""

    target: str
    state: str
    failures: int = 0
    why: str = ""
    rests_s: float = 0.0


class Key(msgspec.Struct):
    """A provider's key, by its place in `api_keys` and where it is kept; 0 where it has none."""

    number: int
    name: str
    state: str
    why: str = ""
    model: str = ""
    rests_s: float = 0.0


class Provider(msgspec.Struct):
    """A provider: `state` by its probes."""

    provider: str
    state: str = "closed"
    why: str = ""
    targets: list[Target] = []
    keys: list[Key] = []


def table(providers: list[Provider]) -> None:
    """Print what fails, rests or has failed of late, where there is any of it."""
    rows = list(ill(providers))
    if not rows:
        return
    show.say()
    show.table(["health of", "state", "why", "tried again"], rows)


def ill(providers: list[Provider]) -> Iterator[Row]:
    """Yield what fails, rests or has failed of late: its name, its state, why, and until when."""
    for one in providers:
        yield from _rows(one)


def _rows(one: Provider) -> list[Row]:
    rows: list[Row] = []
    if one.state != "closed":
        rows.append((f"{one.provider} (probe)", _state(one.state), one.why, "at its next probe"))
    for target in one.targets:
        why = target.why
        if target.state == "closed":
            why += f", {target.failures} of late"
        rows.append((target.target, _state(target.state), why, _again(target)))
    for key in one.keys:
        if key.state != "closed":
            name = one.provider + (f" key {key.number} ({key.name})" if key.number else "")
            name += f" for {key.model}" if key.model else ""
            rows.append((name, _state(key.state, rests=True), key.why, _again(key)))
    return rows


def word(one: Provider) -> show.Painted:
    """Return how a provider stands in a cell: "serves", "rests", "2 of 3 keys rest", "failing"."""
    failing = [target for target in one.targets if target.state != "closed"]
    if one.state == "open":
        return _state("open")
    if failing:
        return show.Painted(f"{_count(failing)} failing", "red")
    numbers = {key.number for key in one.keys}
    resting = {key.number for key in one.keys if key.state == "open"}
    if resting:
        if len(numbers) > 1:
            return show.Painted(f"{len(resting)} of {len(numbers)} keys rest", "yellow")
        return show.Painted("its key rests" if 0 not in numbers else "rests", "yellow")
    return _state("closed")


def _count(failing: list[Target]) -> str:
    return failing[0].target if len(failing) == 1 else f"{len(failing)} models"


def _state(state: str, *, rests: bool = False) -> show.Painted:
    said = "rests" if rests and state == "open" else _STATES.get(state, state)
    return show.Painted(said, _COLOURS.get(state, "dim"))


def _again(one: Target | Key) -> str:
    if one.state == "closed":
        return ""
    return f"in {show.duration(one.rests_s)}" if one.rests_s else "by the next call"
