"""What a person wrote beside an entry stays where it was written while commands edit."""

from pathlib import Path

import pytest
import tomlkit

from tollway.daemon.config.document import refill, table
from tollway.daemon.config.edit import edit


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path for a gateway.toml whose ledger and history are in a folder of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "gateway.toml"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "[server]\n\n# of a\n[teams.a]\n\n# of b\n[teams.b]\n\n# of u\n[users.u]\n",
            "[server]\n\n# of a\n[teams.a]\n\n# of u\n[users.u]\n",
        ),
        (
            "[server]\n\n# == teams ==\n\n# of b\n[teams.b]\n\n# of u\n[users.u]\n",
            "[server]\n\n# == teams ==\n\n# of u\n[users.u]\n",
        ),
        (
            "[server]\n\n# == teams ==\n\n[teams.b]\n# in b\n\n# later:\n# [teams.c]\n",
            "[server]\n\n# == teams ==\n\n# later:\n# [teams.c]\n",
        ),
        ("[server]\n\n# later:\n# [teams.c]\n\n[teams.b]\n", "[server]\n\n# later:\n# [teams.c]\n"),
    ],
)
def test_a_removed_table_takes_its_own_comment_and_no_other(
    gateway: Path, before: str, after: str
) -> None:
    """What stands above the next table, apart from this one, or at the file's end, is not its own.

    `budgets raise` adds a table at the end, and `--end` took what a person had kept there.
    """
    gateway.write_text(before)

    def change(document: tomlkit.TOMLDocument) -> None:
        del table(document, "teams")["b"]

    edit(gateway, change, what="", who="")
    assert gateway.read_text() == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("limits = {rpm = 1, tpm = 2} # l\n", "limits = {rpm = 1, tpm = 3} # l\n"),
        ("limits.rpm = 1 # r\nlimits.tpm = 2 # t\n", "limits.rpm = 1 # r\nlimits.tpm = 3 # t\n"),
        (
            "\n[teams.t.limits] # l\n# why\nrpm = 1 # r\nrpd = 5\ntpm = 2\n",
            "\n[teams.t.limits] # l\n# why\nrpm = 1 # r\ntpm = 3\n",
        ),
        ("share = 2\n", "share = 2\nlimits = {rpm = 1, tpm = 3}\n"),
    ],
)
def test_a_table_within_another_keeps_its_form_and_comments(
    gateway: Path, before: str, after: str
) -> None:
    """`teams set ml --tpm 3` wrote all limits anew in one line, without what stood beside them."""
    gateway.write_text(f"[teams.t]\n{before}")

    def change(document: tomlkit.TOMLDocument) -> None:
        refill(table(document, "teams", "t"), "limits", {"rpm": 1, "tpm": 3})

    edit(gateway, change, what="", who="")
    assert gateway.read_text() == f"[teams.t]\n{after}"
