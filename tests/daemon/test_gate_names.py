"""Which route a name is: its own, an alias, or the closest of the globs that take it."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from gateway import body, gateway, whole
from hypothesis import given
from hypothesis import strategies as st
from upstreams import reads, says

from tollway.daemon.config.load import parse
from tollway.daemon.gate.route import Router

ROUTES = """[providers.up]
kind = "openai"
api_key = "env:K"
serves = ["gpt-*"]
[routes.fast]
to = ["up/fast"]
aliases = ["gpt-4o", "mini-*"]
[routes."claude-*"]
to = ["up/anthropic/claude-*"]
[routes."claude-opus-*"]
to = ["up/opus"]
fallback = ["fast"]
[routes."gpt-4?"]
to = ["up/four"]
[routes."gpt-?o"]
to = ["up/omni"]
"""


@pytest.mark.parametrize(
    ("name", "route", "known_as", "first"),
    [
        ("fast", "fast", "fast", "up/fast"),
        ("gpt-4o", "fast", "fast", "up/fast"),  # an alias before any glob
        ("mini-1", "fast", "fast", "up/fast"),
        ("claude-haiku-4-5", "claude-*", "claude-haiku-4-5", "up/anthropic/claude-haiku-4-5"),
        ("claude-opus-4-5", "claude-opus-*", "claude-opus-4-5", "up/opus"),
        ("gpt-4x", "gpt-4?", "gpt-4x", "up/four"),
        ("gpt-5o", "gpt-?o", "gpt-5o", "up/omni"),
        ("gpt-5", "", "up/gpt-5", "up/gpt-5"),  # no route's: what a provider serves
        ("up/claude-x", "", "up/claude-x", "up/claude-x"),
    ],
)
def test_the_closest_name_wins(name: str, route: str, known_as: str, first: str) -> None:
    """Exact before alias before glob; of globs the one that says most."""
    found = Router(parse(ROUTES, path=Path("gateway.toml"))).find(name)
    assert found is not None
    assert (found.route, found.name, found.targets[0]) == (route, known_as, first)


@pytest.mark.parametrize("begins", ["up/", "gpt-", "claude-"])
def test_no_glob_takes_a_name_without_end(begins: str) -> None:
    """It would stand in the log, in the ledger and in a header: megabytes, for every call."""
    router = Router(parse(ROUTES, path=Path("gateway.toml")))
    assert router.find(begins + "x" * (512 - len(begins))) is not None
    assert router.find(begins + "x" * (513 - len(begins))) is None


def test_only_whole_names_are_listed() -> None:
    """Nobody can ask for a glob by its own name, and an alias is a name like others."""
    names = Router(parse(ROUTES, path=Path("gateway.toml"))).names
    assert names == ("fast", "gpt-4o", "up/fast", "up/opus", "up/four", "up/omni")


@given(st.text(st.sampled_from("ab-*?."), min_size=1, max_size=6), st.text("ab-.", max_size=6))
def test_a_route_s_glob_takes_what_any_glob_takes(glob: str, name: str) -> None:
    """As in the lists of groups, but without sets in brackets, which names cannot have."""
    if glob[0] in "-.":
        glob = "a" + glob
    up = '[providers.up]\nkind = "vllm"\nbase_url = "http://x/v1"\nserves = []\n'
    text = f'{up}[routes."{glob}"]\nto = ["up/m"]\n'
    found = Router(parse(text, path=Path("gateway.toml"))).find(name)
    assert (found is not None) == fnmatchcase(name, glob)


async def test_a_glob_s_route_is_allowed_by_the_name_asked_for() -> None:
    """A list that allows or excepts names of models does so whichever route they are."""
    more = '[routes."claude-*"]\nto = ["up/x-*"]\nlimits = { rpm = 1 }\n'
    script = [[reads(), says(whole())]]
    async with gateway(script, more=more) as gate:
        config = gate.daemon.config
        lists = 'models = ["claude-*"]\nexcept = ["*opus*"]'
        config.write_text(config.read_text().replace('models = ["*"]', lists))
        await gate.daemon.server.reloader.reload()
        assert (await gate.ask(body(model="claude-opus-4"))).status == 404
        reply = await gate.ask(body(model="claude-haiku-4"))
        assert reply.headers["x-tollway-target"] == "up/x-haiku-4"
        assert (await gate.row(reply)).call.route == "claude-*"
        # The route's own limit holds, whatever its targets are called.
        assert (await gate.ask(body(model="claude-haiku-4"))).status == 429
