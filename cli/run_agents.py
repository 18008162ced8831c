"""Which agent a command starts, by its own name or by a runner of packages."""

from collections.abc import Sequence
from pathlib import PurePath

CLAUDE, CODEX, GEMINI = "claude", "codex", "gemini"
OPENCODE, AIDER, KILO = "opencode", "aider", "kilo"
COPILOT, QWEN = "copilot", "qwen"
AGENTS = (CLAUDE, CODEX, GEMINI, OPENCODE, AIDER, KILO, COPILOT, QWEN)

_PACKAGES = {
    "@anthropic-ai/claude-code": CLAUDE,
    "@openai/codex": CODEX,
    "@google/gemini-cli": GEMINI,
    "opencode-ai": OPENCODE,
    "aider-chat": AIDER,
    "@kilocode/cli": KILO,
    "@github/copilot": COPILOT,
    "@qwen-code/qwen-code": QWEN,
}
# They give what stands behind the package to its program, options too; `npm exec` does not.
_RUNNERS = (
    *(("npx",), ("pnpx",), ("pnpm", "dlx"), ("yarn", "dlx"), ("bunx",), ("bun", "x")),
    *(("uvx",), ("uv", "tool", "run"), ("pipx", "run")),
)
_WITH_VALUE = frozenset({"-p", "--package", "--from", "--with", "--spec", "--python"})


def agent_of(words: Sequence[str]) -> str:
    """Return which agent a command starts, "" for any other program."""
    return _named(words[agent_at(words)])


def agent_at(words: Sequence[str]) -> int:
    """Return where the word stands that names the agent, behind which its own begin; else 0."""
    name = PurePath(words[0]).name
    for runner in _RUNNERS:
        if (name, *words[1 : len(runner)]) == runner:
            at = _first_argument(words, len(runner))
            return at if at < len(words) and _named(words[at]) else 0
    return 0


def _first_argument(words: Sequence[str], at: int) -> int:
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _WITH_VALUE else 1
    return at


def _named(word: str) -> str:
    package, version, _ = word[1:].partition("@")  # the first @ may be of the package's owner
    known = _PACKAGES.get(word[:1] + package)
    if known:
        return known
    name = PurePath(word).name.partition("@")[0] if version else PurePath(word).name
    return name if name in AGENTS else ""
