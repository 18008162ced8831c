"""`users`: people who call."""

from typing import Annotated

import typer

from tollway.cli import complete, members
from tollway.cli.limits import Concurrent, NoLimits, Rpd, Rpm, Tpm, chosen, said
from tollway.cli.members import NoBudget, NoGroups, NoTeam, TeamOf
from tollway.cli.options import AsJson, Budgets, ConfigFile, Groups

Name = Annotated[
    str, typer.Argument(help="The user's name.", autocompletion=complete.entries("users"))
]
New = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]


def create(  # noqa: PLR0913 - an argument is an option
    name: New,
    *,
    team: TeamOf = None,
    group: Groups = None,
    budget: Budgets = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a user.

    Its groups narrow what its team allows; all of its budgets, and its team's, hold together.

    Example:
        tollway users create ada --team ml --budget 5/day
    """
    values: dict[str, object] = {"team": team, "groups": group, "budget": budget}
    values["limits"] = said(rpm, tpm, rpd, concurrent)
    members.create("users", name, values, config, as_json=as_json)


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the users: team, groups, budgets and keys.

    What is spent and left is shown while the daemon runs.

    Example:
        tollway users list
    """
    members.list_("users", config, as_json=as_json)


def show_(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one user.

    Example:
        tollway users show ada
    """
    members.show_("users", name, config, as_json=as_json)


def set_(  # noqa: PLR0913 - an argument is an option
    name: Name,
    *,
    team: TeamOf = None,
    no_team: NoTeam = False,
    group: Groups = None,
    no_groups: NoGroups = False,
    budget: Budgets = None,
    no_budget: NoBudget = False,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    no_limits: NoLimits = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a user: what is named is replaced.

    The rest stays as it is.

    Example:
        tollway users set ada --budget 10/day --budget 100/month
    """
    values = {
        **members.chosen(team, no_team, "team"),
        **members.chosen(group, no_groups, "group"),
        **members.chosen(budget, no_budget, "budget"),
        **chosen(said(rpm, tpm, rpd, concurrent), no_limits),
    }
    members.set_("users", name, values, config, as_json=as_json)


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Remove a user that no key names.

    Its calls stay in the ledger, under its name.

    Example:
        tollway users remove ada
    """
    members.remove("users", name, config, as_json=as_json)
