"""`groups`: lists of models that teams, users and projects may call."""

from typing import Annotated

import msgspec
import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.members import chosen
from tollway.cli.options import AsJson, ConfigFile, Globs
from tollway.daemon.config.schema import Config

Name = Annotated[
    str, typer.Argument(help="The group's name.", autocompletion=complete.entries("groups"))
]
New = Annotated[str, typer.Argument(metavar="NAME", help="The group's name.")]
Except = Annotated[
    list[str] | None,
    typer.Option("--except", metavar="GLOB", help="What it may not call; may be repeated."),
]
NoExcept = Annotated[bool, typer.Option("--no-except", help="Nothing is excepted.")]


class Shown(msgspec.Struct, frozen=True):
    """A group; `members` are the teams, users and projects that are in it."""

    name: str
    models: tuple[str, ...]
    excluded: tuple[str, ...] = msgspec.field(name="except")
    members: list[str]


def create(
    name: New,
    models: Globs = None,
    except_: Except = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a group of models.

    A route's name allows its targets; `provider/model` and globs allow what they match. What
    --except names is closed, also as a target of a route.

    Example:
        tollway groups create builders --models '*' --except openai/o1-pro
    """
    loaded = load_config(config)
    edits.require_new(loaded, "groups", name, hint=f"`tollway groups set {name}` changes it")
    if not models:
        raise UsageProblem(
            "A group needs models", hint=f"`tollway groups create {name} --models '*'` names all"
        )
    values = {"models": models} | ({"except": except_} if except_ else {})
    done = edits.apply(
        loaded.path, edits.put("groups", name, values, new=True), what=f"groups create {name}"
    )
    if not as_json:
        show.note(f"Made the group `{name}`")
    edits.report(done, _facts(done.config, name), ("groups", name), as_json=as_json)


def set_(
    name: Name,
    models: Globs = None,
    except_: Except = None,
    no_except: NoExcept = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a group: what is named is replaced.

    The rest stays as it is.

    Example:
        tollway groups set builders --no-except
    """
    loaded = load_config(config)
    edits.require_known(loaded, "groups", name)
    values = chosen(models, False, "models") | chosen(except_, no_except, "except")
    if not values:
        raise UsageProblem(
            "Nothing to change was named", hint="`tollway groups set --help` lists what can be"
        )
    done = edits.apply(loaded.path, edits.put("groups", name, values), what=f"groups set {name}")
    if not as_json:
        show.note(
            f"Changed the group `{name}`" if done.changed else f"The group `{name}` is so already"
        )
    edits.report(done, _facts(done.config, name), ("groups", name), as_json=as_json)


def _facts(config: Config, name: str) -> dict[str, object]:
    group = config.groups[name]
    return {"name": name, "models": group.models, "except": group.excluded}


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the groups: models, exceptions, and who is in them.

    Example:
        tollway groups list
    """
    loaded = load_config(config)
    rows = [_shown(loaded, name) for name in loaded.groups]
    if as_json:
        show.emit(rows)
    elif rows:
        show.table(
            ["group", "models", "except", "members"],
            [tuple(map(", ".join, ([r.name], r.models, r.excluded, r.members))) for r in rows],
        )
    else:
        show.note("There are no groups: `tollway groups create NAME --models GLOB` makes one")


def show_(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one group.

    Example:
        tollway groups show builders
    """
    loaded = load_config(config)
    edits.require_known(loaded, "groups", name)
    one = _shown(loaded, name)
    if as_json:
        show.emit(one)
        return
    show.pairs(
        [
            ("group", one.name),
            ("models", "\n".join(one.models)),
            ("except", "\n".join(one.excluded)),
            ("members", "\n".join(one.members)),
        ]
    )


def _shown(config: Config, name: str) -> Shown:
    group = config.groups[name]
    return Shown(name, group.models, group.excluded, _members(config, name))


def _members(config: Config, name: str) -> list[str]:
    teams = [f"team {team}" for team, one in config.teams.items() if name in one.groups]
    users = [f"user {user}" for user, one in config.users.items() if name in one.groups]
    return [*teams, *users] + [
        f"project {project}" for project, one in config.projects.items() if name in one.groups
    ]


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Remove a group that nobody is in.

    Example:
        tollway groups remove builders
    """
    loaded = load_config(config)
    edits.require_known(loaded, "groups", name)
    hint = "`tollway users set NAME --group OTHER` (or `--no-groups`) frees it, likewise others"
    edits.refuse_while("groups", name, _members(loaded, name), hint=hint)
    done = edits.apply(loaded.path, edits.drop("groups", name), what=f"groups remove {name}")
    if not as_json:
        show.note(f"Removed the group `{name}`")
    edits.report(done, {"name": name, "removed": True}, ("groups", name), as_json=as_json)
