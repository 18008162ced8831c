"""HTTPS by the daemon itself: which files it takes, which handshakes, and how they are renewed."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from shell import PATIENCE_S, Client, Running, parse, running, short_folder, until, write_config
from upstreams import self_signed

from tollway.daemon import tls
from tollway.daemon.config.load import load
from tollway.daemon.errors import ConfigError
from tollway.daemon.tls import Certificate

SETTING = 'tls = { cert = "trusted.pem", key = "private.pem" }'
DAY = 86_400.0


def certificate(folder: Path, name: str = "127.0.0.1") -> Path:
    """Make a certificate and its key in a folder; return the file that makes a client trust it."""
    _, trusted = self_signed(folder, name)
    (folder / "private.pem").chmod(0o600)
    return trusted


async def connect(daemon: Running, trusted: Path, **how: ssl.TLSVersion) -> Client:
    """Connect as a client that trusts one file."""
    context = ssl.create_default_context(cafile=str(trusted))
    for name, version in how.items():
        setattr(context, name, version)
    return Client(*await asyncio.open_connection("127.0.0.1", daemon.port, ssl=context))


async def healthy(client: Client) -> bool:
    """Ask for the health on a connection."""
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return (await client.answer()).status == 200


@contextlib.asynccontextmanager
async def secured(server: str = "single_user = true") -> AsyncIterator[tuple[Running, Path]]:
    """Yield a daemon that speaks TLS, and the file that makes a client trust it."""
    with short_folder() as folder:
        trusted = certificate(folder)
        async with running(server=f"{server}\nwatch = false\n{SETTING}", folder=folder) as daemon:
            yield daemon, trusted


async def test_calls_are_served_over_tls_and_over_nothing_else() -> None:
    """The whole edge is behind it: limits, guard, calls; plain HTTP gets no answer."""
    async with secured() as (daemon, trusted):
        client = await connect(daemon, trusted)
        assert await healthy(client)
        body = b'{"model":"x","messages":[]}'
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert (await client.answer()).status == 404
        client.close()
        assert b"HTTP/1.1 2" not in await daemon.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        status = (await daemon.ask("GET", "/control/status", admin=True)).json()
        assert status["url"] == f"https://127.0.0.1:{daemon.port}/v1"
        assert status["problems"] == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(version: ssl.TLSVersion) -> None:
    """Nothing below 1.2, whatever the client would like."""
    async with secured() as (daemon, trusted):
        with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(daemon, trusted, minimum_version=version, maximum_version=version)
        client = await connect(daemon, trusted, maximum_version=ssl.TLSVersion.TLSv1_2)
        assert await healthy(client)
        client.close()


async def test_a_reload_shows_a_renewed_certificate_and_open_connections_stay() -> None:
    """From the next handshake on; a client that trusts only the new one gets in."""
    async with secured() as (daemon, trusted):
        client = await connect(daemon, trusted)
        assert await healthy(client)
        assert (await daemon.server.reloader.reload()).renewed == []
        renewed = certificate(daemon.folder)
        assert (await daemon.server.reloader.reload()).renewed == ["server.tls"]
        assert (await daemon.server.reloader.reload()).renewed == []
        assert await healthy(client)
        second = await connect(daemon, renewed)
        assert await healthy(second)
        client.close()
        second.close()


async def test_half_renewed_files_leave_the_old_certificate_and_configuration() -> None:
    """The key of one beside the certificate of another: a reload is all or nothing."""
    async with secured() as (daemon, trusted):
        old = trusted.read_bytes()
        kept = daemon.folder / "kept.pem"
        kept.write_bytes(old)
        certificate(daemon.folder)
        trusted.write_bytes(old)
        gate = daemon.server.daemon.gate
        with pytest.raises(ConfigError, match=r"gateway.toml:6: server.tls.key: .* not the key of"):
            await daemon.server.reloader.reload()
        assert daemon.server.daemon.gate is gate
        client = await connect(daemon, kept)
        assert await healthy(client)
        client.close()


async def test_renewed_files_are_taken_up_by_themselves() -> None:
    """Who renews need not know of the gateway; files that do not fit yet are waited for."""
    with short_folder() as folder:
        certificate(folder)
        async with running(server=f"single_user = true\n{SETTING}", folder=folder) as daemon:
            front = daemon.server.daemon.front
            assert front is not None
            watch = asyncio.create_task(
                front.watch(lambda: daemon.server.daemon.config, every_s=0.01)
            )
            first = front.now
            key = (folder / "private.pem").read_bytes()
            renewed = certificate(folder)
            right = (folder / "private.pem").read_bytes()
            (folder / "private.pem").write_bytes(key)
            await until(lambda: front.problem is not None)
            said = (await daemon.ask("GET", "/control/status", admin=True)).json()
            assert any("is not the key of" in problem for problem in said["problems"])
            await daemon.ask("POST", "/control/reload", admin=True)
            said = (await daemon.ask("GET", "/control/status", admin=True)).json()
            assert len(said["problems"]) == 1, "the file's problem and its own are one"
            (folder / "private.pem").write_bytes(right)
            await until(lambda: front.now is not first and front.problem is None)
            said = await daemon.server.reloader.reload()
            assert said.renewed == ["server.tls"], "who asks is told all since the last reload"
            client = await connect(daemon, renewed)
            assert await healthy(client)
            client.close()
            watch.cancel()


async def test_a_client_that_never_ends_its_handshake_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would hold a file for ever."""
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.05)
    async with secured() as (daemon, trusted):
        silent = await daemon.connect()
        assert await silent.all() == b""
        client = await connect(daemon, trusted)
        assert await healthy(client)
        client.close()


async def test_names_of_the_certificate_are_hosts_of_the_gateway() -> None:
    """Who has it proved them; others are foreign as ever."""
    with short_folder() as folder:
        certificate(folder, "gate.example.com")
        server = f'{SETTING}\nallowed_hosts = ["other.example"]'
        async with running(server=server, folder=folder) as daemon:
            assert daemon.server.url == f"https://gate.example.com:{daemon.port}/v1"
            context = ssl.create_default_context(cafile=str(folder / "trusted.pem"))
            for host, status in (("gate.example.com", 200), ("evil.example", 403)):
                client = Client(
                    *await asyncio.open_connection(
                        "127.0.0.1", daemon.port, ssl=context, server_hostname="gate.example.com"
                    )
                )
                await client.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert (await client.answer()).status == status
                client.close()


def write(folder: Path, cert: bytes | None, key: bytes | None, mode: int = 0o600) -> Path:
    """Write a configuration and its two files, None for no file."""
    for name, data in (("trusted.pem", cert), ("private.pem", key)):
        if data is not None:
            (folder / name).write_bytes(data)
            (folder / name).chmod(mode if name == "private.pem" else 0o644)
    return write_config(folder, server=SETTING)


def test_files_that_cannot_be_used_are_told_with_the_line_and_the_fix() -> None:
    """Missing, of another pair, no PEM, open to others, behind a password."""
    with short_folder() as made, short_folder() as folder:
        cert = certificate(made).read_bytes()
        key = (made / "private.pem").read_bytes()
        locked = load_pem_private_key(key, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
        place = f"{folder}/gateway.toml:4: server.tls."
        for said, why in (
            ((None, None), f"{place}key: `{folder}/private.pem` cannot be read: no such file"),
            ((b"nonsense", key), f"{place}cert: `{folder}/trusted.pem` is no certificate in PEM"),
            ((cert, b"nonsense"), f"{place}key: `{folder}/private.pem` is no key in PEM"),
            ((cert, locked), f"{place}key: `{folder}/private.pem` is no key in PEM"),
            ((cert, key, 0o644), f"{place}key: others may read `{folder}/private.pem`"),
        ):
            path = write(folder, *said)
            with pytest.raises(ConfigError) as refused:
                tls.read(load(path))
            assert refused.value.message.startswith(why), refused.value.message
        write(folder, cert, key)
        found = tls.read(load(folder / "gateway.toml"))
        assert found is not None
        assert found.names == ("127.0.0.1",)


@pytest.mark.parametrize(
    ("life", "left", "told"),
    [
        (90, 60, None),
        (90, 20, "ends on"),
        (6, 3, None),
        (6, 1.5, "ends on"),
        (90, -1, "ended on"),
        (90, 91, "not valid yet"),
    ],
)
def test_the_end_of_a_certificate_is_told_in_time(
    life: float, left: float, told: str | None
) -> None:
    """Three weeks before, or at the last third of a short life."""
    now = 1_800_000_000.0
    ends = now + left * DAY
    one = Certificate(tls._context(), (), ends - life * DAY, ends, ())
    found = one.problem(now)
    assert found is None if told is None else found is not None and told in found


async def test_beyond_loopback_tls_is_enough() -> None:
    """Without it, and without a proxy that speaks it, keys would travel unencrypted."""
    with short_folder() as folder:
        trusted = certificate(folder)
        path = write_config(folder, server=SETTING)
        text = path.read_text().replace("127.0.0.1:0", "0.0.0.0:0")
        path.write_text(text.replace(SETTING, ""))
        with pytest.raises(ConfigError, match=r"server\.tls"):
            load(path)
        path.write_text(text)
        assert load(path).server.host == "0.0.0.0"  # noqa: S104
        assert trusted.exists()


async def test_a_reset_within_the_handshake_is_nothing_to_the_others() -> None:
    """Garbage where a handshake should be, too."""
    async with secured() as (daemon, trusted):
        for data in (b"", b"\x16\x03\x01", b"\0" * 600, b"\x16\x03\x01\xff\xff" + b"x" * 70_000):
            client = await daemon.connect()
            with contextlib.suppress(ConnectionError):
                await client.send(data)
            client.writer.transport.abort()
        last = await connect(daemon, trusted)
        assert await healthy(last)
        await last.send(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert parse(await last.all()).status == 200


async def told_of_a_certificate(daemon: Running) -> str:
    """Return the words of the alert, once it is told."""
    alerts = daemon.server.daemon.alerts
    await until(lambda: any(one.kind == "certificate" for one in alerts.recent))
    await alerts.settled()
    (told,) = [one for one in alerts.recent if one.kind == "certificate"]
    return told.text


async def test_a_certificate_that_ends_is_an_alert_once_and_a_metric(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody looks at `status` each day; and a daemon that begins anew tells it no second time."""
    with short_folder() as folder:
        self_signed(folder, "localhost", days=1)
        (folder / "private.pem").chmod(0o600)
        for _ in range(2):
            async with running(server=f"single_user = true\n{SETTING}", folder=folder) as daemon:
                text = await told_of_a_certificate(daemon)
                assert "the certificate ends on" in text
                said = (await daemon.ask("GET", "/metrics", admin=True)).body.decode()
                front = daemon.server.daemon.front
                assert front is not None
                (line,) = re.findall("^tollway_certificate_end_time_seconds (.*)$", said, re.M)
                assert float(line) == front.now.ends
    assert [record.message for record in caplog.records].count(text) == 1
