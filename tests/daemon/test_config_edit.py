"""Edits change the lines they must, all or nothing, one at a time, and can be undone."""

import os
import shutil
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tomlkit
from broken_disks import fill, small_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollway.daemon.config import files, history
from tollway.daemon.config.document import table
from tollway.daemon.config.edit import (
    Edited,
    edit,
    kept,
    remember,
    revived_by_rollback,
    rollback,
    write_new,
)
from tollway.daemon.config.history import digest
from tollway.daemon.config.load import load
from tollway.daemon.errors import ConfigError, NotFound

EXAMPLE = (Path(__file__).parents[2] / "gateway.toml.example").read_text()
CANARY = "sk-c4n4ry0c4n4ry0c4n4ry0c4n4ry0"


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path for a gateway.toml whose ledger and history are in a folder of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "gateway.toml"


@pytest.fixture
def powerless() -> Iterator[None]:
    """Run as a user whom file modes bind: they do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def add_team(path: Path, name: str, budget: str = "5/day") -> Edited:
    """Add a team as a command would."""

    def change(document: tomlkit.TOMLDocument) -> None:
        table(document, "teams", name)["budget"] = [budget]

    return edit(path, change, what=f"add team {name}", who="ann")


def test_an_edit_adds_its_lines_and_changes_no_other(gateway: Path) -> None:
    """Comments, order and blank lines are a person's; they stay."""
    gateway.write_text(EXAMPLE)
    done = add_team(gateway, "new")
    lines, after = EXAMPLE.split("\n"), gateway.read_text().split("\n")
    new = ["[teams.new]", 'budget = ["5/day"]', ""]
    at = after.index("[teams.new]")
    assert after[at : at + 3] == new
    assert after[:at] + after[at + 3 :] == lines
    # A comment above the next table stays with that table.
    assert lines[at - 1] == "" and lines[at].startswith("[users")
    assert done.changed and done.config == load(gateway)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[teams.t]\nbudget = ["5/day"]\n'),
        ("# mine\n", '# mine\n\n[teams.t]\nbudget = ["5/day"]\n'),
        ('[server]\ndrain = "1s"', '[server]\ndrain = "1s"\n\n[teams.t]\nbudget = ["5/day"]\n'),
        (
            "[teams.a]  # a\n\n# about users\n[users.u]\n",
            '[teams.a]  # a\n\n[teams.t]\nbudget = ["5/day"]\n\n# about users\n[users.u]\n',
        ),
        ("[teams]\na = {}\n", '[teams]\na = {}\n\n[teams.t]\nbudget = ["5/day"]\n'),
        ("teams = { a = {} } # x\n", 'teams = { a = {}, t = {budget = ["5/day"]}} # x\n'),
        ("[server]\r\n", '[server]\r\n\r\n[teams.t]\r\nbudget = ["5/day"]\r\n'),
        (
            "[teams.t] # t\n\n# u\n[users.u]",
            '[teams.t] # t\nbudget = ["5/day"]\n\n# u\n[users.u]\n',
        ),
        (
            '[teams]\nt.budget = ["1/day"]  # t\nt.limits.rpm = 1\n',
            '[teams]\nt.budget = ["5/day"]  # t\nt.limits.rpm = 1\n',
        ),
        (
            "[teams.t]\n\n[users.u]\n\n[teams.t.limits]\nrpm = 1\n",
            '[teams.t]\nbudget = ["5/day"]\n\n[users.u]\n\n[teams.t.limits]\nrpm = 1\n',
        ),
    ],
)
def test_a_table_is_added_where_its_kind_stands(gateway: Path, before: str, after: str) -> None:
    """However the file is written."""
    gateway.write_bytes(before.encode())
    add_team(gateway, "t")
    assert gateway.read_bytes().decode() == after


comments = st.sampled_from(["", "# a word", "#[not.a.table]", "  # x = 1"])
pieces = st.lists(
    st.tuples(
        comments,
        st.sampled_from(["server", "teams.a", "teams.b", "users.u", "ledger", 'groups."g"']),
        comments,
        st.lists(comments, max_size=2),
    ),
    unique_by=lambda piece: piece[1],
    min_size=1,
)
KEY_OF = {"server": 'drain = "1s"', "ledger": 'sync = "full"', 'groups."g"': 'models = ["*"]'}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces, st.booleans())
def test_whatever_the_file_looks_like_only_the_edits_lines_change(
    gateway: Path, parts: list[tuple[str, str, str, list[str]]], last_line_ends: bool
) -> None:
    """The lines of before are all there, in their order, and the rest is the edit's own."""
    lines: list[str] = []
    for above, head, beside, below in parts:
        lines += [
            above,
            f"[{head}] {beside}",
            f"{KEY_OF.get(head, 'budget = []')} {beside}",
            *below,
        ]
    text = "\n".join(lines) + ("\n" if last_line_ends else "")
    gateway.write_text(text)
    add_team(gateway, "new", "7/day")
    after = iter(gateway.read_text().splitlines())
    added: list[str] = []
    for line in text.splitlines():
        for found in after:
            if found == line:
                break
            added.append(found)
        else:
            pytest.fail(f"{line!r} is gone")
    added += after
    assert [line for line in added if line] == ["[teams.new]", 'budget = ["7/day"]']
    assert len(added) <= 4
    assert tomllib.loads(gateway.read_text())["teams"]["new"] == {"budget": ["7/day"]}


def test_an_edit_that_would_not_be_valid_changes_nothing(gateway: Path) -> None:
    """The result is checked before it replaces anything."""
    gateway.write_text("# mine\n")
    with pytest.raises(ConfigError, match=r"gateway.toml:4: teams.x.budget\[0\]: expected dollars"):
        add_team(gateway, "x", "much")
    assert gateway.read_text() == "# mine\n"
    assert kept(load(gateway)) == []


def test_an_edit_may_mend_a_broken_file(gateway: Path) -> None:
    """Moving a secret to the keyring begins with a file that holds it."""
    gateway.write_text(f'[providers.openai]\nkind = "openai"\napi_key = "{CANARY}"\n')

    def change(document: tomlkit.TOMLDocument) -> None:
        table(document, "providers", "openai")["api_key"] = "keyring:openai"

    done = edit(gateway, change, what="move the secret", who="ann")
    assert done.version is None
    assert load(gateway).providers["openai"].api_key == "keyring:openai"
    assert CANARY not in everything(gateway.parent)


def everything(folder: Path) -> str:
    """Return the text of all files below a folder."""
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_version_with_a_secret_is_never_kept(gateway: Path) -> None:
    """Not by edits, by rollbacks, or by the daemon; in a value or in a comment."""
    gateway.write_text("[teams.a]\n")
    add_team(gateway, "b")
    gateway.write_text(f"# it was {CANARY}\n[teams.a]\n")
    assert remember(gateway, who="daemon", what="reload") is None
    add_team(gateway, "c")
    gateway.write_text(f'[providers.p]\nkind = "openai"\napi_key = "{CANARY}"\n')
    with pytest.raises(ConfigError) as refused:
        remember(gateway, who="daemon", what="reload")
    assert CANARY not in str(refused.value)
    rollback(gateway, 1, who="ann")
    assert gateway.read_text() == "[teams.a]\n"
    assert CANARY not in everything(gateway.parent)


def test_broken_toml_is_refused_with_its_line(gateway: Path) -> None:
    """An edit of what cannot be read could only do harm."""
    gateway.write_text("[teams.a]\n[teams.b\n")
    with pytest.raises(ConfigError, match=r"gateway.toml:2: not valid TOML"):
        add_team(gateway, "c")
    assert gateway.read_text() == "[teams.a]\n[teams.b\n"


def test_an_edit_of_a_text_that_is_there_no_more_is_refused(gateway: Path) -> None:
    """Who decided by an older text decided something else."""
    gateway.write_text("[teams.a]\n")
    seen = add_team(gateway, "b").digest
    add_team(gateway, "c")
    with pytest.raises(ConfigError, match="changed by someone else"):
        edit(gateway, lambda _: None, what="", who="", expect=seen)


def test_a_change_by_an_editor_during_the_edit_is_not_lost(gateway: Path) -> None:
    """Editors know of no lock."""
    gateway.write_text("[teams.a]\n")

    def change(document: tomlkit.TOMLDocument) -> None:
        gateway.write_text("[teams.mine]\n")
        table(document, "teams", "b")

    with pytest.raises(ConfigError, match="changed by someone else"):
        edit(gateway, change, what="", who="")
    assert gateway.read_text() == "[teams.mine]\n"
    assert [one.what for one in kept(load(gateway))] == ["as it was found"]


def test_the_mode_stays_and_new_files_are_the_owners_alone(gateway: Path) -> None:
    """0600 for what we make; what a person chose is theirs."""
    gateway.write_text("[server]\n")
    gateway.chmod(0o640)
    add_team(gateway, "a")
    assert stat.S_IMODE(gateway.stat().st_mode) == 0o640
    made = [path for path in gateway.parent.rglob("*") if path != gateway]
    assert made
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_symbolic_link_stays_one(gateway: Path) -> None:
    """Configurations live in dotfile repositories."""
    real = gateway.parent / "dotfiles" / "real.toml"
    real.parent.mkdir()
    real.write_text("[server]\n")
    gateway.symlink_to(real)
    add_team(gateway, "a")
    assert gateway.is_symlink()
    assert "a" in load(real).teams


def test_an_edit_that_changes_nothing_writes_nothing(gateway: Path) -> None:
    """No new version, no new file, no reload."""
    gateway.write_text("[server]")
    before = gateway.stat()
    done = edit(gateway, lambda document: None, what="", who="")
    assert not done.changed
    assert (gateway.stat().st_ino, gateway.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_history_says_when_who_and_what_and_rollback_can_be_undone(gateway: Path) -> None:
    """A rollback is an edit like another."""
    gateway.write_text("[teams.a]\n")
    for name in "bc":
        add_team(gateway, name)
    found = kept(load(gateway))
    assert [one.what for one in found] == ["add team c", "add team b", "as it was found"]
    assert [one.who for one in found] == ["ann", "ann", ""]
    assert all(one.at.endswith("+00:00") for one in found)
    last = gateway.read_text()
    rollback(gateway, found[-1].number, who="bob")
    assert gateway.read_text() == "[teams.a]\n"
    newest = kept(load(gateway))[0]
    assert (newest.who, newest.what) == ("bob", "rollback to 1")
    rollback(gateway, found[0].number, who="bob")
    assert gateway.read_text() == last


def test_rollback_mends_a_file_that_is_broken(gateway: Path) -> None:
    """That is when it is needed most; the ledger is found all the same."""
    gateway.write_text(f"[ledger]\npath = '{gateway.parent}/far/ledger.db'\n[teams.a]\n")
    good = add_team(gateway, "b").version
    assert good == 1
    gateway.write_text(gateway.read_text() + "[broken\n")
    rollback(gateway, good, who="ann")
    assert set(load(gateway).teams) == {"a"}


ZEROS, ONES = ("sha256:" + digit * 64 for digit in "01")


@pytest.mark.parametrize(
    ("before", "now", "revived"),
    [
        (f'hash = "{ZEROS}"', f'hash = "{ZEROS}"\nhint = "a"', []),
        (f'hash = "{ZEROS}"', f'hash = "{ZEROS}"\nrevoked = 2026-01-01', ["k"]),
        (f'hash = "{ZEROS}"', f'hash = "{ZEROS}"\nexpires = 2020-01-01', ["k"]),
        (f'hash = "{ZEROS}"', f'hash = "{ONES}"', ["k"]),
        (
            f'hash = "{ZEROS}"',
            f'hash = "{ONES}"\nprevious = [{{ hash = "{ZEROS}", until = 9999-01-01T00:00:00Z }}]',
            [],
        ),
        (
            f'hash = "{ONES}"\nprevious = [{{ hash = "{ZEROS}", until = 9999-01-01T00:00:00Z }}]',
            f'hash = "{ONES}"',
            ["k"],
        ),
        (f'hash = "{ZEROS}"\nexpires = 2020-01-01', f'hash = "{ONES}"', []),
        (f'hash = "{ZEROS}"\nrevoked = 2026-01-01', f'hash = "{ZEROS}"', []),
    ],
    ids=["same", "revoked", "expired", "rotated", "grace", "grace cut", "was expired", "was dead"],
)
def test_a_rollback_tells_which_keys_would_work_again(
    gateway: Path, before: str, now: str, revived: list[str]
) -> None:
    """A key counts by its secrets: one that works now and not before the rollback is revived."""
    for text in (before, now):
        gateway.write_text(f'[users.u]\n[keys.k]\nuser = "u"\n{text}\n')
        remember(gateway, who="ann", what="by hand")
    first = kept(load(gateway))[-1].number
    assert revived_by_rollback(gateway, first) == (revived, digest(gateway.read_text()))


def test_rollback_to_no_version_is_refused(gateway: Path) -> None:
    """And neither to another file's version."""
    other = gateway.with_name("other.toml")
    other.write_text("[teams.o]\n")
    add_team(other, "p")
    gateway.write_text("[teams.a]\n")
    for number in (1, 2, 99):
        with pytest.raises(NotFound, match=f"no version {number} of"):
            rollback(gateway, number, who="ann")


def test_history_is_bounded(tmp_path: Path) -> None:
    """A file that a script edits each minute must not fill the disk."""
    folder, path = tmp_path / "history", tmp_path / "gateway.toml"
    for number in range(104):
        history.keep(folder, path, f"# {number}\n", who="", what="")
    found = history.versions(folder, path)
    assert [found[0].number, found[-1].number, len(found)] == [104, 5, 100]
    assert len(list(folder.glob("*.toml"))) == 100
    assert history.text_of(folder, found[-1]) == "# 4\n"


def test_a_kept_version_that_was_changed_is_not_used(tmp_path: Path) -> None:
    """What was checked is what comes back."""
    folder, path = tmp_path / "history", tmp_path / "gateway.toml"
    history.keep(folder, path, "# one\n", who="", what="")
    (version,) = history.versions(folder, path)
    (folder / "000001.toml").write_text("# two\n")
    with pytest.raises(ConfigError, match="was changed after"):
        history.text_of(folder, version)
    (folder / "index.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        history.versions(folder, path)


def test_remember_keeps_what_a_person_wrote_by_hand(gateway: Path) -> None:
    """The daemon calls it when it has taken up a change; twice is once."""
    gateway.write_text("[teams.a]\n")
    assert remember(gateway, who="daemon", what="start") == 1
    assert remember(gateway, who="daemon", what="reload") == 1
    gateway.write_text("[teams.b]\n")
    assert remember(gateway, who="daemon", what="reload", served=load(gateway)) == 2


def test_what_was_never_in_force_is_not_remembered(gateway: Path) -> None:
    """A file that is being written may be valid at each moment."""
    gateway.write_text("[teams.a]\n")
    served = load(gateway)
    gateway.write_text("")
    assert remember(gateway, who="daemon", what="taken up", served=served) is None
    gateway.write_text("# of no account\n[teams.a]\n")
    assert remember(gateway, who="daemon", what="taken up", served=served) == 1


def test_edits_by_eight_processes_at_once_lose_nothing(gateway: Path) -> None:
    """Each waits for its turn and begins with what the one before it wrote."""
    gateway.write_text("# mine\n")
    code = (
        "import sys; from pathlib import Path; from tollway.daemon.config.edit import edit;"
        "from tollway.daemon.config.document import table\n"
        "for number in range(5):\n"
        "    name = f'{sys.argv[2]}-{number}'\n"
        "    edit(Path(sys.argv[1]), lambda document: table(document, 'teams', name),"
        " what=name, who='ann')\n"
    )
    ran = [
        subprocess.Popen([sys.executable, "-c", code, str(gateway), f"p{number}"])
        for number in range(8)
    ]
    assert [one.wait(timeout=100) for one in ran] == [0] * 8
    config = load(gateway)
    assert set(config.teams) == {f"p{one}-{two}" for one in range(8) for two in range(5)}
    assert len(kept(config)) == 41


def test_what_is_remembered_beside_edits_stands_where_it_was_in_force(gateway: Path) -> None:
    """Kept after an edit of it, a version would be the newest, and the edit nobody's."""
    gateway.write_text("# mine\n")
    editing = threading.Event()

    def remembers() -> None:
        while not editing.is_set():
            remember(gateway, who="daemon", what="taken up")

    with ThreadPoolExecutor() as threads:
        watching = [threads.submit(remembers) for _ in range(3)]
        try:
            for number in range(30):
                add_team(gateway, f"t{number}")
        finally:
            editing.set()
    assert [one.result() for one in watching] == [None] * 3
    versions = kept(load(gateway))
    assert [one.what for one in versions[:-1]] == [f"add team t{n}" for n in reversed(range(30))]


def test_what_is_in_force_is_remembered_where_the_daemon_may_not_write_beside_it(
    gateway: Path, powerless: None
) -> None:
    """The history is beside the ledger; a gateway.toml in a folder of root's is kept there too."""
    import tempfile  # noqa: PLC0415 - made by the user who is bound

    folder = Path(tempfile.mkdtemp())
    path = folder / "etc" / "gateway.toml"
    path.parent.mkdir()
    path.write_text(f"[ledger]\npath = '{folder}/ledger/ledger.db'\n")
    path.parent.chmod(0o500)
    try:
        assert remember(path, who="daemon", what="taken up") == 1
        assert [one.what for one in kept(load(path))] == ["taken up"]
    finally:
        path.parent.chmod(0o700)
        shutil.rmtree(folder)


def test_a_lock_that_is_never_given_back_is_an_error(tmp_path: Path) -> None:
    """Not a wait for ever."""
    with (
        files.locked(tmp_path / "lock"),
        pytest.raises(ConfigError, match="being changed by another command"),
        files.locked(tmp_path / "lock", wait_s=0.05),
    ):
        pass


def test_a_disk_that_is_full_gets_no_half_file(tmp_path: Path) -> None:
    """The next `init` took an empty one for a person's, and the daemon began with it."""
    with small_disk(tmp_path / "disk", "64k") as folder:
        filler = fill(folder)
        with pytest.raises(ConfigError, match="No space left"):
            files.create(folder / "gateway.toml", b"x" * 5000)
        assert list(folder.iterdir()) == [filler]
        filler.unlink()
        files.create(folder / "gateway.toml", b"x")


def test_a_folder_that_cannot_be_written_is_said(gateway: Path, powerless: None) -> None:
    """With the path and the reason, and nothing is half done."""
    import tempfile  # noqa: PLC0415 - made by the user who is bound

    folder = Path(tempfile.mkdtemp())
    path = folder / "gateway.toml"
    path.write_text(f"[ledger]\npath = '{folder}/ledger/ledger.db'\n")
    folder.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot be written: Permission denied") as refused:
            add_team(path, "a")
        assert str(folder) in refused.value.hint
    finally:
        folder.chmod(0o700)


def test_a_first_file_is_written_once_for_the_owner_alone(gateway: Path) -> None:
    """`tollway init` never overwrites what is there."""
    config = write_new(
        gateway, {"server": {"single_user": True}}, heading="Made by `tollway init`\n\nYours"
    )
    assert config.server.single_user
    assert gateway.read_text().startswith("# Made by `tollway init`\n#\n# Yours\n\n[server]\n")
    assert stat.S_IMODE(gateway.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="there already"):
        write_new(gateway, {})
    with pytest.raises(ConfigError, match="unknown key"):
        write_new(gateway.with_name("b.toml"), {"sevrer": {}})
    assert not gateway.with_name("b.toml").exists()
