"""What was spent quarter by quarter: where rolling budgets begin after a restart."""

import random
from collections import Counter
from pathlib import Path

from ledger_rows import AT_MS, attempt, closed, ended, opened

from tollway.daemon.ledger.rows import SpentQuery, Who
from tollway.daemon.ledger.schema import QUARTER_MS
from tollway.daemon.ledger.writer import Ledger


async def test_every_quarter_has_what_its_calls_cost(tmp_path: Path) -> None:
    """By the calls' admission, for every scope, from the moment asked for on."""
    chance = random.Random(7)  # noqa: S311 - the same choice each time is the point
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    box: Counter[int] = Counter()
    ann: Counter[int] = Counter()
    tagged: Counter[int] = Counter()
    for number in range(60):
        quarter = AT_MS + chance.randrange(8) * QUARTER_MS
        own, tag, cost = chance.random() < 0.5, chance.random() < 0.5, chance.randrange(1, 99)
        call = opened(
            number + 1,
            quarter + chance.randrange(QUARTER_MS),
            who=Who(user="ann" if own else "ben"),
            budget_tags=("run=42",) if tag else (),
        )
        await ledger.admit(call, attempt(call))
        ledger.settle(closed(call), ended(attempt(call), cost))
        box[quarter] += cost
        ann[quarter] += cost * own
        tagged[quarter] += cost * tag
    since = AT_MS + 3 * QUARTER_MS
    queries = [
        SpentQuery("box", "", 0),
        SpentQuery("box", "", since),
        SpentQuery("user", "ann", since),
        SpentQuery("tag", "run=42", 0),
        SpentQuery("provider", "nobody", 0),
    ]
    found = await ledger.spread(queries)
    later = {at: cost for at, cost in box.items() if at >= since}
    assert found[:2] == [dict(box), later]
    assert found[2] == {at: cost for at, cost in ann.items() if at >= since and cost}
    assert found[3] == {at: cost for at, cost in tagged.items() if cost}
    assert found[4] == {}
    assert [sum(one.values()) for one in found] == await ledger.spent(queries)
    await ledger.close()
