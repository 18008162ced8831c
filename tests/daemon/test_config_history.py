"""Whose versions are whose, where one file has several names or one name several files."""

from pathlib import Path

from tollway.daemon.config.history import keep, versions


def test_a_file_has_one_history_by_whatever_name(tmp_path: Path) -> None:
    """A version by one link can be brought back by another, or by the file's own name."""
    file, one, two = (tmp_path / name for name in ("file", "one", "two"))
    for link in (one, two):
        link.symlink_to(file)
    for number, name in enumerate((file, one, two), start=1):
        assert keep(tmp_path / "history", name, f"# {number}", who="ann", what="") == number
        assert keep(tmp_path / "history", file, f"# {number}", who="bob", what="") == number
    for name in (file, one, two):
        assert [version.number for version in versions(tmp_path / "history", name)] == [3, 2, 1]
    assert versions(tmp_path / "history", tmp_path / "other") == []


def test_a_link_that_is_pointed_at_the_next_file_keeps_its_history(tmp_path: Path) -> None:
    """So Kubernetes and Nix change a file: each version is a file of its own."""
    link = tmp_path / "gateway.toml"
    for number in (1, 2):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"store-{number}")
        keep(tmp_path / "history", link, f"# {number}", who="", what="")
    assert [version.number for version in versions(tmp_path / "history", link)] == [2, 1]
