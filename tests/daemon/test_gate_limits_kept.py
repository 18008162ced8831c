"""Neither a restart nor a death of the daemon is a way around a limit a minute."""

import asyncio
import random
from pathlib import Path

import pytest
from gateway import CHAT, KEY, WHOLE, body, config, whole
from limited import SERVES, USAGE
from shell import (
    Client,
    Process,
    Running,
    control,
    process,
    running,
    short_folder,
    until,
    write_config,
)
from upstreams import Upstream, reads, says, upstream

from tollway.daemon.config.paths import state_paths
from tollway.daemon.gate.limits import REPLAYED_MS
from tollway.daemon.gate.rates import Bucket, Rates

S = 1_000_000_000


def limits(rpm: int, tpm: int) -> str:
    """Return limits at every sort of place."""
    both = f"{{ rpm = {rpm}, tpm = {tpm} }}"
    return f"""[keys.laptop.limits]
rpm = {rpm}
tpm = {tpm}
[providers.up.limits]
rpm = {rpm}
[routes.both]
to = ["up/m"]
limits = {both}
"""


async def ask(port: int, model: str = "both") -> int:
    """Make a call; return its status."""
    said = body(model=model, max_tokens=5)
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    await client.send(
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(said)}\r\n"
        "Connection: close\r\n\r\n".encode()
        + said
    )
    reply = await client.answer()
    client.close()
    return reply.status


async def left(socket: Path) -> dict[str, int]:
    """Return what is left of each limit, by "scope name limit"."""
    _, said = await asyncio.to_thread(control, socket, "GET", "/control/status")
    return {
        " ".join((one["scope"], one["name"], one["limit"])): one["left"] for one in said["limits"]
    }


def before(up: Upstream, rpm: int, tpm: int, folder: Path) -> Path:
    """Write the configuration of a gateway with these limits."""
    return write_config(folder, config([up], "") + limits(rpm, tpm), server="watch = false")


async def used_up(daemon: Process) -> None:
    """Start a daemon that has nothing left once two calls were made."""
    assert (await asyncio.to_thread(daemon.ready))["ready"], daemon.word
    assert [await ask(daemon.port) for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("kill", [False, True])
async def test_a_minute_that_is_used_up_is_used_up_after_a_new_start(kill: bool) -> None:
    """Stopped with a word or killed: who had two calls a minute has none left, and hears when."""
    async with upstream(SERVES) as up:
        with short_folder() as folder:
            path = before(up, 2, 10**6, folder)
            with process(path) as daemon:
                await used_up(daemon)
                if kill:
                    daemon.kill()
                else:
                    daemon.popen.terminate()
                    assert await asyncio.to_thread(daemon.ended) == 0
            with process(path) as daemon:
                assert (await asyncio.to_thread(daemon.ready))["ready"]
                seen = await left(folder / "tollway.sock")
                assert {name: n for name, n in seen.items() if name.endswith("rpm")} == {
                    "key laptop rpm": 0,
                    "provider up rpm": 0,
                    "route both rpm": 0,
                }
                # Tokens count as they were used, not as they were reserved; and drain by the
                # thousand in the moment that a start takes.
                assert seen["key laptop tpm"] > 10**6 - 3 * USAGE
                assert await ask(daemon.port) == 429


@pytest.mark.parametrize("kill", [False, True])
async def test_tokens_that_were_used_still_count(kill: bool) -> None:
    """They count as they were used, also where that was more than a minute has."""
    many = whole(WHOLE.replace(b'"prompt_tokens":7', b'"prompt_tokens":600000'))
    async with upstream([reads(), says(many)]) as up:
        with short_folder() as folder:
            path = before(up, 1000, 10_000, folder)
            with process(path) as daemon:
                assert (await asyncio.to_thread(daemon.ready))["ready"], daemon.word
                assert [await ask(daemon.port) for _ in range(2)] == [200, 429]
                daemon.popen.kill() if kill else daemon.popen.terminate()
                await asyncio.to_thread(daemon.ended)
            with process(path) as daemon:
                assert (await asyncio.to_thread(daemon.ready))["ready"]
                seen = await left(folder / "tollway.sock")
                assert (seen["key laptop tpm"], seen["route both tpm"]) == (0, 0)
                assert await ask(daemon.port) == 429


async def test_what_was_kept_is_taken_once() -> None:
    """A file of an earlier end must not come back after a later death."""
    async with upstream(SERVES) as up:
        with short_folder() as folder:
            more = config([up], "") + limits(2, 10**6)
            kept = state_paths(folder / "ledger.db").rates
            async with running(more, server="", folder=folder) as daemon:
                assert await ask(daemon.port) == 200
            assert kept.stat().st_mode & 0o777 == 0o600
            async with running(more, server="", folder=folder) as daemon:
                assert not kept.exists()
                assert (await left_of(daemon))["key laptop rpm"] == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"wall_ms":"x"}'])
async def test_a_file_that_is_broken_is_passed_over_for_the_ledger(text: bytes) -> None:
    """What it would have said stands in the ledger too; the log tells of it."""
    async with upstream(SERVES) as up:
        with short_folder() as folder:
            more = config([up], "") + limits(2, 10**6)
            async with running(more, server="", folder=folder) as daemon:
                assert [await ask(daemon.port) for _ in range(2)] == [200, 200]
            kept = state_paths(folder / "ledger.db").rates
            kept.write_bytes(text)
            async with running(more, server="", folder=folder) as daemon:
                assert (await left_of(daemon))["key laptop rpm"] == 0
                await until(lambda: "limits a minute" in daemon.log.read_text())


async def left_of(daemon: Running) -> dict[str, int]:
    """Return what is left of each limit of a daemon in this process."""
    return await left(daemon.socket)


def test_a_bucket_goes_on_where_it_was_left() -> None:
    """As if it had never been put away: the time between has drained it."""
    clock = [7 * S]
    rates = Rates(lambda: 0, lambda: clock[0])
    bucket = rates.bucket(("key", "k"), "rpm")
    assert not bucket.wait_ns(60, 60, clock[0])
    bucket.take(60)
    clock[0] += 10 * S
    said = rates.kept()
    other = [3 * S]  # another boot: its clock began anew
    again = Rates(lambda: 0, lambda: other[0])
    again.restore(said, 5 * S)
    assert again.bucket(("key", "k"), "rpm").left(60, other[0]) == 15
    assert bucket.left(60, clock[0] + 5 * S) == 15


@pytest.mark.parametrize("seed", range(30))
def test_a_replay_never_grants_more_than_the_daemon_that_died_would_have(seed: int) -> None:
    """It is that to the nanosecond where the last two minutes used no more than one may."""
    chance = random.Random(seed)  # noqa: S311 - must repeat itself
    limit = chance.choice([1, 7, 60])
    lived, now = Bucket(), 0
    used: list[tuple[int, int]] = []
    for _ in range(chance.randrange(1, 200)):
        now += chance.randrange(1, 20) * S
        units = chance.randrange(1, max(2, limit))
        if not lived.wait_ns(units, limit, now):
            lived.take(units)
            used.append((now, units))
    since = now - REPLAYED_MS * 1_000_000
    late = [one for one in used if one[0] > since]
    again = Bucket()
    again.replay(late, limit, since)
    truth = lived.empty_ns(limit, now)
    assert again.empty_ns(limit, now) >= truth
    if sum(units for _, units in late) <= limit:
        assert again.empty_ns(limit, now) == truth
