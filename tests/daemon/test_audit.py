"""Every change of the configuration is in the audit: who, when, by what, from what to what."""

import contextlib
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shell import Running, running, short_folder, until

from tollway.daemon.audit import Step, rows
from tollway.daemon.config.edit import edit, kept
from tollway.daemon.config.load import parse

TEAM = '[teams.ml]\nbudget = ["5/day"]\n'


def audited(daemon: Running) -> list[tuple[str, ...]]:
    """Return the audit's rows: who, what, subject, before, after."""
    with contextlib.closing(sqlite3.connect(daemon.folder / "ledger.db")) as ledger:
        return ledger.execute(
            "select who, what, subject, before, after from audit order by seq"
        ).fetchall()


async def test_a_command_s_change_is_told_with_its_author_and_words() -> None:
    """Each edit by its own name, though one reload takes several up; then one by hand."""
    async with running(TEAM) as daemon:
        await until(lambda: len(audited(daemon)) == 1)

        def change(text: str) -> Callable[[Any], None]:
            return lambda document: document["teams"]["ml"].update({"budget": [text]})

        edit(daemon.config, change("6/day"), what="budgets set team ml 6/day", who="ada")
        edit(daemon.config, change("7/day"), what="budgets set team ml 7/day", who="bob")
        daemon.config.write_text(daemon.config.read_text().replace("7/day", "8/day"))
        assert (await daemon.ask("POST", "/control/reload", admin=True)).status == 200
        await daemon.server.daemon.ledger.ready()
        rows = audited(daemon)[1:]
        assert [(who, what) for who, what, subject, *_ in rows if "gateway.toml" in subject] == [
            ("ada", "budgets set team ml 6/day"),
            ("bob", "budgets set team ml 7/day"),
            ("owner", "edited by hand"),
        ]
        amounts = [row[3:] for row in rows if row[2] == "teams.ml.budget"]
        assert amounts == [
            ('["5/day"]', '["6/day"]'),
            ('["6/day"]', '["7/day"]'),
            ('["7/day"]', '["8/day"]'),
        ]


async def test_what_changed_while_no_daemon_ran_is_told_at_the_next_start() -> None:
    """An edit between two daemons is no less an edit."""
    with short_folder() as folder:
        async with running(TEAM, folder=folder) as daemon:
            await until(lambda: len(audited(daemon)) == 1)
            assert audited(daemon)[0][1] == "seen for the first time"
            await until(lambda: len(kept(daemon.server.daemon.config)) == 1)
        config = folder / "gateway.toml"
        edit(config, lambda document: document["teams"]["ml"].update({"budget": ["6/day"]}),
             what="budgets set team ml 6/day", who="ada")  # fmt: skip
        # `running` writes the file anew: the same text as the one that was just edited.
        changed_team = TEAM.replace('"5/day"', '"6/day"')
        assert changed_team != TEAM
        async with running(changed_team, folder=folder) as daemon:
            await until(lambda: len(audited(daemon)) > 1)
            await daemon.server.daemon.ledger.ready()
            rows = audited(daemon)[1:]
            assert ("ada", "budgets set team ml 6/day", "teams.ml.budget") in [
                row[:3] for row in rows
            ]
        async with running(changed_team, folder=folder) as daemon:
            await daemon.server.reloader.begin()
            await daemon.server.daemon.ledger.ready()
            assert len(audited(daemon)) == 1 + len(rows)


async def test_no_secret_is_ever_in_the_audit() -> None:
    """A key's hash is named without its value; a value that looks like a secret is hidden."""
    digest = "sha256:" + "0" * 64
    more = TEAM + f'[keys.k]\nhash = "{digest}"\nuser = "u"\n[users.u]\nteam = "ml"\n'
    async with running(more, server="") as daemon:
        text = daemon.config.read_text().replace(digest, "sha256:" + "1" * 64)
        secret = "sk-" + "aB3" * 10
        alerts = f'alerts = {{ command = ["notify", "{secret}"] }}\n'
        daemon.config.write_text(text.replace("[server]\n", "[server]\n" + alerts))
        assert (await daemon.ask("POST", "/control/reload", admin=True)).status == 200
        await daemon.server.daemon.ledger.ready()
        rows = {row[2]: row[3:] for row in audited(daemon)}
        assert rows["keys.k.hash"] == ("", "")
        assert rows["server.alerts.command"] == ("[]", "***")
        assert secret not in str(rows)


def test_what_did_not_change_costs_an_audit_nothing() -> None:
    """It is made on the event loop: with 12,000 budgets each start and edit held that for 1.3 s."""

    def calls(users: int) -> int:
        text = TEAM + "".join(f'[users.u{one}]\nbudget = ["5/day"]\n' for one in range(users))
        old, new = (parse(text.replace("5", day, 1), path=Path("g.toml")) for day in "56")
        counted = 0

        def count(_frame: object, event: str, _of: object) -> None:
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count)
        try:
            told = list(rows(Step(0, "", "", old, new, "", "")))
        finally:
            sys.setprofile(None)
        assert [(row.subject, row.before, row.after) for row in told[1:]] == [
            ("teams.ml.budget", '["5/day"]', '["6/day"]')
        ]
        return counted

    assert calls(50) == calls(5)
