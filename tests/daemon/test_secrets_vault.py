"""The vault: sealed under a key that is elsewhere, whole or refused, and never in the clear."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tollway.daemon.errors import SecretError
from tollway.daemon.vault import VARIABLE, Vault

CANARY = "sk-c4n4ry0c4n4ry0c4n4ry0"


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """Return a vault that is not made yet, with its key in a file."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return Vault(tmp_path / "data" / "vault.json", tmp_path / "data" / "vault.key")


def test_a_secret_comes_back_as_it_went_in(vault: Vault) -> None:
    """And a later one of the same name takes its place."""
    vault.create()
    vault.set("openai", "first")
    vault.set("openai", CANARY)
    vault.set("mistral", "other")
    assert vault.get("openai") == CANARY
    assert vault.get("none") is None
    assert vault.names() == ["mistral", "openai"]
    assert vault.remove("mistral") and not vault.remove("mistral")
    assert vault.names() == ["openai"]


def test_no_byte_on_disk_is_the_secret_and_all_files_are_the_owners(vault: Vault) -> None:
    """0600 for the vault, its key and its lock."""
    vault.create()
    vault.set("openai", CANARY)
    for path in vault.path.parent.iterdir():
        assert CANARY.encode() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_making_a_vault_again_keeps_what_is_in_it(vault: Vault) -> None:
    """Choosing the vault twice is no accident to pay for."""
    vault.create()
    vault.set("openai", CANARY)
    vault.create()
    assert vault.get("openai") == CANARY


def test_the_key_may_be_in_the_environment(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no key file, and without the variable nothing opens."""
    monkeypatch.setenv(VARIABLE, "correct horse battery staple")
    vault.create()
    vault.set("openai", CANARY)
    assert not vault.key_path.exists()
    assert vault.where_key() == "$TOLLWAY_VAULT_KEY"
    assert vault.get("openai") == CANARY
    monkeypatch.setenv(VARIABLE, "correct horse battery stable")
    uses: list[Callable[[], object]] = [
        lambda: vault.get("openai"),
        lambda: vault.set("x", "y"),
        vault.create,
    ]
    for use in uses:
        with pytest.raises(SecretError, match="does not open with this key"):
            use()
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SecretError, match="TOLLWAY_VAULT_KEY, which is not set"):
        vault.get("openai")
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(SecretError, match="shorter than 16"):
        vault.get("openai")


def test_a_vault_with_a_key_file_does_not_care_for_the_variable(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault says which key is its own."""
    vault.create()
    vault.set("openai", CANARY)
    monkeypatch.setenv(VARIABLE, "some other key than its own")
    assert vault.get("openai") == CANARY
    assert vault.where_key() == str(vault.key_path)


def test_a_secret_cannot_be_put_in_anothers_place(vault: Vault) -> None:
    """Each is sealed under its name: else whoever writes the file could swap two providers'."""
    vault.create()
    vault.set("a", "one")
    vault.set("b", "two")
    content = json.loads(vault.path.read_text())
    content["secrets"]["a"] = content["secrets"]["b"]
    vault.path.write_text(json.dumps(content))
    with pytest.raises(SecretError, match="or was changed"):
        vault.get("a")


def test_a_key_file_that_others_can_read_is_refused(vault: Vault) -> None:
    """With the command that mends it."""
    vault.create()
    vault.key_path.chmod(0o640)
    with pytest.raises(SecretError, match="can be read by others") as refused:
        vault.set("a", CANARY)
    assert refused.value.hint == f"`chmod 600 {vault.key_path}` closes it"


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff", b'{"key": "file"}', b"[]", b"null"])
def test_a_vault_that_is_garbage_is_refused(vault: Vault, garbage: bytes) -> None:
    """Reading and writing alike: nothing is lost by writing over it."""
    vault.create()
    vault.path.write_bytes(garbage)
    for use in (vault.names, lambda: vault.get("a"), lambda: vault.set("a", CANARY), vault.create):
        with pytest.raises(SecretError, match="cannot be read") as refused:
            use()
        assert CANARY not in repr(refused.value)
    assert vault.path.read_bytes() == garbage


def test_a_lost_or_broken_key_is_said(vault: Vault) -> None:
    """The vault is no use without it."""
    vault.create()
    vault.set("a", "b")
    vault.key_path.write_text("no key")
    with pytest.raises(SecretError, match="holds no key of a vault"):
        vault.get("a")
    vault.key_path.unlink()
    with pytest.raises(SecretError, match="the vault's key, cannot be read: No such file"):
        vault.get("a")


def test_without_a_vault_the_way_to_make_one_is_said(vault: Vault) -> None:
    """It is made by a command that says so, never by the way."""
    with pytest.raises(SecretError) as refused:
        vault.get("a")
    assert "tollway secrets backend vault" in refused.value.hint
