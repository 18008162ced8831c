"""Files that commands write for other programs: whole or not at all, and told in words."""

import os
from pathlib import Path

from tollway.daemon.config import files
from tollway.daemon.config.paths import private_folder
from tollway.daemon.errors import ConfigError
from tollway.providers.errors import GatewayError


def place(path: Path, data: bytes, *, denied: str = "") -> None:
    """Put `data` in a file, whose folder is made where it is missing; a symbolic link stays one.

    A file keeps its mode; a new one, and new folders, are the user's alone. `denied` is what to
    do where this user may not write there.

    Raises:
        GatewayError: The folder or the disk does not take it, or what is there is no plain file.
            It is as it was.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():  # a masked unit of systemd's is `/dev/null`
        raise GatewayError(
            f"`{path}` leads to `{real}`, which is no plain file",
            hint=f"`ls -l {path}` shows what it is: move it away",
        )
    try:
        if not real.parent.is_dir():
            private_folder(real.parent)
        files.replace(real, data)
    except ConfigError as fault:
        refused = isinstance(fault.__cause__, PermissionError)
        hint = denied if denied and refused else fault.hint
        raise GatewayError(fault.message, hint=hint) from fault
