"""Which kinds of streams providers answer with, and how each is cut into events."""

from codecs import BOM_UTF8
from typing import Final, Protocol

from tollway.providers import eventstream, sse


class Splitter(Protocol):
    """Cuts a stream into events, wherever the chunks happen to fall."""

    @property
    def in_comment(self) -> bool:
        """Whether the last of what came belongs to a comment, or to nothing at all."""
        ...

    def feed(self, chunk: bytes) -> list[sse.Event]:
        """Return the events that `chunk` completes.

        Raises:
            UpstreamBroke: It is none of this kind of stream.
        """
        ...

    def rest(self) -> bytes:
        """Return what stands at the end and would be an event, were there a blank line."""
        ...


def splitter_of(content_type: str) -> Splitter | None:
    """Return what cuts an answer of a content type, None where that is no stream."""
    if "text/event-stream" in content_type:
        return sse.Splitter()
    if eventstream.CONTENT_TYPE in content_type:
        return eventstream.Splitter()
    return None


_BEGINNINGS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def is_events(begun: bytes) -> bool | None:
    """Return whether a body that is called no stream begins as one of events.

    Some servers forget the content type of their streams. No JSON begins so. None where it has
    too few bytes to tell.
    """
    said = begun.removeprefix(BOM_UTF8).lstrip()
    if said.startswith(_BEGINNINGS):
        return True
    return None if any(one.startswith(said) for one in _BEGINNINGS) else False
