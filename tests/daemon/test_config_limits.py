"""`limits` in gateway.toml: read at every level, wrong ones named with their line."""

from pathlib import Path

import pytest

from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import Config, Limits
from tollway.daemon.errors import ConfigError
from tollway.daemon.gate.limits import limits_of
from tollway.daemon.reload import removed

GATEWAY = Path("gateway.toml")
TEXT = """\
[server]
limits = { concurrent = 500 }
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
limits = { rpm = 500 }
[models.small]
gguf = "small.gguf"
limits = { concurrent = 2 }
[routes.fast]
to = ["up/m"]
limits = { rpm = 5 }
[teams.ml]
limits = { rpm = 600, tpm = 2_000_000, rpd = 50_000, concurrent = 20 }
[users.ann]
team = "ml"
[users.ann.limits]
rpm = 60
[projects.bot]
limits = { rpd = 10 }
[keys.ci]
hash = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
user = "ann"
limits = { tpm = 9 }
"""


def config(old: str = "", new: str = "") -> Config:
    """Return the configuration with a piece of it replaced."""
    assert old in TEXT
    return parse(TEXT.replace(old, new, 1) if old else TEXT, path=GATEWAY)


def fault(old: str, new: str) -> str:
    """Return the only fault of the configuration with a piece of it replaced."""
    with pytest.raises(ConfigError) as refused:
        config(old, new)
    (line,) = refused.value.message.splitlines()
    return line


def test_every_level_may_have_limits() -> None:
    """Written in one line or as a table of their own; none is the default."""
    found = {(section, name): limits for section, name, limits in limits_of(config())}
    assert found == {
        ("server", ""): Limits(concurrent=500),
        ("providers", "up"): Limits(rpm=500),
        ("models", "small"): Limits(concurrent=2),
        ("routes", "fast"): Limits(rpm=5),
        ("teams", "ml"): Limits(rpm=600, tpm=2_000_000, rpd=50_000, concurrent=20),
        ("users", "ann"): Limits(rpm=60),
        ("projects", "bot"): Limits(rpd=10),
        ("keys", "ci"): Limits(tpm=9),
    }
    assert parse("[users.ann]\nlimits = {}", path=GATEWAY).users["ann"].limits == Limits()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{ rpm = 5 }", "{ rmp = 5 }",
         "gateway.toml:12: routes.fast.limits.rmp: unknown key; did you mean rpm?"),
        ("{ rpm = 5 }", "{ rpm = 0 }",
         "gateway.toml:12: routes.fast.limits.rpm: expected a number from 1 to 2147483648"),
        ("{ rpm = 5 }", "{ rpm = 5.5 }",
         "gateway.toml:12: routes.fast.limits.rpm: expected a whole number, found a number"),
        ("{ rpm = 5 }", '{ rpm = "5" }',
         "gateway.toml:12: routes.fast.limits.rpm: expected a whole number, found text"),
        ("limits = { rpm = 5 }", "limits = 5",
         "gateway.toml:12: routes.fast.limits: expected a table, found a number"),
        ("\nrpm = 60", "\nconcurent = 60",
         "gateway.toml:18: users.ann.limits.concurent: unknown key; did you mean concurrent?"),
        ("limits = { concurrent = 500 }", "limit = { concurrent = 500 }",
         "gateway.toml:2: server.limit: unknown key; did you mean limits?"),
    ],
)  # fmt: skip
def test_a_wrong_limit_is_named_with_its_line(old: str, new: str, said: str) -> None:
    """A limit that is not understood would hold nobody back."""
    assert fault(old, new) == said


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("{ rpm = 5 }", "{ rpm = 50 }", []),
        ("{ rpm = 5 }", "{ rpm = 5, rpd = 9 }", []),
        ("{ rpm = 5 }", "{ rpd = 9 }", ["routes.fast.limits.rpm"]),
        ("limits = { concurrent = 500 }\n", "", ["server.limits.concurrent"]),
        ("rpm = 600, tpm = 2_000_000, ", "", ["teams.ml.limits.rpm", "teams.ml.limits.tpm"]),
        ("limits = { concurrent = 2 }\n", "", ["models.small.limits.concurrent"]),
        ("limits = { rpm = 500 }\n", "", ["providers.up.limits.rpm"]),
        ("rpm = 60\n", "", ["users.ann.limits.rpm"]),
        ("limits = { rpd = 10 }\n", "", ["projects.bot.limits.rpd"]),
        ("limits = { tpm = 9 }\n", "", ["keys.ci.limits.tpm"]),
    ],
)
def test_a_limit_that_is_gone_waits_for_a_person(old: str, new: str, lost: list[str]) -> None:
    """Half-written TOML can be valid: a change by itself takes no limit away."""
    assert removed(config(), config(old, new)) == lost
