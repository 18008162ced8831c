"""How long to think is said in words that each model knows."""

from typing import Any

import pytest

from tollway.providers.conversation import Reasoning
from tollway.providers.dialects.anthropic_models import efforts
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.gemini_thinking import thinking_config
from tollway.providers.effort import nearest


@pytest.mark.parametrize(
    ("model", "asked", "level"),
    [
        ("gemini-3-pro-preview", Reasoning("on", "minimal"), "low"),
        ("gemini-3-pro-preview", Reasoning("on", "medium"), "high"),
        ("gemini-3-pro-preview", Reasoning("on", "xhigh"), "high"),
        ("gemini-3-pro-preview", Reasoning("off"), "low"),
        ("gemini-3.1-pro-preview", Reasoning("on", "medium"), "medium"),
        ("gemini-3.1-pro-preview", Reasoning("on", "minimal"), "low"),
        ("gemini-3-flash-preview", Reasoning("on", "minimal"), "minimal"),
        ("gemini-3.1-flash-lite", Reasoning("off"), "minimal"),
        ("gemini-3.5-flash", Reasoning("on", "medium"), "medium"),
        ("gemini-3.7-flash", Reasoning("on", "minimal"), "low"),
        ("gemini-3-flash-preview", Reasoning("on", budget=31_999), "high"),
        ("gemini-3.5-flash", Reasoning("on", budget=2_000), "low"),
    ],
)
def test_each_of_the_third_generation_gets_a_level_that_it_knows(
    model: str, asked: Reasoning, level: str
) -> None:
    """Another one is refused, and so is a budget by the newest ("not supported for this model")."""
    config = thinking_config(asked, Facts(model), [])
    config.pop("includeThoughts", None)
    assert config == {"thinkingLevel": level}


@pytest.mark.parametrize(
    ("model", "asked", "config"),
    [
        ("gemini-2.5-flash", Reasoning("on", budget=31_999), {"thinkingBudget": 24_576}),
        ("gemini-2.5-pro", Reasoning("off"), {"thinkingBudget": 128}),
        ("gemini-2.5-flash", Reasoning("adaptive"), {"thinkingBudget": -1}),
        ("gemini-3-pro-preview", Reasoning("adaptive"), {}),
        ("gemini-3-pro-preview", Reasoning("adaptive", "low"), {"thinkingLevel": "low"}),
        ("gemini-pro-latest", Reasoning("off"), {"thinkingLevel": "low"}),
        ("gemini-flash-latest", Reasoning("on", budget=31_999), {"thinkingLevel": "high"}),
    ],
)
def test_others_get_a_budget_within_their_bounds(
    model: str, asked: Reasoning, config: dict[str, Any]
) -> None:
    """The model decides where nothing more is said."""
    found = thinking_config(asked, Facts(model), [])
    found.pop("includeThoughts", None)
    assert found == config


@pytest.mark.parametrize(
    ("model", "asked", "word"),
    [
        ("claude-opus-4-6", "xhigh", "high"),
        ("us.anthropic.claude-sonnet-4-6-v1:0", "max", "max"),
        ("claude-opus-4-7", "xhigh", "xhigh"),
        ("claude-sonnet-5", "minimal", "low"),
        ("claude-opus-5", "max", "max"),
    ],
)
def test_claude_4_6_does_not_know_xhigh(model: str, asked: str, word: str) -> None:
    """The word came with Opus 4.7; before it "max" followed "high"."""
    assert nearest(asked, efforts(model)) == word
