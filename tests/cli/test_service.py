"""`service`: what the service manager is told, and that systemd takes it."""

import os
import plistlib
import stat
import subprocess
from pathlib import Path

import pytest
from needed import needed
from program import Home

from tollway.cli import units
from tollway.cli.units import Wanted
from tollway.daemon.config.load import parse

TEXT = (
    '[server]\nlisten = "127.0.0.1:4747"\nsingle_user = true\ndrain = "40s"\n'
    'admin_socket = "t.sock"\n'
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with a small gateway.toml."""
    made = Home(tmp_path)
    made.write(TEXT)
    return made


def wanted(tmp_path: Path, text: str = TEXT, *, system: bool = False, **more: str) -> Wanted:
    """Return a service of a configuration in a home below `tmp_path`."""
    config = parse(text, path=tmp_path / "gateway.toml", home=tmp_path)
    return Wanted(config, system, user="ann", home=tmp_path, environment=more)


def lines(unit: str, key: str) -> list[str]:
    """Return the values of a key of a unit."""
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("system", [False, True])
def test_systemd_takes_the_units(tmp_path: Path, system: bool) -> None:
    """Not one warning, of either kind; names with blanks, percent and dollar signs included."""
    odd = tmp_path / "a b%c$d"
    odd.mkdir()
    one = wanted(odd, system=system, XDG_DATA_HOME=str(odd / "data"))
    one = Wanted(one.config, system, odd, "daemon", environment=one.environment)
    (tmp_path / "tollway.socket").write_text(units.socket_unit(one))
    unit = tmp_path / "tollway.service"
    unit.write_text(units.service_unit(one))
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    seen = subprocess.run(
        [
            needed("systemd-analyze", package="systemd"),
            "verify",
            "--man=no",
            *([] if system else ["--user"]),
            str(unit),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    ours = [line for line in seen.stderr.splitlines() if "tollway" in line]
    assert (seen.returncode, ours) == (0, []), seen.stderr


def test_the_unit_knows_the_folders_the_daemon_writes_to(tmp_path: Path) -> None:
    """All else is read-only; a command's cache is open to it, where there is a command."""
    unit = units.service_unit(wanted(tmp_path))
    data = tmp_path / ".local/share/tollway"
    assert lines(unit, "ReadWritePaths") == [f"-{data}", f"-{tmp_path}"]
    assert lines(unit, "ProtectSystem") == ["strict"]
    assert lines(unit, "TimeoutStopSec") == ["70"]
    text = TEXT + '[models.a]\ncommand = "vllm serve --port ${PORT}"\nprice = "free"\n'
    unit = units.service_unit(wanted(tmp_path, text))
    assert f"-{tmp_path}/.cache" in lines(unit, "ReadWritePaths")


def test_gpus_stay_open_and_disks_do_not(tmp_path: Path) -> None:
    """A model needs the one; the daemon needs neither capabilities nor other devices."""
    unit = units.service_unit(wanted(tmp_path, system=True))
    assert lines(unit, "DevicePolicy") == ["closed"]
    assert lines(unit, "DeviceAllow") == ["char-nvidia* rw", "char-drm rw", "/dev/kfd rw"]
    assert lines(unit, "CapabilityBoundingSet") == [""]
    assert lines(unit, "User") == ["ann"]
    assert "PrivateDevices" not in unit


def test_a_socket_in_the_temporary_folder_is_found_from_outside(tmp_path: Path) -> None:
    """A temporary folder of the service's own would hide it."""
    assert lines(units.service_unit(wanted(Path("/tmp/t"))), "PrivateTmp") == ["no"]  # noqa: S108
    home = Path("/srv/t")
    away = Wanted(parse(TEXT, path=home / "gateway.toml", home=home), system=False, home=home)
    assert lines(units.service_unit(away), "PrivateTmp") == ["yes"]


def test_without_namespaces_only_what_needs_none_is_asked_for(tmp_path: Path) -> None:
    """A unit that asks for more does not start there at all."""
    one = wanted(tmp_path)
    unit = units.service_unit(Wanted(one.config, system=False, home=one.home, walled=False))
    assert "ProtectSystem" not in unit
    assert lines(unit, "NoNewPrivileges") == ["yes"]


@pytest.mark.parametrize(
    ("listen", "said"),
    [("127.0.0.1:1", "127.0.0.1:1"), ("[::1]:2", "[::1]:2"), ("localhost:3", "127.0.0.1:3")],
)
def test_systemd_listens_where_the_file_says(tmp_path: Path, listen: str, said: str) -> None:
    """Or the daemon would refuse the socket."""
    unit = units.socket_unit(wanted(tmp_path, TEXT.replace("127.0.0.1:4747", listen)))
    assert lines(unit, "ListenStream") == [said]


def test_a_mac_gets_a_property_list(tmp_path: Path) -> None:
    """It starts with the session, comes back after a crash, and logs where `up` would."""
    said = plistlib.loads(units.launchd(wanted(tmp_path, system=True, HF_HOME="/m")))
    assert said["Label"] == "dev.tollway.gateway"
    assert said["ProgramArguments"][-2:] == ["--config", str(tmp_path / "gateway.toml")]
    assert said["KeepAlive"] == {"SuccessfulExit": False}
    assert said["StandardErrorPath"] == str(tmp_path / ".local/share/tollway/tollway.log")
    assert said["EnvironmentVariables"] == {"HF_HOME": "/m"}
    assert (said["UserName"], said["Umask"]) == ("ann", 0o077)


def test_print_shows_the_files_and_writes_none(home: Home) -> None:
    """A person looks first; `--json` gives them to a program."""
    ended = home.tollway("service", "install", "--user", "--print")
    assert ended.returncode == 0, ended.stderr
    folder = home.path / ".config/systemd/user"
    assert f"# {folder}/tollway.socket\n" in ended.stdout
    assert "ListenStream=127.0.0.1:4747" in ended.stdout
    assert f"--config {home.config}\n" in ended.stdout
    assert not folder.exists()


def test_the_files_are_written_shown_and_removed(home: Home) -> None:
    """Without a manager that runs, the files are still there; secrets of a shell are asked for."""
    home.write(TEXT + '[providers.o]\nkind = "openai"\napi_key = "env:OPENAI_API_KEY"\n')
    folder = home.path / ".config/systemd/user"
    folder.parent.write_text("")
    ended = home.tollway("service", "install", "--user", "--no-start")
    assert ended.returncode == 1
    assert f"error: `{folder.parent}` is in the way" in ended.stderr
    folder.parent.unlink()
    ended = home.tollway("service", "install", "--user", "--no-start")
    assert ended.returncode == 0, ended.stderr
    assert {one.name for one in folder.iterdir()} == {"tollway.socket", "tollway.service"}
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o644 for one in folder.iterdir())
    assert "a service does not know OPENAI_API_KEY of your shell" in ended.stderr
    assert f"into `{home.config.parent}/tollway.env`" in ended.stderr
    gone = home.tollway("service", "uninstall", "--user")
    assert gone.returncode == 0, gone.stderr
    assert list(folder.iterdir()) == []
    assert home.config.exists()
    ended = home.tollway("service", "status", "--user")
    assert ended.returncode == 1
    assert "`tollway service install` makes one" in ended.stderr


def test_what_cannot_be_a_service_is_refused_in_words(home: Home) -> None:
    """A port of chance, another user for one's own service, a daemon that runs already."""
    for words, why in (
        (["--user", "--run-as", "x"], "is for a service of the machine"),
        (["--system", "--run-as", "no-such-user"], "There is no user `no-such-user` here"),
    ):
        ended = home.tollway("service", "install", "--print", *words)
        assert ended.returncode == 1
        assert why in ended.stderr
    home.write(
        TEXT.replace("admin_socket", "#").replace(
            "[server]", f'[ledger]\npath = "{"x" * 99}/l.db"\n[server]'
        )
    )
    ended = home.tollway("service", "install", "--print", "--user")
    assert "is too long for a socket" in ended.stderr
    home.write(TEXT.replace("4747", "0"))
    ended = home.tollway("service", "install", "--print", "--user")
    assert "leaves the port open" in ended.stderr
