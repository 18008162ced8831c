"""Who may call what: every level that says anything must allow it."""

import re
from collections.abc import Iterable
from fnmatch import translate

import msgspec

from tollway.daemon.config.check_routes import LOCAL_USER
from tollway.daemon.config.schema import Config, Key
from tollway.daemon.ledger.rows import Who


class Level(msgspec.Struct, frozen=True):
    """What one level (key, user, project or team) allows: one pattern for each list.

    `excluded` wins over `allowed` whichever group of the level says it: a group that is added
    can then never open what another one closes.
    """

    name: str
    allowed: re.Pattern[str]
    excluded: re.Pattern[str] | None = None

    def admits(self, name: str) -> bool:
        """Whether the level's lists allow a name and do not except it."""
        return bool(self.allowed.match(name)) and not self.excepts(name)

    def excepts(self, name: str) -> bool:
        """Whether the level's lists except a name."""
        return self.excluded is not None and bool(self.excluded.match(name))


def who_of(config: Config, name: str, key: Key) -> Who:
    """Return whom a key's calls are billed to."""
    user = config.users.get(key.user) if key.user else None
    project = config.projects.get(key.project) if key.project else None
    team = (user and user.team) or (project and project.team) or ""
    return Who(key=name, user=key.user or "", team=team, project=key.project or "")


def owner_of(config: Config) -> Who:
    """Return whom the owner's calls are billed to."""
    user = config.users.get(LOCAL_USER)
    return Who(user=LOCAL_USER, team=(user.team or "") if user else "")


def levels_of(config: Config, key: Key, who: Who) -> tuple[Level, ...]:
    """Return the levels that say anything about what a key may call; none means nothing."""
    found = []
    if key.models:
        found.append(Level(f"key {who.key}", _any(key.models)))
    user = config.users.get(who.user)
    project = config.projects.get(who.project)
    team = config.teams.get(who.team)
    for kind, name, level in (
        ("user", who.user, user),
        ("project", who.project, project),
        ("team", who.team, team),
    ):
        if level and level.groups:
            groups = [config.groups[group] for group in level.groups]
            excluded = [glob for group in groups for glob in group.excluded]
            found.append(
                Level(
                    f"{kind} {name}",
                    _any(glob for group in groups for glob in group.models),
                    # Whatever its case: some providers take `GPT-5` for `gpt-5`.
                    _any(excluded, re.IGNORECASE) if excluded else None,
                )
            )
    return tuple(found)


def allowed(levels: tuple[Level, ...], name: str, targets: Iterable[str]) -> list[str]:
    """Return those of a name's targets that may be called; none where the name is forbidden.

    `name` is the route asked for, or the "provider/model" that another name resolves to.
    """
    if not levels or not all(level.admits(name) for level in levels):
        return []
    return [target for target in targets if not any(level.excepts(target) for level in levels)]


def _any(globs: Iterable[str], flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)", flags)
