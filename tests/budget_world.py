"""What the state machine of budgets is made of: configurations, callers, and what it remembers."""

from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import strategies as st

from tollway.daemon.config.schema import (
    Aim,
    Budget,
    Config,
    Key,
    LedgerFile,
    Member,
    PriceOverride,
    Provider,
    Raise,
    Route,
    Scope,
    Server,
    Tag,
    Team,
)
from tollway.daemon.gate.accounts import QUARTER_MS
from tollway.daemon.gate.books import Hold
from tollway.daemon.gate.purse import Purse
from tollway.daemon.ledger.rows import Who
from tollway.providers.prices import override

START_MS = 1_792_800_000_000  # the morning of 2026-10-24: the clocks go back in the night after
HOUR_MS = 3_600_000
WIDEST_MS = QUARTER_MS  # of a bucket, and of what the ledger's roll-ups do not tell apart
# One nano-dollar for a token of output, nothing for input.
PRICE = override(PriceOverride(input=Decimal(0), output=Decimal("0.001")))
WHO = [
    Who(key="a", user="ann", team="ml", project=""),
    Who(key="b", user="ben", team="ml", project="bot"),
    Who(key="c", user="", team="", project="bot"),
]
PROVIDERS = ["up", "other"]
ROUTES = ["", "r"]
TAGS: list[tuple[str, ...]] = [(), ("run=1",), ("run=1", "env=ci"), ("env=dev",)]

budgets = st.lists(
    st.builds(
        Budget,
        nanousd=st.integers(20, 300),
        period=st.sampled_from(
            ["hour", "day", "week", "month", "total", "1m", "30m", "5h", "24h", "7d"]
        ),
        at=st.sampled_from(["hard", "hard", "clamp", "warn"]),
    ),
    max_size=2,
).map(tuple)
scopes = st.sampled_from(
    [
        ("box", ""),
        ("team", "ml"),
        ("user", "ann"),
        ("provider", "up"),
        ("tag", "run=1"),
    ]
)


@st.composite
def configs(draw: st.DrawFn, now_ms: int = START_MS) -> Config:
    """Return a configuration with budgets anywhere, some of them raised for a time."""
    lifts = draw(
        st.lists(
            st.builds(
                Raise,
                scope=scopes,
                nanousd=st.integers(1, 100),
                until=st.integers(-1, 30).map(lambda hours: now_ms / 1000 + hours * 3600),
                period=st.none() | st.sampled_from(["day", "24h"]),
            ),
            max_size=2,
        )
    )
    return Config(
        path=Path("/gateway.toml"),
        ledger=LedgerFile(path=Path("/ledger.db")),
        server=Server(
            budget=draw(budgets), timezone=draw(st.sampled_from(["UTC", "Europe/Berlin"]))
        ),
        providers={name: Provider(kind="openai", budget=draw(budgets)) for name in PROVIDERS},
        routes={"r": Route(aims=(Aim("up/m"), Aim("other/m")), budget=draw(budgets))},
        teams={"ml": Team(budget=draw(budgets))},
        users={"ann": Member(budget=draw(budgets)), "ben": Member()},
        projects={"bot": Member(budget=draw(budgets))},
        keys={"b": Key(hash="", budget=draw(budgets))},
        tags={"run": {"1": Tag(draw(budgets))}} if draw(st.booleans()) else {},
        raises=tuple(lifts),
    )


class Try(msgspec.Struct, eq=False):
    """What the model knows of an attempt: `counts` is its hold, and then its cost."""

    scopes: frozenset[Scope]
    at_ms: int
    counts: int
    held: bool = True


class Running(msgspec.Struct, eq=False):
    """A call under way, with its last attempt."""

    id: str
    at_ms: int
    who: Who
    route: str
    tags: tuple[str, ...]
    gate: "Gate"
    life: int  # of the daemon that it runs in
    number: int = 1
    attempt: Try | None = None
    hold: Hold | None = None


class Gate(msgspec.Struct, eq=False):
    """One configuration at work: a call keeps the one that it began with."""

    config: Config
    purse: Purse
    zone: ZoneInfo
    seen_ms: int = 0  # the latest moment it was asked about: a raise that ended stays ended
