"""What the documents say is what the program does."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from tollway.cli.app import COMMANDS, app
from tollway.cli.lazy import Leaf
from tollway.daemon.app import ROUTES
from tollway.providers.catalog import KINDS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "DECISIONS.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
ENDPOINTS = (ROOT / "docs/endpoints.md").read_text()
NAMES = {row.name for row in COMMANDS}
# What people call the kinds that the page of endpoints lists.
KIND_NAMES = {
    "OpenAI": "openai", "Mistral": "mistral", "Groq": "groq", "DeepSeek": "deepseek", "xAI": "xai",
    "OpenRouter": "openrouter", "Together": "together", "Fireworks": "fireworks",
    "Cerebras": "cerebras", "Perplexity": "perplexity", "Vertex AI": "vertex",
    "Cohere": "cohere", "Bedrock": "bedrock",
    "vLLM": "vllm", "Ollama": "ollama",
    "LM Studio": "lmstudio", "llama-server": "llama-server", "Anthropic": "anthropic",
    "Gemini": "gemini", "Azure": "azure", "SGLang": "sglang",
}  # fmt: skip


def _commands(text: str) -> list[str]:
    """Return every `tollway ...` line of a text's code, without its comment."""
    found = re.findall(r"^tollway .*$", text, re.MULTILINE) + re.findall(r"`(tollway [^`]+)`", text)
    return [line.partition("  #")[0].strip() for line in found]


def _leaf(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the command that words name, and the words behind it."""
    for size in (2, 1):
        name = " ".join(words[:size])
        if name in NAMES and any(row.name == name and row.home for row in COMMANDS):
            return name, words[size:]
    return None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists(path: Path) -> None:
    """A command that a document shows is in the table, and has the options it is shown with."""
    for line in _commands(path.read_text()):
        words = line.partition(" -- ")[0].split()[1:]  # what follows is another program's
        if words[0].startswith("-") or " ".join(words) in NAMES:
            continue
        found = _leaf(words)
        assert found, f"{path.name}: `{line}`"
        options = [word for word in found[1] if word.startswith("-")]
        assert set(options) <= _options(found[0]) | {"--help"}, f"{path.name}: `{line}`"


def _options(name: str) -> set[str]:
    command: Any = get_command(app)
    for word in name.split():
        command = command.get_command(typer.Context(command), word)
    assert isinstance(command, Leaf)
    return {option for one in command.params for option in (*one.opts, *one.secondary_opts)}


def test_every_link_leads_somewhere() -> None:
    """A document's links to files of the repository are not broken."""
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_page_of_endpoints_lists_those_there_are() -> None:
    """Each path that callers may use is named, and no other."""
    said = set(re.findall(r"(?<=[`\s])/v1/[a-z_/]+", ENDPOINTS))
    real = {route.path.partition("/{")[0] for route in ROUTES if route.path.startswith("/v1/")}
    assert said == real
    for route in ROUTES:
        if route.path.startswith("/v1beta/"):
            assert route.path.partition("{model:.+}")[2].partition("?")[0] in ENDPOINTS


def test_the_page_of_endpoints_lists_the_kinds_there_are() -> None:
    """Every kind of upstream has its name there."""
    named = {kind for name, kind in KIND_NAMES.items() if name in ENDPOINTS}
    assert named | {"openai-compatible", "local"} == set(KINDS)


def test_the_settings_in_a_document_s_prose_are_accepted() -> None:
    """A key of the server or the ledger that a page names stands in gateway.toml.example."""
    others = {"db", "address", "port"}  # a file, and OpenTelemetry's attributes
    example = (ROOT / "gateway.toml.example").read_text()
    for path in DOCUMENTS:
        for key in re.findall(r"`(?:server|ledger)\.([a-z_]+)", path.read_text()):
            assert key in others or re.search(rf"^#? ?{key} =", example, re.MULTILINE), (
                f"{path.name}: {key}"
            )


def test_the_page_of_commands_has_each_with_its_help() -> None:
    """`python tests/commands_page.py` makes it anew; another test compares `--json`."""
    text = (ROOT / "docs/commands.md").read_text()
    told = re.findall(r"^\| `tollway (.+?)` \| (.+) \|$", text, re.MULTILINE)
    assert sorted(told) == sorted((row.name, row.help) for row in COMMANDS if row.home)


def test_every_page_is_in_the_index() -> None:
    """A page that nothing leads to is not read."""
    index = (ROOT / "docs/README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert f"({path.name})" in index or path.name == "README.md", path.name
