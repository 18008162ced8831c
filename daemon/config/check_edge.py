"""Whether what [server] says of those who call, and of whom it tells, can be what it is for."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tollway.daemon.config import shown
from tollway.daemon.config.schema import Server

# Names are in lower case, and a scheme's own port is not written.
_ORIGIN = re.compile(
    r"(http://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?!:80$)|https://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?!:443$))"
    r"(:[0-9]{1,5})?"
)
_HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?|[0-9a-f:.]+", re.ASCII | re.IGNORECASE)


def wrong_names(server: Server) -> Iterator[tuple[str, int, str]]:
    """Yield which origins and hosts nobody can come from, or everybody: key, number and why."""
    for number, origin in enumerate(server.cors_origins):
        if why := _origin_wrong(origin):
            yield "cors_origins", number, why
    for number, host in enumerate(server.allowed_hosts):
        if not _HOST.fullmatch(host):
            # Compared whole: a pattern or a URL would let nobody in, and nobody would know why.
            why = "is no host as clients send it; write each by name, such as gateway.example.com"
            yield "allowed_hosts", number, why


def _origin_wrong(said: str) -> str | None:
    """Return why a text is no origin of a page as browsers write it, None where it is one."""
    if said in {"*", "null"}:
        return "would let any page in; name the origins, such as https://app.example"
    if _ORIGIN.fullmatch(said):
        return None
    return "is no origin; write it as browsers do: https://app.example or http://localhost:3000"


def program_missing(command: Sequence[str], folder: Path) -> str | None:
    """Return why a command cannot be run from a folder, as far as can be seen; None where it can.

    Whoever is to be told of a spent budget would learn of it with the first alert.
    """
    if not command:
        return None
    name = command[0]
    if os.sep in name:
        found = os.access(folder / name, os.X_OK) and (folder / name).is_file()
    else:
        found = shutil.which(name) is not None
    return None if found else f"there is no program {shown.value(name)} here"
