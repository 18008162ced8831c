"""How Messages are translated: the codec of Anthropic's dialect."""

from typing import Final

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.anthropic_ask import write_request
from tollway.providers.dialects.anthropic_events import Reader
from tollway.providers.dialects.anthropic_models import is_claude
from tollway.providers.dialects.anthropic_said import NAME, read_request
from tollway.providers.dialects.anthropic_writer import Writer as MessageWriter
from tollway.providers.dialects.dialect import EventReader, Facts, Writer, Written
from tollway.providers.dialects.flat_schemas import flat
from tollway.providers.dialects.json_by_tool import by_tool, reader_by_tool
from tollway.providers.dialects.member_names import borne, borne_back


class AnthropicCodec:
    """Messages from and to the neutral form; see `Codec` for what each method gives."""

    name = NAME
    keepalive = b'event: ping\ndata: {"type": "ping"}\n\n'
    content_type = "text/event-stream; charset=utf-8"

    def read_request(self, call: Call) -> Conversation:
        """Return what a client's body says.

        Raises:
            RequestInvalid: A field has the wrong type; `param` names it.
        """
        return read_request(call)

    def write_request(self, said: Conversation, facts: Facts) -> Written:
        """Return the request for a target.

        Raises:
            Untranslatable: The target cannot say it; `param` names the field.
        """
        if is_claude(facts.model):
            said = borne(flat(said))
        return write_request(by_tool(said), facts)

    def events(self, said: Conversation, quirks: frozenset[str]) -> EventReader:
        """Return a fresh reader for one attempt's answer."""
        return borne_back(flat(said), reader_by_tool(said, Reader))

    def writer(self, call: Call) -> Writer:
        """Return a fresh writer for the answer to a client's call."""
        return MessageWriter(call)


CODEC: Final = AnthropicCodec()
