"""An alert's command: what it gets, how its end is told, and what becomes of its children."""

import json
import os
import stat
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import pytest
from alerts_told import USD, looked, state, telling
from shell import until


def script(folder: Path, text: str) -> Path:
    """Write a program and return where it is."""
    path = folder / "notify me"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_the_command_gets_it_on_stdin_and_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell takes the words apart, and no provider's key is in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    program = script(tmp_path, 'cat > stdin; env > env; printf "%s|" "$@" > words')
    said = json.dumps([str(program), "$HOME; *", "-v"])
    async with telling(tmp_path, f"command = {said}") as alerts:
        await looked(alerts, state(8 * USD))
        assert alerts.channels.problems == ()
    body = json.loads((tmp_path / "stdin").read_text())
    assert (body["kind"], body["part"]) == ("budget", "0.8")
    environment = (tmp_path / "env").read_text()
    assert "TOLLWAY_ALERT_KIND=budget" in environment
    assert f"TOLLWAY_ALERT_TEXT={body['text']}" in environment
    assert "sk-very-secret" not in environment
    assert (tmp_path / "words").read_text() == "$HOME; *|-v|"


async def test_no_name_that_a_caller_chose_cuts_the_text_short(tmp_path: Path) -> None:
    """A variable ends at a NUL, and a terminal does what is behind an escape."""
    program = script(tmp_path, 'cat > stdin; echo "$TOLLWAY_ALERT_TEXT" > text')
    async with telling(tmp_path, f"command = {json.dumps([str(program)])}") as alerts:
        alerts.failing({"up/a": "up/a\0b\x1b[2J is failing: upstream_timeout"})
        await alerts.channels.emptied()
        assert alerts.channels.problems == ()
    said = (tmp_path / "text").read_text()
    assert said == "up/a\\x00b\\x1b[2J is failing: upstream_timeout\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo first >&2; echo no mail today >&2; exit 3", "ended with 3: no mail today"),
        ("cat > /dev/null; kill -9 $$", "ended with -9"),
        (None, "cannot be run"),
    ],
)
async def test_a_command_that_fails_is_shown_with_its_last_word(
    tmp_path: Path, text: str | None, words: str
) -> None:
    """In `status` and in the log; the next alert runs it again."""
    program = script(tmp_path, text) if text else tmp_path / "nothing"
    async with telling(tmp_path, f"command = {json.dumps([str(program)])}") as alerts:
        await looked(alerts, state(8 * USD))
        (problem,) = alerts.channels.problems
        assert words in problem


async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """Its time is limited; nothing of it stays behind."""
    program = script(tmp_path, "sleep 1000 & echo $! > child; wait")
    async with telling(tmp_path, f"command = {json.dumps([str(program)])}") as alerts:
        alerts.channels.command_within_s = 0.5
        await looked(alerts, state(8 * USD))
        (problem,) = alerts.channels.problems
        assert "was killed" in problem
        child = int((tmp_path / "child").read_text())
        await until(lambda: not alive(child))


async def test_a_command_is_told_by_its_own_end_whatever_its_children_do(tmp_path: Path) -> None:
    """One that leaves a mailer behind had ended well, and was called killed 30 s later."""
    text = """
        (read line < wait; echo $line > sent) & echo $! > child
        [ -e again ] || exit 0; echo no mail >&2; exit 3"""
    os.mkfifo(tmp_path / "wait")
    program = script(tmp_path, text)
    async with telling(tmp_path, f"command = {json.dumps([str(program)])}") as alerts:
        alerts.channels.command_within_s = 1000
        await looked(alerts, state(8 * USD))
        assert not alerts.channels.problems
        (tmp_path / "wait").write_text("mail\n")
        await until(lambda: not alive(int((tmp_path / "child").read_text())))
        assert (tmp_path / "sent").read_text() == "mail\n"
        (tmp_path / "again").touch()
        await looked(alerts, state(10 * USD))
        (problem,) = alerts.channels.problems
        assert "ended with 3: no mail" in problem
        child = int((tmp_path / "child").read_text())
        assert alive(child)
    await until(lambda: not alive(child))


async def test_what_a_command_leaves_behind_has_its_time_and_no_more(tmp_path: Path) -> None:
    """A child that never ends would be one more with each alert."""
    program = script(tmp_path, "sleep 1000 & echo $! > child")
    async with telling(tmp_path, f"command = {json.dumps([str(program)])}") as alerts:
        alerts.channels.command_within_s = 0.5
        await looked(alerts, state(8 * USD))
        assert alerts.channels.problems == ()
        await until(lambda: not alive(int((tmp_path / "child").read_text())))


async def test_a_command_that_writes_without_end_fills_no_memory(tmp_path: Path) -> None:
    """All that it wrote to stderr within its time was kept: gigabytes."""
    program = script(tmp_path, "head -c 300000000 /dev/zero >&2; (echo; echo its end) >&2; exit 1")
    async with telling(tmp_path, f"command = {json.dumps([str(program)])}") as alerts:
        before = getrusage(RUSAGE_SELF).ru_maxrss
        await looked(alerts, state(8 * USD))
        (problem,) = alerts.channels.problems
        assert problem.endswith("its end")
        assert getrusage(RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
