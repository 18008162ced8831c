"""How Cohere's API is translated: towards providers alone, since no client of ours speaks it."""

from typing import Final

from tollway.providers.conversation import Conversation
from tollway.providers.dialects.cohere_ask import write_request
from tollway.providers.dialects.cohere_events import Reader
from tollway.providers.dialects.cohere_read import NAME
from tollway.providers.dialects.dialect import EventReader, Facts, Written


class CohereCodec:
    """Cohere's API from the neutral form, and its answers to it; see `Asks`."""

    name = NAME

    def write_request(self, said: Conversation, facts: Facts) -> Written:
        """Return the request for a target.

        Raises:
            Untranslatable: The target cannot say it; `param` names the field.
        """
        return write_request(said, facts)

    def events(self, said: Conversation, quirks: frozenset[str]) -> EventReader:
        """Return a fresh reader for one attempt's answer."""
        return Reader(said)


CODEC: Final = CohereCodec()
