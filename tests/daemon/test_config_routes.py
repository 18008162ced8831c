"""The routes of gateway.toml: what is read, and what is refused because it could never happen."""

from decimal import Decimal
from pathlib import Path

import pytest

from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import Aim, Between, Case, Config, Globs, Part
from tollway.daemon.errors import ConfigError

BASE = """[providers.up]
kind = "openai"
api_key = "env:KEY"
[groups.all]
models = ["*"]
except = ["up/forbidden"]
[teams.ml]
groups = ["all"]
budget = ["5/day"]
[teams.ops]
[users.ann]
team = "ml"
[projects.bot]
team = "ml"
[keys.laptop]
hash = "sha256:{}"
user = "ann"
[routes.r]
to = ["up/a"]
""".format("0" * 64)


def read(more: str, base: str = BASE) -> Config:
    """Return a configuration whose last table is the route `r`."""
    return parse(base + more, path=Path("gateway.toml"))


def when(*cases: str) -> Config:
    """Return a configuration whose route has some cases."""
    return read(f"when = [{', '.join(f'{{ {case} }}' for case in cases)}]")


def test_every_condition_is_read() -> None:
    """A text is a list of one; units and names are those of the file."""
    config = when(
        'team = "ml", user = ["a*"], project = "bot", key = "laptop", tag.env = ["ci", "dev"],'
        ' header.X-Tier = "batch", endpoint = "chat", model = "r", input_over = 100_000,'
        " input_under = 200_000, output_over = 10, output_under = 20, stream = true, tools = false,"
        " images = true, files = true, schema = true, reasoning = false,"
        ' between = ["22:00", "06:30"], days = ["mon", "fri"], budget_over = 0.8,'
        ' to = [{ target = "up/b", weight = 2 }, "up/c"], strategy = "weighted"'
    )
    assert config.routes["r"].when == (
        Case(
            team=Globs(("ml",)),
            user=Globs(("a*",)),
            project=Globs(("bot",)),
            key=Globs(("laptop",)),
            tag={"env": Globs(("ci", "dev"))},
            header={"x-tier": Globs(("batch",))},
            endpoint=("chat",),
            model=Globs(("r",)),
            input_over=100_000,
            input_under=200_000,
            output_over=10,
            output_under=20,
            stream=True,
            tools=False,
            images=True,
            files=True,
            schema=True,
            reasoning=False,
            between=Between(22 * 60, 6 * 60 + 30),
            days=("mon", "fri"),
            budget_over=Part(Decimal("0.8")),
            aims=(Aim("up/b", 2), Aim("up/c")),
            strategy="weighted",
        ),
    )
    assert config.routes["r"].every == ("up/a", "up/b", "up/c")


@pytest.mark.parametrize("case", ["days = []", 'stream = "yes"', "budget_over = 2"])
def test_a_condition_that_is_wrong_is_the_only_fault_of_its_case(case: str) -> None:
    """That no other stands beside it is not told too, and first, as if none were there."""
    with pytest.raises(ConfigError) as told:
        when(case)
    assert len(told.value.message.splitlines()) == 1
    assert "has no condition" not in told.value.message


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ('to = ["up/b"]', "when[0]: has no condition"),
        ('tag.env = ""', "when[0].tag.env: no tag has such a value"),
        ('tag.env = ["ci", "a,b"]', "when[0].tag.env: no tag has such a value"),
        ('team = "mll"', "when[0].team: no team `mll` in [teams]; did you mean ml?"),
        ('user = "b*"', "when[0].user: no user `b*` in [users]"),
        ('key = "lap"', "when[0].key: no key `lap` in [keys]"),
        ('team = "ops", user = "ann"', "when[0].user: is in another team"),
        ("input_over = 100, input_under = 101", "when[0].input_under: no number of tokens"),
        ("input_under = 0", "when[0].input_under: no number of tokens"),
        ("output_over = 9, output_under = 10", "when[0].output_under: no number of tokens"),
        ("input_over = -1", "when[0].input_over: expected a number from 0"),
        ('between = ["09:00", "09:00"]', "when[0].between: begins when it ends"),
        ('between = ["09:00", "25:00"]', "when[0].between: expected a time of day"),
        ('between = "09:00"', "when[0].between: expected two times of day"),
        ("days = []", "when[0].days: names nothing"),
        ('days = ["monday"]', "when[0].days[0]: expected mon or tue"),
        ("stream = true, max_temperature = nan", "when[0].max_temperature: expected a number"),
        ("stream = true, max_temperature = 3", "when[0].max_temperature: expected a number"),
        ("team = []", "when[0].team: an empty list"),
        ('endpoint = "embeddings", tools = true', "when[0].tools: no call to embeddings has that"),
        ('endpoint = "embeddings", stream = true', "when[0].stream: embeddings are never streamed"),
        ('model = "claude-*"', "when[0].model: `claude-*` is no name of this route"),
        ('header.authorization = "x"', "when[0].header.authorization: is a credential"),
        ('header.x-api-key = "x"', "when[0].header.x-api-key: is a credential"),
        ("budget_over = 80", "when[0].budget_over: expected over 0 and up to 1"),
        ("stream = true, to = []", "when[0].to"),
        ('stream = true, to = ["up/forbidden"]', "when[0].to[0]: is excepted for every key"),
        ('stream = true, to = ["dwon/x"]', "when[0].to[0]: no provider `dwon`"),
        ('stream = true, strategy = "cheap"', "when[0].strategy: expected ordered or weighted"),
        ("streams = true", "when[0].streams: unknown key; did you mean stream?"),
        (
            'stream = true, to = [{ target = "up/a", weight = 0 }], strategy = "weighted"',
            "when[0].to: every weight is 0",
        ),
    ],
)
def test_a_case_that_could_never_happen_is_refused_with_its_line(case: str, said: str) -> None:
    """Whoever writes it believes that it does something."""
    with pytest.raises(ConfigError) as refused:
        when(case)
    line = BASE.count("\n") + 1
    assert f"gateway.toml:{line}: routes.r.{said}" in refused.value.message


@pytest.mark.parametrize("case", ['days = ["monday"]', "stream = true, max_temperature = 3"])
def test_a_wrong_value_is_one_mistake_told_as_what_it_is(case: str) -> None:
    """A day that there is not is no empty list, and 3 is a number."""
    with pytest.raises(ConfigError) as refused:
        when(case)
    (line,) = refused.value.message.splitlines()
    assert not line.endswith(("leave the key out", "found a number"))


def test_a_budget_condition_needs_a_budget() -> None:
    """Without one nothing is ever used up; a provider's own does not count."""
    bare = BASE.replace('budget = ["5/day"]\n', "").replace(
        'env:KEY"', 'env:KEY"\nbudget=["1/day"]'
    )
    with pytest.raises(ConfigError, match="there is no budget that calls are booked on"):
        read("when = [{ budget_over = 0.5 }]", bare)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("stream = true", "stream = true, tools = true"),
        ('team = ["ml", "ops"]', 'team = "ml", images = true'),
        ('user = "a*"', 'user = "ann"'),
        ("input_over = 100", "input_over = 200"),
        ("input_under = 200", "input_under = 100, stream = true"),
        ("budget_over = 0.5", "budget_over = 0.8"),
        ('header.x-tier = "*"', 'header.x-tier = "batch", tag.a = "b"'),
        ('days = ["mon", "tue"]', 'days = "mon"'),
    ],
)
def test_a_case_behind_one_that_takes_all_its_calls_is_refused(first: str, second: str) -> None:
    """First match wins, so it would never have its turn; the other way round it has."""
    with pytest.raises(ConfigError, match=r"when\[1\]: never has its turn: when\[0\] takes every"):
        when(first, second)
    assert len(when(second, first).routes["r"].when) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("stream = true", "stream = false"),
        ('team = "m*"', 'team = "*l"'),
        ("input_over = 200", "input_over = 100"),
        ("stream = true, tools = true", "stream = true"),
        ('tag.a = "b"', 'tag.c = "d"'),
    ],
)
def test_cases_that_share_only_some_calls_stand(first: str, second: str) -> None:
    """What is not certain is no error."""
    assert len(when(first, second).routes["r"].when) == 2


def test_a_single_user_gateway_knows_its_user() -> None:
    """`local` is whom all calls are billed to there."""
    config = read(
        'when = [{ user = "local", stream = true }]',
        '[server]\nsingle_user = true\n[providers.up]\nkind = "openai"\napi_key = "env:K"\n'
        '[routes.r]\nto = ["up/a"]\n',
    )
    assert config.routes["r"].when[0].user == ("local",)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('aliases = ["r"]', "r.aliases[0]: is the route's own name"),
        ('fallback = ["r"]', "r.fallback[0]: is the route itself"),
        ('aliases = ["a b"]', "r.aliases[0]: no name that routes can have"),
        ('[routes.s]\nto = ["up/a"]\naliases = ["r"]', "s.aliases[0]: is a name of the route `r`"),
        ('[routes."x*"]\nto = ["up/*-*"]', 'routes."x*": `up/*-*` has a `*`'),
        ('[routes.s]\nto = ["up/*"]', "routes.s: `up/*` has a `*`"),
        ('[routes."x*"]\nto = ["up/*"]\naliases = ["y"]', 'routes."x*": `up/*` has a `*`'),
        ('[routes."x*"]\nto = ["local/*"]', "no model `*` in [models]"),
        (
            '[routes."x*"]\nto = ["up/*"]\n[routes.s]\nto = ["up/a"]\nfallback = ["x*"]',
            "s.fallback[0]: its targets hang on the name",
        ),
    ],
)
def test_a_name_is_one_route_s_and_a_star_stands_for_something(more: str, said: str) -> None:
    """Two routes of one name, or a target that is half a name, are mistakes."""
    with pytest.raises(ConfigError) as refused:
        read(more)
    assert said in refused.value.message


def test_a_glob_that_takes_targets_too_is_told() -> None:
    """Routes come before targets, so that nobody could call those by their own name any more."""
    config = read('[routes."*"]\nto = ["up/a"]\n[routes."claude-*"]\nto = ["up/a"]')
    told = [line for line in config.warnings if "takes calls to" in line]
    assert len(told) == 1
    assert 'routes."*": takes calls to `up/...`, `local/...` too' in told[0]


def test_a_deadline_in_which_nobody_answers_is_refused() -> None:
    """`"0s"` is no way to say "for ever"."""
    with pytest.raises(ConfigError, match=r'routes\.r\.deadline: less than "100ms"'):
        read('deadline = "0s"')
    assert read('deadline = "100ms"').routes["r"].deadline == pytest.approx(0.1)
