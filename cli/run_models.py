"""Which models a run may call, told before its program starts: agents say little of a 404.

Claude Code says "There's an issue with the selected model" and no word of the gateway's.
"""

from collections.abc import Mapping, Sequence
from shlex import join
from urllib.parse import quote

from tollway.cli.boundary import UsageProblem
from tollway.cli.control import Control
from tollway.cli.run_agents import (
    AIDER,
    CLAUDE,
    CODEX,
    COPILOT,
    GEMINI,
    KILO,
    OPENCODE,
    QWEN,
    agent_at,
    agent_of,
)
from tollway.daemon.config.shown import meant
from tollway.daemon.errors import ModelNotFound
from tollway.providers.errors import GatewayError

# Names that an agent may ask for by itself. One that is served will do: which of them it chooses
# changes from version to version.
_CLAUDES = ("claude-opus-4-8", "claude-sonnet-4-5", "claude-haiku-4-5")
_GPTS = ("gpt-6.1-sol", "gpt-5.5", "gpt-5-codex")
_GEMINIS = ("gemini-3.1-pro-preview", "gemini-3-flash-preview", "gemini-2.5-pro")
_OWN = {
    **{CLAUDE: _CLAUDES, CODEX: _GPTS, GEMINI: _GEMINIS},
    **dict.fromkeys((OPENCODE, KILO), (*_CLAUDES, *_GPTS, *_GEMINIS)),
    AIDER: (*_CLAUDES, *_GPTS),
}
_MUST_BE_TOLD = frozenset({COPILOT, QWEN})  # without a model they ask elsewhere, or not at all
_SAID_BY = {
    **{CLAUDE: "ANTHROPIC_MODEL", GEMINI: "GEMINI_MODEL", AIDER: "AIDER_MODEL"},
    **{COPILOT: "COPILOT_MODEL", QWEN: "OPENAI_MODEL"},
}
_OPTIONS = frozenset({"-m", "--model", "--profile", "--oss"})
_OSS = frozenset({"--oss", "--local-provider"})
_NO_TALKERS = ("embed", "rerank")
_MOST_NAMED = 5
_NONE = "`tollway routes explain` says what a name leads to, and for whom"
# By which Claude Code is told of a wide window; the name that it sends is without.
_WIDE = "[1m]"


def past(command: Sequence[str]) -> str:
    """Return what to say of an agent that is told not to ask here, "" of any other."""
    if agent_of(command) != CODEX or not _OSS.intersection(command):
        return ""
    return (
        "with `--oss` Codex asks an Ollama or LM Studio of this box itself, and not Tollway: make"
        " that a provider (`tollway providers add`), and name its model:"
        " `tollway run --model PROVIDER/MODEL -- codex`"
    )


class Models:
    """The models that a run may call, as the daemon says."""

    def __init__(self, control: Control, secret: str) -> None:
        self._control = control
        self._headers = {"authorization": f"Bearer {secret}"}

    def window(self, model: str, agent: str) -> int | None:
        """Return how many tokens a model takes; None where nobody knows.

        Raises:
            UsageProblem: The run may call no such model.
        """
        asked = model.removesuffix(_WIDE) if agent == CLAUDE else model
        try:
            found = self._one(asked)
        except ModelNotFound as error:
            names = self.names()
            raise UsageProblem(
                f"`--model {model}`: this run may call no such model{meant(asked, names)}",
                hint=f"It may call {_shown(names)}" if names else _NONE,
            ) from error
        except GatewayError:
            return None  # the agent is told as it calls
        said = found.get("context_window")
        return said if isinstance(said, int) else None

    def lacking(self, command: Sequence[str], environ: Mapping[str, str]) -> str:
        """Return what to say of an agent that asks for models which the run may not call.

        "" where it is told of another, may call its own, or nobody knows.
        """
        agent = agent_of(command)
        own = _OWN.get(agent, ())
        if not agent or _names_one(command, environ):
            return ""
        try:
            if any(map(self._has, own)):
                return ""
            names = self.names()
        except GatewayError:
            return ""
        best = next((one for one in names if not _is_no_talker(one)), "PROVIDER/MODEL")
        started = command[: agent_at(command) + 1] if agent_at(command) else [agent]
        way = join(["tollway", "run", "--model", best, "--", *started])
        if agent in _MUST_BE_TOLD:
            return f"{agent} asks here for nothing but a model that it is told of: `{way}`"
        listed = f"{_shown(names)} and " if names else ""
        return f"this run may call {listed}none of {agent}'s own models: `{way}`"

    def names(self) -> list[str]:
        """Return the names of all of them, in the order of the file.

        Raises:
            GatewayError: The daemon does not say.
        """
        data = self._control.get("/v1/models", self._headers).get("data")
        return [str(one["id"]) for one in data] if isinstance(data, list) else []

    def _has(self, name: str) -> bool:
        try:
            self._one(name)
        except ModelNotFound:
            return False
        return True

    def _one(self, name: str) -> dict[str, object]:
        return self._control.get(f"/v1/models/{quote(name)}", self._headers)


def _shown(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:_MOST_NAMED]) + more


def _is_no_talker(name: str) -> bool:
    return any(word in name.lower() for word in _NO_TALKERS)


def _names_one(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether an agent's own words or its environment say which model it is to use."""
    if environ.get(_SAID_BY.get(agent_of(command), "")):
        return True
    return any(word in _OPTIONS or "model=" in word for word in command[1:])
