"""A run in a fork is a run of the program: what other tests rely on without asking."""

import concurrent.futures
import os
import signal
import socket
from pathlib import Path

import pytest
from program import PATIENCE_S, ForkServer, Home, fork_server

GOOD = '[server]\nlisten = "127.0.0.1:0"\nbudget = ["5/day"]\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with a good file."""
    made = Home(tmp_path)
    made.write(GOOD)
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        [],
        ["--help"],
        ["stauts"],
        ["config", "check", "--json"],
        ["config", "show"],
        ["secrets", "list"],
        ["models", "remove", "nothing"],
    ],
)
def test_a_fork_says_what_a_fresh_process_says(home: Home, words: list[str]) -> None:
    """Exit code, stdout and stderr are the same to the byte."""
    forked, fresh = home.tollway(*words), home.tollway(*words, fresh=True)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        fresh.returncode,
        fresh.stdout,
        fresh.stderr,
    )


def test_each_fork_has_its_own_environment_and_folder(home: Home, tmp_path: Path) -> None:
    """Nothing of one run is left for the next, and nothing of the test's process is there."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "gateway.toml").write_text(GOOD.replace("5/day", "7/day"))
    there = home.tollway("config", "show", TOLLWAY_CONFIG=str(other / "gateway.toml"))
    assert "7/day" in there.stdout
    assert "5/day" in home.tollway("config", "show").stdout
    inside = fork_server().run(("config", "show"), home.env, other, "")
    assert "7/day" in inside.stdout


def test_a_fork_reads_its_own_stdin(home: Home) -> None:
    """More than a pipe holds arrives whole; what nobody reads is no error."""
    home.tollway("secrets", "backend", "vault")
    assert home.tollway("secrets", "set", "openai", stdin="sk-1\n").returncode == 0
    assert "openai" in home.tollway("secrets", "list").stdout
    assert home.tollway("--version", stdin="x" * 300_000).returncode == 0


def test_forks_run_at_the_same_time(home: Home) -> None:
    """Each is answered with what it said itself."""
    words = [("config", "show"), ("--version",), ("secrets", "list", "--json"), ("--help",)] * 3
    with concurrent.futures.ThreadPoolExecutor(len(words)) as pool:
        together = list(pool.map(lambda line: home.tollway(*line), words))
    alone = {line: home.tollway(*line).stdout for line in words[:4]}
    assert [done.stdout for done in together] == [alone[line] for line in words]


def test_a_signal_ends_a_fork_as_it_does_a_process(home: Home) -> None:
    """The code is the signal's number, negative, as a subprocess has it."""
    server = ForkServer()
    with (
        socket.create_server(("127.0.0.1", 0)) as provider,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        provider.settimeout(PATIENCE_S)
        url = f"http://127.0.0.1:{provider.getsockname()[1]}/v1"
        home.write(f'{GOOD}[providers.slow]\nkind = "openai-compatible"\nbase_url = "{url}"\n')
        ending = pool.submit(server.run, ("providers", "test", "slow"), home.env, home.path, "")
        connection, _ = provider.accept()  # the program waits for an answer now
        with connection:
            [child] = server.children()
            os.kill(child, signal.SIGTERM)
            assert ending.result().returncode == -signal.SIGTERM
    server.close()


def test_the_server_ends_with_its_starter(home: Home) -> None:
    """A test run that is killed leaves nothing behind."""
    server = ForkServer()
    assert server.run(("--version",), home.env, home.path, "").returncode == 0
    assert server.close() == 0


def test_what_the_interpreter_reads_at_its_start_needs_a_fresh_one(home: Home) -> None:
    """A fork would not hear of it: such a run gets its own interpreter without being asked."""
    done = home.tollway("--version", PYTHONVERBOSE="1")
    assert "import" in done.stderr
