"""`teams`, `users`, `projects`, `groups`: edits that keep what a person wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.config.load import load
from tollway.daemon.config.schema import Config

pytestmark = pytest.mark.whole

SERVER = '# ours\n[server]\nlisten = "127.0.0.1:0"\nwatch = false\ndrain = "5s"\n'


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with an empty gateway; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.write(SERVER)
    yield made
    made.write(SERVER)
    made.tollway("down", "--now")


def done(home: Home, *words: str) -> Config:
    """Run a command that must succeed; return the file as it is then."""
    ended = home.tollway(*words)
    assert ended.returncode == 0, ended.stderr
    return load(home.config)


def refused(home: Home, *words: str, code: int = 1) -> str:
    """Run a command that must change nothing; return what it said."""
    before = home.config.read_text()
    ended = home.tollway(*words)
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    assert home.config.read_text() == before
    return ended.stderr


def test_a_teams_share_is_said_and_changed(home: Home) -> None:
    """Its weight among those who wait for a slot; what is not named stays."""
    assert done(home, "teams", "create", "ml", "--share", "4").teams["ml"].share == 4
    assert done(home, "teams", "set", "ml", "--share", "2").teams["ml"].share == 2
    assert done(home, "teams", "set", "ml", "--rpm", "5").teams["ml"].share == 2
    assert "share    2" in " ".join(home.tollway("teams", "show", "ml").stdout.splitlines())


def test_a_team_from_nothing_to_gone(home: Home) -> None:
    """Made, used, changed, refused while needed, removed: the file begins and ends the same."""
    done(home, "groups", "create", "all", "--models", "*", "--except", "openai/o1-pro")
    words = ("--budget", "200/month", "--budget", "20/day", "--group", "all")
    made = done(home, "teams", "create", "ml", *words)
    assert [one.text for one in made.teams["ml"].budget] == ["200/month", "20/day"]
    made = done(home, "users", "create", "ada", "--team", "ml", "--budget", "5/day")
    assert (made.users["ada"].team, made.users["ada"].budget[0].text) == ("ml", "5/day")
    done(home, "projects", "create", "bot", "--team", "ml")

    said = refused(home, "teams", "remove", "ml")
    assert "error: The team `ml` is needed by user ada, project bot" in said
    assert "team ml" in refused(home, "groups", "remove", "all")
    home.tollway("keys", "create", "ci", "--user", "ada")
    assert "is needed by key ci" in refused(home, "users", "remove", "ada")
    done(home, "keys", "revoke", "ci", "--delete")

    for one in (("projects", "bot"), ("users", "ada"), ("teams", "ml"), ("groups", "all")):
        done(home, one[0], "remove", one[1])
    assert home.config.read_text() == SERVER


def test_set_replaces_what_is_named_and_keeps_the_rest(home: Home) -> None:
    """A budget, a team or groups can be replaced and taken away, each alone."""
    done(home, "groups", "create", "all", "--models", "*")
    done(home, "teams", "create", "ml")
    done(home, "users", "create", "ada", "--team", "ml", "--budget", "5/day", "--budget", "9/total")
    now = done(home, "users", "set", "ada", "--budget", "7/month").users["ada"]
    assert ([one.text for one in now.budget], now.team) == (["7/month"], "ml")
    now = done(home, "users", "set", "ada", "--group", "all", "--no-team").users["ada"]
    assert ([one.text for one in now.budget], now.team, now.groups) == (["7/month"], None, ("all",))
    now = done(home, "users", "set", "ada", "--no-budget", "--no-groups").users["ada"]
    assert (now.budget, now.groups) == ((), ())
    done(home, "groups", "set", "all", "--except", "x/y")
    group = done(home, "groups", "set", "all", "--models", "fast").groups["all"]
    assert (group.models, group.excluded) == (("fast",), ("x/y",))
    assert done(home, "groups", "set", "all", "--no-except").groups["all"].excluded == ()


def test_what_cannot_be_meant_exits_with_two_and_unknown_names_with_one(home: Home) -> None:
    """The file stays as it is, to the byte."""
    done(home, "teams", "create", "ml")
    assert "There is a team `ml` already" in refused(home, "teams", "create", "ml")
    assert "expected dollars" in refused(home, "users", "create", "x", "--budget", "x", code=2)
    said = refused(home, "users", "create", "x", "--budget", "5/fortnight", code=2)
    assert "a rolling span" in said
    assert "letters, digits" in refused(home, "users", "create", "x/y", code=2)
    said = refused(home, "users", "create", "x", "--team", "mll")
    assert "Did you mean ml? `tollway teams create mll` makes it" in said
    assert "There is no group `g`" in refused(home, "teams", "set", "ml", "--group", "g")
    assert "Nothing to change" in refused(home, "teams", "set", "ml", code=2)
    said = refused(home, "teams", "set", "ml", "--budget", "1/day", "--no-budget", code=2)
    assert "exclude each other" in said
    assert "A group needs models" in refused(home, "groups", "create", "g", code=2)
    assert "There is no team `m`" in refused(home, "teams", "show", "m")
    home.tollway("users", "create", "ada", "--team", "ml")
    done(home, "teams", "create", "web")
    done(home, "projects", "create", "bot", "--team", "web")
    said = refused(home, "keys", "create", "k", "--user", "ada", "--project", "bot", code=2)
    assert "a call is billed to one" in said


def test_lists_show_budgets_and_what_is_left_while_the_daemon_runs(home: Home) -> None:
    """Without a daemon the money is null; with one it is the books' own."""
    done(home, "teams", "create", "ml", "--budget", "5/day")
    row = json.loads(home.tollway("teams", "list", "--json").stdout)[0]
    nothing = {"spent_nanousd": None, "held_nanousd": None, "left_nanousd": None}
    assert row["budgets"] == [{"budget": "5/day", **nothing}]
    home.tollway("up")
    done(home, "users", "create", "ada", "--team", "ml", "--budget", "2/month")
    row = json.loads(home.tollway("teams", "list", "--json").stdout)[0]
    known = {"spent_nanousd": 0, "held_nanousd": 0, "left_nanousd": 5 * 10**9}
    assert row["budgets"] == [{"budget": "5/day", **known}]
    assert row["members"] == ["user ada"]
    header, line = home.tollway("users", "list").stdout.splitlines()
    assert header.split() == ["user", "team", "groups", "budget", "spent", "left", "keys"]
    assert line.split() == ["ada", "ml", "-", "2/month", "$0.00", "$2.00", "-"]
    assert "$2.00 left" in home.tollway("users", "show", "ada").stdout


def test_json_tells_what_became_of_a_change(home: Home) -> None:
    """The same fields from every command that changes the file."""
    said = json.loads(home.tollway("teams", "create", "ml", "--json").stdout)
    assert said["name"] == "ml"
    assert (said["changed"], said["reloaded"], said["problem"]) == (True, None, "")
    assert isinstance(said["undo"], int)
    home.tollway("up")
    said = json.loads(home.tollway("users", "create", "ada", "--team", "ml", "--json").stdout)
    assert "users.ada.team" in said["reloaded"]["changed"]
    undone = home.tollway("config", "rollback", str(said["undo"]))
    assert undone.returncode == 0
    assert load(home.config).users == {}


@pytest.mark.parametrize("section", ["teams", "users", "projects", "groups"])
def test_an_empty_list_names_the_command_that_fills_it(home: Home, section: str) -> None:
    """On stderr: to a program an empty list is an empty list."""
    ended = home.tollway(section, "list")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert f"`tollway {section} create NAME" in ended.stderr
    assert json.loads(home.tollway(section, "list", "--json").stdout) == []


def test_a_key_added_below_a_comment_is_not_indented(home: Home) -> None:
    """What stands above a table is a comment, not a way of writing."""
    home.write(SERVER + "\n# who works here,\n# and how\n[users.ada] # first\n# of her budget\n")
    done(home, "users", "set", "ada", "--budget", "5/day")
    assert home.config.read_text().endswith(
        "\n\n# who works here,\n# and how\n[users.ada] # first\n# of her budget\n"
        'budget = ["5/day"]\n'
    )
