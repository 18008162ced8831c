"""Every block of settings in docs/routing.md is one that the gateway takes."""

import re
from pathlib import Path

import pytest

from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import Case, Route
from tollway.daemon.gate.affinity import HEADERS

PAGE = (Path(__file__).parent.parent / "docs" / "routing.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
AROUND = """
[teams.ml]
budget = ["200/month"]
"""
KINDS = {"box2": "vllm"}


def providers(block: str) -> str:
    """Return tables for the providers that a block's targets name."""
    names = dict.fromkeys(re.findall(r'"([a-z0-9]+)/', block))
    tables = []
    for name in names:
        kind = KINDS.get(name, name)
        base = 'base_url = "http://127.0.0.1:8000/v1"' if kind == "vllm" else 'api_key = "env:K"'
        tables.append(f'[providers.{name}]\nkind = "{kind}"\n{base}\n')
    return "".join(tables)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_a_block_of_settings_is_accepted(block: str) -> None:
    """What people copy must work as it stands."""
    config = parse(block + providers(block) + AROUND, path=Path("gateway.toml"))
    assert config.routes


def test_the_page_has_blocks() -> None:
    """A changed fence must not turn into a green run of nothing."""
    assert len(BLOCKS) >= 4


def test_every_key_of_a_route_s_cases_is_on_the_page() -> None:
    """Conditions, strategies, what is changed, and the headers of sessions."""
    said = " ".join(re.findall(r"`([^`\n]+)`", PAGE) + BLOCKS)
    words = set(re.findall(r"[a-z_*.A-Z0-9-]+", said))
    keys = set(Case.__struct_encode_fields__) | {"strategy", "affinity", "aliases", "fallback"}
    keys |= {"max_temperature", "max_output", "system_prefix", "reasoning_effort"}
    assert keys - {"tag", "header"} <= words
    assert {"tag.NAME", "header.NAME"} <= words
    assert set(HEADERS) - {"thread_id", "conversation-id"} <= words
    strategies = Route.__annotations__["strategy"]
    assert set(strategies.__args__) <= words
