"""The catalog: every row is whole, and every word in it means something."""

import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tollway.providers.catalog import KINDS, PARTS, Kind, request_headers
from tollway.providers.dialects.anthropic_request import RAW_PREDICT
from tollway.providers.dialects.gemini_ask import CALL_IDS_FROM_3, NO_TIER
from tollway.providers.dialects.gemini_embed import CONFIGURED, PREDICTS
from tollway.providers.dialects.openai_quirks import QUIRKS as OPENAI_QUIRKS
from tollway.providers.errors import GatewayError
from tollway.providers.prices import PriceSource

QUIRKS = OPENAI_QUIRKS | {RAW_PREDICT, CONFIGURED, PREDICTS, CALL_IDS_FROM_3, NO_TIER}
ROWS = {**KINDS, **PARTS}
HOSTED = {name for name, kind in ROWS.items() if kind.auth in ("bearer", "google", "aws")}


def test_every_kind_of_the_documentation_is_there() -> None:
    """The list of the documentation, but for those that the configuration says come later."""
    assert set(KINDS) == {
        *("openai", "openai-compatible", "vllm", "ollama", "lmstudio", "llama-server", "local"),
        *("mistral", "groq", "deepseek", "xai", "openrouter", "together", "fireworks"),
        *(
            "cerebras",
            "perplexity",
            "anthropic",
            "gemini",
            "azure",
            "sglang",
            "vertex",
            "cohere",
            "bedrock",
        ),
    }


@pytest.mark.parametrize("kind", ROWS.values(), ids=lambda kind: kind.name)
def test_a_row_is_whole(kind: Kind) -> None:
    """Hosted ones are reached by TLS and have prices; the others are on somebody's own box."""
    assert kind.quirks <= QUIRKS
    if kind.name in HOSTED:
        # A resource of Azure's has an address of its own, and so has a project in a cloud.
        own = kind.name == "azure" or bool(kind.address or kind.part_of)
        assert own or (kind.base_url or "").startswith("https://")
        assert kind.prices
    else:
        assert kind.prices is None
        assert kind.base_url is None or re.match(r"http://127\.0\.0\.1:\d+/v1$", kind.base_url)
    assert not (kind.base_url or "").endswith("/")


def test_every_quirk_is_some_kind_s() -> None:
    """A word that no row has is code for nobody."""
    assert set().union(*(kind.quirks for kind in ROWS.values())) == QUIRKS


def test_prices_exist_under_the_names_that_rows_give(tmp_path: Path) -> None:
    """A misspelt one would make every model of the provider unpriced."""
    source = PriceSource(tmp_path)
    known = {
        "openai": "gpt-4o",
        "anthropic": "claude-sonnet-4-5",
        "gemini": "gemini-2.5-flash",
        "mistral": "mistral-large-latest",
        "groq": "llama-3.3-70b-versatile",
        "deepseek": "deepseek-chat",
        "xai": "grok-4",
        "openrouter": "anthropic/claude-sonnet-4.5",
        "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "fireworks": "accounts/fireworks/models/deepseek-v3p2",
        "cerebras": "gpt-oss-120b",
        "perplexity": "sonar",
        "azure": "gpt-4o",
        "bedrock": "anthropic.claude-haiku-4-5-20251001-v1:0",
        "cohere": "command-a-03-2025",
        "vertex": "gemini-2.5-flash",
        "vertex-anthropic": "claude-sonnet-4-5@20250929",
        "vertex-open": "gemini-2.5-flash",
        "vertex-predict": "gemini-2.5-flash",
    }
    assert set(known) == HOSTED
    for name, model in known.items():
        assert source.find(ROWS[name].prices or "", model, datetime.now(UTC)), name


def test_no_two_kinds_serve_one_name_by_default() -> None:
    """Which provider a bare name goes to must not depend on the order of a file."""
    for name in (
        *("gpt-4o", "gpt-5-mini", "o3", "o4-mini", "chatgpt-4o-latest", "text-embedding-3-small"),
        *("mistral-large-latest", "codestral-2508", "deepseek-chat", "deepseek-v4-flash"),
        *("claude-sonnet-4-5", "gemini-2.5-flash", "gemma-3-27b-it"),
        *("grok-4", "sonar", "sonar-pro", "accounts/fireworks/models/glm-5p2"),
    ):
        serving = [
            kind.name
            for kind in KINDS.values()
            if any(fnmatchcase(name, glob) for glob in kind.serves)
        ]
        assert len(serving) == 1, (name, serving)
    for name in ("gpt-oss-120b", "llama-3.3-70b-versatile", "qwen3", "openai/gpt-4o"):
        assert not any(fnmatchcase(name, g) for kind in KINDS.values() for g in kind.serves), name


def test_models_that_reason_unseen_are_not_said_to_show_all() -> None:
    """A cut stream of such a model is settled at its hold, not at what was seen."""
    assert KINDS["openai"].shows_all("gpt-4o-mini")
    assert KINDS["deepseek"].shows_all("deepseek-reasoner")
    assert KINDS["local"].shows_all("smollm2")
    for kind, model in (
        ("openai", "gpt-5"),
        ("openai", "o3"),
        ("openai", "gpt-4.5"),
        ("xai", "grok-4"),
    ):
        assert not KINDS[kind].shows_all(model), model
    assert not KINDS["openrouter"].shows_all("openai/gpt-4o")


def test_a_request_carries_its_credential_and_its_type() -> None:
    """And nothing where there is none, or none is wanted."""
    json_type = ("content-type", "application/json")
    bearer = ("authorization", "Bearer sk-1")
    assert request_headers(KINDS["openai"], "sk-1") == (bearer, json_type)
    assert request_headers(KINDS["vllm"], None) == (json_type,)
    assert request_headers(KINDS["local"], "sk-1") == (json_type,)


@pytest.mark.parametrize("secret", ["a\r\nX-Evil: 1", "a\nb", "a b", "a\x00", "clé", "a\t"])
def test_a_secret_that_would_break_a_header_is_refused_unseen(secret: str) -> None:
    """A line end in it would begin another header; the error must not show it."""
    with pytest.raises(GatewayError) as caught:
        request_headers(KINDS["openai"], secret)
    assert secret not in caught.value.message + caught.value.hint


def test_every_part_is_of_a_kind_that_names_it() -> None:
    """A row that no model leads to is data for nobody."""
    for name, row in PARTS.items():
        assert name in KINDS[row.part_of].by_model.values()
        assert row.auth == KINDS[row.part_of].auth
    for kind in KINDS.values():
        assert set(kind.by_model.values()) <= set(PARTS)
