"""How budgets and rate limits stand, beside those who have them."""

from collections.abc import Sequence

import msgspec

from tollway.cli import show
from tollway.cli.control import Control, convert
from tollway.cli.limits import Limit, plain
from tollway.cli.status import Budget
from tollway.daemon.config import schema
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import DaemonUnreachable

# The columns that `cells` fills.
COLUMNS = (
    "budget",
    show.Column("spent", number=True),
    show.Column("left", number=True),
)


class Standing(msgspec.Struct, frozen=True):
    """A budget; its money, in nano-dollars, is None where no daemon knows it."""

    budget: str
    spent_nanousd: int | None = None
    held_nanousd: int | None = None
    left_nanousd: int | None = None


class Budgets:
    """All budgets and limits of a configuration as the daemon, or else the file, has them."""

    def __init__(self, config: Config) -> None:
        """Ask the daemon, if one runs."""
        self._known: dict[tuple[str, str, str], Budget] = {}
        self._limits: dict[tuple[str, str, str], Limit] = {}
        try:
            said = Control(config.admin_socket).get("/control/status")
        except DaemonUnreachable:
            return
        for one in convert(said.get("budgets", []), list[Budget]):
            self._known[one.scope, one.name, one.budget] = one
        for limit in convert(said.get("limits", []), list[Limit]):
            self._limits[limit.scope, limit.name, limit.limit] = limit

    def of(self, scope: str, name: str, budgets: Sequence[schema.Budget]) -> list[Standing]:
        """Return how a scope's budgets stand."""
        found = []
        for budget in budgets:
            one = self._known.get((scope, name, budget.text))
            found.append(
                Standing(budget.text, one.settled_nanousd, one.held_nanousd, one.left_nanousd)
                if one
                else Standing(budget.text)
            )
        return found

    def limits(self, scope: str, name: str, limits: schema.Limits) -> list[Limit]:
        """Return how a scope's rate limits stand."""
        return [
            self._limits.get((scope, name, what)) or Limit(scope, name, what, most)
            for what, most in plain(limits).items()
        ]


def cells(budgets: Sequence[Standing]) -> tuple[str, str, str]:
    """Return the cells of `COLUMNS`; one row holds all budgets."""
    known = [one for one in budgets if one.left_nanousd is not None]
    return (
        ", ".join(one.budget for one in budgets),
        ", ".join(show.money(one.spent_nanousd) for one in known),
        ", ".join(show.money(one.left_nanousd) for one in known),
    )


def block(budgets: Sequence[Standing]) -> str:
    """Return budgets as a value of `show.pairs`, a line each."""
    return "\n".join(
        one.budget
        if one.left_nanousd is None
        else f"{one.budget}: {show.money(one.spent_nanousd)} spent, "
        f"{show.money(one.held_nanousd)} held, {show.money(one.left_nanousd)} left"
        for one in budgets
    )
