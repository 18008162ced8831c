"""Names of an answer's headers, as text, and which of them are told to the connection itself."""

from functools import lru_cache

_TO_US = frozenset(
    {"content-length", "transfer-encoding", "content-encoding", "content-type", "keep-alive"}
)


@lru_cache(maxsize=1024)  # bounded: providers choose the names
def name_of(raw: bytes) -> tuple[str, bool]:
    """Return a header's name as text, and whether `Connection` goes by it."""
    name = raw.decode("latin-1")
    return name, name.lower() in _TO_US
