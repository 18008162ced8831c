"""Secrets come out where they are wanted and nowhere else, from a place that was chosen openly.

The system's keyring is a real import: backends written to a folder, in a process of their own.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tollway.daemon import secrets
from tollway.daemon.config.schema import SecretRef
from tollway.daemon.errors import SecretError
from tollway.daemon.secrets import Secret, resolve

CANARY = "sk-c4n4ry0c4n4ry0c4n4ry0"

RINGS = '''
import json, os, threading
from pathlib import Path
from keyring.backend import KeyringBackend

class Ring(KeyringBackend):
    """Keeps secrets in a file of the test."""
    priority = 5
    file = Path(os.environ["XDG_DATA_HOME"], "ring.json")
    def _all(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {}
    def get_password(self, service, name):
        return self._all().get(service + ":" + name)
    def set_password(self, service, name, value):
        self.file.write_text(json.dumps(self._all() | {service + ":" + name: value}))
    def delete_password(self, service, name):
        rest = self._all()
        del rest[service + ":" + name]
        self.file.write_text(json.dumps(rest))

class Hung(Ring):
    def get_password(self, service, name):
        threading.Event().wait()
    set_password = get_password

class Angry(Ring):
    def get_password(self, service, name):
        raise RuntimeError("cannot read")
    def set_password(self, service, name, value):
        raise RuntimeError("cannot store " + value)

class Chain(KeyringBackend):
    """As keyring's own chain looks."""
    priority = 10
    backends = []
    def get_password(self, service, name):
        raise AssertionError("the chain itself was asked")
    set_password = delete_password = get_password
'''
PLAIN = "from rings import Ring\nclass PlaintextKeyring(Ring):\n    pass\n"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs code with a keyring backend and gives all that it printed."""
    (tmp_path / "rings.py").write_text(RINGS)
    alt = tmp_path / "keyrings" / "alt"
    alt.mkdir(parents=True)
    (alt / "__init__.py").touch()
    (alt / "file.py").write_text(PLAIN)

    def run(code: str, ring: str | None = "rings.Ring", **more: str) -> str:
        env = {key: value for key, value in os.environ.items() if not key.startswith("DBUS")}
        env |= {"PYTHONPATH": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data"), **more}
        env |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
        if ring:
            env["PYTHON_KEYRING_BACKEND"] = ring
        (tmp_path / "data").mkdir(exist_ok=True)
        head = (
            "from pathlib import Path\nfrom tollway.daemon import secrets\n"
            "from tollway.daemon.errors import SecretError\n"
            "from tollway.daemon.config.schema import SecretRef\n"
            "def get(name, **more): return secrets.resolve("
            "SecretRef('keyring:' + name), base=Path('.'), **more)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", head + code],
            capture_output=True,
            text=True,
            env=env,
            check=False,
            timeout=100,
        )
        return ran.stdout + ran.stderr

    return run


TRY = "try:\n    {}\nexcept SecretError as e: print(e.message, '|', e.hint)"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{0!r} {0!s} {0}".format,
        lambda secret: f"{secret:>20}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: repr(pickle.dumps(secret)) + repr(pickle.loads(pickle.dumps(secret))),  # noqa: S301
        lambda secret: json.dumps({"key": secret}, default=str),
        lambda secret: repr(msgspec.json.encode({"key": secret}, enc_hook=str)),
        lambda secret: repr([secret, {"k": secret}, {secret}]),
        lambda secret: str(ValueError(secret)),
    ],
)
def test_a_secret_cannot_be_shown(show: Callable[[object], str]) -> None:
    """However it is put into a text, by intent or by accident."""
    told = show(Secret(CANARY))
    assert "c4n4ry" not in told
    assert "***" in told


def test_a_secret_is_revealed_only_by_asking() -> None:
    """Copies are the secret itself; plain JSON refuses it."""
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    assert copy.copy(secret) is secret and copy.deepcopy([secret])[0] is secret
    with pytest.raises(TypeError) as refused:
        json.dumps(secret)
    assert "c4n4ry" not in str(refused.value)


def test_the_environment_gives_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the spaces around it; missing and empty are said by name."""
    monkeypatch.setenv("OPENAI", f" {CANARY}\n")
    assert resolve(SecretRef("env:OPENAI"), base=tmp_path).reveal() == CANARY
    monkeypatch.setenv("OPENAI", "")
    with pytest.raises(SecretError, match="`env:OPENAI` is empty"):
        resolve(SecretRef("env:OPENAI"), base=tmp_path)
    monkeypatch.delenv("OPENAI")
    with pytest.raises(SecretError, match="`OPENAI` is not set"):
        resolve(SecretRef("env:OPENAI"), base=tmp_path)


def test_a_file_gives_a_secret_if_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """Relative to gateway.toml."""
    file = tmp_path / "key"
    file.write_text(CANARY + "\n")
    file.chmod(0o600)
    ref = SecretRef("file:key")
    assert resolve(ref, base=tmp_path).reveal() == CANARY
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(SecretError, match="can be read by others") as refused:
            resolve(ref, base=tmp_path)
        assert refused.value.hint == f"`chmod 600 {file}` closes it"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe" + CANARY.encode(), b"a\nb", b"x" * 70_000]
)
def test_a_file_that_holds_no_secret_is_said_without_its_content(
    tmp_path: Path, content: bytes
) -> None:
    """Empty, several lines, no text, too large."""
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(SecretError, match="file:key") as refused:
        resolve(SecretRef("file:key"), base=tmp_path)
    assert "c4n4ry" not in refused.value.message


def test_a_file_that_is_no_file_is_said_at_once(tmp_path: Path) -> None:
    """A pipe that nobody writes to must not hang the start."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SecretError, match="is no plain file"):
        resolve(SecretRef("file:pipe"), base=tmp_path)
    for name, why in (("none", "No such file"), (".", "is no plain file|Is a directory")):
        with pytest.raises(SecretError, match=why):
            resolve(SecretRef(f"file:{name}"), base=tmp_path)


def test_the_keyring_keeps_lists_gives_and_forgets(run: Callable[..., str]) -> None:
    """The names are ours to remember: a keyring cannot be listed."""
    out = run(
        f"secrets.set_secret('openai', '{CANARY}')\n"
        f"print(get('openai').reveal() == '{CANARY}', get('openai'), secrets.list_secrets())\n"
        "print(secrets.remove_secret('openai'), secrets.remove_secret('openai'))\n"
        "print(secrets.list_secrets(), secrets.backend())\n" + TRY.format("get('openai')")
    )
    assert out.splitlines() == [
        "True *** ['openai']",
        "True False",
        "[] Backend(kind='keyring', where='rings.Ring', why='this system has one')",
        "There is no secret `openai` in the system's keyring "
        "| `tollway secrets set openai` stores it",
    ]


@pytest.mark.parametrize(
    "ring", ["keyring.backends.fail.Keyring", "keyring.backends.null.Keyring", None]
)
def test_no_keyring_is_said_with_both_ways_out(run: Callable[..., str], ring: str | None) -> None:
    """The null backend takes secrets and loses them; the chain of nothing likewise."""
    out = run(
        "print(secrets.backend().kind)\n"
        + TRY.format(f"secrets.set_secret('openai', '{CANARY}')")
        + "\n"
        + TRY.format("get('openai')"),
        ring,
    )
    kind, stored, got = out.splitlines()
    assert kind == "none"
    for line in (stored, got):
        assert "This system has no keyring" in line
        assert "tollway secrets backend vault" in line and "env:NAME" in line
    assert "keyring:openai" in got
    assert "c4n4ry" not in out


def test_a_keyring_in_the_clear_is_never_used(run: Callable[..., str], tmp_path: Path) -> None:
    """Alone it is refused; in a chain it is passed over, and the safe one is asked itself."""
    store = TRY.format(f"print(secrets.set_secret('openai', '{CANARY}').where)")
    assert "keyrings.alt, which is not safe" in run(store, "keyrings.alt.file.PlaintextKeyring")
    assert not list((tmp_path / "data").glob("ring.json"))
    for rings, outcome in (
        ("[PlaintextKeyring()]", "which is not safe"),
        ("[PlaintextKeyring(), rings.Ring()]", "rings.Ring"),
        ("[]", "This system has no keyring"),
    ):
        chain = "import rings; from keyrings.alt.file import PlaintextKeyring\n"
        assert outcome in run(f"{chain}rings.Chain.backends = {rings}\n{store}", "rings.Chain")


def test_a_keyring_that_hangs_is_given_up(run: Callable[..., str]) -> None:
    """The process ends too: the thread that hangs does not hold it."""
    out = run(TRY.format("get('openai', wait_s=0.3)"), "rings.Hung")
    assert "The system's keyring did not answer within 0.3 s | Unlock it" in out


def test_what_a_keyring_says_in_its_anger_is_not_repeated(run: Callable[..., str]) -> None:
    """Its words hold the secret."""
    code = f"secrets.set_secret('openai', '{CANARY}')"
    out = run(TRY.format(code), "rings.Angry") + run(code, "rings.Angry")
    assert "The system's keyring failed with RuntimeError" in out
    assert "c4n4ry" not in out.replace(code, "")


def test_the_vault_is_used_once_it_is_chosen_and_not_before(
    run: Callable[..., str], tmp_path: Path
) -> None:
    """Openly: the choice is kept, and the backend says that it was one."""
    none = "keyring.backends.fail.Keyring"
    out = run(
        f"print(secrets.choose_backend('vault').kind)\nsecrets.set_secret('openai', '{CANARY}')\n",
        none,
    )
    assert out == "vault\n"
    out = run(
        "print(secrets.list_secrets(), get('openai').reveal()[:2], secrets.backend())\n"
        + TRY.format("get('gone')")
        + "\nprint(secrets.remove_secret('openai'))",
        none,
    )
    listed, gone, removed = out.splitlines()
    assert listed == (
        f"['openai'] sk Backend(kind='vault', where='{tmp_path}/data/tollway/vault.json', "
        "why='chosen')"
    )
    assert gone.startswith("There is no secret `gone` in the vault")
    assert removed == "True"
    everything = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert everything and not any(CANARY.encode() in path.read_bytes() for path in everything)


def test_a_choice_can_be_changed_back(run: Callable[..., str]) -> None:
    """To a keyring only where there is one."""
    out = run("secrets.choose_backend('vault'); print(secrets.choose_backend('keyring'))")
    assert out == "Backend(kind='keyring', where='rings.Ring', why='chosen')\n"
    none = "keyring.backends.fail.Keyring"
    assert "no keyring" in run(TRY.format("secrets.choose_backend('keyring')"), none)


def test_a_choice_that_is_garbage_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing would put a secret where nobody expects it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "tollway").mkdir()
    (tmp_path / "tollway" / "secrets.backend").write_text("cloud")
    with pytest.raises(SecretError, match="neither keyring nor vault"):
        secrets.set_secret("openai", CANARY)


def test_a_home_that_is_no_folder_has_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is broken there that could be written again; what is to be made names the file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file" / "below"))
    assert secrets.list_secrets() == []
    with pytest.raises(SecretError, match=f"`{tmp_path}/file` is in the way"):
        secrets.choose_backend("vault")


@pytest.mark.parametrize("name", ["", " ", "a b", "ü", "-x", "x" * 101, CANARY + "\n"])
def test_names_that_a_reference_cannot_have_are_refused(name: str) -> None:
    """What is stored must be found again by `keyring:NAME`."""
    with pytest.raises(SecretError, match="A secret's name has"):
        secrets.set_secret(name, "value")


@pytest.mark.parametrize("value", ["", " \n", f"{CANARY}\nmore", f"{CANARY}ü", "x" * 20_000])
def test_values_that_no_header_takes_are_refused_unseen(value: str) -> None:
    """A pasted page instead of a key."""
    with pytest.raises(SecretError, match="The value for `openai`") as refused:
        secrets.set_secret("openai", value)
    assert "c4n4ry" not in refused.value.message
