"""Where things are: the same answer for the command line and for the daemon."""

import os
from pathlib import Path

import pytest
from broken_disks import remount, small_disk

from tollway.daemon.config.load import load, parse
from tollway.daemon.config.paths import (
    LONGEST_SOCKET,
    data_folder,
    find_config,
    private_folder,
    socket_beside,
    state_paths,
)
from tollway.daemon.errors import ConfigError
from tollway.providers.llamacpp.lifecycle import log_name


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Return a gateway.toml at each place where one is looked for, last place first."""
    here, xdg = tmp_path / "here", tmp_path / "xdg"
    for folder in (here, xdg / "tollway"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(xdg))
    monkeypatch.setenv("TOLLWAY_CONFIG", str(tmp_path / "env.toml"))
    found = {
        "xdg": xdg / "tollway/gateway.toml",
        "here": Path("gateway.toml"),
        "env": tmp_path / "env.toml",
        "option": tmp_path / "option.toml",
    }
    for path in found.values():
        path.touch()
    return found


def test_the_file_is_looked_for_in_the_order_of_the_page(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--config, $TOLLWAY_CONFIG, ./gateway.toml, the user's own."""
    assert find_config(places["option"]) == places["option"]
    assert find_config() == places["env"]
    monkeypatch.delenv("TOLLWAY_CONFIG")
    assert find_config() == places["here"]
    places["here"].unlink()
    assert find_config() == places["xdg"]
    places["xdg"].unlink()
    with pytest.raises(ConfigError) as refused:
        find_config()
    assert "tollway init" in refused.value.hint


def test_a_file_that_is_named_must_be_there(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falling back to another file would start another gateway."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml:1: .* and --config names it"):
        find_config(Path("nowhere.toml"))
    monkeypatch.setenv("TOLLWAY_CONFIG", "gone.toml")
    with pytest.raises(ConfigError, match=r"gone.toml:1: .* \$TOLLWAY_CONFIG names it"):
        find_config()


def test_relative_xdg_folders_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The specification says so; a ledger must not move with the working folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    assert data_folder() == tmp_path / ".local/share/tollway"


@pytest.mark.parametrize("home", ["", "home/ann"])
def test_a_home_that_is_no_whole_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """The daemon's working folder is another: `up` started it, and `down` said that none ran."""
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(ConfigError, match=rf"\$HOME is `{home}`") as refused:
        data_folder()
    assert "export HOME=" in refused.value.hint


def test_a_user_whom_the_system_does_not_know_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers run as any number: it was a mistake of the program's own."""
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(ConfigError, match=r"\$HOME is not set") as refused:
        data_folder()
    assert "export HOME=" in refused.value.hint


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A daemon began with it, and could then be neither asked nor stopped."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "gateway.toml").touch()
    with pytest.raises(ConfigError, match=r"caf\\udce9/gateway.toml` is no text in UTF-8"):
        load(folder / "gateway.toml")


def test_state_is_beside_the_ledger_and_no_two_ledgers_share_it() -> None:
    """One daemon per ledger, also in one folder."""
    one, two = Path("/x/ledger.db"), Path("/x/other.db")
    assert state_paths(one).pidfile == Path("/x/tollway.pid")
    assert state_paths(one).history.parent == state_paths(one).folder == Path("/x")
    for field in ("pidfile", "lock", "log"):
        assert getattr(state_paths(one), field) != getattr(state_paths(two), field)
    assert socket_beside(one) != socket_beside(two)


@pytest.mark.parametrize("runtime", ["/run/user/1000", "", "relative", "/" + "r" * 100])
def test_a_socket_path_always_fits(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux takes 108 bytes, others 104; a ledger may be as deep as its owner likes."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    deep = Path("/" + "d" * 60 + "/ü" * 30 + "/ledger.db")
    found = socket_beside(deep)
    assert len(os.fsencode(found)) <= LONGEST_SOCKET
    assert found.is_absolute()
    assert found == socket_beside(deep)
    assert found != socket_beside(deep.parent / "other" / "ledger.db")
    assert (str(found).startswith(runtime) and bool(runtime)) == (runtime == "/run/user/1000")


def test_the_configuration_knows_its_socket(tmp_path: Path) -> None:
    """`server.admin_socket` wins over the place beside the ledger."""
    path = tmp_path / "gateway.toml"
    beside = parse("[ledger]\npath = '/l/ledger.db'", path=path)
    assert beside.admin_socket == Path("/l/tollway.sock")
    assert parse("[server]\nadmin_socket = '/a.sock'", path=path).admin_socket == Path("/a.sock")


def test_folders_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask, and parents too."""
    old = os.umask(0)
    try:
        made = private_folder(tmp_path / "a/b")
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in (made, made.parent)} == {0o700}
    assert private_folder(made) == made


def test_a_folder_that_everyone_may_write_to_is_refused(tmp_path: Path) -> None:
    """Anyone could put another socket or ledger in the place of ours."""
    open_one = tmp_path / "open"
    open_one.mkdir()
    open_one.chmod(0o777)
    with pytest.raises(ConfigError, match="everyone may write to it"):
        private_folder(open_one)


@pytest.mark.parametrize("below", ["", "below", "two/below"])
def test_a_file_in_the_way_is_said(tmp_path: Path, below: str) -> None:
    """Not every path can be a folder, and $HOME may be none."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=f"^`{file}` is in the way") as refused:
        private_folder(file / below)
    assert "$HOME" in refused.value.hint


def test_a_disk_that_takes_no_folder_is_said(tmp_path: Path) -> None:
    """With the folder that is there, which tells what disk it is."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        with pytest.raises(ConfigError, match="cannot be made: Read-only file system") as refused:
            private_folder(disk / "a/b")
    assert f"`{disk}`" in refused.value.hint


@pytest.mark.parametrize("name", ["tollway", "tollway-books", "a@b", "a+b", "a:b", "a_b", "ledger"])
def test_a_model_s_log_is_its_own(name: str) -> None:
    """Each load begins it anew: the daemon's own log would be gone, or another model's."""
    ours = {state_paths(Path("/x") / ledger).log.name for ledger in ("ledger.db", "books.db")}
    others = {log_name(other) for other in ("tollway", "a@b", "a+b", "a:b", "a_b") if other != name}
    assert log_name(name) not in ours | others
    assert "/" not in log_name(name)
