"""How chat completions are translated: the codec of OpenAI's dialect."""

from functools import partial
from typing import Final

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation
from tollway.providers.dialects import openai_completion_said
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects.dialect import EventReader, Facts, Writer, Written
from tollway.providers.dialects.json_by_tool import beside_tools, reader_by_tool
from tollway.providers.dialects.openai_chat_ask import write_request
from tollway.providers.dialects.openai_chat_echo import unechoed
from tollway.providers.dialects.openai_chat_events import Reader
from tollway.providers.dialects.openai_chat_parts import NAME
from tollway.providers.dialects.openai_chat_said import read_request
from tollway.providers.dialects.openai_chat_writer import Writer as ChatWriter
from tollway.providers.dialects.openai_completion_writer import Writer as CompletionWriter


class OpenAIChatCodec:
    """Chat completions from and to the neutral form; see `Codec` for what each method gives."""

    name = NAME
    keepalive = b": keep-alive\n\n"
    content_type = "text/event-stream; charset=utf-8"

    def read_request(self, call: Call) -> Conversation:
        """Return what a client's body says.

        Raises:
            RequestInvalid: A field has the wrong type; `param` names it.
            Untranslatable: It is a completion that no conversation is.
        """
        if call.endpoint == "completions":
            return openai_completion_said.read_request(call)
        return read_request(call)

    def write_request(self, said: Conversation, facts: Facts) -> Written:
        """Return the request for a target.

        Raises:
            Untranslatable: The target cannot say it; `param` names the field.
        """
        return write_request(said, facts)

    def events(self, said: Conversation, quirks: frozenset[str]) -> EventReader:
        """Return a fresh reader for one attempt's answer."""
        if quirk.JSON_OR_TOOLS in quirks:
            return reader_by_tool(said, partial(Reader, quirks=quirks), beside_tools)
        reader = Reader(said, quirks)
        return unechoed(reader, said) if quirk.PREFIX in quirks else reader

    def writer(self, call: Call) -> Writer:
        """Return a fresh writer for the answer to a client's call."""
        return CompletionWriter(call) if call.endpoint == "completions" else ChatWriter(call)


CODEC: Final = OpenAIChatCodec()
