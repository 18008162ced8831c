"""What `teams`, `users` and `projects` share: entries with groups, budgets and maybe a team."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.limits import Limit, plain, with_others
from tollway.cli.limits import block as limits_block
from tollway.cli.standing import COLUMNS, Budgets, Standing, block, cells
from tollway.daemon.config import shown
from tollway.daemon.config.schema import Config, Member, Team

Section = Literal["teams", "users", "projects"]

TeamOf = Annotated[
    str | None,
    typer.Option(
        "--team",
        metavar="NAME",
        help="The team it belongs to.",
        autocompletion=complete.entries("teams"),
    ),
]
NoTeam = Annotated[bool, typer.Option("--no-team", help="It belongs to no team.")]
NoGroups = Annotated[
    bool, typer.Option("--no-groups", "--no-group", help="It says nothing about models.")
]
NoBudget = Annotated[bool, typer.Option("--no-budget", help="It has no budget of its own.")]


class Entry(msgspec.Struct, frozen=True):
    """A team, user or project as it is shown. `members` are those of a team, keys else."""

    name: str
    team: str | None
    groups: tuple[str, ...]
    members: list[str]
    budgets: list[Standing]
    limits: list[Limit] = []
    share: int | None = None  # of a team, in the lines for slots


def chosen(said: object, none: bool, option: str) -> dict[str, object]:
    """Return {option: value} as `set` was told it; None removes, and nothing is left alone.

    Raises:
        UsageProblem: Both a value and none were asked for.
    """
    key = {"group": "groups"}.get(option, option.replace("-", "_"))
    if said and none:
        no = {"group": "groups", "alias": "aliases"}.get(option, option)
        raise UsageProblem(f"`--{option}` and `--no-{no}` exclude each other")
    return {key: said or None} if said or none else {}


def create(
    section: Section,
    name: str,
    values: Mapping[str, object],
    config: Path | None,
    *,
    as_json: bool,
) -> None:
    """Write a new entry. Raises as the functions of `edits` do."""
    loaded = load_config(config)
    set_it = f"`tollway {section} set {name}` changes it"
    edits.require_new(loaded, section, name, hint=set_it)
    _require_named(loaded, values)
    given = {key: value for key, value in values.items() if value}
    done = edits.apply(
        loaded.path, edits.put(section, name, given, new=True), what=f"{section} create {name}"
    )
    if not as_json:
        show.note(f"Made the {edits.word(section)} `{name}`")
    edits.report(done, _facts(section, name, done.config), (section, name), as_json=as_json)


def set_(
    section: Section,
    name: str,
    values: Mapping[str, object],
    config: Path | None,
    *,
    as_json: bool,
) -> None:
    """Change an entry; None removes a value. Raises as the functions of `edits` do."""
    loaded = load_config(config)
    edits.require_known(loaded, section, name, create=f"tollway {section} create {name}")
    if not values:
        raise UsageProblem(
            "Nothing to change was named", hint=f"`tollway {section} set --help` lists what can be"
        )
    _require_named(loaded, values)
    values = with_others(values, _table(loaded, section)[name].limits)
    done = edits.apply(loaded.path, edits.put(section, name, values), what=f"{section} set {name}")
    if not as_json:
        show.note(
            f"Changed the {edits.word(section)} `{name}`"
            if done.changed
            else f"The {edits.word(section)} `{name}` is so already"
        )
    edits.report(done, _facts(section, name, done.config), (section, name), as_json=as_json)


def _require_named(config: Config, values: Mapping[str, object]) -> None:
    team, groups = values.get("team"), values.get("groups")
    if isinstance(team, str):
        edits.require_known(config, "teams", team, create=f"tollway teams create {team}")
    for group in groups if isinstance(groups, list) else []:
        edits.require_known(
            config, "groups", group, create=f"tollway groups create {group} --models GLOB"
        )


def _facts(section: Section, name: str, config: Config) -> dict[str, object]:
    one = _table(config, section)[name]
    return {
        "name": name,
        "team": one.team if isinstance(one, Member) else None,
        "groups": one.groups,
        "budgets": [budget.text for budget in one.budget],
        "limits": plain(one.limits),
    }


def _table(config: Config, section: Section) -> Mapping[str, Team | Member]:
    tables: Mapping[Section, Mapping[str, Team | Member]] = {
        "teams": config.teams,
        "users": config.users,
        "projects": config.projects,
    }
    return tables[section]


def list_(section: Section, config: Path | None, *, as_json: bool) -> None:
    """Print all entries of a section, with how their budgets stand."""
    loaded = load_config(config)
    books = Budgets(loaded)
    rows = [_entry(loaded, section, name, books) for name in _table(loaded, section)]
    if as_json:
        show.emit(rows)
        return
    if not rows:
        show.note(f"There are no {section}: `tollway {section} create NAME` makes one")
        return
    belongs, team = ("members", []) if section == "teams" else ("keys", ["team"])
    show.table(
        [edits.word(section), *team, "groups", *COLUMNS, belongs],
        [
            (
                one.name,
                *([one.team or ""] if team else []),
                ", ".join(one.groups),
                *cells(one.budgets),
                ", ".join(one.members),
            )
            for one in rows
        ],
    )


def show_(section: Section, name: str, config: Path | None, *, as_json: bool) -> None:
    """Print one entry. Raises `Unknown` where there is none."""
    loaded = load_config(config)
    edits.require_known(loaded, section, name, create=f"tollway {section} create {name}")
    one = _entry(loaded, section, name, Budgets(loaded))
    if as_json:
        show.emit(one)
        return
    team = [] if section == "teams" else [("team", one.team or "")]
    show.pairs(
        [
            (edits.word(section), one.name),
            *team,
            *([] if one.share is None else [("share", str(one.share))]),
            ("groups", ", ".join(one.groups)),
            ("budget", block(one.budgets)),
            ("limits", limits_block(one.limits)),
            ("members" if section == "teams" else "keys", "\n".join(one.members)),
        ]
    )


def _entry(config: Config, section: Section, name: str, books: Budgets) -> Entry:
    one = _table(config, section)[name]
    return Entry(
        name=name,
        team=one.team if isinstance(one, Member) else None,
        groups=one.groups,
        members=needed_by(config, section, name),
        budgets=books.of(edits.word(section), name, one.budget),
        limits=books.limits(edits.word(section), name, one.limits),
        share=one.share if isinstance(one, Team) else None,
    )


def needed_by(config: Config, section: Section, name: str) -> list[str]:
    """Return what names an entry: "user ada" and "project x" a team, "key ci" the others."""
    if section == "teams":
        return [
            f"{edits.word(other)} {member}"
            for other, members in (("users", config.users), ("projects", config.projects))
            for member, one in members.items()
            if one.team == name
        ]
    field: Literal["user", "project"] = "user" if section == "users" else "project"
    return [f"key {key}" for key, one in config.keys.items() if getattr(one, field) == name]


def remove(section: Section, name: str, config: Path | None, *, as_json: bool) -> None:
    """Remove an entry that nothing names any more. Raises `Conflict` where something does."""
    loaded = load_config(config)
    edits.require_known(loaded, section, name)
    hint = (
        "`tollway users set NAME --no-team` (or `--team OTHER`) frees it, likewise projects"
        if section == "teams"
        else "`tollway keys revoke NAME --delete` removes a key"
    )
    edits.refuse_while(section, name, needed_by(loaded, section, name), hint=hint)
    done = edits.apply(loaded.path, edits.drop(section, name), what=f"{section} remove {name}")
    if not as_json:
        show.note(
            f"Removed the {edits.word(section)} {shown.value(name)}; its calls stay on record"
        )
    edits.report(done, {"name": name, "removed": True}, (section, name), as_json=as_json)
