"""How the Responses API is translated: its codec."""

from typing import Final

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.dialect import EventReader, Facts, Writer, Written
from tollway.providers.dialects.responses_ask import write_request
from tollway.providers.dialects.responses_events import Reader
from tollway.providers.dialects.responses_request import NAME
from tollway.providers.dialects.responses_said import read_request
from tollway.providers.dialects.responses_writer import Writer as ResponsesWriter


class ResponsesCodec:
    """Responses from and to the neutral form; see `Codec` for what each method gives."""

    name = NAME
    keepalive = b": keep-alive\n\n"
    content_type = "text/event-stream; charset=utf-8"

    def read_request(self, call: Call) -> Conversation:
        """Return what a client's body says.

        Raises:
            RequestInvalid: A field has the wrong type; `param` names it.
            Untranslatable: It builds on what its provider keeps.
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
        return Reader(said, quirks)

    def writer(self, call: Call) -> Writer:
        """Return a fresh writer for the answer to a client's call."""
        return ResponsesWriter(call)


CODEC: Final = ResponsesCodec()
