"""`projects`: what calls are made for."""

from typing import Annotated

import typer

from tollway.cli import complete, members
from tollway.cli.limits import Concurrent, NoLimits, Rpd, Rpm, Tpm, chosen, said
from tollway.cli.members import NoBudget, NoGroups, NoTeam, TeamOf
from tollway.cli.options import AsJson, Budgets, ConfigFile, Groups

Name = Annotated[
    str, typer.Argument(help="The project's name.", autocompletion=complete.entries("projects"))
]
New = Annotated[str, typer.Argument(metavar="NAME", help="The project's name.")]


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
    """Make a project.

    Its groups narrow what its team allows; all of its budgets, and its team's, hold together.

    Example:
        tollway projects create chatbot --team ml --budget 5/day
    """
    values: dict[str, object] = {"team": team, "groups": group, "budget": budget}
    values["limits"] = said(rpm, tpm, rpd, concurrent)
    members.create("projects", name, values, config, as_json=as_json)


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the projects: team, groups, budgets and keys.

    What is spent and left is shown while the daemon runs.

    Example:
        tollway projects list
    """
    members.list_("projects", config, as_json=as_json)


def show_(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one project.

    Example:
        tollway projects show chatbot
    """
    members.show_("projects", name, config, as_json=as_json)


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
    """Change a project: what is named is replaced.

    The rest stays as it is.

    Example:
        tollway projects set chatbot --budget 10/day --budget 100/month
    """
    values = {
        **members.chosen(team, no_team, "team"),
        **members.chosen(group, no_groups, "group"),
        **members.chosen(budget, no_budget, "budget"),
        **chosen(said(rpm, tpm, rpd, concurrent), no_limits),
    }
    members.set_("projects", name, values, config, as_json=as_json)


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Remove a project that no key names.

    Its calls stay in the ledger, under its name.

    Example:
        tollway projects remove chatbot
    """
    members.remove("projects", name, config, as_json=as_json)
