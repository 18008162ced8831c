"""TLS contexts: always verified, cached for each CA file as it stands on disk."""

import os
import ssl
from importlib import import_module

from tollway.providers.errors import UpstreamUnreachable


class Contexts:
    """Makes and keeps one context per CA file and version of that file."""

    def __init__(self) -> None:
        self._made: dict[str | None, tuple[object, ssl.SSLContext]] = {}

    def get(self, ca_file: str | None) -> ssl.SSLContext:
        """Return the context that trusts the system's authorities, and `ca_file`'s besides.

        Raises:
            UpstreamUnreachable: The file cannot be read or holds no certificate.
        """
        try:
            version = _version(ca_file)
            known = self._made.get(ca_file)
            if known and known[0] == version:
                return known[1]
            context = _make(ca_file)
        except OSError as fault:  # ssl.SSLError is one too
            why = "it holds no certificate" if isinstance(fault, ssl.SSLError) else fault.strerror
            raise UpstreamUnreachable(
                f"The CA file `{ca_file}` cannot be used: {why}",
                hint="It must be a PEM file that the gateway's user may read",
            ) from fault
        self._made[ca_file] = (version, context)
        return context


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
