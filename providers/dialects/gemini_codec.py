"""How Gemini's API is translated: its codec."""

from typing import Final

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.dialect import EventReader, Facts, Writer, Written
from tollway.providers.dialects.gemini_ask import write_request
from tollway.providers.dialects.gemini_events import Reader
from tollway.providers.dialects.gemini_request import NAME
from tollway.providers.dialects.gemini_said import read_request
from tollway.providers.dialects.gemini_writer import Writer as GeminiWriter
from tollway.providers.dialects.json_by_tool import beside_tools, reader_by_tool


class GeminiCodec:
    """Gemini's API from and to the neutral form; see `Codec` for what each method gives."""

    name = NAME
    keepalive = b""  # its libraries take a comment for a broken answer
    content_type = "text/event-stream"

    def read_request(self, call: Call) -> Conversation:
        """Return what a client's body says.

        Raises:
            RequestInvalid: A field has the wrong type; `param` names it.
            Untranslatable: It builds on what Google keeps.
        """
        return read_request(call)

    def write_request(self, said: Conversation, facts: Facts) -> Written:
        """Return the request for a target.

        Raises:
            Untranslatable: The target cannot say it; `param` names the field.
        """
        return write_request(said, facts)

    def events(self, said: Conversation, quirks: frozenset[str]) -> EventReader:
        """Return a fresh reader for one attempt's answer."""
        return reader_by_tool(said, Reader, beside_tools)

    def writer(self, call: Call) -> Writer:
        """Return a fresh writer for the answer to a client's call."""
        return GeminiWriter(call)


CODEC: Final = GeminiCodec()
