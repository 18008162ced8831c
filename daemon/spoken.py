"""Which dialect a request is in: by its path, else by its headers. Errors are told in it."""

from collections.abc import Mapping

from tollway.providers.dialects.dialect import Dialect
from tollway.providers.dialects.table import DIALECTS

_BY_PATH = (
    ("/v1/messages", "anthropic_messages"),
    ("/v1/responses", "openai_responses"),
    ("/v1beta", "gemini"),
)
_BY_HEADER = (("anthropic-version", "anthropic_messages"), ("x-goog-api-key", "gemini"))
_ELSE = "openai_chat"


def dialect_of(path: str, headers: Mapping[str, str]) -> Dialect:
    """Return the dialect that a request's client reads."""
    for begins, name in _BY_PATH:
        if path == begins or path.startswith(f"{begins}/"):
            return DIALECTS[name].dialect
    for header, name in _BY_HEADER:
        if header in headers:
            return DIALECTS[name].dialect
    return DIALECTS[_ELSE].dialect
