"""A LiteLLM configuration taken over: what it says is said in gateway.toml, or listed."""

import importlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from program import Home

from tollway.cli.config_import import make_fit
from tollway.cli.litellm_file import Translated, translated
from tollway.cli.taken_over import NotUnderstood
from tollway.daemon.config.load import load, parse

# In the shape of the example files that LiteLLM's own repository and documentation show.
FILE = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://eu.openai.azure.com/
      api_version: "2023-05-15"
      api_key: os.environ/AZURE_API_KEY
      rpm: 6
      weight: 3
  - model_name: gpt-4o
    litellm_params:
      model: gpt-4o
  - model_name: small
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: os.environ/OPENAI_API_KEY
      rpm: 480
      stream_timeout: 60
      input_cost_per_token: 0.00000015
      output_cost_per_token: 6e-7
  - model_name: box
    litellm_params:
      model: openai/qwen
      api_base: http://127.0.0.1:9/v1
      api_key: sk-hunter2-hunter2-hunter2
  - model_name: llama
    litellm_params: {model: ollama/llama3, api_base: "http://localhost:11434"}
  - model_name: nowhere
    litellm_params: {model: sagemaker/berri}
  - model_name: dall-e-2
    litellm_params: {model: azure/, api_base: "https://eu.openai.azure.com/"}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*", api_key: os.environ/ANTHROPIC_API_KEY}
  - model_name: "*"
    litellm_params: {model: "openai/*", api_key: os.environ/OPENAI_API_KEY}
litellm_settings:
  drop_params: true
  set_verbose: true
  max_budget: 100
  budget_duration: 30d
  num_retries: 2
  context_window_fallbacks: [{small: [gpt-4o]}, {gone: [small]}]
router_settings:
  routing_strategy: simple-shuffle
  timeout: 30
  fallbacks: [{gpt-4o: [small, gone]}]
  model_group_alias: {best: gpt-4o}
  provider_budget_config: {openai: {budget_limit: 0.3, time_period: 1d}}
general_settings: {master_key: sk-1234, global_max_parallel_requests: 50}
environment_variables: {REDIS_HOST: redis}
finetune_settings: []
"""


def parsed(text: str) -> object:
    """Return a YAML text's value."""
    found: object = importlib.import_module("yaml").safe_load(text)
    return found


def test_every_setting_has_its_place_or_is_named() -> None:
    """Deployments of one name are targets of one route; one address and key are one provider."""
    found = translated(parsed(FILE), {})
    assert found.providers == {
        "azure": {
            "kind": "azure",
            "base_url": "https://eu.openai.azure.com/openai/v1",
            "api_key": "env:AZURE_API_KEY",
        },
        "openai": {
            "kind": "openai",
            "api_key": "env:OPENAI_API_KEY",
            "serves": ["*"],
            "budget": ["0.3/day"],
        },
        "openai-compatible": {
            "kind": "openai-compatible",
            "base_url": "http://127.0.0.1:9/v1",
            "api_key": "keyring:openai-compatible",
        },
        "ollama": {"kind": "ollama", "base_url": "http://localhost:11434/v1"},
        "anthropic": {"kind": "anthropic", "api_key": "env:ANTHROPIC_API_KEY"},
    }
    assert list(found.providers)[-1] == "openai"  # it takes the names that nobody else serves
    rest = {"retries": 2, "deadline": "30s"}
    both = {
        "to": [{"target": "azure/gpt-4o-eu", "weight": 3}, "openai/gpt-4o"],
        "strategy": "weighted",
        "fallback": ["small"],
        "aliases": ["best"],
        **rest,
    }
    assert found.routes == {
        "gpt-4o": both,
        "small": {
            "to": ["openai/gpt-4o-mini"], "limits": {"rpm": 480}, "fallback": ["gpt-4o"], **rest,
        },
        "box": {"to": ["openai-compatible/qwen"], **rest},
        "llama": {"to": ["ollama/llama3"], **rest},
    }  # fmt: skip
    assert found.prices == {
        "openai/gpt-4o-mini": {"input": Decimal("0.15"), "output": Decimal("0.6")}
    }
    assert found.server == {"budget": ["100/month"], "limits": {"concurrent": 50}}
    assert found.secrets == ["openai-compatible"]
    assert [line.partition(":")[0] for line in found.left_out] == [
        "model_list[0] (gpt-4o).api_version",
        "model_list[2] (small).stream_timeout",
        "model_list[5] (nowhere)",
        "model_list[6] (dall-e-2)",
        "gpt-4o",
        "fallbacks of gpt-4o",
        "context_window_fallbacks",
        "environment_variables.REDIS_HOST",
        "litellm_settings.drop_params",
        "general_settings.master_key",
        "finetune_settings",
    ]


MUCH = """
model_list:
  - model_name: my model!
    litellm_params:
      model: openai/gpt-4o
      order: 1
      timeout: 3
      temperature: 0.2
      top_p: 0.9
      max_budget: 3
      budget_duration: 1d
      frobnicate: 1
  - model_name: away
    litellm_params: {model: openai/gpt-4o, api_base: os.environ/BASE}
  - model_name: "fast-*"
    litellm_params: {model: "anthropic/*"}
  - model_name: cloud
    litellm_params: {model: vertex_ai/gemini-2.5-flash}
  - model_name: aws
    litellm_params:
      model: bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0
      aws_region_name: us-east-1
      aws_profile_name: work
      litellm_credential_name: gone
general_settings: {max_budget: 2}
litellm_settings: {default_team_settings: [{team_id: one}]}
router_settings:
  routing_strategy: weird
  model_group_alias: {best: nothing, my-model: my model!}
  provider_budget_config: {groq: {budget_limit: 1, time_period: 1d}}
"""


@pytest.mark.parametrize(
    ("where", "instead"),
    [
        ("model_list[0] (my model!)", "clients must ask for `my-model`"),
        ("model_list[0] (my model!).order", '[routes."my-model"]'),
        ("model_list[0] (my model!).timeout", "[providers.openai]"),
        ("model_list[0] (my model!).temperature", "`max_temperature`"),
        ("model_list[0] (my model!).top_p", "have clients send `top_p`"),
        ("model_list[0] (my model!).max_budget", "`tollway budgets set route my-model 3/day`"),
        ("model_list[0] (my model!).frobnicate", "there is no such setting here"),
        ("model_list[1] (away)", "its address is in `$BASE`, which is not set here"),
        ("model_list[2] (fast-*).model", "sent to it as clients ask for it"),
        ("router_settings.routing_strategy", "weighted, fastest, cheapest or least-busy"),
        ("router_settings.model_group_alias.best", "`nothing` is not among the models"),
        ("router_settings.model_group_alias.my-model", "the name is one of the models"),
        ("model_list[3] (cloud)", "say it as `api_base`, such as https://LOCATION-aiplatform."),
        ("model_list[4] (aws).aws_profile_name", "start the daemon with AWS_PROFILE"),
        ("model_list[4] (aws).litellm_credential_name", "`credential_list` has none of that name"),
        ("general_settings.max_budget", "`tollway budgets set box USD/PERIOD`"),
        ("litellm_settings.default_team_settings", "`tollway teams create NAME"),
        ("router_settings.provider_budget_config.groq", "`tollway budgets set provider NAME"),
    ],
)
def test_what_is_not_taken_over_says_what_to_do_instead(where: str, instead: str) -> None:
    """In the names that it has in the new file."""
    told = dict(line.split(": ", 1) for line in translated(parsed(MUCH), {}).left_out)
    assert told[where].startswith(("not taken over; ", "renamed; "))
    assert instead in told[where]


PLACES = """
model_list:
  - model_name: gem
    litellm_params: {model: vertex_ai/gemini-2.5-flash, vertex_project: os.environ/PROJECT}
  - model_name: world
    litellm_params: {model: vertex_ai/gemini-3-pro, vertex_project: p, vertex_location: global}
  - model_name: claude
    litellm_params: {model: bedrock/converse/us.anthropic.claude-x, aws_region_name: us-east-1}
  - model_name: deepseek
    litellm_params: {model: openai/deepseek/deepseek-v3.2, api_base: "https://openrouter.ai/api/v1"}
  - model_name: own
    litellm_params: {model: openai/qwen, api_base: os.environ/OWN, api_key: lm-studio}
  - model_name: eu
    litellm_params: {model: azure/eu, litellm_credential_name: azure_eu}
credential_list:
  - credential_name: azure_eu
    credential_values: {api_base: "https://eu.openai.azure.com", api_key: os.environ/AZURE_KEY}
environment_variables: {OWN: "http://10.0.0.9:1234/v1"}
router_settings:
  model_group_alias: {quick: gem, hid: {model: own, hidden: true}}
  fallbacks: [{quick: [hid]}, {"*": [eu]}]
"""


def test_a_place_is_pieced_together_from_what_says_it() -> None:
    """A project and location, a region, a variable, a credential's name, another's address.

    A word in a key's place is no key, and fallbacks by another name are those of the route.
    """
    found = translated(parsed(PLACES), {"PROJECT": "tolls"})
    google = "https://{}aiplatform.googleapis.com/v1/projects/{}/locations/{}"
    assert found.providers == {
        "vertex": {
            "kind": "vertex",
            "base_url": google.format("us-central1-", "tolls", "us-central1"),
        },
        "vertex-2": {"kind": "vertex", "base_url": google.format("", "p", "global")},
        "bedrock": {
            "kind": "bedrock",
            "base_url": "https://bedrock-runtime.us-east-1.amazonaws.com",
        },
        "openrouter": {"kind": "openrouter", "api_key": "env:OPENROUTER_API_KEY"},
        "openai-compatible": {"kind": "openai-compatible", "base_url": "http://10.0.0.9:1234/v1"},
        "azure": {
            "kind": "azure",
            "base_url": "https://eu.openai.azure.com/openai/v1",
            "api_key": "env:AZURE_KEY",
        },
    }
    assert found.routes["claude"]["to"] == ["bedrock/us.anthropic.claude-x"]
    assert found.routes["gem"]["aliases"] == ["quick"]
    assert found.routes["gem"]["fallback"] == ["own", "eu"]
    assert found.routes["deepseek"]["fallback"] == ["eu"]
    assert "fallback" not in found.routes["eu"]
    assert found.secrets == []


def test_files_that_it_includes_are_read(tmp_path: Path) -> None:
    """From beside it; what they list comes behind what it lists itself."""
    home = Home(tmp_path)
    (tmp_path / "more.yaml").write_text(
        "model_list: [{model_name: b, litellm_params: {model: openai/b}}]\n"
        "litellm_settings: {num_retries: 1}\n"
    )
    file = tmp_path / "litellm.yaml"
    file.write_text(
        "include: [more.yaml]\nmodel_list: [{model_name: a, litellm_params: {model: openai/a}}]\n"
    )
    done = home.tollway("config", "import-litellm", str(file), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    routes = json.loads(done.stdout)["routes"]
    assert {name: route["retries"] for name, route in routes.items()} == {"a": 1, "b": 1}
    (tmp_path / "more.yaml").write_text("[]")
    said = home.tollway("config", "import-litellm", str(file))
    assert (said.returncode, "`include` names more.yaml" in said.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{general_settings: {store_model_in_db: true}}", "its database are not in the file"),
        ("[1, 2]", "expected a mapping with `model_list`"),
        ("model_list: [3]", "expected a mapping with `litellm_params`"),
        ("model_list: [{litellm_params: {}}]", "litellm_params.model: expected a text"),
        ("{model_list: [], router_settings: 3}", "router_settings: expected a mapping"),
    ],
)
def test_what_is_not_understood_is_told(text: str, word: str) -> None:
    """With its place, before anything is written."""
    with pytest.raises(NotUnderstood) as told:
        translated(parsed(text), {})
    assert word in str(told.value)


def test_the_first_file_is_written_and_right(tmp_path: Path) -> None:
    """What comes out is a valid configuration; a key in clear is in neither file nor output."""
    home = Home(tmp_path)
    file = tmp_path / "litellm.yaml"
    file.write_text(FILE)
    done = home.tollway("config", "import-litellm", str(file))
    assert done.returncode == 0, done.stderr
    assert "`tollway secrets set openai-compatible` stores the key" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout + home.config.read_text()
    config = load(home.config)
    assert config.server.single_user
    assert config.routes["gpt-4o"].aliases == ("best",)
    assert "right" in home.tollway("config", "check").stdout


def test_what_is_there_stays(tmp_path: Path) -> None:
    """An existing file keeps its own tables; what was not taken for that is listed."""
    home = Home(tmp_path)
    home.write(
        '# mine\n[server]\nbudget = ["1/day"]\n[providers.openai]\nkind = "openai"\n'
        'api_key = "env:MINE"\n'
    )
    file = tmp_path / "litellm.yaml"
    file.write_text(FILE)
    shown = home.tollway("config", "import-litellm", str(file), "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    left_out = json.loads(shown.stdout)["left_out"]
    assert any(
        one.startswith("providers.openai: not taken over; gateway.toml has one already")
        for one in left_out
    )
    assert home.config.read_text().count("[") == 3
    done = home.tollway("config", "import-litellm", str(file))
    assert done.returncode == 0, done.stderr
    assert home.config.read_text().startswith("# mine\n")
    config = load(home.config)
    assert str(config.providers["openai"].api_key) == "env:MINE"
    assert config.server.budget[0].text == "1/day"
    assert "ollama" in config.providers


def text_of(found: Translated) -> str:
    """Return the gateway.toml that is written where there is none."""
    tables = {"providers": found.providers, "routes": found.routes, "prices": found.prices}
    return tomli_w.dumps({"server": {"single_user": True, **found.server}, **tables})


def two(router: str, *weights: object) -> str:
    """Return a file with two deployments of one name, each with a weight."""
    entries = "".join(
        f"  - model_name: m\n    litellm_params: {{model: openai/m{number}, weight: {one}}}\n"
        for number, one in enumerate(weights)
    )
    return f"model_list:\n{entries}router_settings: {{{router}}}\n"


CANNOT_BE = {
    "weights beside another strategy": (
        two("routing_strategy: least-busy", 1, 2), "routes.m.to[1].weight",
    ),
    "retries without end": (two("num_retries: 100", 1, 1), "routes.m.retries"),
    "a period that there is not": (
        two("provider_budget_config: {openai: {budget_limit: 5, time_period: 2mo}}", 1, 1),
        "providers.openai.budget[0]",
    ),
    "an alias that is no name": (two("model_group_alias: {b c: m}", 1, 1), "routes.m.aliases[0]"),
    "an address that is none": (
        "model_list: [{model_name: m, litellm_params: {model: ollama/m, api_base: 'box:8000'}}]",
        "providers.ollama",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "where"), CANNOT_BE.values(), ids=CANNOT_BE)
def test_what_cannot_be_here_does_not_lose_the_rest(tmp_path: Path, text: str, where: str) -> None:
    """It is listed with what is wrong with it, and what is written is right."""
    home = Home(tmp_path)
    file = tmp_path / "litellm.yaml"
    file.write_text(text)
    done = home.tollway("config", "import-litellm", str(file), COLUMNS="500")
    assert f"warning: {where}: not taken over; " in done.stderr
    if "ollama" in text:
        assert "Wrote 0 providers and 0 routes" in done.stderr or not home.config.exists()
        return
    assert done.returncode == 0, done.stderr
    assert "m" in load(home.config).routes


def test_what_hangs_on_a_provider_that_is_out_is_told_once(tmp_path: Path) -> None:
    """A route loses its target, or goes with it, and no other falls back to it."""
    home = Home(tmp_path)
    file = tmp_path / "litellm.yaml"
    file.write_text(
        "model_list:\n"
        "- {model_name: m, litellm_params: {model: ollama/m, api_base: 'box:8000'}}\n"
        "- {model_name: n, litellm_params: {model: openai/gpt-4o}}\n"
        "- {model_name: n, litellm_params: {model: ollama/n, api_base: 'box:8000', weight: 2}}\n"
        "router_settings: {fallbacks: [{n: [m]}]}\n"
    )
    done = home.tollway("config", "import-litellm", str(file), "--dry-run", "--json")
    said = json.loads(done.stdout)
    assert said["routes"] == {"n": {"to": ["openai/gpt-4o"], "strategy": "weighted"}}
    assert [line.partition(":")[0] for line in said["left_out"]] == [
        "providers.ollama",
        "routes.m",
        "routes.n",
    ]
    file.write_text("model_list: []")
    none = home.tollway("config", "import-litellm", str(file))
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "There is nothing to take over\n"


def test_weights_keep_their_proportions() -> None:
    """LiteLLM takes fractions, which are made whole numbers."""
    found = translated(parsed(two("", 0.5, 1)), {})
    both = [{"target": "openai/m0", "weight": 50}, {"target": "openai/m1", "weight": 100}]
    assert found.routes["m"]["to"] == both


VALUES: Mapping[str, Sequence[object]] = {
    "model": [
        "openai/gpt-4o",
        "azure/d",
        "gpt-4o",
        "groq/*",
        "*",
        "bedrock/a:1",
        "vertex_ai/g",
        "ollama/l 3",
        "x/y",
    ],
    "api_key": ["os.environ/A", "os.environ/A-B C", "sk-clear", ""],
    "api_base": ["http://box:1/v1", "box:8000", "https://u:p@box/v1", "os.environ/B"],
    "vertex_project": ["p", "os.environ/P", 3],
    "aws_region_name": ["us-east-1", "x y"],
    "weight": [0, 1, 2, 0.5, -1, "3"],
    "rpm": [0, 60, 10**12, "60"],
    "tpm": [-1, 10.5],
    "max_parallel_requests": [0, 3],
    "input_cost_per_token": [1e-7, "0.000002", -1, 1e9, "x"],
}
ROUTER: Mapping[str, Sequence[object]] = {
    "routing_strategy": ["simple-shuffle", "least-busy", "cost-based-routing", "own"],
    "num_retries": [0, 3, 100, -1],
    "timeout": [0.05, 30, 10**9],
    "fallbacks": [[{"a": ["b"]}, {"b": ["a"]}], [{"a": ["a", "gone"]}]],
    "default_fallbacks": [["a"], ["gone"]],
    "model_group_alias": [{"c": "a", "d e": "b"}],
    "provider_budget_config": [{"openai": {"budget_limit": 1e-7, "time_period": "2mo"}}],
}
BOX: Mapping[str, Sequence[object]] = {
    "max_budget": [10, 1e-05, 1e16, -1],
    "budget_duration": ["1d", "45s", "2mo", "30d"],
}


def said(
    values: Mapping[str, Sequence[object]], *always: str
) -> st.SearchStrategy[dict[str, object]]:
    """Draw some settings and a value of each."""
    each = {name: st.sampled_from(some) for name, some in values.items()}
    must = {name: each.pop(name) for name in always}
    return st.fixed_dictionaries(must, optional=each)


NAMES = st.sampled_from(["a", "b", "*", "my model", "x/*", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
DEPLOYMENTS = st.fixed_dictionaries({"model_name": NAMES, "litellm_params": said(VALUES, "model")})


@given(
    st.fixed_dictionaries(
        {
            "model_list": st.lists(DEPLOYMENTS, min_size=1, max_size=4),
            "router_settings": said(ROUTER),
            "litellm_settings": said(BOX),
        }
    )
)
def test_what_is_taken_over_is_always_right(config: dict[str, object]) -> None:
    """Whatever LiteLLM takes: what gateway.toml cannot say is out, and no key in clear is in."""
    found = translated(config, {})
    make_fit(found)
    text = text_of(found)
    parse(text, path=Path("gateway.toml"))
    assert "sk-clear" not in text + "".join(found.left_out)
