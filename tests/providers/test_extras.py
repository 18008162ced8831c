"""The command that installs an extra puts it where this program looks."""

import sys
from pathlib import Path

import pytest

from tollway.providers.extras import install


def test_a_bare_pip_is_named_only_where_it_is_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another Python's `pip` has no Tollway, and would ask a registry for one."""
    ours, theirs = tmp_path / "ours it is", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "pip").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(ours / "python"))
    monkeypatch.setenv("PATH", str(ours))
    assert install("yaml") == "pip install 'tollway[yaml]'"
    for path in (str(theirs), str(tmp_path)):
        monkeypatch.setenv("PATH", path)
        assert install("yaml") == f"'{ours}/python' -m pip install 'tollway[yaml]'"
