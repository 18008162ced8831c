"""`teams`: who shares groups and budgets."""

from typing import Annotated

import typer

from tollway.cli import complete, members
from tollway.cli.limits import Concurrent, NoLimits, Rpd, Rpm, Tpm, chosen, said
from tollway.cli.members import NoBudget, NoGroups
from tollway.cli.options import AsJson, Budgets, ConfigFile, Groups

Name = Annotated[
    str, typer.Argument(help="The team's name.", autocompletion=complete.entries("teams"))
]
New = Annotated[str, typer.Argument(metavar="NAME", help="The team's name.")]
Share = Annotated[
    int | None,
    typer.Option("--share", metavar="N", min=1, max=1000, help="Weight in the lines for slots."),
]


def create(  # noqa: PLR0913 - an argument is an option
    name: New,
    *,
    group: Groups = None,
    budget: Budgets = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    share: Share = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a team.

    Its groups say what its users and projects may call; its budgets hold for all of them together.

    Example:
        tollway teams create ml --group builders --budget 200/month
    """
    values: dict[str, object] = {"groups": group, "budget": budget, "share": share}
    values["limits"] = said(rpm, tpm, rpd, concurrent)
    members.create("teams", name, values, config, as_json=as_json)


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the teams: groups, budgets and members.

    What is spent and left is shown while the daemon runs.

    Example:
        tollway teams list
    """
    members.list_("teams", config, as_json=as_json)


def show_(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one team.

    Example:
        tollway teams show ml
    """
    members.show_("teams", name, config, as_json=as_json)


def set_(  # noqa: PLR0913 - an argument is an option
    name: Name,
    *,
    group: Groups = None,
    no_groups: NoGroups = False,
    budget: Budgets = None,
    no_budget: NoBudget = False,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    no_limits: NoLimits = False,
    share: Share = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a team: what is named is replaced.

    The rest stays as it is.

    Example:
        tollway teams set ml --budget 10/day --budget 100/month
    """
    values = {
        **members.chosen(group, no_groups, "group"),
        **members.chosen(budget, no_budget, "budget"),
        **chosen(said(rpm, tpm, rpd, concurrent), no_limits),
        **({} if share is None else {"share": share}),
    }
    members.set_("teams", name, values, config, as_json=as_json)


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Remove a team that no user and no project names.

    Its calls stay in the ledger, under its name.

    Example:
        tollway teams remove ml
    """
    members.remove("teams", name, config, as_json=as_json)
