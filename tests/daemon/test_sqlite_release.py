"""Which SQLite a ledger may be kept with."""

from pathlib import Path
from sqlite3 import connect

import pytest

from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger import release
from tollway.daemon.ledger.schema import migrate


@pytest.mark.parametrize("found", [(3, 36, 0), (3, 31, 1), (2, 8, 17)])
def test_an_old_sqlite_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: release.Release
) -> None:
    """It has no strict tables; a half-made ledger would be worse than none."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", found)
    db = connect(tmp_path / "ledger.db")
    try:
        with pytest.raises(LedgerUnavailable, match=r"needs 3\.37\.0 or newer") as fault:
            migrate(db, tmp_path / "ledger.db")
        assert "newer Python" in fault.value.hint
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    finally:
        db.close()


@pytest.mark.parametrize(
    ("found", "loses"),
    [
        ((3, 37, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_releases_that_can_lose_rows_are_known(found: release.Release, loses: bool) -> None:
    """The fault was mended in 3.51.3, and in two older lines."""
    release.require(found)
    assert release.loses_rows(found) is loses
