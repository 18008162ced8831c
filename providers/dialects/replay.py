"""What a provider's usage report means today, read again from the ledger.

The same functions read it as read the answer, so a report that was read rightly then reads the
same now; where a reader was mended since, this is how old rows learn of it.
"""

import json
from collections.abc import Callable, Mapping

from tollway.providers.canon import Usage
from tollway.providers.dialects import (
    anthropic_usage,
    bedrock_read,
    cohere_read,
    openai_usage,
    responses_read,
)
from tollway.providers.dialects import openai_quirks as quirk

_Read = Callable[[object, str, frozenset[str]], Usage | None]


def usage_of(dialect: str, endpoint: str, raw_usage: str, quirks: frozenset[str]) -> Usage | None:
    """Return the tokens of a kept report, or None where it alone does not tell them.

    Paid searches may be told elsewhere in an answer, and then are none here.

    Args:
        dialect: What the provider speaks.
        endpoint: Which endpoint was called.
        raw_usage: The last report of the answer, as JSON; some were cut off.
        quirks: The words of the provider's row in `catalog.toml`.
    """
    read = _READ.get(dialect)
    if read is None or not raw_usage:
        return None
    try:
        return read(json.loads(raw_usage), endpoint, quirks)
    except (ValueError, RecursionError):
        return None


def _openai(report: object, endpoint: str, quirks: frozenset[str]) -> Usage | None:
    if quirk.reports_each_choice(quirks):
        return None  # the last report may be one of several that add up
    return openai_usage.disjoint(
        openai_usage.counts(report),
        generates=endpoint != "embeddings",
        within=quirk.reasons_within(quirks),
    )


# By `Kind.dialect`: those whose last report says all that the answer used.
_READ: Mapping[str, _Read] = {
    "openai_chat": _openai,
    "openai_responses": lambda report, _endpoint, _quirks: responses_read.usage_of(report),
    "anthropic_messages": lambda report, _endpoint, _quirks: anthropic_usage.disjoint(
        anthropic_usage.counts(report)
    ),
    "bedrock": lambda report, _endpoint, _quirks: (
        bedrock_read.usage_of(report) if isinstance(report, dict) else None
    ),
    "cohere": lambda report, _endpoint, _quirks: (
        cohere_read.usage_of(report) if isinstance(report, dict) else None
    ),
}
