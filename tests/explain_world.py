"""Random configurations and calls, and what a daemon then does: what `routes explain` must foresee.

Everything hangs on one seed, so that a world that fails can be made again.
"""

import random
from hashlib import sha256
from typing import Any

from fault_world import KINDS_AT, asking
from matrix_requests import ANTHROPIC, CHAT, GEMINI, RESPONSES
from matrix_world import CLIENTS

from tollway.daemon.gate.health import Health
from tollway.daemon.gate.route import Target
from tollway.providers.errors import UpstreamRefused

SECRET = "tw-" + "k" * 40
# Provider, and the dialect that it speaks.
PROVIDERS = {"one": CHAT, "two": ANTHROPIC, "three": GEMINI, "four": RESPONSES}
MODELS = ("a", "b")
TARGETS = [f"{provider}/{model}" for provider in PROVIDERS for model in MODELS]
STRATEGIES = ("ordered", "weighted", "fastest", "cheapest", "least-busy")
ROUTES = ("r", "s", "t")
CONDITIONS = (
    "input_over = 100",
    "output_over = 50",
    "output_under = 51",
    "stream = true",
    "tools = true",
    "tools = false",
    'header.x-tier = "ba*"',
    'tag.env = ["ci", "dev*"]',
    'user = "a*"',
    'model = "al*"',
    "budget_over = 0.000001",
)
OVERRIDES = (
    "max_output = 20",
    "max_temperature = 0.5",
    'system_prefix = "Be brief."',
    'reasoning_effort = "low"',
)


class Steady(random.Random):
    """Dice that fall as those of an explanation do."""

    def random(self) -> float:
        """Return a half."""
        return 0.5


class World:
    """One random configuration and one random call."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - no secret hangs on it

    def maybe(self, chance: float, text: str) -> str:
        """Return a line, or none."""
        return text + "\n" if self.dice.random() < chance else ""

    def some(self, most: int, of: "list[str] | tuple[str, ...]") -> list[str]:
        """Return up to so many of some texts, in any order."""
        return self.dice.sample(list(of), self.dice.randint(1, min(most, len(of))))

    def config(self, port: int) -> str:
        """Return a gateway.toml's tables; all providers are at one port."""
        tables = [self._provider(name, dialect, port) for name, dialect in PROVIDERS.items()]
        tables += [self._route(name, ROUTES[at + 1 :]) for at, name in enumerate(ROUTES)]
        return "\n".join([*tables, self._people()])

    def _provider(self, name: str, dialect: str, port: int) -> str:
        kind, path = KINDS_AT[dialect]
        budget = self.dice.choice(("0.000001/day", "0.0004/day", "5/day"))
        text = (
            f'[providers.{name}]\nkind = "{kind}"\napi_key = "env:HOME"\n'
            f'base_url = "http://127.0.0.1:{port}/{path}"\n'
        )
        text += self.maybe(0.3, f'budget = ["{budget}"]')
        text += self.maybe(
            0.2, f"limits = {{ {self.dice.choice(('concurrent = 1', 'tpm = 900'))} }}"
        )
        text += self.maybe(0.2, "slots = 3")
        for model in MODELS:
            if self.dice.random() < 0.85:
                dear = self.dice.choice((1, 2, 10))
                text += f'[prices."{name}/{model}"]\ninput = {dear}\noutput = {dear * 4}\n'
                text += self.maybe(0.5, f"context_window = {self.dice.choice((50, 300, 9000))}")
        return text

    def _aims(self) -> str:
        return "[" + ", ".join(f'"{target}"' for target in self.some(4, TARGETS)) + "]"

    def _route(self, name: str, behind: tuple[str, ...]) -> str:
        text = f"[routes.{name}]\nto = {self._aims()}\n"
        text += f'strategy = "{self.dice.choice(STRATEGIES)}"\n'
        text += 'aliases = ["alias", "alo*"]\n' if name == "r" else ""
        text += self.maybe(0.3, "retries = 1") if name != "r" else ""
        text += self.maybe(0.2, self.dice.choice(('on_loss = "refuse"', "default_output = 30")))
        text += self.maybe(0.1, "limits = { rpm = 2 }")
        text += "".join(self.maybe(0.15, line) for line in OVERRIDES)
        if behind and self.dice.random() < 0.6:
            text += "fallback = [" + ", ".join(f'"{one}"' for one in self.some(2, behind)) + "]\n"
        cases = [self._case(name) for _ in range(self.dice.choice((0, 0, 1, 2, 3)))]
        return text + (f"when = [ {', '.join(cases)} ]\n" if cases else "")

    def _case(self, route: str) -> str:
        found = [one for one in self.some(2, CONDITIONS) if route == "r" or "model" not in one]
        found = found or ["stream = true"]
        keys = {one.split(" ")[0].split(".")[0]: one for one in found}
        parts = list(keys.values())
        parts += [f"to = {self._aims()}"] if self.dice.random() < 0.8 else []
        parts += ["max_output = 17"] if self.dice.random() < 0.2 else []
        if self.dice.random() < 0.4:
            parts.append(f'strategy = "{self.dice.choice(STRATEGIES)}"')
        return "{ " + ", ".join(parts) + " }"

    def _people(self) -> str:
        budgets = (
            "",
            '"0.00001/day"',
            '"0.0005/day"',
            '"9/day"',
            '{ usd = 1, per = "day", at = "warn" }',
        )
        budget = self.dice.choice(budgets)
        if budget.startswith('"') and self.dice.random() < 0.3:
            sum_ = budget.strip('"').split("/")[0]
            budget = f'{{ usd = {sum_}, per = "day", at = "clamp" }}'
        excepted = self.some(4, TARGETS) if self.dice.random() < 0.4 else []
        names = ", ".join(f'"{one}"' for one in excepted)
        every = ", ".join(f'"{one}"' for one in ("*", *TARGETS))
        limits = self.dice.choice(("", "", "", "limits = { tpm = 2000 }", "limits = { rpm = 3 }"))
        return (
            f'[groups.all]\nmodels = ["*"]\nexcept = [{names}]\n'
            f'[users.ann]\ngroups = ["all"]\nbudget = [{budget}]\n{limits}\n'
            f'[keys.laptop]\nhash = "sha256:{sha256(SECRET.encode()).hexdigest()}"\nuser = "ann"\n'
            # Else a target that nobody may call would be refused in the file.
            f"[groups.any]\nmodels = [{every}]\n[users.bea]\ngroups = ['any']\n"
            f'[keys.other]\nhash = "sha256:{sha256(b"other").hexdigest()}"\nuser = "bea"\n'
        )

    def call(self) -> tuple[str, str, dict[str, Any], bool, dict[str, str]]:
        """Return a call: its client's dialect, its path, its body, whether it streams, headers."""
        client, stream = self.dice.choice(CLIENTS), self.dice.random() < 0.5
        model = self.dice.choice(("r", "r", "r", "s", "alias", "alonso", *TARGETS[:2]))
        path, said = asking(client, model, stream)
        words = "word " * self.dice.choice((1, 60, 90, 400, 4000))
        if client == GEMINI:
            said["contents"][0]["parts"][0]["text"] = words
        elif client == RESPONSES:
            said["input"] = words
        else:
            said["messages"][0]["content"] = words
        if self.dice.random() < 0.3:
            said |= _TOOLS[client]
        if self.dice.random() < 0.3 and client in (CHAT, RESPONSES):
            said.pop("max_tokens", None)
            said.pop("max_output_tokens", None)
        if self.dice.random() < 0.2 and client == CHAT:
            said["logprobs"] = True
        headers = {}
        if self.dice.random() < 0.4:
            headers["X-Tier"] = self.dice.choice(("batch", "Batch", "live"))
        if self.dice.random() < 0.4:
            headers["x-tollway-tags"] = self.dice.choice(("env=ci", "env=devel", "env=prod"))
        if self.dice.random() < 0.4:
            headers[self.dice.choice(("Session_Id", "x-tollway-session"))] = "one"
        return client, path, said, stream, headers

    def trouble(self, health: Health, targets: dict[str, Target]) -> None:
        """Let some targets fail, and some rest."""
        for name in self.some(4, TARGETS) if self.dice.random() < 0.5 else []:
            what = self.dice.choice(("fails", "rests", "once"))
            if what == "rests":
                error = UpstreamRefused("No", status=self.dice.choice((429, 401)))
                health.begin(targets[name]).failed(error, self.dice.choice((None, 30.0)))
                continue
            for _ in range(5 if what == "fails" else 1):
                health.begin(targets[name]).failed(UpstreamRefused("No", status=500))


_FUNCTION = {"name": "f", "description": "F", "parameters": {"type": "object", "properties": {}}}
_TOOLS: dict[str, dict[str, Any]] = {
    CHAT: {"tools": [{"type": "function", "function": _FUNCTION}]},
    RESPONSES: {"tools": [{"type": "function", **_FUNCTION}]},
    ANTHROPIC: {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]},
    GEMINI: {"tools": [{"functionDeclarations": [_FUNCTION]}]},
}
