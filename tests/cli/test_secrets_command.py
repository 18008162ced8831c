"""`secrets`: what goes in never comes out on the terminal."""

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from program import Home

CANARY = "gsk_CANARYcanaryCANARYcanary42"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home on a box without a keyring."""
    return Home(tmp_path)


@pytest.fixture
def vaulted(home: Home) -> Home:
    """Return a home whose owner has chosen the vault."""
    assert home.tollway("secrets", "backend", "vault").returncode == 0
    return home


def test_without_a_keyring_nothing_is_stored_before_the_vault_is_chosen(home: Home) -> None:
    """The fallback is chosen openly; until then the command says how."""
    refused = home.tollway("secrets", "set", "groq", stdin=CANARY)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "`tollway secrets backend vault`" in refused.stderr
    assert json.loads(home.tollway("secrets", "backend", "--json").stdout)["kind"] == "none"
    assert not home.data.exists()
    chosen = home.tollway("secrets", "backend", "vault")
    assert str(home.data / "vault.json") in chosen.stdout
    assert str(home.data / "vault.key") in chosen.stdout
    # What it was made with is its key, whatever the environment says since.
    told = home.tollway("secrets", "backend", TOLLWAY_VAULT_KEY="correct horse battery staple")
    assert str(home.data / "vault.key") in told.stdout


def test_a_secret_goes_in_by_stdin_and_is_never_shown(vaulted: Home) -> None:
    """Not by any command, not in any file but sealed."""
    said = [
        vaulted.tollway("secrets", "set", "groq", stdin=f"{CANARY}\n"),
        vaulted.tollway("secrets", "list"),
        vaulted.tollway("secrets", "list", "--json"),
        vaulted.tollway("secrets", "backend"),
        vaulted.tollway("secrets", "remove", "groq"),
    ]
    assert [ended.returncode for ended in said] == [0] * len(said)
    assert 'api_key = "keyring:groq"' in said[0].stdout
    assert "keyring:groq" in said[1].stdout
    assert all(CANARY not in ended.stdout + ended.stderr for ended in said)
    files = [path for path in vaulted.path.rglob("*") if path.is_file()]
    assert files
    assert all(CANARY.encode() not in path.read_bytes() for path in files)


def test_a_secret_in_the_words_of_the_command_is_refused(vaulted: Home) -> None:
    """Other users see a command's words; and the refusal does not repeat it."""
    ended = vaulted.tollway("secrets", "set", "groq", CANARY)
    assert ended.returncode == 2
    assert CANARY not in ended.stderr


def test_a_terminal_hides_what_is_typed(vaulted: Home) -> None:
    """The prompt reads from the terminal with echo off."""
    leader, follower = pty.openpty()
    typing = subprocess.Popen(
        [sys.executable, "-m", "tollway.cli", "secrets", "set", "groq"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=vaulted.env,
        cwd=vaulted.path,
        start_new_session=True,
    )
    os.close(follower)
    try:
        shown = read(leader, until=b"Secret for groq")
        os.write(leader, CANARY.encode() + b"\n")
        shown += read(leader, until=b"no such word: up to the end")
        assert typing.wait(60) == 0
    finally:
        typing.kill()
        typing.wait()
        os.close(leader)
    assert CANARY.encode() not in shown
    assert b"keyring:groq" in shown


def read(leader: int, *, until: bytes) -> bytes:
    """Return what a terminal shows up to a word, or up to its program's end."""
    shown = b""
    while until not in shown:
        ready, _, _ = select.select([leader], [], [], 60)
        assert ready, f"nothing for a minute after {shown!r}"
        try:
            piece = os.read(leader, 4096)
        except OSError:  # Linux's way to say that the other end has closed
            break
        shown += piece
    return shown


def test_the_list_joins_what_is_stored_with_what_is_named(vaulted: Home) -> None:
    """A reference that nobody has stored shows as missing, before a call finds out."""
    vaulted.tollway("secrets", "set", "spare", stdin=CANARY)
    vaulted.write(
        '[providers.groq]\nkind = "groq"\napi_key = "keyring:groq"\n'
        '[providers.xai]\nkind = "xai"\napi_key = "env:XAI_API_KEY"\n'
    )
    assert json.loads(vaulted.tollway("secrets", "list", "--json").stdout) == [
        {"reference": "keyring:spare", "kept": "vault", "used_by": []},
        {"reference": "keyring:groq", "kept": "missing", "used_by": ["groq"]},
        {"reference": "env:XAI_API_KEY", "kept": "env", "used_by": ["xai"]},
    ]


def test_removing_what_is_not_there_is_a_no(vaulted: Home) -> None:
    """Exit code 1, so that a script can tell."""
    ended = vaulted.tollway("secrets", "remove", "groq", "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout) == {"name": "groq", "removed": False}
