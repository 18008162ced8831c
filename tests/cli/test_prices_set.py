"""`prices set` and `unset` change gateway.toml in place; a budget tells what it will refuse."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program import Home

pytestmark = pytest.mark.whole

CONFIG = """# ours
[server]
listen = "127.0.0.1:0"
watch = false

[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
# the box
[providers.box2]
kind = "vllm"
base_url = "http://127.0.0.1:9/v1"
[providers.box3]
kind = "vllm"
base_url = "http://127.0.0.1:9/v1"

[models.small]
gguf = "small.gguf"  # ours

[routes.fast]
to = ["openai/gpt-4o-mini", "box2/qwen"]
[routes.behind]
to = ["box3/a"]
fallback = ["fast"]

[groups.boxes]
models = ["box3/*", "fast"]
[teams.ml]
groups = ["boxes"]
[users.ann]
team = "ml"

# what we pay
[prices."openai/gpt-4o-mini"]
input = 0.2  # agreed
output = 0.60
service_tiers = { flex = 0.5 }
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a cache folder of all homes, so that the data are distilled once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def home(tmp_path: Path, cache: str) -> Iterator[Home]:
    """Return a home with priced and unpriced targets; what was started in it is stopped."""
    made = Home(tmp_path)
    made.env |= {"XDG_CACHE_HOME": cache, "OPENAI_API_KEY": "none"}
    made.write(CONFIG)
    yield made
    made.tollway("down", "--now")


def fine(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what a command printed as JSON, once it has succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_price_is_set_changed_and_taken_away_in_place(home: Home) -> None:
    """What stands around it stays: comments, other keys, other tables."""
    done = home.tollway("prices", "set", "box2/qwen", "--input", "0.10", "--output", "4")
    assert done.returncode == 0, done.stderr
    assert "The price of `box2/qwen` is $0.1 in, $4 out for a million tokens" in done.stderr
    assert home.config.read_text() == CONFIG + '\n[prices."box2/qwen"]\ninput = 0.10\noutput = 4\n'
    said = fine(home.tollway("prices", "set", "OpenAI/GPT-4o-mini", "--cached", "0.1", "--json"))
    assert said["target"] == "openai/gpt-4o-mini"
    assert said["price"]["cached_input"] == "0.1"
    assert said["price"]["service_tiers"] == {"flex": "0.5"}
    assert "input = 0.2  # agreed\n" in home.config.read_text()
    free = fine(home.tollway("prices", "set", "box2/*", "--free", "--json"))
    assert (free["target"], free["price"], free["problem"]) == ("box2/*", "free", "")
    text = home.config.read_text()
    assert '\n[prices]\n"box2/*" = "free"\n\n# what we pay\n[prices."openai/gpt-4o-mini"]\n' in text
    again = home.tollway("prices", "set", "box2/*", "--free")
    assert "is nothing: it is free already" in again.stderr
    fine(home.tollway("prices", "set", "box2/*", "--input", "1", "--output", "2", "--json"))
    gone = fine(home.tollway("prices", "unset", "box2/*", "--json"))
    assert (gone["target"], gone["price"], gone["changed"]) == ("box2/*", None, True)
    last = home.tollway("prices", "unset", "box2/qwen")
    assert "It has no price now" in last.stderr
    assert "`tollway prices set box2/qwen --free`" in last.stderr
    back = home.tollway("prices", "unset", "openai/gpt-4o-mini")
    assert "Its price comes from genai-prices" in back.stderr
    assert "prices" not in home.config.read_text()
    undone = json.loads(home.tollway("config", "history", "--json").stdout)
    assert undone[0]["what"] == "prices unset openai/gpt-4o-mini"


def test_a_model_of_this_box_gets_its_own_price(home: Home) -> None:
    """By tokens, by the hour, or none to pay; a glob of them stands below [prices]."""
    hour = home.tollway("prices", "set", "local/small", "--gpu-hour", "0.80")
    assert "is $0.8 for an hour of its work" in hour.stderr
    assert 'gguf = "small.gguf"  # ours\nprice = {gpu_hour = 0.80}\n' in home.config.read_text()
    half = home.tollway("prices", "set", "local/small", "--input", "1")
    assert (half.returncode, "needs --output" in half.stderr) == (2, True)
    fine(home.tollway("prices", "set", "local/small", "--input", "1", "--output", "2", "--json"))
    said = fine(home.tollway("prices", "set", "local/small", "--cached", "0.5", "--json"))
    assert said["price"] == {"input": "1", "output": "2", "cached_input": "0.5", "request": "0"}
    fine(home.tollway("prices", "set", "local/*", "--free", "--json"))
    left = home.tollway("prices", "unset", "local/small")
    assert "Its price comes from free now" in left.stderr
    shown = fine(home.tollway("prices", "show", "local/small", "--json"))
    assert shown["price"]["source"] == "free"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["set", "box2/qwen"], 2, "Which price is not said"),
        (["set", "box2/qwen", "--input", "1"], 2, "needs --output"),
        (["set", "box2/qwen", "--cached", "1"], 2, "needs --input and --output"),
        (["set", "box2/qwen", "--input", "x", "--output", "1"], 2, "`--input`: `x` is no number"),
        (
            ["set", "box2/qwen", "--input", "1", "--output", "-1"],
            2,
            "`--output`: expected a number",
        ),
        (["set", "box2/qwen", "--free", "--input", "1"], 2, "exclude each other"),
        (["set", "box2/qwen", "--gpu-hour", "1"], 2, "is for a model of this box"),
        (["set", "qwen", "--free"], 2, "is no target"),
        (["set", "bx2/qwen", "--free"], 1, "Did you mean box2?"),
        (["set", "local/smal", "--free"], 1, "Did you mean small?"),
        (["unset", "openai/gpt-4o-mni"], 1, "Did you mean openai/gpt-4o-mini?"),
        (["unset", "local/small"], 1, "says no price of `local/small` itself"),
    ],
)
def test_what_is_no_price_changes_nothing(
    home: Home, words: list[str], code: int, told: str
) -> None:
    """A mistake is told with the way out."""
    done = home.tollway("prices", *words)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert home.config.read_text() == CONFIG


@pytest.mark.parametrize(
    ("scope", "refused"),
    [
        (["box"], ["box2/qwen", "box3/a", "local/small", "box2/*", "box3/*"]),
        (["team", "ml"], ["box2/qwen", "box3/a", "box3/*"]),
        (["user", "ann"], ["box2/qwen", "box3/a", "box3/*"]),
        (["provider", "box2"], ["box2/qwen", "box2/*"]),
        (["provider", "openai"], []),
        (["route", "fast"], ["box2/qwen"]),
        (["route", "behind"], ["box2/qwen", "box3/a"]),
        (["tag", "env=ci"], ["box2/qwen", "box3/a", "local/small", "box2/*", "box3/*"]),
    ],
)
def test_a_budget_tells_which_targets_it_will_refuse(
    home: Home, scope: list[str], refused: list[str]
) -> None:
    """Those that its scope can reach and that have no price, with what gives them one."""
    said = fine(home.tollway("budgets", "set", *scope, "5/day", "--json"))
    assert said["refused_unpriced"] == refused
    warned = home.tollway("budgets", "set", *scope, "6/day").stderr
    assert ("no price" in warned) == bool(refused)
    checked = home.tollway("config", "check").stderr
    assert (f"refuses {', '.join(f'`{one}`' for one in refused)}: no" in checked) == bool(refused)
    for one in refused:
        assert f"`{one}`" in warned
        fine(home.tollway("prices", "set", one, "--free", "--json"))
    if refused:
        name = f"'{refused[0]}'" if "*" in refused[0] else refused[0]
        assert f"`tollway prices set {name} --input USD --output USD`" in warned
    assert fine(home.tollway("budgets", "set", *scope, "7/day", "--json"))["refused_unpriced"] == []
    assert "no price" not in home.tollway("config", "check").stderr


def test_a_provider_that_is_priced_in_part_is_no_doubt_of_the_file(home: Home) -> None:
    """What it serves may be priced already; whoever sets a budget is told all the same."""
    home.write(CONFIG.replace("watch = false", 'watch = false\nbudget = ["5/day"]'))
    assert "`box3/*`" in home.tollway("config", "check").stderr
    fine(home.tollway("prices", "set", "box3/a", "--free", "--json"))
    assert "box3" not in home.tollway("config", "check").stderr
    assert "`box3/*`" in home.tollway("budgets", "set", "box", "6/day").stderr


def test_a_budget_that_only_warns_refuses_nothing(home: Home) -> None:
    """So it has nothing to tell."""
    said = fine(home.tollway("budgets", "set", "box", "5/day", "--at", "warn", "--json"))
    assert said["refused_unpriced"] == []
    assert "no price" not in home.tollway("config", "check").stderr


def test_a_key_that_may_call_little_refuses_little(home: Home) -> None:
    """What its own list narrows is not told; nor what no list allows."""
    made = home.tollway("keys", "create", "ci", "--user", "ann", "--models", "box3/b", "--json")
    assert made.returncode == 0, made.stderr
    said = fine(home.tollway("budgets", "set", "key", "ci", "5/day", "--json"))
    assert said["refused_unpriced"] == ["box3/b"]
    set_ = home.tollway("keys", "set", "ci", "--budget", "6/day").stderr
    assert "warning: keys.ci.budget: refuses `box3/b`: no price is known" in set_
    assert "no price" not in home.tollway("keys", "set", "ci", "--no-budget").stderr


def test_a_new_route_names_its_targets_without_a_price(home: Home) -> None:
    """Known when it is added, and not only when a budget refuses them; with what mends it."""
    to = ("--to", "box2/qwen", "--to", "openai/gpt-4o-mini", "--to", "local/small")
    told = home.tollway("routes", "add", "new", *to)
    assert told.returncode == 0, told.stderr
    assert (
        "warning: `box2/qwen`, `local/small` have no price: while a budget applies" in told.stderr
    )
    assert "`tollway prices set box2/qwen --input USD --output USD` states" in told.stderr
    said = fine(home.tollway("routes", "add", "again", *to, "--json"))
    assert said["unpriced"] == ["box2/qwen", "local/small"]
    fine(home.tollway("prices", "set", "box2/*", "--free", "--json"))
    priced = home.tollway("routes", "add", "third", "--to", "box2/qwen")
    assert "no price" not in priced.stderr


def test_a_route_to_a_provider_that_is_not_there_says_what_adds_it(home: Home) -> None:
    """Where the name is that of a kind; a misspelt one has its own hint."""
    told = home.tollway("routes", "add", "new", "--to", "groq/llama-3.3-70b-versatile")
    assert told.returncode == 2
    assert "hint: `tollway providers add groq --kind groq` adds it" in told.stderr
    wrong = home.tollway("routes", "add", "new", "--to", "opnai/gpt-4o")
    assert "did you mean openai?" in wrong.stderr
    assert "adds it" not in wrong.stderr


def test_a_new_provider_without_prices_says_so(home: Home) -> None:
    """Of whose models no price data are; not one whose prices are known, or that callers pay."""
    at = ("--base-url", "http://127.0.0.1:9/v1")
    told = home.tollway("providers", "add", "box4", "--kind", "vllm", *at)
    assert told.returncode == 0, told.stderr
    assert "warning: `box4/*` has no price: while a budget applies its calls are" in told.stderr
    assert "`tollway prices set 'box4/*' --input USD --output USD` states" in told.stderr
    said = fine(home.tollway("providers", "add", "box5", "--kind", "vllm", *at, "--json"))
    assert said["unpriced"] is True
    key = ("--api-key", "env:OPENAI_API_KEY")
    known = home.tollway("providers", "add", "more", "--kind", "openai", *key)
    assert (known.returncode, "no price" in known.stderr) == (0, False), known.stderr
    fine(home.tollway("prices", "set", "box*/*", "--free", "--json"))
    priced = home.tollway("providers", "add", "box6", "--kind", "vllm", *at)
    assert "no price" not in priced.stderr
    callers = ("--auth", "caller")
    theirs = home.tollway("providers", "add", "claude", "--kind", "anthropic", *callers)
    assert "no price" not in theirs.stderr


def test_a_running_daemon_is_told_and_tells(home: Home) -> None:
    """A price is in force when `set` returns; a budget added by hand is warned of by `reload`."""
    assert home.tollway("up").returncode == 0
    budget = CONFIG.replace("watch = false", 'watch = false\nbudget = ["5/day"]')
    home.write(budget)
    told = home.tollway("reload")
    assert "changed  server.budget" in told.stdout
    assert "gateway.toml:5: server.budget: refuses `box2/qwen`" in told.stderr
    refused = home.tollway("routes", "explain", "--model", "box2/qwen")
    assert "`box2/qwen` has no price, and a budget applies" in refused.stdout
    done = home.tollway("prices", "set", "box2/*", "--input", "1", "--output", "2")
    assert "The running daemon has confirmed it" in done.stderr
    fits = fine(home.tollway("routes", "explain", "--model", "box2/qwen", "--json"))
    assert (fits["targets"][0]["input_usd"], fits["refused"]) == ("1", "")
    rows = json.loads(home.tollway("config", "audit", "--json").stdout)
    assert ("prices set box2/*", 'prices."box2/*".input', "", "1") in [
        (row["what"], row["subject"], row["before"], row["after"]) for row in rows
    ]
