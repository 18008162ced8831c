"""How Bedrock's Converse is translated: towards providers alone; no client of ours speaks it."""

from typing import Final

from tollway.providers.conversation import Conversation
from tollway.providers.dialects.bedrock_ask import write_request
from tollway.providers.dialects.bedrock_events import Reader
from tollway.providers.dialects.bedrock_options import claude
from tollway.providers.dialects.bedrock_read import NAME
from tollway.providers.dialects.dialect import EventReader, Facts, Written
from tollway.providers.dialects.flat_schemas import flat
from tollway.providers.dialects.json_by_tool import by_tool, reader_by_tool
from tollway.providers.dialects.member_names import borne, borne_back


class BedrockCodec:
    """Converse from the neutral form, and its answers to it; see `Asks`."""

    name = NAME

    def write_request(self, said: Conversation, facts: Facts) -> Written:
        """Return the request for a target.

        Raises:
            Untranslatable: The target cannot say it; `param` names the field.
        """
        if claude(facts.model):
            said = borne(flat(said))
        return write_request(by_tool(said), facts)

    def events(self, said: Conversation, quirks: frozenset[str]) -> EventReader:
        """Return a fresh reader for one attempt's answer."""
        return borne_back(flat(said), reader_by_tool(said, Reader))


CODEC: Final = BedrockCodec()
