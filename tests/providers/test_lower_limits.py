"""A clamp writes a lower output limit, which bounds what is sent then, in every dialect."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.providers.catalog import KINDS
from tollway.providers.dialects.dialect import Edits, InUrl
from tollway.providers.dialects.table import DIALECTS

SAYS: dict[str, dict[str, Any]] = {
    "openai_chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "openai_responses": {"input": "Hi"},
    "anthropic_messages": {"messages": [{"role": "user", "content": "Hi"}]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
}
number = st.none() | st.integers(1, 50_000)


def said(dialect: str, limit: int | None, other: int | None, count: int | None) -> bytes:
    """Return a request that limits its answer in all the ways that a dialect has."""
    fields: dict[str, Any] = dict(SAYS[dialect])
    if dialect == "gemini":
        config: dict[str, Any] = {"maxOutputTokens": limit, "candidateCount": count}
        config["thinkingConfig"] = {"thinkingBudget": other}
        fields["generationConfig"] = {key: one for key, one in config.items() if one is not None}
        return json.dumps(fields).encode()
    fields["model"] = "m"
    if dialect == "openai_chat":
        fields |= {"max_tokens": limit, "max_completion_tokens": other, "n": count}
    elif dialect == "openai_responses":
        fields |= {"max_output_tokens": limit}
    else:
        fields |= {"max_tokens": limit}
        fields["thinking"] = {"type": "enabled", "budget_tokens": other}
    return json.dumps({key: one for key, one in fields.items() if one is not None}).encode()


@pytest.mark.parametrize("dialect", SAYS)
@given(number, number, st.none() | st.integers(1, 8), st.integers(16, 50_000))
@settings(max_examples=50)
def test_what_is_sent_is_bounded_by_the_limit_that_is_held(
    dialect: str, limit: int | None, other: int | None, count: int | None, most: int
) -> None:
    """Whatever the request says beside its limit, for every kind of provider that speaks it."""
    own = DIALECTS[dialect].dialect
    url = InUrl("m", False)
    call = own.peek("chat", said(dialect, limit, other, count), url)
    asked = own.bound(call)
    for kind in KINDS.values():
        if not kind.speaks(dialect):
            continue
        edits = Edits("m", output_limit=most, quirks=kind.quirks)
        sent = own.bound(own.peek("chat", own.edit(call, edits), url))
        assert sent.output is not None
        assert sent.output <= most
        assert sent.choices == asked.choices


def test_every_dialect_is_tried() -> None:
    """A new one must be shown to keep to its limit too."""
    assert set(SAYS) == set(DIALECTS)
