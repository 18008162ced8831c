"""TLS contexts: always verified, cached for each CA file as it stands on disk."""

import asyncio
import os
import ssl
from functools import partial
from importlib import import_module

from tollway.providers.errors import UpstreamUnreachable


class Contexts:
    """Makes and keeps one context per CA file and version of that file.

    Reading a system's authorities takes some 30 ms of CPU, and longer from a slow disk, so a
    thread does it: every other call would wait for it too.
    """

    def __init__(self) -> None:
        self._made: dict[str | None, tuple[object, ssl.SSLContext]] = {}
        self._making: dict[str | None, asyncio.Future[ssl.SSLContext]] = {}

    def known(self, ca_file: str | None) -> ssl.SSLContext | None:
        """Return the context of a file as it stands on disk, None where it is still to be made.

        Raises:
            OSError: The file cannot be looked at.
        """
        found = self._made.get(ca_file)
        return found[1] if found and found[0] == _version(ca_file) else None

    async def get(self, ca_file: str | None) -> ssl.SSLContext:
        """Return the context that trusts the system's authorities, and `ca_file`'s besides.

        Raises:
            UpstreamUnreachable: The file cannot be read or holds no certificate.
        """
        try:
            return self.known(ca_file) or await self._new(ca_file)
        except OSError as fault:  # ssl.SSLError is one too
            why = "it holds no certificate" if isinstance(fault, ssl.SSLError) else fault.strerror
            raise UpstreamUnreachable(
                f"The CA file `{ca_file}` cannot be used: {why}",
                hint="It must be a PEM file that the gateway's user may read",
            ) from fault

    async def _new(self, ca_file: str | None) -> ssl.SSLContext:
        making = self._making.get(ca_file)
        if making is None:
            version = _version(ca_file)
            loop = asyncio.get_running_loop()
            making = self._making[ca_file] = loop.run_in_executor(None, _make, ca_file)
            making.add_done_callback(partial(self._finished, ca_file, version))
        # It goes on for the others, and for the next, where whoever asked first has left.
        return await asyncio.shield(making)

    def _finished(
        self, ca_file: str | None, version: object, made: asyncio.Future[ssl.SSLContext]
    ) -> None:
        del self._making[ca_file]
        if not made.cancelled() and made.exception() is None:
            self._made[ca_file] = (version, made.result())


def _version(ca_file: str | None) -> object:
    if ca_file is None:
        return None
    found = os.stat(ca_file)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _make(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not _system_has_authorities():
        _add_certifi(context)
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_has_authorities() -> bool:
    """Return whether OpenSSL's default places hold anything (slim containers: they don't)."""
    places = ssl.get_default_verify_paths()
    return bool(places.cafile or (places.capath and os.listdir(places.capath)))


def _add_certifi(context: ssl.SSLContext) -> None:
    """Trust certifi's list where that package is installed; else only a CA file can help."""
    try:
        certifi = import_module("certifi")
    except ImportError:
        return
    context.load_verify_locations(cafile=certifi.where())


def said_goodbye(tls: ssl.SSLObject) -> bool:
    """Return whether TLS was ended by a close_notify: a bare FIN anyone on the way can forge.

    asyncio reports both alike. OpenSSL does not: it knows an end, or wants to read on.
    """
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False
