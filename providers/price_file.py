"""Where the distilled price data lie: made from the installed package once, or put in use by hand.

Its rule: data come from the installed package or from a file that a person named, never from the
network. What `tollway prices update` put in use stays in use until another update.
"""

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import msgspec

from tollway.providers.errors import GatewayError
from tollway.providers.price_data import FORMAT, PriceData

log = logging.getLogger("tollway.prices")

_BUILD_S = 60
_MOST_SAID = 300


class PriceDataInvalid(GatewayError):
    """A file is not the price data of genai-prices."""

    status = 400
    code = "price_data_invalid"


def applied_file() -> Path:
    """Return where the data that an update put in use lie; there need be none."""
    return _xdg("XDG_DATA_HOME", ".local/share") / f"prices-{FORMAT}.bin"


def cache_folder() -> Path:
    """Return where the installed package's data are kept once they are distilled."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def _xdg(variable: str, otherwise: str) -> Path:
    # A relative path is to be ignored, says the XDG specification.
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / otherwise) / "tollway"


def installed(folder: Path) -> PriceData:
    """Return the installed package's data; `folder` keeps them for the next time."""
    file = folder / f"prices-{_installed()}.bin"
    kept = read(file)
    if kept is not None:
        return kept
    try:
        packed = _distilled()
        data = msgspec.msgpack.decode(packed, type=PriceData)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as fault:
        log.warning("no process can read the price data (%s), so this one does", fault)
        from tollway.providers.price_distil import distil  # noqa: PLC0415 - heavy, see its docstring

        return distil()
    try:
        write(file, packed)
    except OSError as fault:
        log.warning("cannot keep the price data in %s: %s", file.parent, fault.strerror)
    return data


def from_file(file: Path) -> tuple[PriceData, bytes]:
    """Return the data of a `data.json` of genai-prices, and how `write` takes them.

    Raises:
        PriceDataInvalid: It cannot be read, or is something else.
    """
    try:
        packed = _distilled(str(file.absolute()))
        return msgspec.msgpack.decode(packed, type=PriceData), packed
    except subprocess.CalledProcessError as fault:
        said = (fault.stderr or b"").decode("utf-8", "replace").strip().splitlines() or [""]
        raise PriceDataInvalid(
            f"`{file}` is not a price file: {said[-1][:_MOST_SAID]}",
            hint="genai-prices publishes one as `data.json`: a list of providers",
        ) from None
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as fault:
        raise PriceDataInvalid(f"`{file}` cannot be read as price data: {fault}") from fault


def _installed() -> str:
    """Return what tells one state of the data from another: version, size, our own format."""
    package = importlib.util.find_spec("genai_prices")
    origin = package.origin if package else None
    size = Path(origin).with_name("data.py").stat().st_size if origin else 0
    return f"{version('genai-prices')}-{size}-{FORMAT}"


def _distilled(*file: str) -> bytes:
    # -P: a folder `genai_prices` where the daemon happens to stand is not the package.
    command = [sys.executable, "-P", "-m", "tollway.providers.price_distil", *file]
    done = subprocess.run(  # noqa: S603 - our own module
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_BUILD_S, check=True
    )
    return done.stdout


def read(file: Path) -> PriceData | None:
    """Return what a file holds, or None where it is missing, broken, or someone else's."""
    try:
        with file.open("rb") as opened:
            state = os.fstat(opened.fileno())
            # Who may write it may set prices.
            if state.st_uid not in (os.geteuid(), 0) or state.st_mode & 0o022:
                return None
            kept = opened.read()
        digest, packed = kept[:32], kept[32:]
        if sha256(packed).digest() != digest:
            return None
        return msgspec.msgpack.decode(packed, type=PriceData)
    except (OSError, msgspec.MsgspecError):
        return None


def write(file: Path, packed: bytes) -> None:
    """Write a file whole or not at all, readable to its owner.

    Raises:
        OSError: It cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=file.parent, prefix=".prices-")
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(sha256(packed).digest() + packed)
        Path(partial).replace(file)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise
