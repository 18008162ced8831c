"""Citations as Anthropic's text blocks have them."""

from typing import Any

import msgspec

from tollway.providers.conversation import Citation
from tollway.providers.dialects.wire import canonical, text_of

_NAME = "anthropic_messages"


def citation(said: dict[str, Any]) -> Citation:
    """Return what one entry of `citations` says; its place in the source stays its own."""
    return Citation(
        text_of(said, "url") or text_of(said, "source"),
        text_of(said, "title") or text_of(said, "document_title"),
        text_of(said, "cited_text"),
        by=_NAME,
        payload=canonical(said),
    )


def entry(said: Citation) -> msgspec.Raw | None:
    """Return a citation's JSON; None where the dialect cannot say it.

    Another dialect's, by URL, is said as the result of a web search; there is nothing to put
    into `encrypted_index`, by which Anthropic finds the place again.
    """
    if said.by == _NAME and said.payload:
        return msgspec.Raw(said.payload)
    if not said.url:
        return None
    return msgspec.Raw(
        canonical(
            {
                "type": "web_search_result_location",
                "url": said.url,
                "title": said.title,
                "cited_text": said.quote,
                "encrypted_index": "",
            }
        )
    )
