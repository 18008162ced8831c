"""`prices`: what models cost, where each price comes from, and new data, read before used."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ledger_rows import PRICE, attempt, closed, ended, opened
from program import Home

from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

CONFIG = """
[server]
single_user = true

[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[providers.box2]
kind = "vllm"
base_url = "http://127.0.0.1:8000/v1"
[providers.router]
kind = "openrouter"
api_key = "env:OPENROUTER_API_KEY"

[models.small]
gguf = "small.gguf"
price = { input = 0.1, output = 0.4 }

[routes.fast]
to = ["openai/gpt-4o-mini", "openai/gpt-5"]

[prices."openai/gpt-4o-mini"]
input = 0.2
output = 0.60
cached_input = 0.075
service_tiers = { flex = 0.5 }
[prices."box2/*"]
input = 0.01
output = 0.01
[prices."boxx/*"]
input = 1
output = 1
[prices."router/openai/gpt-4.1"]
input = 2
output = 8
cached_input = 0.5
"""
MINI = {"id": "gpt-4o-mini", "match": {"equals": "gpt-4o-mini"}}
DATA = [
    {
        "id": "openai",
        "name": "OpenAI",
        "api_pattern": "https://api.openai.com",
        "models": [
            {**MINI, "prices": {"input_mtok": 0.18, "output_mtok": 0.6, "cache_read_mtok": 0.09}},
            {
                "id": "gpt-99",
                "match": {"starts_with": "gpt-99"},
                "prices": [
                    {"prices": {"input_mtok": 1, "output_mtok": 2}},
                    {
                        "constraint": {"start_date": "2099-01-01"},
                        "prices": {"input_mtok": 3, "output_mtok": 2},
                    },
                ],
            },
        ],
    }
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a cache folder of all homes, so that the data are distilled once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def home(tmp_path: Path, cache: str) -> Home:
    """Return a home with a configuration that has prices of every sort."""
    made = Home(tmp_path)
    made.env["XDG_CACHE_HOME"] = cache
    made.write(CONFIG)
    return made


def said(ended: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    """Return what a command printed as JSON."""
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def test_the_list_has_every_target_and_says_where_its_price_comes_from(home: Home) -> None:
    """Bundled models of the file's providers, targets that the file prices, local models."""
    rows = {row["target"]: row for row in said(home.tollway("prices", "list", "--json"))}
    assert rows["openai/gpt-5"]["input"] == "1.25"
    assert rows["openai/gpt-5"]["source"].startswith("genai-prices")
    assert "priority" in rows["openai/gpt-5"]["service_tiers"]
    assert rows["openai/gpt-4o-mini"]["input"] == "0.2"
    assert rows["openai/gpt-4o-mini"]["said_at"] == "gateway.toml:22"
    assert rows["local/small"]["output"] == "0.4"
    assert rows["local/small"]["said_at"] == "gateway.toml:17"
    assert not any(name.startswith("anthropic/") for name in rows)


def test_the_list_is_narrowed_by_a_glob_and_by_a_provider(home: Home) -> None:
    """The glob means the model or the whole target, in any case of letters."""
    lines = home.tollway("prices", "list", "GPT-5-Nano").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["openai/gpt-5-nano"]
    both = said(home.tollway("prices", "list", "openai/GPT-4o-m?ni", "--json"))
    assert [row["target"] for row in both] == ["openai/gpt-4o-mini", "router/openai/gpt-4o-mini"]
    other = said(
        home.tollway("prices", "list", "claude-sonnet-4-5*", "--provider", "anthropic", "--json")
    )
    assert [row["target"] for row in other] == ["anthropic/claude-sonnet-4-5"]
    assert other[0]["input"] == "3+"
    wrong = home.tollway("prices", "list", "--provider", "opanai")
    assert wrong.returncode == 2
    assert "did you mean openai?" in wrong.stderr


def test_without_a_file_the_list_has_all_that_the_data_have(home: Home) -> None:
    """A price can be looked up before anything is set up; a file that was named must be there."""
    home.config.unlink()
    rows = said(home.tollway("prices", "list", "*sonnet-4-5", "--json"))
    assert {"anthropic/claude-sonnet-4-5"} <= {row["target"] for row in rows}
    assert home.tollway("prices", "list", "--config", "no-such.toml").returncode == 2


def test_show_tells_what_is_paid_for_otherwise_than_by_tokens(home: Home) -> None:
    """A model whose tokens are free is not free for that."""
    units = 'image = 0.12\nimages = { "hd 1024x1024" = 0.08 }\naudio_minute = 0.006\n'
    more = f'[prices."openai/dall-e-3"]\ninput = 0\noutput = 0\n{units}'
    home.write(CONFIG + more)
    shown = home.tollway("prices", "show", "openai/dall-e-3").stdout
    assert "nothing" not in shown
    for text in ("each image ", "$0.12", "each image, 1024x1024 hd  $0.08", "each minute"):
        assert text in shown, shown
    data = said(home.tollway("prices", "show", "openai/dall-e-3", "--json"))
    assert data["price"]["units"] == {
        "image": "0.12", "audio_minute": "0.006", "image 1024x1024 hd": "0.08",
    }  # fmt: skip


def test_show_tells_all_that_is_known_of_a_price(home: Home) -> None:
    """Classes, tiers, service tiers, the override with its line, and what it stands in for."""
    shown = home.tollway("prices", "show", "openai/gpt-4o-mini").stdout
    for text in ("gateway.toml:22", "instead of", "input 0.15", "flex", "input 0.1", "0.075"):
        assert text in shown, text
    data = said(home.tollway("prices", "show", "openai/gpt-5", "--json"))
    assert data["price"]["cached_input"] == {"usd": "0.125", "tiers": []}
    assert data["price"]["service_tiers"]["priority"]["output"]["usd"] == "20"
    assert data["price"]["context_window"] == 400_000
    assert data["since"] >= "2026-10-12"
    tiers = home.tollway("prices", "show", "x-ai/grok-4.3").stdout
    assert "2.5 from 200,000 tokens in" in tiers
    assert "local/small" in home.tollway("prices", "show", "local/small").stdout
    glob = home.tollway("prices", "show", "box2/anything").stdout
    assert "box2/*" in glob


def test_show_says_whose_word_is_billed(home: Home) -> None:
    """OpenRouter states what it charged; a price of gateway.toml is above that."""
    stated = said(home.tollway("prices", "show", "router/openai/gpt-5.2", "--json"))
    own = said(home.tollway("prices", "show", "router/openai/gpt-4.1", "--json"))
    assert (stated["provider_states_cost"], own["provider_states_cost"]) == (True, False)


def test_show_of_what_has_no_price_exits_with_1(home: Home) -> None:
    """And says the line to add; a name that is no target is a mistake of the words."""
    none = home.tollway("prices", "show", "openai/no-such-model")
    assert none.returncode == 1
    assert '[prices."openai/no-such-model"]' in none.stderr
    assert home.tollway("prices", "show", "gpt-5").returncode == 2
    assert home.tollway("prices", "show", "local/none").returncode == 2


def test_check_finds_what_is_amiss_and_fails_for_a_target_without_a_price(home: Home) -> None:
    """Overrides that differ, repeat or match nothing are told; only a missing price is a no."""
    found = said(home.tollway("prices", "check", "--json"))
    kinds = {(one["kind"], one["subject"], one["said_at"]) for one in found}
    assert kinds == {
        ("differs", "openai/gpt-4o-mini", "gateway.toml:22"),
        ("matches nothing", "boxx/*", "gateway.toml:30"),
        ("same", "router/openai/gpt-4.1", "gateway.toml:33"),
    }
    more = '[routes.new]\nto = ["openai/no-such-model", "box2/x"]\n[models.bare]\ngguf = "b.gguf"\n'
    home.write(CONFIG + more)
    worse = home.tollway("prices", "check")
    assert worse.returncode == 1
    assert "openai/no-such-model has no price" in worse.stdout
    assert "local/bare has no price" in worse.stdout
    assert "box2/x" not in worse.stdout


def test_a_glob_prices_the_models_of_this_box_that_say_no_price(home: Home) -> None:
    """`prices` and `models list` know it by its line; a model's own price is above it."""
    bare = '[models.bare]\ngguf = "b.gguf"\n[prices."local/*"]\ninput = 0.5\noutput = 1\n'
    home.write(CONFIG + bare)
    assert said(home.tollway("prices", "show", "local/bare", "--json"))["price"]["output"] == {
        "usd": "1",
        "tiers": [],
    }
    shown = home.tollway("prices", "show", "local/bare").stdout
    assert "gateway.toml:39" in shown
    assert "said for  local/*" in shown
    own = home.tollway("prices", "show", "local/small").stdout
    assert "gateway.toml:17" in own
    assert "local/*" not in own
    listed = {row["name"]: row["price"] for row in said(home.tollway("models", "list", "--json"))}
    assert listed == {"small": "0.1/0.4", "bare": "0.5/1"}
    check = home.tollway("prices", "check", "--json")
    assert "local" not in check.stdout, check.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("local/*", "does nothing: [models.small] says the price already"),
        ("local/SMALL", "does nothing: [models.small] says the price already"),
        ("local/none*", "prices a target that there is not"),
    ],
)
def test_a_price_for_models_of_this_box_that_does_nothing_is_told(
    home: Home, name: str, why: str
) -> None:
    """With its line: no model is meant, or all that are say prices of their own."""
    home.write(f'{CONFIG}[prices."{name}"]\ninput = 0.5\noutput = 1\n')
    assert f'gateway.toml:37: prices."{name}": {why}' in home.tollway("config", "check").stderr
    found = said(home.tollway("prices", "check", "--json"))
    assert ("matches nothing", name, why) in [
        (one["kind"], one["subject"], one["message"]) for one in found
    ]


def test_config_check_does_not_call_a_glob_of_prices_a_mistake(home: Home) -> None:
    """`*` as the provider means every one; a glob for one that there is not is told."""
    home.write(CONFIG.replace("boxx/*", "*/qwen*"))
    assert "prices a target" not in home.tollway("config", "check").stderr
    home.write(CONFIG)
    told = home.tollway("config", "check")
    assert "boxx" in told.stdout + told.stderr


async def test_check_names_models_that_were_called_without_a_price(home: Home) -> None:
    """What the ledger could not price, and whether that is so still."""
    ledger = Ledger(home.data / "ledger.db")
    ledger.start()
    await ledger.ready()
    for number, (model, price) in enumerate((("old", None), ("old", None), ("priced", PRICE))):
        call = opened(number)
        tried = attempt(call, provider="openai", model=model, price=price)
        await ledger.admit(call, tried)
        await ledger.settle(closed(call), ended(tried, usage=Usage(input=3)))
    await ledger.close()
    found = said(home.tollway("prices", "check", "--json"))
    (one,) = [one for one in found if one["kind"] == "called unpriced"]
    assert one["subject"] == "openai/old"
    assert "2 times" in one["message"]
    assert "still has none" in one["message"]
    words = ("--input", "1", "--output", "2")
    told = home.tollway("prices", "set", "openai/old", *words).stderr
    assert "2 earlier calls had no price: `tollway ledger reprice` prices them" in told
    assert "earlier" not in home.tollway("prices", "set", "openai/never", *words).stderr


def test_new_prices_are_read_before_they_are_used(home: Home) -> None:
    """Shown first, then agreed to, then in use; and back to those that are installed."""
    file = home.path / "data.json"
    file.write_text(json.dumps(DATA))
    words = ("prices", "update", "--from", str(file))
    dry = said(home.tollway(*words, "--dry-run", "--json"))
    assert dry["applied"] is False
    changes = {(one["provider"], one["model"], one["since"]): one for one in dry["changes"]}
    mini = changes["openai", "gpt-4o-mini", ""]
    assert mini["before"].startswith("input 0.15, output 0.6")
    assert mini["after"] == "input 0.18, output 0.6, cached_input 0.09"
    assert changes["openai", "gpt-99", ""]["before"] == ""
    assert changes["openai", "gpt-99", "2099-01-01"]["after"] == "input 3, output 2"
    assert changes["anthropic", "claude-sonnet-4-5", ""]["after"] == ""
    assert said(home.tollway("prices", "show", "openai/gpt-5", "--json"))["price"]

    unasked = home.tollway(*words)
    assert unasked.returncode == 2
    assert "gpt-4o-mini" in unasked.stdout
    done = home.tollway(*words, "--yes")
    assert done.returncode == 0, done.stderr
    assert home.tollway("prices", "show", "openai/gpt-5").returncode == 1
    later = said(home.tollway("prices", "show", "openai/gpt-99-mini", "--json"))
    assert later["price"]["source"].startswith("genai-prices data ")
    assert later["later"] == [{"since": "2099-01-01", "price": "input 3, output 2"}]
    assert "in use already" in home.tollway(*words).stderr

    back = said(home.tollway("prices", "update", "--yes", "--json"))
    assert back["applied"] is True
    assert home.tollway("prices", "show", "openai/gpt-5").returncode == 0
    assert "in use already" in home.tollway("prices", "update").stderr


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '[{"id": 7}]', '[{"id": "x"}]'])
def test_a_file_that_is_no_price_data_changes_nothing(home: Home, text: str) -> None:
    """Prices decide what budgets let through: half a file is no file."""
    file = home.path / "bad.json"
    file.write_text(text)
    wrong = home.tollway("prices", "update", "--from", str(file), "--yes")
    assert wrong.returncode == 1, wrong.stdout
    assert "is not a price file" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert home.tollway("prices", "show", "openai/gpt-5").returncode == 0
