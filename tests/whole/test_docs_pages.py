"""The documents by task: each page is a story whose commands are run, each setting is read."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import commands_page
import pytest
from chat_upstream import ChatUpstream
from gguf_files import real_model
from hub_server import serving_hub
from needed import needed
from ollama_files import ollama_store
from story import Reader, blocks, lines, small

from tollway.daemon.config.load import parse

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
# Run by tests of their own, which know more of them.
OF_ITS_OWN = {
    "agents.md": "tests/whole/test_docs_agents.py",
    "dialects.md": "tests/whole/test_dialect_matrix.py",
    "monitoring.md": "tests/test_monitoring.py",
    "operations.md": "tests/whole/test_docs_operations.py",
    "reports.md": "tests/test_docs_reports.py",
    "routing.md": "tests/test_docs_routing.py",
    "security.md": "tests/whole/test_docs_operations.py",
}
# What cannot be run in a story, and what runs it instead.
ELSEWHERE = {
    "make demo": ".ci/demo.py",
    "uv tool install .": ".ci/package",
    "CMAKE_ARGS=\"-DGGML_NATIVE=OFF\" pip install --no-cache-dir '.[local]'": ".ci/install",
    "tollway service install --print": "tests/whole/test_docs_operations.py",
    "tollway run --budget 2 -- claude": "tests/whole/test_agents_run.py",
}
# What a person answers, and codes that say something.
ANSWERS = {
    "tollway init": "n\nn\nn\nn\n",
    "tollway providers add openai --kind openai": "sk-openai",
}
# There is nobody to say yes.
MORE = {"tollway keys create ann-laptop --user ann": "--yes"}
CODES = {("docs/moving-from-litellm.md", "tollway prices check"): 1}  # one has none
ALONE = """[server]
listen = "127.0.0.1:0"
drain = "1s"
"""
PROVIDER = """[providers.openai]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:OPENAI_API_KEY"
[routes.fast]
to = ["openai/gpt-4o-mini"]
"""
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
BOX2 = """[providers.box2]
kind = "vllm"
base_url = "http://127.0.0.1:{port}/v1"
"""
MEMBERS = """[groups.everyone]
models = ["*"]
[teams.ml]
groups = ["everyone"]
[users.ann]
team = "ml"
[projects.chatbot]
team = "ml"
"""
SINGLE = ALONE + "single_user = true\n"


def _empty(told: Reader) -> None:
    """Make a new machine where no provider's key is in the environment."""
    _server(told)
    told.quietly("tollway secrets backend vault")


def _server(told: Reader) -> None:
    """Make one that has no keyring either, as its page says."""
    del told.env["OPENAI_API_KEY"]
    told.put("key.txt", "sk-openai")


def _developer(told: Reader) -> None:
    """Make a new machine where one is, with a program that is to be led."""
    told.put("script.py", "import os; print(os.environ['OPENAI_BASE_URL'])")
    told.put("~/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n').chmod(0o755)


def _models(told: Reader) -> None:
    told.put("~/.config/tollway/gateway.toml", SINGLE).chmod(0o600)
    told.put("~/models/.keep", "")
    model = real_model()
    (told.home.path / f"models/{model.name}").symlink_to(model)
    _ollama(told)


def _ollama(told: Reader) -> None:
    store = ollama_store(told.home.path / "ollama", library__llama3__8b=small(told.home.path))
    told.env["OLLAMA_MODELS"] = str(store)


def _box(told: Reader) -> None:
    told.put("script.py", "print('done')")
    told.put("~/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n').chmod(0o755)
    text = ALONE + (PROVIDER + BOX2).format(port=told.upstream.port) + MEMBERS
    told.put("~/.config/tollway/gateway.toml", text).chmod(0o600)


def _used(told: Reader) -> None:
    """Make a gateway of one's own that has been called."""
    text = SINGLE + (PROVIDER + BOX2).format(port=told.upstream.port)
    told.put("~/.config/tollway/gateway.toml", text).chmod(0o600)
    told.put("data.json", json.dumps(PRICES))
    told.quietly("tollway up")
    told.quietly("tollway chat fast Hi")


def _files(told: Reader) -> None:
    """Write the files that a page shows, named by their first line."""
    page = (ROOT / "docs" / told.page).read_text()
    for text in blocks(page, "yaml"):
        name = re.match(r"# (\S+)\n", text)
        assert name
        told.put(name[1], text)


STORIES: dict[str, Callable[[Reader], None]] = {
    "README.md": _empty,
    "docs/budgets.md": _box,
    "docs/endpoints.md": _used,
    "docs/ledger.md": _used,
    "docs/local-models.md": _models,
    "docs/moving-from-litellm.md": _files,
    "docs/moving-from-llama-swap.md": _files,
    "docs/moving-from-ollama.md": _ollama,
    "docs/prices.md": _used,
    "docs/team-box.md": _server,
    "docs/workstation.md": _developer,
}


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Reader]:
    """Yield somebody at a new machine; what they started is stopped."""
    hub = serving_hub({"ggml-org/SmolLM3-3B-GGUF": {"SmolLM3-Q4_K_M.gguf": small(tmp_path)}})
    with ExitStack() as stack:
        upstream = ChatUpstream()
        stack.callback(upstream.close)
        reader = Reader(tmp_path, upstream, stack.enter_context(hub))
        # By the file of the home, and by the one in the folder where a page has that.
        stack.callback(lambda: reader.home.tollway("down", "--now"))
        stack.callback(lambda: reader.quietly("tollway down --now", code=None))
        yield reader


@pytest.mark.parametrize("page", STORIES)
def test_every_command_of_a_page_runs(told: Reader, page: str) -> None:
    """As it stands and in its order: nobody's first try is an error of ours."""
    text = (ROOT / page).read_text()
    told.page = Path(page).name
    STORIES[page](told)
    for line in lines(text):
        if line not in ELSEWHERE:
            code = CODES.get((page, line), 0)
            more = MORE.get(line, "")
            said = told.type(line, more=more, stdin=ANSWERS.get(line, ""), code=code)
            if line.endswith("--dry-run") and "moving-from" in page:
                # What a page says that a file becomes is what it becomes.
                assert said.strip() in blocks(text, "toml")[0].replace("single_user = true\n", "")
    assert told.ran


def test_every_page_is_run() -> None:
    """A page with commands is in the list, or has a test of its own that is there."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        name = str(path.relative_to(ROOT))
        if lines(path.read_text()) and name not in STORIES:
            assert (ROOT / OF_ITS_OWN[path.name]).exists(), name
    shown = {line for name in STORIES for line in lines((ROOT / name).read_text())}
    assert set(ELSEWHERE) <= shown
    for where in ELSEWHERE.values():
        assert (ROOT / where).exists(), where


def test_the_page_of_commands_has_every_field_that_json_prints(told: Reader) -> None:
    """Fields that a program reads stay; `python tests/commands_page.py` adds new ones."""
    page = (ROOT / "docs/commands.md").read_text()
    made = commands_page.page(commands_page.fields(told))
    assert commands_page.bones(made) == commands_page.bones(page)


def test_the_recorded_session_can_be_made_anew(tmp_path: Path) -> None:
    """With a scripted model: the same lines as in the one that was made with a real one."""
    needed("curl")
    script = ROOT / ".ci/record.py"
    made = [sys.executable, str(script), "--scripted", "--to", str(tmp_path)]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    typed, there = (
        [line for line in (folder / "session.txt").read_text().splitlines() if line[:2] == "$ "]
        for folder in (tmp_path, ROOT / "docs")
    )
    assert [line for line in typed if "providers add" not in line and "routes add" not in line] == [
        line for line in there if "tollway models" not in line and "routes add" not in line
    ]
    drawing = (tmp_path / "session.svg").read_text()
    assert "<svg" in drawing
    assert not re.search(r"url\(\W?http", drawing)  # it fetches nothing


# Tables that a fragment leans on.
AROUND = {
    "local": '[models.another]\ngguf = "another.gguf"\n',
    "box2": '[providers.box2]\nkind = "vllm"\nbase_url = "http://127.0.0.1:8000/v1"\n',
    "ollama": '[providers.ollama]\nkind = "ollama"\nbase_url = "http://127.0.0.1:11434/v1"\n',
    "openai": '[providers.openai]\nkind = "openai"\napi_key = "env:OPENAI_API_KEY"\n',
}
PROMETHEUS = f"""[users.owner]
[keys.prometheus]
hash = "sha256:{"0" * 64}"
user = "owner"
"""
FAST = """[routes.fast]
to = ["openai/gpt-4o-mini"]
"""
SETTINGS = [
    (name, text)
    for name in [*STORIES, "docs/clouds.md", "docs/monitoring.md", "docs/reliability.md"]
    for text in blocks((ROOT / name).read_text(), "toml")
]


@pytest.mark.parametrize(
    ("page", "text"), SETTINGS, ids=[f"{name}-{at}" for at, (name, _) in enumerate(SETTINGS)]
)
def test_every_setting_of_a_page_is_right(page: str, text: str, tmp_path: Path) -> None:
    """A whole file, or a part of one."""
    around = "".join(
        table
        for name, table in AROUND.items()
        if f'"{name}/' in text and f"[providers.{name}]" not in text
    )
    if "metrics_key" in text:
        around += PROMETHEUS
    if "[routes.fast]" not in text:
        around += AROUND["openai"] * ("[providers.openai]" not in text + around) + FAST
    config = parse(text + "\n" + around, path=tmp_path / "gateway.toml")
    # Of this machine, which has neither their keys nor their files.
    absent = ("environment variable", "there is no file")
    assert [one for one in config.warnings if not any(word in one for word in absent)] == [], page
