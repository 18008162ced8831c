"""The certificate that clients are shown: read, checked, and renewed without a restart.

The one rule: what is shown changes only once the new files are known to fit together. Renewals
write two files one after the other, and between the two they don't.
"""

import asyncio
import logging
import os
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tollway.daemon.config.lines import At
from tollway.daemon.config.load import places
from tollway.daemon.config.schema import Config, Tls
from tollway.daemon.errors import ConfigError
from tollway.providers.errors import GatewayError

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
GOODBYE_S = 2.0  # for a client to take leave; a hostile one never does
_WARN_S = 21 * 86_400.0
_EVERY_S = 5.0


class Certificate(msgspec.Struct, frozen=True):
    """A certificate and its key, as they were read.

    `names` are whom it is for, lower case; `begins` and `ends` are unix seconds; `stamp` tells
    this version of the files from the next.
    """

    context: ssl.SSLContext
    names: tuple[str, ...]
    begins: float
    ends: float
    stamp: tuple[object, ...]

    @property
    def name(self) -> str:
        """The first name that a client can connect to, "" where there is none."""
        return next((name for name in self.names if "*" not in name), "")

    def problem(self, now: float) -> str | None:
        """Return what is wrong with its dates, or soon will be; None where nothing is.

        It is told three weeks before the end, or at the last third of a shorter life.
        """
        left_s = self.ends - now
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.ends))
        if left_s <= 0:
            return f"server.tls: the certificate ended on {day}: clients refuse it"
        if now < self.begins:
            return "server.tls: the certificate is not valid yet: clients refuse it"
        if left_s < min(_WARN_S, (self.ends - self.begins) / 3):
            return f"server.tls: the certificate ends on {day}: renew it"
        return None


def read(config: Config) -> Certificate | None:
    """Return the certificate that a configuration names, None where it names none.

    Raises:
        ConfigError: A file is missing, open to others, or no PEM; or they don't fit together.
            The message names the file's line.
    """
    tls = config.server.tls
    if tls is None:
        return None
    stamp = stamp_of(tls)
    key = _inspected(config, "key", tls.key)
    _inspected(config, "cert", tls.cert)
    if key.st_mode & stat.S_IRWXO or (key.st_mode & stat.S_IRWXG and key.st_uid != 0):
        raise _wrong(
            config,
            "key",
            f"others may read `{tls.key}`",
            f"`chmod 600 {tls.key}`; of root's keys the group may read, as Debian's ssl-cert does",
        )
    context = _context()
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as fault:
        raise _unusable(config, tls, fault) from fault
    names, begins, ends = _facts(tls.cert)
    return Certificate(context, names, begins, ends, stamp)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A client could have the key exchange done again and again on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _no_password() -> str:
    return ""  # rather than OpenSSL's question at the terminal, for which a daemon would wait


def _inspected(config: Config, name: str, path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as fault:
        why = (fault.strerror or str(fault)).lower()
        raise _wrong(config, name, f"`{path}` cannot be read: {why}") from fault
    if not stat.S_ISREG(found.st_mode):
        raise _wrong(config, name, f"`{path}` is no file")
    if found.st_mode & stat.S_IWOTH:
        raise _wrong(config, name, f"others may write `{path}`", f"`chmod go-w {path}`")
    return found


def _unusable(config: Config, tls: Tls, fault: Exception) -> ConfigError:
    reason = getattr(fault, "reason", None) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return _wrong(config, "key", f"`{tls.key}` is not the key of `{tls.cert}`")
    if not _is_certificate(tls.cert):
        return _wrong(
            config,
            "cert",
            f"`{tls.cert}` is no certificate in PEM",
            "It begins with `-----BEGIN CERTIFICATE-----`; those of its issuers stand below it",
        )
    return _wrong(
        config,
        "key",
        f"`{tls.key}` is no key in PEM that can be read without a password",
        "`openssl pkey -in OLD -out NEW` takes a password off",
    )


def _is_certificate(path: Path) -> bool:
    try:
        _facts(path)
    except (ValueError, OSError):
        return False
    return True


def _wrong(config: Config, name: str, what: str, hint: str = "") -> ConfigError:
    at: At = ("server", "tls", name)
    return ConfigError(f"{places(config.path, [at])[0]}: {what}", hint=hint)


def _facts(path: Path) -> tuple[tuple[str, ...], float, float]:
    """Return whom a certificate is for, and from when until when it is valid.

    Raises:
        ValueError: It is none.
    """
    from cryptography import x509  # noqa: PLC0415 - 60 ms that only TLS needs

    first = x509.load_pem_x509_certificates(path.read_bytes())[0]
    try:
        said = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: list[str] = []
    else:
        names = [name.lower() for name in said.get_values_for_type(x509.DNSName)]
        names += [str(one) for one in said.get_values_for_type(x509.IPAddress)]
    begins = first.not_valid_before_utc.timestamp()
    return tuple(names), begins, first.not_valid_after_utc.timestamp()


def stamp_of(tls: Tls) -> tuple[object, ...]:
    """Return what tells one version of the two files from the next."""
    return (tls.cert, *_times(tls.cert), tls.key, *_times(tls.key))


def _times(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


class Front:
    """The context of the listening sockets: each handshake gets the certificate of the moment."""

    def __init__(self, first: Certificate) -> None:
        self.now = first
        self.problem: str | None = None  # why newer files are not in use
        self.context = _context()
        self.context.sni_callback = self._choose

    def _choose(self, one: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL asks this for every handshake, also where the client named no host.
        one.context = self.now.context

    def use(self, certificate: Certificate) -> None:
        """Show this one from the next handshake on."""
        if certificate.stamp != self.now.stamp:
            log.info("another certificate is shown now, for %s", ", ".join(certificate.names))
        self.now = certificate
        self.problem = None

    def problems(self, now: float) -> list[str]:
        """Return what the owner should know."""
        return [one for one in (self.problem, self.now.problem(now)) if one]

    async def watch(self, config: Callable[[], Config], *, every_s: float = _EVERY_S) -> None:
        """Take renewed files up by themselves; never returns."""
        seen = self.now.stamp
        while True:
            await asyncio.sleep(every_s)
            current = config()
            tls = current.server.tls
            if tls is None or not current.server.watch:
                continue
            stamp = await asyncio.to_thread(stamp_of, tls)
            if stamp in (self.now.stamp, seen):
                continue
            try:
                found = await asyncio.to_thread(read, current)
            except GatewayError as error:
                if self.problem != error.message:
                    log.error("the old certificate is still shown: %s", error.message)
                self.problem = error.message
            else:
                seen = stamp
                if found is not None:
                    self.use(found)
