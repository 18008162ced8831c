"""`config diff`, `edit` and `export`: the file as a text."""

import json
import os
import pty
import sys
import tomllib
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.config.load import load

FILE = """\
# what a person wrote
[server]
single_user = true

[providers.box]
kind = "vllm"
ca_file = "ca.pem"

[routes.fast] # quick
to = ["box/qwen"]
"""


def editor(home: Home, script: str) -> str:
    """Return an editor that is a Python script; `text` and `save(text)` are there."""
    program = home.path / "editor.py"
    program.write_text(
        "import sys, pathlib\n"
        "file = pathlib.Path(sys.argv[1]); text = file.read_text(); save = file.write_text\n"
        + script
    )
    return f"{sys.executable} {program}"


def home_with(tmp_path: Path) -> Home:
    """Return a home with the file, one change of which is kept."""
    home = Home(tmp_path)
    (tmp_path / ".config/tollway").mkdir(parents=True)
    (tmp_path / ".config/tollway/ca.pem").write_text("")
    home.write(FILE)
    done = home.tollway("routes", "add", "slow", "--to", "box/big")
    assert done.returncode == 0, done.stderr
    return home


def test_a_difference_is_shown_as_patches_are(tmp_path: Path) -> None:
    """Against the version in force, or an earlier one; broken files too."""
    home = home_with(tmp_path)
    same = home.tollway("config", "diff", "--exit-code")
    assert (same.returncode, same.stdout) == (0, "")
    assert "is version 2" in same.stderr
    first = home.tollway("config", "diff", "1")
    assert '+[routes.slow]\n+to = ["box/big"]\n' in first.stdout
    home.config.write_text(home.config.read_text() + "broken = = 1 # sk-hunter2hunter2hunter2\n")
    broken = home.tollway("config", "diff", "--exit-code")
    assert broken.returncode == 1
    assert broken.stdout.endswith("+broken = = 1 # ***\n")
    said = json.loads(home.tollway("config", "diff", "--json").stdout)
    assert (said["from"], said["changed"], said["diff"][-1]) == (2, True, "+broken = = 1 # ***")


@pytest.mark.parametrize("broken", ["", "broken = = 1\n", 'token = "hunter2\n'])
def test_a_secret_that_a_person_wrote_is_not_shown(tmp_path: Path, broken: str) -> None:
    """Whoever is told to take it out shows the screen to others; a right file is as it stands.

    However it is written, and also where the file is no TOML.
    """
    home = home_with(tmp_path)
    assert home.tollway("config", "show").stdout == home.config.read_text()
    fine = 'metrics_key = "env:METRICS" # one key: ours\n'
    home.config.write_text(
        home.config.read_text().replace("single_user", f"{fine}single_user")
        + broken
        + '[server.alerts]\nwebhook = "https://hooks.example/services/T0/B0/abcdefGHIJKLmnop1234"\n'
        '[providers.a]\nkind = "openai"\napi_key = "hunter2"\n#api_key = "hunter2"\n'
        'headers = { Authorization = "Bearer hunter2" }\n'
        '[providers.b]\nkind = "openai"\nproxy = "http://me:hunter2@proxy:8080"\n'
        'api_keys = [\n"env:A",\n"a\\"hunter2",\n"\\u0061hunter2",\n]\n'
        'serves = ["0123hunter2hunter2hunter2hunter2"]\n'
    )
    for command in ("diff", "show"):
        shown = home.tollway("config", command).stdout
        assert fine in shown
        assert '"env:A",\n' in shown
        assert "abcdefGHIJ" not in shown
        assert "hunter2" not in shown
        assert shown.count("***") == 8 + broken.startswith("token")


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    """With the command that lists those there are; a file without versions says why."""
    home = Home(tmp_path)
    home.write(FILE.replace('ca_file = "ca.pem"\n', ""))
    none = home.tollway("config", "diff")
    assert none.returncode == 1
    assert "No version of" in none.stderr
    assert home.tollway("routes", "add", "slow", "--to", "box/big").returncode == 0
    unknown = home.tollway("config", "diff", "9")
    assert unknown.returncode == 1
    assert "There is no version 9" in unknown.stderr


def test_what_an_editor_saves_replaces_the_file(tmp_path: Path) -> None:
    """Comments as the person left them; the version before is kept."""
    home = home_with(tmp_path)
    saves = editor(home, "save(text.replace('qwen', 'other'))")
    done = home.tollway("config", "edit", EDITOR=saves)
    assert done.returncode == 0, done.stderr
    assert "No daemon runs" in done.stderr
    assert load(home.config).routes["fast"].to == ("box/other",)
    assert "# quick" in home.config.read_text()
    undone = home.tollway("config", "rollback", "2")
    assert undone.returncode == 0, undone.stderr
    assert load(home.config).routes["fast"].to == ("box/qwen",)


def test_a_wrong_text_is_told_and_lost_nowhere(tmp_path: Path) -> None:
    """Without a terminal nobody can go on editing: the file stays, the text too."""
    home = home_with(tmp_path)
    before = home.config.read_text()
    done = home.tollway("config", "edit", EDITOR=editor(home, "save(text + 'x = 1\\n')"))
    assert done.returncode == 2
    assert "gateway.toml:" in done.stderr
    assert "unknown key" in done.stderr
    kept = Path(done.stderr.rpartition("is in `")[2].rpartition("`")[0])
    assert kept.read_text() == before + "x = 1\n"
    assert home.config.read_text() == before


def test_at_a_terminal_a_person_edits_again(tmp_path: Path) -> None:
    """The same text, where it was left: the second time it is right."""
    home = home_with(tmp_path)
    script = "save(text.replace('x = 1', '# x') if 'x = 1' in text else text + 'x = 1\\n')"
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - it becomes the program
        env = home.env | {"EDITOR": editor(home, script)}
        os.chdir(home.path)
        program = [sys.executable, "-m", "tollway.cli", "config", "edit"]
        os.execve(sys.executable, program, env)  # noqa: S606 - no shell is wanted
    said = b""
    while b"Edit again? [Y/n]" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\n")
    try:
        while piece := os.read(terminal, 1000):
            said += piece
    except OSError:  # its end of the terminal is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    os.close(terminal)
    assert home.config.read_text().endswith("# x\n")


def test_an_editor_that_fails_changes_nothing(tmp_path: Path) -> None:
    """Nor does one that is not there, or one that saves the same."""
    home = home_with(tmp_path)
    before = home.config.read_text()
    room = tmp_path / "room"
    room.mkdir()
    fails = editor(home, "save('x'); sys.exit(3)")
    failed = home.tollway("config", "edit", EDITOR=fails, TMPDIR=str(room))
    assert failed.returncode == 1
    assert "ended with 3; nothing was changed" in failed.stderr
    (left,) = room.iterdir()
    assert f"What was written is in `{left}/gateway.toml`" in failed.stderr
    gives_up = editor(home, "sys.exit(1)")  # as vim's `:cq` does
    given_up = home.tollway("config", "edit", EDITOR=gives_up, TMPDIR=str(room))
    assert (given_up.returncode, "hint" in given_up.stderr) == (1, False)
    assert list(room.iterdir()) == [left]
    missing = home.tollway("config", "edit", VISUAL="no-such-editor")
    assert missing.returncode == 2
    assert "There is no program `no-such-editor`" in missing.stderr
    same = home.tollway("config", "edit", EDITOR="true")
    assert (same.returncode, home.config.read_text()) == (0, before)


@pytest.mark.parametrize("name", ["vim", "nano", ""])
def test_no_editor_is_started_that_nobody_could_use(tmp_path: Path, name: str) -> None:
    """From a script or a cron job vim waits for ever, and draws into the log."""
    home = home_with(tmp_path)
    folder = tmp_path / "editors"
    folder.mkdir()
    for one in ("vim", "nano", "sensible-editor"):
        (folder / one).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (folder / one).chmod(0o700)
    path = f"{folder}:{home.env['PATH']}"
    refused = home.tollway("config", "edit", EDITOR=name, VISUAL="", PATH=path)
    assert refused.returncode == 2
    assert f"`{name or 'sensible-editor'}` needs a terminal" in refused.stderr
    assert not (tmp_path / "started").exists()


def test_an_export_says_the_same(tmp_path: Path) -> None:
    """In plain order, without comments; relative paths are whole, keys stay out if asked."""
    home = home_with(tmp_path)
    home.config.write_text(home.config.read_text().replace("single_user = true\n", ""))
    assert home.tollway("users", "create", "ann").returncode == 0
    made = home.tollway("keys", "create", "laptop", "--user", "ann")
    assert made.returncode == 0, made.stderr
    done = home.tollway("config", "export")
    assert done.returncode == 0, done.stderr
    tables = tomllib.loads(done.stdout)
    assert "#" not in done.stdout
    assert tables["providers"]["box"]["ca_file"] == str(home.config.parent / "ca.pem")
    assert tables["keys"].keys() == {"laptop"}
    other = tmp_path / "other.toml"
    written = home.tollway("config", "export", "--no-keys", "-o", str(other))
    assert written.returncode == 0, written.stderr
    assert load(other).routes == load(home.config).routes
    assert load(other).keys == {}
    again = home.tollway("config", "export", "-o", str(other))
    assert again.returncode == 2
    whole = json.loads(home.tollway("config", "export", "--effective", "--json").stdout)
    assert whole["server"]["listen"] == "127.0.0.1:4141"
