"""A llama-swap configuration taken over: what it says is said in gateway.toml, or listed."""

import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from program import Home

from tollway.cli.llama_swap import Translated, translated
from tollway.cli.taken_over import NotUnderstood
from tollway.daemon.config.load import load

FILE = """
healthCheckTimeout: 500
logLevel: info
startPort: 10001
globalTTL: 0
macros:
  "latest": >
    /opt/llama-server
    --port ${PORT}
  ctx: 4096
  models_dir: "${env.MODELS}/gguf"
apiKeys: ["sk-hunter2"]
models:
  "gpt-oss-120b":
    macros:
      ctx: 16384
    cmd: |
      # the large one
      ${latest} \\
      --model ${models_dir}/gpt-oss-120B.gguf
      --ctx-size ${ctx} --alias '${MODEL_ID}'
    name: "gpt-oss 120B"
    env:
      - "CUDA_VISIBLE_DEVICES=0,1,2"
    checkEndpoint: /custom
    ttl: 60
    useModelName: "openai/gpt-oss-120B"
    filters:
      stripParams: "temperature"
    aliases:
      - id: "gpt-4o-mini"
      - plain-alias
    concurrencyLimit: 4
  docker-llama:
    proxy: "http://127.0.0.1:9999"
    cmd: docker run --init --rm -p 9999:8080 image
    cmdStop: docker stop ${MODEL_ID}
    checkEndpoint: none
  "org/small model":
    cmd: /opt/llama-server --port ${PORT} -m small.gguf
  whisper:
    cmd: /opt/whisper --port ${PORT}
groups:
  always:
    persistent: true
    swap: false
    exclusive: false
    members: [whisper]
hooks:
  on_startup:
    preload: [docker-llama, nobody]
"""


def parsed(text: str) -> object:
    """Return a YAML text's value."""
    found: object = importlib.import_module("yaml").safe_load(text)
    return found


def test_every_setting_has_its_place_or_is_named() -> None:
    """Macros and the environment are filled in, but for the port, which is the gateway's."""
    found = translated(parsed(FILE), {"MODELS": "/m"})
    assert found.models == {
        "gpt-oss-120b": {
            "command": "/opt/llama-server --port ${PORT} --model /m/gguf/gpt-oss-120B.gguf"
            " --ctx-size 16384 --alias 'gpt-oss-120b'",
            "health": "/custom",
            "start_within": "500s",
            "idle_unload": "60s",
            "env": {"CUDA_VISIBLE_DEVICES": "0,1,2"},
            "served_as": "openai/gpt-oss-120B",
            "slots": 4,
            "apart_from": ["docker-llama", "org-small-model"],
        },
        "docker-llama": {
            "command": "docker run --init --rm -p 9999:8080 image",
            "base_url": "http://127.0.0.1:9999/v1",
            "health": "",
            "start_within": "500s",
            "idle_unload": "36500d",
            "slots": 10,
            "load_at_start": True,
            "apart_from": ["gpt-oss-120b", "org-small-model"],
        },
        "org-small-model": {
            "command": "/opt/llama-server --port ${PORT} -m small.gguf",
            "start_within": "500s",
            "idle_unload": "36500d",
            "served_as": "org/small model",
            "slots": 10,
            "apart_from": ["gpt-oss-120b", "docker-llama"],
        },
        "whisper": {
            "command": "/opt/whisper --port ${PORT}",
            "start_within": "500s",
            "idle_unload": "36500d",
            "slots": 10,
            "pinned": True,
        },
    }
    assert found.routes["gpt-4o-mini"] == {"to": ["local/gpt-oss-120b"]}
    assert found.routes["plain-alias"] == found.routes["gpt-oss-120b"]
    assert [line.partition(":")[0] for line in found.left_out] == [
        "apiKeys",
        "models.gpt-oss-120b.name",
        "models.gpt-oss-120b.filters",
        "models.docker-llama.cmdStop",
        "models.org/small model",
        "hooks.on_startup.preload",
    ]


def test_a_peer_is_told_as_the_command_that_adds_it() -> None:
    """It is a provider here; of one that is known its kind says where it is."""
    peers = """
peers:
  box 2: {proxy: "http://10.0.0.2:8080/", models: [a]}
  openrouter: {proxy: https://openrouter.ai/api, apiKey: sk-hunter2, models: [b]}
models: {}
"""
    first, second = translated(parsed(peers), {}).left_out
    add = "`tollway providers add"
    assert f"{add} box-2 --kind openai-compatible --base-url http://10.0.0.2:8080/v1`" in first
    assert second.startswith(f"peers.openrouter: {add} openrouter --kind openrouter` adds it; ")
    assert "hunter2" not in second


def test_callers_go_on_calling_a_model_by_the_name_it_had() -> None:
    """`org/model` is no name of a model here, but one of a route's: clients need no change."""
    said = {"models": {"Qwen/Qwen3-8B:Q4": {"cmd": "s --port ${PORT}", "aliases": ["quick"]}}}
    found = translated(said, {})
    target = {"to": ["local/Qwen-Qwen3-8B:Q4"]}
    assert found.routes == {"Qwen/Qwen3-8B:Q4": target, "quick": target}
    assert found.models["Qwen-Qwen3-8B:Q4"]["served_as"] == "Qwen/Qwen3-8B:Q4"
    assert found.left_out == [
        "models.Qwen/Qwen3-8B:Q4: called `local/Qwen-Qwen3-8B:Q4` here, its route keeps the name"
    ]


def test_health_is_asked_under_the_path_of_the_proxy() -> None:
    """As llama-swap joins the two; a server behind a prefix has nothing at the root."""
    said = {"models": {"m": {"cmd": "s --api-prefix /v2", "proxy": "http://127.0.0.1:9/v2/"}}}
    assert translated(said, {}).models["m"]["health"] == "/v2/health"


def apart(found: Translated) -> dict[str, list[str]]:
    """Return which models each may not run beside."""
    return {name: table.get("apart_from", []) for name, table in found.models.items()}


MATRIX = """
models:
  gemma: {cmd: "s ${PORT}"}
  org/qwen: {cmd: "s ${PORT}"}
  voice: {cmd: "s ${PORT}"}
  rerank: {cmd: "s ${PORT}"}
  large: {cmd: "s ${PORT}"}
  loner: {cmd: "s ${PORT}"}
matrix:
  vars: {g: gemma, q: org/qwen, v: voice, e: rerank, L: large}
  sets:
    standard: "(g | q) & v"
    more: "+standard & e"
    full: L
"""


def test_a_matrix_says_who_runs_beside_whom() -> None:
    """Those that are in no set together are apart; who is in none runs alone."""
    found = translated(parsed(MATRIX), {})
    assert apart(found) == {
        "gemma": ["org-qwen", "large", "loner"],
        "org-qwen": ["gemma", "large", "loner"],
        "voice": ["large", "loner"],
        "rerank": ["large", "loner"],
        "large": ["gemma", "org-qwen", "voice", "rerank", "loner"],
        "loner": ["gemma", "org-qwen", "voice", "rerank", "large"],
    }
    assert [line.partition(":")[0] for line in found.left_out] == ["models.org/qwen"]


def test_what_of_a_matrix_is_lost_is_named() -> None:
    """Pairs are all that `apart_from` can say, and costs none of it."""
    sets = {"a": "g & q", "b": "q & v", "c": "g & v"}
    said: Any = parsed(MATRIX)
    said["matrix"] = {"vars": {**said["matrix"]["vars"], "x": "gone"}, "sets": sets}
    said["matrix"]["evict_costs"] = {"v": 50}
    assert [line.partition(":")[0] for line in translated(said, {}).left_out[1:]] == [
        "matrix.vars",
        "matrix.evict_costs",
        "matrix.sets",
    ]


@pytest.mark.parametrize(
    ("sets", "word"),
    [
        ({"a": "g &"}, "there is no `the end`"),
        ({"a": "(g | q"}, "a parenthesis is not closed"),
        ({"a": "g q"}, "`q` stands where nothing was expected"),
        ({"a": "g & zz"}, "there is no `zz` in `matrix.vars`"),
        ({"a": "+b", "b": "+a"}, "contains itself"),
        ({"a": "+c"}, "there is no set `c`"),
        ({"a": "(" * 99}, "it is too deep"),
        (["a"], "matrix.sets: expected a mapping"),
    ],
)
def test_a_matrix_that_is_not_understood_is_told(sets: object, word: str) -> None:
    """With the set's name, before anything is written."""
    said: Any = parsed(MATRIX)
    said["matrix"]["sets"] = sets
    with pytest.raises(NotUnderstood, match=re.escape(word)):
        translated(said, {})


EVERY = """
unloadTimeout: 10
profiles: {coding: {pins: {llm: m}}}
upstream: {ignorePaths: [x]}
store: {path: a.sqlite}
ui: {activity: {session_id: []}}
performance: {every: 5s}
groups:
  g: {swap: false, members: [m, gone], color: red}
hooks: {on_startup: {preload: [m]}, on_shutdown: {}}
macros: {flag: true}
models:
  m:
    cmd: s ${PORT} --jinja ${flag}
    unloadTimeout: 3
    capabilities: {tools: true}
    filters:
      setParamsByID:
        "${MODEL_ID}": {temperature: 0.1}
        "${MODEL_ID}:high": {reasoning_effort: high}
"""


def test_every_key_that_llama_swap_documents_is_taken_over_or_named() -> None:
    """Names that it makes of `setParamsByID` are called by clients, and so are routes here."""
    found = translated(parsed(EVERY), {})
    assert found.models["m"]["command"] == "s ${PORT} --jinja true"
    assert found.models["m"]["load_at_start"] is True
    assert found.routes == {name: {"to": ["local/m"]} for name in ("m", "m:high")}
    assert sorted(line.partition(":")[0] for line in found.left_out) == [
        "groups.g.color",
        "groups.g.members",
        "hooks.on_shutdown",
        "models.m.capabilities",
        "models.m.filters",
        "models.m.unloadTimeout",
        "profiles",
        "unloadTimeout",
        "upstream",
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[1, 2]", "expected a mapping with `models`"),
        ("models: {a: {ttl: 3}}", "expected a mapping with `cmd`"),
        ("models: {a: {cmd: 'x ${what}'}}", "there is no macro what"),
        ("models: {a: {cmd: 'x ${env.WHAT}'}}", "the environment has no WHAT"),
        ("macros: {m: 'x ${m}'}\nmodels: {a: {cmd: '${m}'}}", "a macro that contains itself"),
        ('models: {a: {cmd: "x \'y"}}', "No closing quotation"),
        ("models: {a: {cmd: x}}\ngroups: {g: [a]}", "groups.g: expected a mapping"),
        ("models: {a: {cmd: x}}\ngroups: {g: {members: a}}", "groups.g: expected a mapping"),
    ],
)
def test_what_is_not_understood_is_told(text: str, word: str) -> None:
    """Before anything is written."""
    with pytest.raises(NotUnderstood, match=word.replace("(", r"\(").replace("$", r"\$")):
        translated(parsed(text), {})


def test_the_models_are_in_the_file_and_what_was_there_stays(tmp_path: Path) -> None:
    """What comes out is a valid configuration; a second time there is nothing left to do."""
    home = Home(tmp_path)
    home.write('[models.whisper]\ngguf = "mine.gguf"\n')
    file = tmp_path / "config.yaml"
    file.write_text(FILE.replace("${env.MODELS}", "/m"))
    shown = home.tollway("models", "import-llama-swap", str(file), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert tomllib.loads(shown.stdout)["models"].keys() == {
        "gpt-oss-120b", "docker-llama", "org-small-model",
    }  # fmt: skip
    assert load(home.config).models.keys() == {"whisper"}
    done = home.tollway("models", "import-llama-swap", str(file), "--free", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "models.whisper: there is a model of that name already" in said["left_out"]
    config = load(home.config)
    assert config.models["whisper"].gguf is not None
    assert config.models["gpt-oss-120b"].price == "free"
    assert config.models["gpt-oss-120b"].apart_from == ("docker-llama", "org-small-model")
    assert config.routes["gpt-4o-mini"].to == ("local/gpt-oss-120b",)
    again = home.tollway("models", "import-llama-swap", str(file))
    assert again.returncode == 0, again.stderr
    assert load(home.config).models == config.models


def test_a_name_that_is_an_alias_of_a_route_is_left_to_it(tmp_path: Path) -> None:
    """One name of many that is taken does not stop the rest from being taken over."""
    home = Home(tmp_path)
    home.write(
        '[models.mine]\ncommand = "serve --port ${PORT}"\n'
        '[routes.mine]\nto = ["local/mine"]\naliases = ["gpt-4o-mini"]\n'
    )
    (tmp_path / "swap.yaml").write_text(
        "models: {small: {cmd: 'serve --port ${PORT}', aliases: [gpt-4o-mini, quick]}}"
    )
    done = home.tollway("models", "import-llama-swap", str(tmp_path / "swap.yaml"))
    assert done.returncode == 0, done.stderr
    assert "gpt-4o-mini: there is a route of that name already" in done.stderr
    assert set(load(home.config).routes) == {"mine", "small", "quick"}


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    """With its name, and the place in it."""
    home = Home(tmp_path)
    home.write("")
    file = tmp_path / "config.yaml"
    file.write_text("models: [")
    done = home.tollway("models", "import-llama-swap", str(file))
    assert done.returncode == 2
    assert "is not YAML" in done.stderr


CANNOT_BE = """
models:
  good: {cmd: "/opt/llama-server --port ${PORT} -m a.gguf", aliases: [nice], concurrencyLimit: -1}
  bad: {cmd: "docker run image", aliases: [worse]}
"""


def test_what_cannot_be_here_does_not_lose_the_rest(tmp_path: Path) -> None:
    """A model that cannot run is listed with the reason, and so is a number; the others are in."""
    home = Home(tmp_path)
    home.write("[server]\nsingle_user = true\n")
    file = tmp_path / "swap.yaml"
    file.write_text(CANNOT_BE)
    done = home.tollway("models", "import-llama-swap", str(file), COLUMNS="500")
    assert done.returncode == 0, done.stderr
    assert "models.bad: not taken over; does not tell the server its port" in done.stderr
    assert "models.good.slots: not taken over; expected a number from" in done.stderr
    # What hangs on the model that is not there is no fault of its own.
    assert "routes.bad" not in done.stderr and "apart_from" not in done.stderr
    config = load(home.config)
    assert list(config.models) == ["good"]
    assert set(config.routes) == {"good", "nice"}
    again = home.tollway("models", "import-llama-swap", str(file))
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr.endswith("There is nothing to take over\n")
