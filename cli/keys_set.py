"""`keys set`: change what a key may, without touching its secret."""

from typing import Annotated

import typer

from tollway.cli import edits, limits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.keys import Expires, Name, ProjectOf, UserOf, last_day, require_owner
from tollway.cli.limits import Concurrent, NoLimits, Rpd, Rpm, Tpm
from tollway.cli.members import NoBudget, chosen
from tollway.cli.options import AsJson, Budgets, ConfigFile, Globs
from tollway.daemon.config.schema import Key


def set_(  # noqa: PLR0913 - an argument is an option
    name: Name,
    *,
    user: UserOf = None,
    project: ProjectOf = None,
    budget: Budgets = None,
    no_budget: NoBudget = False,
    rpm: Rpm = None,
    tpm: Tpm = None,
    rpd: Rpd = None,
    concurrent: Concurrent = None,
    no_limits: NoLimits = False,
    expires: Expires = None,
    no_expires: Annotated[bool, typer.Option("--no-expires", help="It has no last day.")] = False,
    no_revoked: Annotated[
        bool, typer.Option("--no-revoked", help="Revoked, it works again, by its old secret.")
    ] = False,
    models: Globs = None,
    no_models: Annotated[
        bool, typer.Option("--no-models", help="What the levels above it allow, it may.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a key: what is named is replaced.

    The rest stays as it is, its secret too: `keys rotate` gives it another.

    Example:
        tollway keys set ci --budget 10/day --models 'local/*'
    """
    loaded = load_config(config)
    edits.require_known(loaded, "keys", name)
    values = {
        **({"user": user} if user else {}),
        **({"project": project} if project else {}),
        **chosen(budget, no_budget, "budget"),
        **limits.chosen(limits.said(rpm, tpm, rpd, concurrent), no_limits),
        **chosen(last_day(expires, loaded), no_expires, "expires"),
        **({"revoked": None} if no_revoked else {}),
        **chosen(models, no_models, "models"),
    }
    if not values:
        raise UsageProblem(
            "Nothing to change was named", hint="`tollway keys set --help` lists what can be"
        )
    if user or project:
        require_owner(loaded, name, user, project)
    values = limits.with_others(values, loaded.keys[name].limits)
    done = edits.apply(loaded.path, edits.put("keys", name, values), what=f"keys set {name}")
    if not as_json:
        state = "Changed the key `{}`" if done.changed else "The key `{}` is so already"
        show.note(state.format(name))
    edits.report(done, _facts(name, done.config.keys[name]), ("keys", name), as_json=as_json)


def _facts(name: str, key: Key) -> dict[str, object]:
    return {
        "name": name,
        "user": key.user,
        "project": key.project,
        "expires": key.expires,
        "models": key.models,
        "budgets": [one.text for one in key.budget],
        "limits": limits.plain(key.limits),
    }
