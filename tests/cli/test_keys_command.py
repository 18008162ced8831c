"""`keys`: a secret shown once, a hash kept, and an end that the daemon confirms."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.config.load import load

pytestmark = pytest.mark.whole

SERVER = '[server]\nlisten = "127.0.0.1:0"\nwatch = false\ndrain = "5s"\n'
WHO = """
# who works here
[users.ada]
team = "ml"
[projects.bot]
[teams.ml]
groups = ["all"]
[groups.all]
models = ["*"]
"""
SECRET = re.compile(r"tw-[0-9a-f]{64}\n")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a team; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.write(SERVER + WHO)
    yield made
    made.write(SERVER)
    made.tollway("down", "--now")


def asked(url: str, secret: str) -> int:
    """Return the status with which the daemon answers a caller."""
    host = url.removeprefix("http://").removesuffix("/v1")
    connection = HTTPConnection(host, timeout=30)
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {secret}"})
        return connection.getresponse().status
    finally:
        connection.close()


def files_with(folder: Path, text: str) -> list[Path]:
    """Return the files below a folder that hold a text."""
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_create_prints_the_secret_alone_and_keeps_its_hash(home: Home) -> None:
    """`KEY=$(tollway keys create x)` works: data to stdout, talk to stderr."""
    made = home.tollway("keys", "create", "ci", "--user", "ada", "--budget", "5/day")
    assert made.returncode == 0
    assert SECRET.fullmatch(made.stdout)
    secret = made.stdout.strip()
    assert secret not in made.stderr
    key = load(home.config).keys["ci"]
    assert key.hash == "sha256:" + sha256(secret.encode()).hexdigest()
    assert key.hint == f"{secret[:7]}...{secret[-2:]}"
    assert (key.user, [one.text for one in key.budget]) == ("ada", ["5/day"])
    assert "# who works here\n[users.ada]\n" in home.config.read_text()


def test_no_file_ever_holds_a_secret(home: Home) -> None:
    """Neither the file, its history, the ledger, nor the log of a daemon that was called."""
    url = json.loads(home.tollway("up", "--json").stdout)["url"]
    first = home.tollway("keys", "create", "ci", "--user", "ada").stdout.strip()
    made = json.loads(home.tollway("keys", "rotate", "ci", "--json").stdout)
    assert (asked(url, first), asked(url, made["key"])) == (200, 200)
    assert home.tollway("down").returncode == 0
    for words in (["show", "ci"], ["list"], ["list", "--json"], ["show", "ci", "--json"]):
        said = home.tollway("keys", *words)
        assert said.returncode == 0
        for told in (first, made["key"], load(home.config).keys["ci"].hash):
            assert told not in said.stdout + said.stderr
    assert files_with(home.path, made["hint"])
    for secret in (first, made["key"]):
        assert files_with(home.path, secret) == []


def test_a_revoked_key_is_refused_when_the_command_returns(home: Home) -> None:
    """The daemon has confirmed it: the next call with the key is a 401."""
    url = json.loads(home.tollway("up", "--json").stdout)["url"]
    secret = home.tollway("keys", "create", "ci", "--user", "ada").stdout.strip()
    assert asked(url, secret) == 200
    ended = home.tollway("keys", "revoke", "ci")
    assert asked(url, secret) == 401
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.splitlines() == [
        "The key `ci` is revoked",
        "The running daemon has confirmed it",
    ]
    again = home.tollway("keys", "revoke", "ci")
    assert again.returncode == 0
    assert "already" in again.stderr
    rotated = home.tollway("keys", "rotate", "ci")
    assert (rotated.returncode, rotated.stdout) == (1, "")
    assert "`ci` is revoked" in rotated.stderr
    deleted = json.loads(home.tollway("keys", "revoke", "ci", "--delete", "--json").stdout)
    assert deleted["reloaded"]["changed"]
    assert load(home.config).keys == {}


def test_a_rotated_key_has_two_secrets_for_the_grace_and_one_without(home: Home) -> None:
    """Nothing stops while the new one is handed out, unless that is what is wanted."""
    url = json.loads(home.tollway("up", "--json").stdout)["url"]
    first = home.tollway("keys", "create", "ci", "--user", "ada").stdout.strip()
    second = home.tollway("keys", "rotate", "ci", "--grace", "2h").stdout.strip()
    assert (asked(url, first), asked(url, second)) == (200, 200)
    until = json.loads(home.tollway("keys", "show", "ci", "--json").stdout)["grace_until"]
    assert 0 < until - datetime.now(UTC).timestamp() <= 7200
    third = home.tollway("keys", "rotate", "ci", "--grace", "0s").stdout.strip()
    assert [asked(url, each) for each in (first, second, third)] == [401, 401, 200]
    wrong = home.tollway("keys", "rotate", "ci", "--grace", "2")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "`--grace`" in wrong.stderr


def test_a_change_that_the_daemon_refuses_says_so_and_that_the_key_still_works(home: Home) -> None:
    """Its own words, what goes on as before, and the command that undoes the change."""
    url = json.loads(home.tollway("up", "--json").stdout)["url"]
    secret = home.tollway("keys", "create", "ci", "--user", "ada").stdout.strip()
    with home.config.open("a") as file:
        file.write('[providers.far]\nkind = "openai"\napi_key = "env:NOBODY_SETS_THIS"\n')
    ended = home.tollway("keys", "revoke", "ci", "--json")
    assert ended.returncode == 1
    assert "`NOBODY_SETS_THIS` is not set" in json.loads(ended.stdout)["problem"]
    assert "the running daemon goes on as before" in ended.stderr
    assert "`NOBODY_SETS_THIS` is not set" in ended.stderr
    assert "tollway config rollback" in ended.stderr
    assert "`ci` STILL WORKS" in home.tollway("keys", "revoke", "ci").stderr
    assert asked(url, secret) == 200


def test_a_daemon_that_serves_another_file_confirms_nothing(home: Home) -> None:
    """Two files may name one ledger; only the one that is served counts."""
    home.tollway("up")
    other = home.path / "other.toml"
    other.write_text(home.config.read_text())
    ended = home.tollway("--config", str(other), "keys", "create", "ci", "--user", "ada")
    assert ended.returncode == 1
    assert f"The running daemon serves `{home.config}`" in ended.stderr


def test_a_missing_owner_names_the_command_that_makes_it(home: Home) -> None:
    """Nothing is written, and a near name is offered."""
    before = home.config.read_text()
    ended = home.tollway("keys", "create", "ci", "--user", "adda")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "error: There is no user `adda`" in ended.stderr
    assert "Did you mean ada?" in ended.stderr
    assert "`tollway users create adda` makes it" in ended.stderr
    ended = home.tollway("keys", "create", "ci", "--project", "x")
    assert "`tollway projects create x` makes it" in ended.stderr
    assert home.tollway("keys", "create", "ci").returncode == 2
    assert home.config.read_text() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a b"], "no name that keys can have"),
        (["ci", "--budget", "5"], "keys.ci.budget[0]: expected dollars and a period"),
        (["ci", "--expires", "soon"], "`--expires soon` is no date"),
        (["ci", "--expires", "2020-01-01"], "is over already"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(
    home: Home, words: list[str], said: str
) -> None:
    """Exit code 2, stdout empty, the file as it was."""
    before = home.config.read_text()
    ended = home.tollway("keys", "create", *words, "--user", "ada")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert home.config.read_text() == before


def test_a_taken_name_is_refused(home: Home) -> None:
    """A key in use is never replaced by accident."""
    home.tollway("keys", "create", "ci", "--user", "ada")
    before = home.config.read_text()
    ended = home.tollway("keys", "create", "ci", "--user", "ada")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "There is a key `ci` already" in ended.stderr
    assert home.config.read_text() == before


def test_a_key_that_may_call_nothing_is_warned_of(home: Home) -> None:
    """With the command that changes it; one whose team names models is not."""
    ended = home.tollway("keys", "create", "k", "--project", "bot")
    assert ended.returncode == 0
    assert "warning: `k` may call nothing" in ended.stderr
    assert "`tollway projects set bot --group all` lets it" in ended.stderr
    assert "warning" not in home.tollway("keys", "create", "l", "--user", "ada").stderr
    fine = home.tollway("keys", "create", "m", "--project", "bot", "--models", "fast")
    assert "may call nothing" not in fine.stderr


def test_the_first_key_ends_single_user_only_when_agreed(home: Home) -> None:
    """A script says --yes; without it nothing happens, and nobody is locked out unasked."""
    home.write(SERVER.replace("watch", "single_user = true # mine\nwatch") + WHO)
    before = home.config.read_text()
    ended = home.tollway("keys", "create", "ci", "--user", "ada")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "server.single_user" in ended.stderr
    assert "`--yes`" in ended.stderr
    assert home.config.read_text() == before
    ended = home.tollway("keys", "create", "ci", "--user", "ada", "--yes")
    assert SECRET.fullmatch(ended.stdout)
    assert "`server.single_user` is now false: every call needs a key" in ended.stderr
    assert "single_user = false # mine" in home.config.read_text()


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"\n", 130)])
def test_on_a_terminal_the_end_of_single_user_is_asked_for(
    home: Home, typed: bytes, code: int
) -> None:
    """The question is on stderr, so that the secret alone is on stdout."""
    home.write(SERVER + "single_user = true\n" + WHO)
    keyboard, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "tollway.cli", "keys", "create", "ci", "--user", "ada"],
            stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, env=home.env, cwd=home.path,
        )  # fmt: skip
        os.close(terminal)
        os.write(keyboard, typed)
        said, _ = process.communicate(timeout=60)
    finally:
        os.close(keyboard)
    assert process.returncode == code
    assert bool(SECRET.fullmatch(said.decode())) is (code == 0)
    assert load(home.config).server.single_user is (code != 0)


def test_a_taken_name_is_told_with_a_way_that_leads_on(home: Home) -> None:
    """A revoked key cannot be rotated; to say so and send back to `create` would be a circle."""
    home.tollway("keys", "create", "ci", "--user", "ada")
    home.tollway("keys", "revoke", "ci")
    for words in (["create", "ci", "--user", "ada"], ["rotate", "ci"]):
        ended = home.tollway("keys", *words)
        assert ended.returncode == 1
        assert "`tollway keys revoke ci --delete` frees the name" in ended.stderr
    assert home.tollway("keys", "revoke", "ci", "--delete").returncode == 0
    assert home.tollway("keys", "create", "ci", "--user", "ada").returncode == 0
    home.write(
        home.config.read_text().replace('user = "ada"', 'user = "ada"\nexpires = 2020-01-01')
    )
    ended = home.tollway("keys", "rotate", "ci")
    assert "`tollway keys set ci --expires DATE`" in ended.stderr


@pytest.mark.parametrize(("said", "days"), [("90d", 90), ("12w", 84), ("0d", 0)])
def test_a_last_day_may_be_so_many_days_away(home: Home, said: str, days: int) -> None:
    """As other gateways take a key's duration; the file has the day, by `server.timezone`."""
    day = datetime.now(UTC).date()
    assert home.tollway("keys", "create", "ci", "--user", "ada", "--expires", said).returncode == 0
    days_later = {day + timedelta(days=days), datetime.now(UTC).date() + timedelta(days=days)}
    assert load(home.config).keys["ci"].expires in days_later


def test_keys_that_end_soon_are_named_with_what_prolongs_them(home: Home) -> None:
    """By the list and by `doctor`; not those that have longer, or are ended already."""
    for name, days in (("soon", "5d"), ("late", "90d"), ("gone", "5d")):
        home.tollway("keys", "create", name, "--user", "ada", "--expires", days)
    home.tollway("keys", "revoke", "gone")
    notes = [line for line in home.tollway("keys", "list").stderr.splitlines() if "ends" in line]
    assert len(notes) == 1
    assert notes[0].startswith("`soon` ends after 20")
    assert "`tollway keys set soon --expires 90d`" in notes[0]
    said = json.loads(home.tollway("doctor", "--offline", "--json").stdout)["checks"]
    found = {one["name"]: one["state"] for one in said if one["name"].startswith("key ")}
    assert found == {"key soon": "warn"}
    assert home.tollway("keys", "set", "soon", "--expires", "90d").returncode == 0
    assert "ends after" not in home.tollway("keys", "list").stderr


def test_a_key_that_was_only_to_be_blocked_works_again(home: Home) -> None:
    """By the secret that it has: the hash never left the file."""
    home.tollway("keys", "create", "ci", "--user", "ada")
    before = load(home.config).keys["ci"].hash
    assert home.tollway("keys", "revoke", "ci").returncode == 0
    assert "`tollway keys set ci --no-revoked`" in home.tollway("keys", "rotate", "ci").stderr
    assert home.tollway("keys", "set", "ci", "--no-revoked").returncode == 0
    key = load(home.config).keys["ci"]
    assert (key.hash, key.revoked) == (before, None)
    (row,) = json.loads(home.tollway("keys", "list", "--json").stdout)
    assert row["state"] == "active"


def test_list_tells_states_apart(home: Home) -> None:
    """Active, expired and revoked, with whom each is for."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    home.tollway("keys", "create", "one", "--user", "ada", "--expires", f"{tomorrow}")
    home.tollway("keys", "create", "two", "--user", "ada", "--project", "bot")
    home.tollway("keys", "revoke", "two")
    with home.config.open("a") as file:
        file.write(f'[keys.old]\nhash = "sha256:{"0" * 64}"\nuser = "ada"\nexpires = 2020-01-01\n')
    rows = json.loads(home.tollway("keys", "list", "--json").stdout)
    assert [(row["name"], row["state"], row["team"]) for row in rows] == [
        ("one", "active", "ml"),
        ("two", "revoked", "ml"),
        ("old", "expired", "ml"),
    ]
    assert [row["expires"] for row in rows] == [f"{tomorrow}", None, "2020-01-01"]
    lines = home.tollway("keys", "list").stdout.splitlines()
    assert lines[0].split()[:6] == ["key", "hint", "user", "project", "team", "expires"]
    assert lines[2].split()[3] == "bot"
    missing = home.tollway("keys", "show", "tow")
    assert missing.returncode == 1
    assert "Did you mean two?" in missing.stderr


def test_a_file_that_was_wrong_before_is_reported_with_its_lines(home: Home) -> None:
    """Then the lines are the file's own, and the way to them is shown."""
    with home.config.open("a") as file:
        file.write("[server.nonsense]\n")
    ended = home.tollway("keys", "revoke", "ci")
    assert ended.returncode == 2
    assert f"error: {home.config}:" in ended.stderr


def test_set_changes_what_is_named_and_never_the_secret(home: Home) -> None:
    """Budget, limits, models and end, one by one; the hash and the comments stay."""
    assert home.tollway("keys", "create", "ci", "--user", "ada", "--rpm", "5").returncode == 0
    before = load(home.config).keys["ci"]
    words = ["--budget", "5/day", "--tpm", "900", "--models", "local/*", "--expires", "2099-01-31"]
    assert home.tollway("keys", "set", "ci", *words).returncode == 0
    key = load(home.config).keys["ci"]
    assert (key.hash, key.hint, key.user) == (before.hash, before.hint, "ada")
    assert ([one.text for one in key.budget], key.models) == (["5/day"], ("local/*",))
    assert (key.limits.rpm, key.limits.tpm) == (5, 900)
    assert str(key.expires) == "2099-01-31"
    none = ["--no-budget", "--no-limits", "--no-models", "--no-expires", "--project", "bot"]
    done = home.tollway("keys", "set", "ci", *none, "--json")
    assert json.loads(done.stdout)["limits"] == {}
    key = load(home.config).keys["ci"]
    assert (key.budget, key.models, key.expires, key.project) == ((), (), None, "bot")
    assert key.limits == type(key.limits)()
    assert "# who works here" in home.config.read_text()
    for wrong in (["nobody"], ["ci", "--user", "nobody"]):
        assert home.tollway("keys", "set", *wrong, "--budget", "1/day").returncode == 1
    assert home.tollway("keys", "set", "ci").returncode == 2
