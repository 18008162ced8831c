"""What a slot that is given back has cost its team, without a socket."""

from collections.abc import Collection
from pathlib import Path

import pytest

from tollway.daemon.config.load import parse
from tollway.daemon.gate.queue import Entry, Queue, asks_for
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Usage
from tollway.providers.catalog import KINDS

TARGET = Target("up", "m", KINDS["openai"])


class Roomy:
    """A box on which all models have room."""

    def fits(self, names: Collection[str]) -> bool:
        """Return True."""
        return True


@pytest.mark.parametrize(
    ("used", "tokens"),
    [
        (Usage(input=100, cache_read=9000, output=50), 150),
        (Usage(cache_read=9000, cache_write=30, output=50, reasoning=20), 100),
        (None, 0),
    ],
)
async def test_a_share_is_charged_what_is_new_of_a_call(used: Usage | None, tokens: int) -> None:
    """A long conversation that goes on is little work; a call that was never sent is none."""
    lines = Queue(Roomy(), clock=lambda: 0.0)
    text = '[providers.up]\nkind = "openai"\napi_key = "env:UP"\nslots = 1\n'
    lines.configure(parse(text, path=Path("gateway.toml")))
    pool = lines.pool(TARGET)
    assert pool is not None
    asks = asks_for(TARGET, Who(user="ann", team="ml"), 40_000, None, batch=False)
    place = lines.enter(pool, Entry(asks, lambda: None, lambda _: None))
    slot = lines.slot(place)
    slot.release(used)
    slot.release(used)
    state = lines.state(TARGET)
    assert state is not None
    assert (state.running, state.waiting) == (0, 0)
    assert sum(team.recent_tokens for team in state.teams) == tokens
