"""A ledger that cannot be used at the start: the daemon answers its owner, refuses calls, heals."""

import sqlite3

import msgspec
import pytest
from shell import Running, running, short_folder, until, write_config

from tollway.daemon.config.load import load
from tollway.daemon.errors import LedgerHeld
from tollway.daemon.log import Log
from tollway.daemon.server import Server

BODY = msgspec.json.encode({"model": "box/m", "messages": [{"role": "user", "content": "Hi"}]})
MORE = (
    '[providers.box]\nkind = "openai-compatible"\nbase_url = "http://127.0.0.1:9/v1"\n'
    '[prices."box/m"]\ninput = 1\noutput = 2\n'
)


async def _problems(daemon: Running) -> list[str]:
    answer = await daemon.ask("GET", "/control/status", admin=True)
    found: list[str] = answer.json()["problems"]
    return found


@pytest.mark.parametrize("budget", ["", '\nbudget = ["5/day"]'], ids=["no budget", "a budget"])
async def test_a_ledger_that_another_program_locks_is_waited_for(budget: str) -> None:
    """With a budget not even the gate can be built: what was spent is unknown."""
    with short_folder() as folder:
        foreign = sqlite3.connect(folder / "ledger.db", isolation_level=None)
        (folder / "ledger.db").chmod(0o600)
        foreign.execute("create table locked (a)")
        foreign.execute("drop table locked")
        foreign.execute("begin exclusive")
        try:
            async with running(MORE, server="single_user = true" + budget, folder=folder) as daemon:
                await until(lambda: daemon.server.daemon.ledger.problem is not None)
                assert await _problems(daemon)
                assert (await daemon.ask("GET", "/readyz")).status == 503
                answer = await daemon.ask("POST", "/v1/chat/completions", BODY)
                assert answer.status == 503
                assert answer.json()["error"]["code"] == "ledger_unavailable"
                foreign.execute("rollback")

                async def ready() -> bool:
                    return (await daemon.ask("GET", "/readyz")).status == 200

                await until(ready)
                assert await _problems(daemon) == []
                answer = await daemon.ask("POST", "/v1/chat/completions", BODY)
                assert answer.json()["error"]["code"] == "upstream_unreachable"
        finally:
            foreign.close()


async def test_a_start_that_fails_gives_everything_back() -> None:
    """A second daemon of this ledger fails, and leaves the first one's files alone."""
    async with running() as first:
        with short_folder() as folder:
            config = write_config(folder)
            text = config.read_text().replace(f"{folder}/ledger.db", f"{first.folder}/ledger.db")
            config.write_text(text)
            log = Log()
            with pytest.raises(LedgerHeld):
                await Server(load(config), log).start()
            log.close()
        assert (await first.ask("GET", "/healthz", admin=True)).status == 200
        assert (await first.ask("GET", "/healthz")).status == 200
