"""`doctor`: each trouble is found, named and given its fix; none is found where there is none."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_files import needs_llama_cpp
from gguf_shapes import shaped
from one_answer import OneAnswer
from program import PATIENCE_S, Home
from upstreams import free_port, self_signed

from tollway.cli import doctor
from tollway.daemon.config.load import load
from tollway.daemon.config.paths import socket_beside, state_paths
from tollway.providers.llamacpp import install

CANARY = "gsk_CANARYcanaryCANARYcanary42"
SINGLE = '[server]\nlisten = "127.0.0.1:{port}"\nsingle_user = true\n'

ONE_KEY = f"""
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
[keys.laptop]
hash = "sha256:{"0" * 64}"
user = "ann"
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with a small gateway.toml and no keyring."""
    made = Home(tmp_path)
    made.write(SINGLE.format(port=0))
    return made


def checks(home: Home, *words: str, code: int, **env: str) -> dict[str, dict[str, str]]:
    """Return doctor's checks by name, having held the exit code against `code`."""
    ended = home.tollway("doctor", "--json", *words, fresh=False, **env)
    assert ended.returncode == code, ended.stdout + ended.stderr
    data = json.loads(ended.stdout)
    assert data["ok"] is (code == 0)
    return {check["name"]: check for check in data["checks"]}


def test_a_healthy_box_has_no_failure(home: Home) -> None:
    """Without a daemon and without a keyring there are warnings, and exit code 0."""
    found = checks(home, code=0)
    assert found["configuration"]["state"] == "ok"
    assert found["daemon"]["state"] == "warn"
    assert found["daemon"]["fix"] == "`tollway up` starts it"
    assert found["secrets"]["state"] == "warn"
    assert found["port"]["state"] == "ok"
    shown = home.tollway("doctor")
    assert shown.returncode == 0
    assert "ok    configuration: " in shown.stdout
    assert "      fix: `tollway up` starts it" in shown.stdout


def test_a_broken_file_is_a_failure_and_not_the_end(home: Home) -> None:
    """What does not need the configuration is still looked at."""
    home.write("[server\n")
    found = checks(home, code=1)
    assert f"{home.config}:1: " in found["configuration"]["detail"]
    assert {"python", "clock", "secrets"} <= set(found)


def test_open_files_are_found_and_closed_on_request(home: Home) -> None:
    """Others must not read keys' hashes, nor write anything; only `--fix` changes a mode."""
    home.config.chmod(0o666)
    found = checks(home, code=1)
    assert "may be written by others" in found["permissions"]["detail"]
    assert home.config.stat().st_mode & 0o777 == 0o666
    mended = checks(home, "--fix", code=0)["permissions"]
    assert (mended["state"], mended["fix"]) == ("fixed", "")
    assert "(666), and is closed now (600)" in mended["detail"]
    assert home.config.stat().st_mode & 0o777 == 0o600
    assert checks(home, code=0)["permissions"]["state"] == "ok"


def test_key_files_and_the_certificate_s_key_are_closed_too(home: Home) -> None:
    """Secrets beside gateway.toml, wherever it names them; then nothing fails any more."""
    folder = home.config.parent
    self_signed(folder, "gate.example")
    home.write(
        f'{SINGLE.format(port=0)}tls = {{ cert = "trusted.pem", key = "private.pem" }}\n'
        '[providers.g]\nkind = "groq"\napi_key = "file:groq.key"\n'
    )
    (folder / "groq.key").write_text(CANARY)
    for name in ("groq.key", "private.pem"):
        (folder / name).chmod(0o644)
    before = home.tollway("doctor", "--offline")
    assert before.returncode == 1
    assert before.stdout.count("may be read by others") == 2
    after = home.tollway("doctor", "--offline", "--fix")
    assert after.returncode == 0, after.stdout
    assert after.stdout.count("fixed permissions: ") == 2
    assert CANARY not in before.stdout + after.stdout
    assert {(folder / name).stat().st_mode & 0o777 for name in ("groq.key", "private.pem")} == {
        0o600
    }


def test_what_a_killed_daemon_left_is_told_and_removed(home: Home) -> None:
    """A socket at which nobody listens, and a pidfile; a daemon that runs keeps its own."""
    started = json.loads(home.tollway("up", "--json").stdout)
    assert "leftovers" not in checks(home, "--offline", "--fix", code=0)
    process = os.pidfd_open(started["pid"])
    signal.pidfd_send_signal(process, signal.SIGKILL)
    assert select.select([process], [], [], PATIENCE_S)[0]
    os.close(process)
    ledger = home.data / "ledger.db"
    left = [socket_beside(ledger), state_paths(ledger).pidfile]
    assert all(path.exists() for path in left)
    assert checks(home, "--offline", code=0)["leftovers"]["state"] == "warn"
    assert all(path.exists() for path in left)
    shown = home.tollway("doctor", "--offline", "--fix")
    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.count("fixed leftovers: ") == 2
    assert not any(path.exists() for path in left)
    assert "leftovers" not in checks(home, "--offline", code=0)


def test_a_missing_folder_of_the_ledger_is_made_on_request(home: Home) -> None:
    """With its parents, closed to others; one that cannot be made is a failure."""
    home.write(SINGLE.format(port=0) + '[ledger]\npath = "a/b/ledger.db"\n')
    assert "ledger folder" not in checks(home, code=0)
    assert checks(home, "--fix", code=0)["ledger folder"]["state"] == "fixed"
    assert (home.data / "a/b").stat().st_mode & 0o777 == 0o700
    (home.data / "file").write_text("")
    home.write(SINGLE.format(port=0) + '[ledger]\npath = "file/ledger.db"\n')
    assert checks(home, "--fix", code=1)["ledger"]["state"] == "fail"


def test_a_key_of_the_environment_that_nobody_uses_is_named(home: Home) -> None:
    """By its variable; one of ours, and one whose kind is configured, are no finding."""
    found = checks(home, "--offline", code=0, GROQ_API_KEY=CANARY)["environment"]
    assert (found["state"], CANARY in json.dumps(found)) == ("warn", False)
    assert "--api-key env:GROQ_API_KEY" in found["fix"]
    assert "environment" not in checks(home, "--offline", code=0, OPENAI_API_KEY="tw-ours")
    home.write(SINGLE.format(port=0) + '[providers.g]\nkind = "groq"\napi_key = "env:G"\n')
    assert "environment" not in checks(home, "--offline", code=0, GROQ_API_KEY="x", G="x")


def test_a_missing_secret_is_named_and_a_present_one_not_shown(home: Home) -> None:
    """By its reference alone."""
    home.write(SINGLE.format(port=0) + '[providers.g]\nkind = "groq"\napi_key = "env:G_KEY"\n')
    missing = checks(home, "--offline", code=1)["secret of g"]
    assert "`G_KEY` is not set" in missing["detail"]
    assert checks(home, "--offline", code=0, G_KEY=CANARY)["secret of g"]["state"] == "ok"
    ended = home.tollway("doctor", "--offline", G_KEY=CANARY)
    assert CANARY not in ended.stdout + ended.stderr


def test_a_taken_port_is_named_with_who_has_it(home: Home) -> None:
    """Before `up` fails on it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        home.write(SINGLE.format(port=taken.getsockname()[1]))
        found = checks(home, code=1)
    assert "is in use by" in found["port"]["detail"]


def test_an_address_of_another_machine_is_named(home: Home) -> None:
    """Its port was called free, and `up` failed."""
    beyond = 'listen = "192.0.2.1:0"\nbehind_proxy = true\n'
    home.write(f"[server]\n{beyond}{ONE_KEY}")
    found = checks(home, code=1)
    assert "cannot be listened on" in found["port"]["detail"]
    assert "an address of this machine" in found["port"]["fix"]


def test_a_budget_that_refuses_models_for_want_of_a_price_is_named(home: Home) -> None:
    """Each of its calls is a 402, and nothing else here would have told why."""
    up = '[providers.up]\nkind = "vllm"\nbase_url = "http://127.0.0.1:1/v1"\n'
    route = '[routes.fast]\nto = ["up/m"]\nbudget = ["5/day"]\n'
    home.write(SINGLE.format(port=0) + up + route)
    found = checks(home, "--offline", code=0)
    assert "routes.fast.budget: refuses `up/m`" in found["prices"]["detail"]
    home.write(SINGLE.format(port=0) + up + route + '[prices]\n"up/m" = "free"\n')
    assert "prices" not in checks(home, "--offline", code=0)


def test_a_low_limit_on_files_is_told(home: Home) -> None:
    """A few clients take all connections, and the rest are refused."""
    home.write(SINGLE.format(port=0))
    few = ["sh", "-c", 'ulimit -n 128; exec "$@"', "-", sys.executable, "-m", "tollway.cli"]
    ended = subprocess.run(
        [*few, "doctor", "--offline", "--json"],
        env=home.env,
        cwd=home.path,
        capture_output=True,
        check=False,
    )
    (found,) = [one for one in json.loads(ended.stdout)["checks"] if one["name"] == "files"]
    assert found["detail"].endswith("room for 16 connections")


@pytest.mark.parametrize(
    ("status", "body", "state", "words"),
    [
        (200, b'{"data":[{"id":"a"},{"id":"b"}]}', "ok", "2 models"),
        (401, b"{}", "fail", "refuses the key (401)"),
        (404, b"", "warn", "answers 404"),
        (500, b"", "fail", "answers 500"),
        (200, b"<html>", "warn", "no list of models"),
    ],
)
def test_each_provider_is_asked_with_its_key(
    home: Home, status: int, body: bytes, state: str, words: str
) -> None:
    """Reachable, the key accepted, and a list of models: anything less is said."""
    seen = OneAnswer(status, body)
    home.write(
        SINGLE.format(port=0) + f'[providers.p]\nkind = "openai-compatible"\n'
        f'base_url = "http://127.0.0.1:{seen.port}/v1"\napi_key = "env:P_KEY"\n'
    )
    try:
        found = checks(home, code=1 if state == "fail" else 0, P_KEY=CANARY)["provider p"]
    finally:
        seen.close()
    assert found["state"] == state
    assert words in found["detail"]
    assert seen.asked[0] == ("/v1/models", f"Bearer {CANARY}")
    assert CANARY not in json.dumps(found)


def test_a_provider_that_nobody_serves_is_unreachable_and_offline_asks_none(home: Home) -> None:
    """`--offline` is for boxes without a network."""
    with free_port() as port:
        base = f'[providers.p]\nkind = "vllm"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
        home.write(SINGLE.format(port=0) + base)
        assert checks(home, code=1)["provider p"]["state"] == "fail"
        assert "provider p" not in checks(home, "--offline", code=0)


def test_a_proxy_of_the_environment_is_told_where_a_provider_is_not_reached(home: Home) -> None:
    """Other programs get out by it, and the gateway, which hears no such thing, does not."""
    up = '[providers.up]\nkind = "vllm"\nbase_url = "https://up.invalid/v1"\n'
    home.write(SINGLE.format(port=0) + up)
    fix = checks(home, code=1, HTTPS_PROXY="http://proxy.invalid:1")["provider up"]["fix"]
    assert "`HTTPS_PROXY` is set, and the gateway does not go by it" in fix
    assert "in [providers.up]" in fix
    assert "PROXY" not in checks(home, code=1)["provider up"]["fix"]
    home.write(SINGLE.format(port=0) + f'{up}proxy = "http://proxy.invalid:1"\n')
    told = checks(home, code=1, HTTPS_PROXY="http://proxy.invalid:1")["provider up"]["fix"]
    assert "PROXY" not in told


def test_models_without_their_file_or_engine_are_found(home: Home) -> None:
    """Without llama-cpp-python the fix is what to install, word for word."""
    home.write(SINGLE.format(port=0) + '[models.m]\ngguf = "/nowhere/m.gguf"\n')
    (home.path / "llama_cpp.py").write_text("raise ImportError('no engine')\n")
    found = checks(home, code=1, PYTHONPATH=str(home.path))
    assert "/nowhere/m.gguf" in found["model m"]["detail"]
    assert "no engine" in found["llama-cpp-python"]["detail"]
    assert "pip install" in found["llama-cpp-python"]["fix"]
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    (home.path / "llama_cpp.py").write_text(crash)
    found = checks(home, code=1, PYTHONPATH=str(home.path))
    assert "signal 4" in found["llama-cpp-python"]["detail"]


def test_who_has_no_model_yet_is_told_how_to_serve_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README sends readers here for the line before they have a model; it is no fault."""
    home.write(SINGLE.format(port=0))
    monkeypatch.setattr(install, "installed", lambda: False)
    (found,) = doctor._llama(load(home.config))
    assert (found.state, found.fix) == ("ok", install.install_line())


def test_a_model_s_program_is_looked_for(home: Home) -> None:
    """By the name or path that its command says; one that is not there fails its first call."""
    home.write(
        f"{SINGLE.format(port=0)}"
        '[models.gone]\ncommand = "no-such-program --port ${PORT}"\n'
        '[models.there]\ncommand = "sh -c ${PORT}"\n'
    )
    found = checks(home, "--offline", code=1)
    assert found["model gone"]["state"] == "fail"
    assert "`no-such-program` is no program" in found["model gone"]["detail"]
    assert "command" in found["model gone"]["fix"]
    assert found["model there"]["state"] == "ok"


def test_a_folder_that_cannot_be_looked_at_is_a_finding_and_not_the_end(home: Home) -> None:
    """What else there is to say is said."""
    home.write(f'{SINGLE.format(port=0)}[ledger]\npath = "{"x" * 300}/ledger.db"\n')
    found = checks(home, "--offline", "--fix", code=1)
    assert found["files"]["state"] == "fail"
    assert "File name too long" in found["files"]["detail"]
    assert found["configuration"]["state"] == "ok"


def test_the_smallest_model_is_tried(home: Home) -> None:
    """As a load would read it: one that this build can run, then one that is damaged."""
    needs_llama_cpp()
    shaped(home.path / "m.gguf")
    (home.path / "large.gguf").write_bytes(bytes(8 * 2**20))
    models = "".join(f'[models.{m}]\ngguf = "{home.path}/{m}.gguf"\n' for m in ("large", "m"))
    home.write(SINGLE.format(port=0) + models)
    found = checks(home, code=1)
    assert found["llama-cpp-python"]["state"] == found["model m"]["state"] == "ok"
    assert found["model large"]["state"] == "fail"  # its header is read all the same
    assert "no GGUF file" in found["model large"]["detail"]
    (home.path / "m.gguf").write_bytes((home.path / "m.gguf").read_bytes()[:2000])
    found = checks(home, code=1)
    assert (found["model m"]["state"], found["llama-cpp-python"]["state"]) == ("fail", "ok")
    assert found["model m"]["fix"]


@pytest.mark.parametrize(
    ("version", "state", "words"),
    [
        ((3, 36, 0), "fail", "the ledger needs 3.37.0 or newer"),
        ((3, 50, 6), "warn", "a checkpoint could lose rows"),
        ((3, 51, 3), "ok", "3.51.3"),
    ],
)
def test_an_old_sqlite_is_told(
    home: Home, version: tuple[int, ...], state: str, words: str
) -> None:
    """Too old to keep a ledger, or with a fault that others' programs may meet."""
    (home.path / "sitecustomize.py").write_text(
        f"import sqlite3\nsqlite3.sqlite_version_info = {version!r}\n"
    )
    code = 1 if state == "fail" else 0
    found = checks(home, "--offline", code=code, PYTHONPATH=str(home.path))["sqlite"]
    assert found["state"] == state
    assert words in found["detail"]
    assert bool(found["fix"]) is (state != "ok")


def test_nvidias_gpus_are_told_with_who_uses_them(home: Home) -> None:
    """Through nvidia-ml-py where it is installed; its stand-in here has one GPU."""
    (home.path / "pynvml.py").write_text(
        "from types import SimpleNamespace as Told\n"
        "class NVMLError(Exception): pass\n"
        "nvmlInit = nvmlShutdown = lambda: None\n"
        "nvmlDeviceGetCount = lambda: 1\n"
        "nvmlDeviceGetHandleByIndex = lambda at: at\n"
        "nvmlDeviceGetName = lambda card: 'RTX 4090'\n"
        "nvmlDeviceGetMemoryInfo = lambda card: Told(total=24 * 2**30, free=20 * 2**30)\n"
        "nvmlDeviceGetUtilizationRates = lambda card: Told(gpu=7, memory=1)\n"
        "nvmlDeviceGetComputeRunningProcesses = lambda card: "
        "[Told(pid=99, usedGpuMemory=4 * 2**30)]\n"
    )
    found = checks(home, "--offline", code=0, PYTHONPATH=str(home.path))["gpu"]
    assert found["detail"] == ("RTX 4090, 20 GiB of 24 GiB free, 7% busy; used by pid 99 4 GiB")


def test_a_certificate_is_looked_at_before_clients_refuse_it(home: Home) -> None:
    """Its files, whom it is for, and its end; nothing is said where there is none."""
    assert "certificate" not in checks(home, code=0)
    folder = home.config.parent
    self_signed(folder, "gate.example")
    files = 'tls = { cert = "trusted.pem", key = "private.pem" }\n'
    home.write(home.config.read_text() + files)
    (folder / "private.pem").chmod(0o644)
    assert "others may read" in checks(home, code=1)["certificate"]["detail"]
    (folder / "private.pem").chmod(0o600)
    found = checks(home, code=0)["certificate"]
    assert (found["state"], found["fix"]) == ("ok", "")
    assert found["detail"].startswith("for gate.example, until ")
    self_signed(folder, "gate.example", days=1)
    (folder / "private.pem").chmod(0o600)
    near = checks(home, code=0)["certificate"]
    assert (near["state"], near["fix"][:8]) == ("warn", "Renew it")
    assert "renew it" in near["detail"]
