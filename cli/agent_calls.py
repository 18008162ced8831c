"""What the logs of coding agents have in common: a call, and how a folder of logs is read."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tollway.daemon.ledger.imports import Source
from tollway.providers.canon import Usage


class AgentCall(msgspec.Struct, frozen=True):
    """One call of a log. `response_id` is the provider's name for the answer, "" if not said.

    `at_ms` is when the log says that it ended, in unix milliseconds.
    """

    source: Source
    key: str
    at_ms: int
    provider: str
    model: str
    session: str
    folder: str  # where the agent worked, "" if not said
    branch: str
    usage: Usage
    response_id: str = ""
    tier: str = ""  # the service tier that answered, "" if not said


class Logs(msgspec.Struct):
    """What was read: the calls, each once, and what could not be read of the files."""

    calls: list[AgentCall] = []
    files: int = 0
    repeated: int = 0  # times that a call stood in the logs again
    unreadable: int = 0  # lines that should have told of a call, and did not


Progress = Callable[[int, int], None]


def files(folders: list[Path], since_ms: int) -> list[Path]:
    """Return the logs below folders that were written to since a moment, in order."""
    found = {
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.rglob("*.jsonl")
        if path.is_file() and path.stat().st_mtime * 1000 >= since_ms
    }
    return sorted(found)


def lines(path: Path, words: tuple[bytes, ...]) -> Iterator[bytes]:
    """Yield the lines of a file that have one of some words; the rest need not be decoded."""
    with path.open("rb") as file:
        for line in file:
            if any(word in line for word in words):
                yield line


def moment_ms(text: str) -> int:
    """Return a log's time in unix milliseconds.

    Raises:
        ValueError: It is none.
    """
    at = datetime.fromisoformat(text)
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
