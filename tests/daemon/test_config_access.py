"""Lists of what may be called: a name that stands for nothing is doubted, with its line."""

from pathlib import Path

import pytest

from tollway.daemon.config.load import parse

FILE = """[server]
listen = "127.0.0.1:0"
[providers.openai]
kind = "openai"
api_key = "env:KEY"
[providers.box]
kind = "vllm"
serves = ["qwen*"]
[models.small]
command = "server --port ${PORT}"
[routes.fast]
to = ["local/small"]
aliases = ["quick"]
[routes."claude-*"]
to = ["openai/*"]
[groups.one]
"""
NOTHING = "is no route, and no `provider/model` of a provider here"


def told(line: str) -> list[str]:
    """Return the warnings of a group with such a list."""
    found = parse(f"{FILE}{line}\n", path=Path("gateway.toml")).warnings
    return [one.removeprefix("gateway.toml:17: groups.one.") for one in found]


@pytest.mark.parametrize(
    "name",
    [
        *("fast", "claude-x", "claude-*", "openai/gpt-9", "openai/*", "*", "*mini*", "box/any"),
        *("o*", "local/small", "local/*", "local/other*", "f?st", "[of]*"),
    ],
)
def test_what_may_be_called_some_day_is_not_doubted(name: str) -> None:
    """Routes, and all that a provider here could have."""
    assert told(f'models = ["{name}"]') == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fsat", "; did you mean fast?"),
        ("gpt-5", "; did you mean openai/gpt-5?"),
        ("gpt-*", "; did you mean openai/gpt-*?"),
        ("qwen3", "; did you mean box/qwen3?"),
        ("opnai/gpt-5", "; did you mean openai/gpt-5?"),
        ("local/smal", "; did you mean local/small?"),
        ("quick", "; `fast` is the route that it is an alias of"),
        ("Fast", "; did you mean fast?"),
        ("nobody/x", ""),
        ("zzz", ""),
    ],
)
def test_a_name_that_stands_for_nothing_is_doubted(name: str, meant: str) -> None:
    """Whoever wrote it believes that somebody may call it; every such call is a 404."""
    assert told(f'models = ["fast", "{name}"]') == [f"models[1]: `{name}` {NOTHING}{meant}"]


def test_an_exception_of_nothing_is_doubted() -> None:
    """It closes no door. Case does not matter there."""
    assert told('models = ["*"]\nexcept = ["OpenAI/GPT-5", "FAST"]') == []
    (warning,) = told('models = ["*"]\nexcept = ["opnai/o1-pro"]')
    assert warning.endswith(f"`opnai/o1-pro` {NOTHING}; did you mean openai/o1-pro?")


def test_a_keys_own_list_is_looked_at_too() -> None:
    """By the same rules, at its line."""
    key = f'[teams.ml]\n[users.ann]\n[keys.k]\nhash = "sha256:{"0" * 64}"\nuser = "ann"\n'
    (warning,) = told(f'models = ["fast"]\n{key}models = ["fsat"]')
    assert warning == f"gateway.toml:23: keys.k.models[0]: `fsat` {NOTHING}; did you mean fast?"
