"""A disk that fills up is told while there is time to do something."""

import asyncio
from pathlib import Path

import pytest
from gateway import gateway

from tollway.daemon.alerts import Alerts, look_at_disk
from tollway.providers.http.client import HttpTransport


class Nobody:
    """Remembers nothing: a disk is a state, and no name of it is kept."""

    def alert(self, name: str, at_ms: int) -> "asyncio.Future[bool]":
        """Never called."""
        raise AssertionError(name)


@pytest.mark.parametrize("size", [20 * 2**30, 4 * 2**40])
async def test_a_disk_that_fills_up_is_told_before_it_is_full_and_once(
    tmp_path: Path, size: int
) -> None:
    """A twentieth of a small disk, two gibibytes of a large one; back when there is half more."""
    least = min(size // 20, 2 * 2**30)
    transport = HttpTransport()
    alerts = Alerts(Nobody(), transport)
    for free in (least, least - 1, least // 2, least, least - 1):
        alerts.disk(tmp_path, free, size)
    assert [notice.kind for notice in alerts.recent] == ["disk"]
    assert f"{(least - 1) // 2**20:,} MiB are free" in alerts.disk_problem
    alerts.disk(tmp_path, least * 3 // 2, size)
    assert [notice.kind for notice in alerts.recent] == ["disk", "disk_back"]
    assert not alerts.disk_problem
    await transport.close()


async def test_a_disk_that_is_nearly_full_shows_in_status() -> None:
    """Whoever looks sees it, also where nobody is told."""
    async with gateway([]) as gate:
        daemon, folder = gate.daemon.server.daemon, gate.daemon.folder

        async def shown(free: int) -> bool:
            daemon.alerts.disk(folder, free, 2**40)
            said = (await gate.daemon.ask("GET", "/control/status", admin=True)).json()
            return any("nearly full: 1 MiB" in problem for problem in said["problems"])

        await look_at_disk(daemon)  # the real one, which has room or not
        # The daemon's own first look may come between; the next is half a minute away.
        assert await shown(2**20) or await shown(2**20)
        assert not await shown(2**40)
