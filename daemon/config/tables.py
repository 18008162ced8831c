"""Tables of gateway.toml as they are written, where `schema.py` has another form of them."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from tollway.daemon.config.schema import Mode


class BudgetTable(msgspec.Struct, frozen=True):
    """A budget with its parts by name."""

    usd: Decimal
    per: str
    at: Mode = "hard"


class CommitTable(msgspec.Struct, frozen=True):
    """What is committed at a provider."""

    usd: Decimal
    per: Literal["month", "quarter", "year"]


class RaiseTable(msgspec.Struct, frozen=True):
    """One of [[raises]]."""

    scope: str
    usd: Decimal
    until: datetime
    by: str = ""


class PreviousTable(msgspec.Struct, frozen=True):
    """One of a key's `previous`."""

    hash: str
    until: datetime
