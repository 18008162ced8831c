"""Ctrl-C and SIGTERM while the program is still being imported, at moments that it waits at."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import PATIENCE_S, Home

pytestmark = pytest.mark.whole

# Python imports this before the program: it says that the moment has come, and waits there.
HOOK = """import os, sys
which, _, moment = os.environ["MOMENT"].partition(" ")
daemon = any(word.startswith("tollway.daemon") for word in sys.orig_argv)

def wait():
    os.write(int(os.environ["SAYS"]), b"here")
    while not os.read(int(os.environ["HEARS"]), 1):
        pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            wait()

if which == ("daemon" if daemon else "cli"):
    wait() if moment == "start" else sys.meta_path.insert(0, Finder())
"""
FILE = '[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\ntimezone = "Europe/Paris"\n'
MOMENTS = [
    "cli tollway.cli.app",
    "cli typer",
    "cli tollway.cli.start",
    "cli tollway.daemon.config.load",
    "daemon start",
    "daemon tollway.daemon",
    "daemon asyncio",
    "daemon aiohttp",
    "daemon tollway.daemon.gate.gate",
    "daemon zoneinfo",
    "daemon tollway.daemon.telemetry",  # the ledger and the sockets are its own by then
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home whose gateway exports traces, to nobody."""
    made = Home(tmp_path / "home")
    made.path.mkdir()
    made.write(FILE + '[telemetry]\notlp = "http://127.0.0.1:9"\n')
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    made.env["PYTHONPATH"] = str(hook)
    return made


@contextlib.contextmanager
def waiting_at(home: Home, moment: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Yield the program once it waits at a moment of its start; it goes on afterwards."""
    (hears, ours), (heard, says) = os.pipe(), os.pipe()
    popen = subprocess.Popen(
        [sys.executable, "-m", "tollway.cli", *words],
        env={**home.env, "MOMENT": moment, "SAYS": str(says), "HEARS": str(hears)},
        pass_fds=[says, hears], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=home.path,
    )  # fmt: skip
    os.close(says)
    os.close(hears)
    try:
        assert os.read(heard, 4) == b"here", popen.communicate(timeout=PATIENCE_S)
        yield popen
        with contextlib.suppress(BrokenPipeError):
            os.write(ours, b"!")
    except BaseException:
        popen.kill()
        raise
    finally:
        os.close(ours)
        os.close(heard)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_daemon_that_is_stopped_at_its_start_ends_without_a_word(
    home: Home, moment: str, number: signal.Signals, code: int
) -> None:
    """Ctrl-C as everywhere, SIGTERM as later: no traceback, and nothing is left behind."""
    with waiting_at(home, moment, "serve") as popen:
        popen.send_signal(number)
    out, err = popen.communicate(timeout=PATIENCE_S)
    assert (popen.returncode, out) == (code, "")
    assert [line for line in err.splitlines() if line.strip()] == []
    assert not (home.data / "control.sock").exists()
    assert not list(home.data.glob("*.pid"))


@pytest.mark.parametrize("moment", ["daemon start", "daemon tollway.daemon.telemetry"])
def test_a_daemon_that_is_to_reload_at_its_start_does_once_it_serves(
    home: Home, moment: str
) -> None:
    """SIGHUP ends a program that does not listen; a renewed certificate's hook just sends it."""
    with waiting_at(home, moment, "serve") as popen:
        popen.send_signal(signal.SIGHUP)
    assert popen.stderr is not None
    assert any("reloaded" in line for line in popen.stderr)
    popen.send_signal(signal.SIGTERM)
    popen.communicate(timeout=PATIENCE_S)
    assert popen.returncode == 0


@pytest.mark.parametrize("moment", ["cli tollway.cli.app", "cli typer", "cli tollway.cli.status"])
def test_any_command_is_interrupted_at_its_start_without_a_word(home: Home, moment: str) -> None:
    """By Ctrl-C; SIGTERM ends it as it ends any program."""
    with waiting_at(home, moment, "status") as popen:
        popen.send_signal(signal.SIGINT)
    out, err = popen.communicate(timeout=PATIENCE_S)
    assert (popen.returncode, out, err.strip()) == (130, "", "")
    with waiting_at(home, moment, "status", "serve") as popen:
        popen.send_signal(signal.SIGTERM)
    assert popen.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    popen.communicate()
