"""Every example in every command's help is run, in one story: a home where they all make sense."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest
from chat_upstream import ChatUpstream
from gguf_files import real_model
from gguf_shapes import shaped
from hub_server import serving_hub
from ollama_files import ollama_store
from story import Story, small

from tollway.cli.app import COMMANDS

pytestmark = pytest.mark.whole

# Where they are run instead: these end only with their terminal, measure for seconds, or are
# for whoever is the service manager's.
ELSEWHERE = {
    'eval "$(tollway completion bash)"': "tests/cli/test_complete.py",
    "tollway completion fish | source": "tests/cli/test_complete.py",
    "tollway completion zsh --install": "tests/cli/test_complete.py",
    "tollway service install": "tests/whole/test_docs_operations.py",
    "tollway service install --print": "tests/whole/test_docs_operations.py",
    "sudo tollway service install --system --run-as tollway": "tests/cli/test_service.py",
    "tollway service uninstall": "tests/whole/test_docs_operations.py",
    "tollway service status": "tests/whole/test_docs_operations.py",
    "tollway top": "tests/cli/test_top.py",
    "tollway serve --config ./gateway.toml": "tests/cli/test_lifecycle.py",
    "tollway logs -f --team ml": "tests/cli/test_logs.py",
    "tollway models logs smollm2 -f": "tests/cli/test_models_logs.py",
    "tollway bench --seconds 1 --connections 8": "tests/cli/test_bench.py",
    "tollway models bench smollm2": "tests/cli/test_models_bench.py",
    "tollway models bench smollm2 --callers 1,8,16 --tokens 128 --json": (
        "tests/cli/test_models_bench.py"
    ),
}
GATEWAY = """[server]
listen = "127.0.0.1:0"
watch = false
drain = "1s"
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
[routes.smart]
to = ["up/large"]
[groups.everyone]
models = ["*"]
[prices."up/*"]
input = 1
output = 2
"""
EMPTY = """[groups.builders]
models = ["*"]
[teams.ml]
[users.ada]
[projects.chatbot]
[models.smollm2]
gguf = "small.gguf"
"""
LITELLM = "model_list: [{model_name: gpt, litellm_params: {model: openai/gpt-4o-mini}}]"
SWAP = "models: {tiny: {cmd: 'sh --port ${PORT}'}}"  # a program that doctor finds
PRICES = [
    {
        "id": "openai", "name": "OpenAI", "api_pattern": "https://api.openai.com",
        "models": [
            {
                "id": "gpt-4o-mini", "match": {"equals": "gpt-4o-mini"},
                "prices": {"input_mtok": 0.18, "output_mtok": 0.6},
            }
        ],
    }
]  # fmt: skip
AGENT = '#!/bin/sh\necho agent at $ANTHROPIC_BASE_URL $OPENAI_BASE_URL "$@"\n'
CALL_ID = re.compile(r"\b01[0-9a-f]{6}-[0-9a-f-]+")


def examples() -> list[str]:
    """Return every line that a command's help shows as an example."""
    found = []
    for row in COMMANDS:
        if not row.home:
            continue
        module, _, name = row.home.partition(":")
        doc = inspect.getdoc(getattr(import_module(f"tollway.cli.{module}"), name)) or ""
        shown = re.search(r"^Examples?:\n((?: {4}.*(?:\n|$))+)", doc, re.MULTILINE)
        assert shown, row.name
        found += [line.strip() for line in shown[1].splitlines()]
    return found


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """Yield a story; what it started is stopped."""
    model = small(tmp_path)
    repos = {
        "ggml-org/SmolLM3-3B-GGUF": {"SmolLM3-Q4_K_M.gguf": model},
        "unsloth/Qwen3-8B-GGUF": {"Qwen3-8B-Q8_0.gguf": model},
    }
    with ExitStack() as stack:
        hub = stack.enter_context(serving_hub(repos))
        upstream = ChatUpstream()
        stack.callback(upstream.close)
        told = Story(tmp_path, upstream, hub)
        stack.callback(
            lambda: told.home.tollway(
                "down", "--now", "--config", str(told.folder / "gateway.toml")
            )
        )
        yield told


CHAPTERS: list[Callable[[Story], None]] = []


def chapter(tell: Callable[[Story], None]) -> Callable[[Story], None]:
    """Note a part of the story; they are told in the order of this file."""
    CHAPTERS.append(tell)
    return tell


@chapter
def _begin(told: Story) -> None:
    told.run("tollway init --yes --config ./gateway.toml")
    told.run("tollway init --yes --at vllm=8001", XDG_CONFIG_HOME=f"{told.home.path}/zero")
    told.run("tollway init", stdin="n\nn\nn\nn\n", XDG_CONFIG_HOME=f"{told.home.path}/one")
    told.run(
        "tollway init --budget 20/month",
        stdin="n\nn\nn\nn\n", XDG_CONFIG_HOME=f"{told.home.path}/two",
    )  # fmt: skip
    told.put("gateway.toml", GATEWAY.format(port=told.upstream.port)).chmod(0o600)
    told.put("key.txt", "sk-from-a-file")
    told.run("tollway up")
    assert json.loads(told.run("tollway status --json"))["calls"]["active"] == 0
    told.run("tollway top --once --json")
    told.run("tollway reload")
    told.run("tollway secrets backend")
    told.run("tollway secrets backend vault")
    told.run("tollway secrets set openai", stdin="sk-one")
    told.run("tollway secrets set openai < key.txt")
    assert "openai" in told.run("tollway secrets list")


@chapter
def _who_may_call(told: Story) -> None:
    told.run("tollway groups create builders --models '*' --except openai/o1-pro")
    told.run("tollway groups list")
    told.run("tollway groups show builders")
    told.run("tollway groups set builders --no-except")
    told.run("tollway teams create ml --group builders --budget 200/month")
    told.run("tollway teams list")
    told.run("tollway teams show ml")
    told.run("tollway teams set ml --budget 10/day --budget 100/month")
    told.run("tollway users create ada --team ml --budget 5/day")
    told.run("tollway users list")
    told.run("tollway users show ada")
    told.run("tollway users set ada --budget 10/day --budget 100/month")
    told.run("tollway projects create chatbot --team ml --budget 5/day")
    told.run("tollway projects list")
    told.run("tollway projects show chatbot")
    told.run("tollway projects set chatbot --budget 10/day --budget 100/month")
    told.run("tollway keys create ci --user ada --budget 5/day --rpm 60")
    told.run("KEY=$(tollway keys create bot --project chatbot --models 'local/*')")
    told.run("tollway keys list")
    told.run("tollway keys show ci")
    told.run("tollway keys set ci --budget 10/day --models 'local/*'")
    told.run("tollway keys rotate ci --grace 24h")
    told.run(
        "tollway usage --url https://gateway.example".replace("https://gateway.example", url(told)),
        TOLLWAY_KEY=told.key,
    )
    told.ran[-1] = "tollway usage --url https://gateway.example"
    told.quietly("tollway users create intern --team ml")
    told.run("tollway budgets list")
    told.run("tollway budgets list team ml --json")
    told.run("tollway budgets set team ml 200/month")
    told.run("tollway budgets set user intern 5/24h --at clamp")
    told.run("tollway budgets raise team ml +10 --until tomorrow")
    told.run("tollway budgets raise team ml --end")
    told.run("tollway budgets remove team ml month")
    told.quietly("tollway budgets set tag run=42 1/day")
    told.run("tollway budgets remove tag run=42")


def url(told: Story) -> str:
    """Return where the daemon of the story listens."""
    listen = json.loads(told.quietly("tollway status --json"))["listen"]
    return f"http://{listen}"


def _several_models(told: Story, file: str) -> None:
    told.run("tollway models logs smollm2")
    told.run("tollway models unload smollm2")
    for name in ("chat", "embed"):
        told.quietly(f"tollway models add {file} --name {name} --free")
    told.run("tollway models load chat embed")
    told.run("tollway models unload --all")
    for name in ("chat", "embed"):
        told.quietly(f"tollway models remove {name}")


@chapter
def _what_is_called(told: Story) -> None:
    told.run("tollway secrets remove openai")
    told.run("tollway providers add openai --kind openai", stdin="sk-two")
    told.run("tollway providers add box2 --kind vllm --base-url http://127.0.0.1:8000/v1")
    told.run("tollway providers add groq --kind groq < key.txt")
    told.run("tollway providers add claude --kind anthropic --auth caller")
    told.run("tollway providers add pool --kind openai --api-key env:ONE --api-key env:TWO")
    told.run("tollway providers set openai --api-key -", stdin="sk-three")
    told.run("tollway providers set box2 --base-url http://10.0.0.7:8000/v1")
    for line in ("list", "kinds"):
        told.run(f"tollway providers {line}")
    told.run("tollway providers test openai", code=1)  # no network reaches it here
    told.run("tollway providers test openai --models", code=1)
    told.run("tollway prices set box2/qwen3-32b --input 0.1 --output 0.4")
    told.run("tollway prices set 'box2/*' --free")
    told.run("tollway prices unset box2/qwen3-32b")
    told.quietly("tollway prices unset 'box2/*'")
    told.run("tollway providers remove box2")
    model = real_model()
    told.put("~/models/.keep", "")
    (told.home.path / f"models/{model.name}").symlink_to(model)
    for name in ("qwen.gguf", "qwen3-8b.gguf"):
        shaped(told.folder / name)
    told.run(f"tollway models add ~/models/{model.name} --name smollm2 --free")
    prices = "--price-input 0.1 --price-output 0.4"
    told.run(f"tollway models add qwen.gguf --context 16384 --slots 4 {prices}")
    store = ollama_store(told.home.path / "ollama", library__llama3__8b=small(told.home.path))
    for line in ("add llama3:8b --from ollama --free", "add --from ollama --all"):
        told.run(f"tollway models {line}", OLLAMA_MODELS=str(store))
    told.run("tollway models pull ggml-org/SmolLM3-3B-GGUF")
    told.run("tollway models pull unsloth/Qwen3-8B-GGUF:Q8_0 --context 16384 --slots 4 --free")
    told.run("tollway models list")
    told.run("tollway models info smollm2")
    told.run("tollway models info qwen3-8b.gguf --context 32768 --slots 4 --kv-type q8_0")
    told.run("tollway models load smollm2")
    told.run("tollway models ps")
    _several_models(told, f"~/models/{model.name}")
    told.run("tollway prices set local/smollm2 --gpu-hour 0.80")
    told.quietly("tollway prices set local/smollm2 --free")
    told.put("~/llama-swap/config.yaml", SWAP)
    told.put("config.yaml", SWAP)
    told.run("tollway models import-llama-swap ~/llama-swap/config.yaml --dry-run")
    told.run("tollway models import-llama-swap config.yaml --free")
    told.quietly("tollway routes add best --to up/large")
    told.run("tollway routes add fast --to local/smollm2 --to openai/gpt-4o-mini")
    _more_of_routes(told)
    told.put(
        "request.json",
        '{"model": "fast", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}',
    )
    told.quietly("tollway keys set ci --models '*'")
    more = "--header x-tier:batch --tag env=ci"
    told.run(f"tollway routes explain fast --as ci --tokens 2000 {more}")
    told.run("tollway routes explain fast --dialect anthropic --body request.json")
    told.run("tollway routes test smart", more="--yes")
    told.run("tollway routes test smart --yes --json")
    told.run("tollway routes remove fast")


def _more_of_routes(told: Story) -> None:
    both = "--to openai/gpt-5=3 --to openai/gpt-4o-mini=1"
    told.run(f"tollway routes add both --strategy weighted {both}")
    told.run("tollway routes set fast --to local/smollm2 --to openai/gpt-5-mini")
    told.run("tollway routes list")


@chapter
def _money(told: Story) -> None:
    told.put("data.json", json.dumps(PRICES))
    told.run("tollway prices list 'gpt-5*'")
    told.run("tollway prices list --provider anthropic")
    told.run("tollway prices show openai/gpt-5")
    told.run("tollway prices check", code=1)  # some have none here
    told.run("tollway prices update --from data.json --dry-run")
    told.run("tollway prices update --from data.json", more="--yes")
    told.run("tollway prices update", more="--yes")
    told.quietly("tollway routes add fast --to up/small")
    assert "What is a toll?" in told.run('tollway chat "What is a toll?"')
    assert "Review this" in told.run('git diff | tollway chat fast "Review this"')
    for name in ("claude", "codex"):
        told.put(f"~/bin/{name}", AGENT).chmod(0o755)
    told.put("~/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n').chmod(0o755)
    told.put("script.py", "import os; print(os.environ['OPENAI_BASE_URL'])")
    assert "agent at http" in told.run("tollway run -- claude")
    told.run('tollway run --budget 2 --model smart -- codex exec "fix the tests"')
    assert told.run("tollway run -- python script.py").startswith("http")
    told.run("tollway spend --by team,model --since 7d")
    told.run("tollway spend --by tag:branch,model --since week")
    told.run("tollway spend --only team=ml --by user,model")
    told.run("tollway spend --by team --since 2026-11 --until 2026-11 --format csv > november.csv")
    told.run("tollway spend --by team --since month --format html > spend.html")
    told.run("tollway spend --by provider --as openai/gpt-4o-mini")
    told.put("~/.claude/projects/p/s.jsonl", "")
    told.run("tollway import --dry-run", more="--user ada")
    told.run("tollway import claude-code --since 30d", more="--user ada")


@chapter
def _the_ledger(told: Story) -> None:
    for _ in range(2):
        told.quietly("tollway chat fast break", code=1)  # it is billed by estimate
    calls = json.loads(told.quietly("tollway logs --json"))
    call, other = [one["id"] for one in calls if one["estimated"]]
    told.run(f"tollway logs {call}")
    told.run("tollway logs --since 2h --status error")
    told.run("tollway ledger verify")
    told.run("tollway ledger reprice --since 2026-11-01")
    told.run("tollway ledger export --since 2026-11-01 > calls.csv")
    told.run("tollway ledger export --what attempts --format jsonl --out attempts.jsonl")
    told.run("tollway doctor --offline")
    told.run("tollway doctor --fix", more="--offline")
    told.run("tollway restart")
    told.run("tollway down --now")
    told.run("tollway ledger verify --repair")
    told.run("tollway ledger reprice --since 2026-11-01 --apply")
    told.run(f"tollway ledger settle {call} --cost 0.0123")
    told.run(f"tollway ledger settle {other} --usage input=412,output=286")
    told.run("tollway ledger backup /backup/ledger-2026-11-22.db")
    told.run("tollway ledger vacuum")


@chapter
def _the_file(told: Story) -> None:
    told.put("litellm.yaml", LITELLM)
    told.run("tollway config check --config ./gateway.toml")
    told.run("tollway config show")
    told.run("tollway config show --effective --json")
    told.run("tollway config history")
    told.run("tollway config diff")
    told.run("tollway config diff 3")
    told.run("tollway config edit")
    told.run("tollway config export > box2.toml")
    told.run("tollway config export --effective --json")
    told.run("tollway config import-litellm ./litellm.yaml --dry-run")
    told.run("tollway config import-litellm ./litellm.yaml")
    told.run("tollway config audit -n 100")
    told.run("tollway keys revoke ci")
    told.quietly("tollway keys revoke bot")
    told.run("tollway config rollback 3")


@chapter
def _what_goes(told: Story) -> None:
    told.put("gateway.toml", EMPTY).chmod(0o600)
    for line in ("users remove ada", "projects remove chatbot", "teams remove ml",
                 "groups remove builders"):  # fmt: skip
        told.run(f"tollway {line}")
    told.run("tollway models remove smollm2")


def test_every_example_is_run(story: Story) -> None:
    """What help shows works as it stands: nobody's first try is an error of ours."""
    for tell in CHAPTERS:
        tell(story)
    told = {CALL_ID.sub("ID", line) for line in story.ran}
    shown = {CALL_ID.sub("ID", line) for line in examples() if line not in ELSEWHERE}
    assert told == shown
