"""gateway.toml is read whole and right, or refused with every fault and its line."""

import os
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.config.load import load, parse
from tollway.daemon.config.schema import Budget, Config
from tollway.daemon.errors import ConfigError

GATEWAY = Path("gateway.toml")
EXAMPLE = (Path(__file__).parents[2] / "gateway.toml.example").read_text()
HASH = "sha256:" + "0123456789abcdef" * 4
BASE = f"""\
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[models.small]
gguf = "small.gguf"
[routes.fast]
to = ["local/small"]
[groups.all]
models = ["*"]
[teams.ml]
groups = ["all"]
[teams.web]
[users.ann]
team = "ml"
[projects.bot]
team = "web"
[keys.one]
hash = "{HASH}"
user = "ann"
"""


def refusal(text: str) -> str:
    """Return all the lines of a text's refusal."""
    with pytest.raises(ConfigError) as refused:
        parse(text, path=GATEWAY)
    return refused.value.message


def only(text: str) -> str:
    """Return the one fault of a text."""
    (line,) = refusal(text).splitlines()
    return line


def test_units_and_types_are_read() -> None:
    """Times in seconds, sizes in bytes, money in nano-dollars, prices exact."""
    config = parse(EXAMPLE, path=GATEWAY)
    assert config.server.drain == 30.0
    assert config.server.max_body == 32 * 2**20
    assert config.server.budget == (Budget(100 * 10**9, "month"),)
    assert config.models["smollm2"].idle_unload == 900.0
    assert config.teams["ml"].budget[1] == Budget(20 * 10**9, "day", "clamp")
    assert config.keys["intern-laptop"].expires == date(2031, 1, 31)
    price = config.prices["openai/gpt-4o-mini"]
    assert price != "free" and price.cached_input == Decimal("0.075")


def test_an_empty_file_is_the_defaults() -> None:
    """Nothing must be said, and nothing is open: no key, no single_user."""
    config = parse("", path=GATEWAY)
    assert (config.server.host, config.server.port) == ("127.0.0.1", 4141)
    assert not config.server.single_user
    assert not config.keys


def test_relative_paths_begin_at_the_file_and_tilde_at_home() -> None:
    """A configuration means the same wherever the command is run."""
    text = '[models.a]\ngguf = "m/a.gguf"\n[models.b]\ngguf = "~/b.gguf"\n'
    config = parse(text, path=Path("/etc/tollway/gateway.toml"), home=Path("/home/ann"))
    assert config.models["a"].gguf == Path("/etc/tollway/m/a.gguf")
    assert config.models["b"].gguf == Path("/home/ann/b.gguf")
    assert config.ledger.path == Path("/home/ann/.local/share/tollway/ledger.db")


def test_the_ledger_is_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ledger.path` is relative to $XDG_DATA_HOME/tollway; an absolute one is itself."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert parse("", path=GATEWAY).ledger.path == tmp_path / "tollway/ledger.db"
    said = parse('[ledger]\npath = "/var/lib/x.db"', path=GATEWAY)
    assert said.ledger.path == Path("/var/lib/x.db")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[providers.openai", "gateway.toml:1: not valid TOML: expected ']'"),
        ("[server]\nx = \n", "gateway.toml:2: not valid TOML: invalid value"),
        ('[server]\nlisten = "', "gateway.toml:2: not valid TOML: "),
        ("[server]\ndrain = '1s'\ndrain = '2s'", "gateway.toml:3: not valid TOML: cannot over"),
        ("x = " + "9" * 5000, "gateway.toml:1: a number is too long"),
        ("\nx = " + "[" * 5000 + "]" * 5000, "gateway.toml:2: nested too deeply"),
        ("\n" + ".".join("a" * 5000) + " = 1", "gateway.toml:2: nested more than 8 levels"),
        ("\n[b" + ' . "a"' * 8 + "]", "gateway.toml:2: nested more than 8 levels"),
        ("#" * (2 * 2**20 + 1), "gateway.toml:1: larger than 2 MiB"),
    ],
)
def test_broken_toml_is_named_with_its_line(text: str, fault: str) -> None:
    """What is no TOML, or a bomb, is one clear line."""
    assert only(text).startswith(fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[providers.openai]\nkind = "openai"\napi_kee = "env:X"',
            "gateway.toml:3: providers.openai.api_kee: unknown key; did you mean api_key?",
        ),
        ("[sever]\n", "gateway.toml:1: sever: unknown key; did you mean server?"),
        ('[server]\nlissen = ":1"', "server.lissen: unknown key; did you mean listen?"),
        ("[server]\nport = 1", "gateway.toml:2: server.port: unknown key; did you mean listen?"),
        ("[server]\nbudgets = 1", "server.budgets: unknown key; did you mean budget?"),
        ("[budgets]\nbox = 1", "gateway.toml:1: budgets: unknown key; budgets stand with what"),
        ("[models.m]\ngguf = 'm'\nngl = 1", "models.m.ngl: unknown key; did you mean gpu_layers?"),
        ("[teams.a]\ntpm = 1", "teams.a.tpm: unknown key; did you mean limits?"),
        ("[teams.a]\nkind = 1", "teams.a.kind: unknown key"),
        ("[server]\ndrain = 30", 'toml:2: server.drain: a number without a unit; write "30s"'),
        ("[server]\nmax_body = 32", 'a number without a unit; write "32MiB"'),
        ('[server]\nmax_body = "32XB"', "unknown unit XB; there are B, kB, MB, GB, KiB, MiB, GiB"),
        ('[server]\ndrain = "soon"', 'expected a number with a unit, such as "30s"'),
        ("[server]\nbudget = [5]", 'server.budget[0]: an amount without its period; write "5/day"'),
        ('[server]\nbudget = "5/day"', 'server.budget: expected a list; write ["5/day"]'),
        ('[server]\nbudget = ["5/dya"]', "such as \"24h\"; did you mean day?"),
        ('[server]\nbudget = ["-5/day"]', 'a sum is never negative; write "5/day"'),
        ('[server]\nbudget = [{ usd = 5 }]', "server.budget[0]: per is missing"),
        ('[server]\nbudget = [{ usd = 1e30, per = "day" }]', "from 0 to 1,000,000,000"),
        ('[server]\nbudget = [{ usd = nan, per = "day" }]', "from 0 to 1,000,000,000"),
        ('[server]\nlog_level = "warn"', "did you mean warning?"),
        ('[server]\nsingle_user = "yes"', "expected true or false, found text"),
        ("[server]\ndefault_output = true", "expected a whole number, found true or false"),
        ("[server]\ndefault_output = 0", "expected a number from 1 to "),
        ('[server]\nlisten = "4141"', "expected HOST:PORT"),
        ('[server]\nlisten = "127.0.0.1:70000"', "a port is a number up to 65535"),
        ('[server]\ntimezone = "Europe/Pariss"', "unknown time zone; did you mean Europe/Paris?"),
        ('[server]\ntimezone = "../../etc/passwd"', "unknown time zone"),
        ("[server]\nadmin_socket = '/" + "x" * 120 + "'", "longer than 100 bytes"),
        ("server = 1", "gateway.toml:1: server: expected a table; write [server]"),
        ("[keys]\nx = 1", "gateway.toml:2: keys.x: expected a table, found a number"),
        ('[providers.x]\nkind = "opnai"', "providers.x.kind: unknown kind; did you mean openai?"),
        ('[providers.x]\nkind = "local"', "providers.x.kind: unknown kind"),
        ('[providers.local]\nkind = "openai"', "the name local is taken"),
        ('[providers.x]\nkind = "openai-compatible"', "providers.x: base_url is missing"),
        ("[providers.x]\n", "gateway.toml:1: providers.x: kind is missing"),
        (
            "[models.m]\ncommand = 'serve ${PORT}'\nenv = { HF_TOKEN = 'hf_aBcDeFgHiJkLmNoPqRsT' }",
            'models.m.env.HF_TOKEN: expected keyring:NAME, env:NAME or file:PATH, never the secret'
            " itself; run `tollway secrets set HF_TOKEN`",
        ),
        (
            "[models.m]\ncommand = 'serve ${PORT}'\nenv = { DB_PASSWORD = 'x9' }\nkv = 'unified'",
            "models.m.kv: is for a model that is served from a file",
        ),
        ("[models.m]\ngguf = 3", "models.m.gguf: expected text in quotes, found a number"),
        ("[models.m]\ngguf = 'a'\ngpu_layers = -1", '"auto", "all" or a number of layers'),
        ("[models.m]\ngguf = 'a'\nprice = 1", 'expected { input = 0.1, output = 0.4 } or "free"'),
        ("[models.m]\ngguf = 'a'\nprice = { input = 1 }", "models.m.price: output is missing"),
        ("[routes.r]\nto = []", "routes.r.to: has no target"),
        ('[teams."a b"]\n', 'teams."a b": no name that teams can have'),
        ('[prices.gpt-4o]\ninput = 1\noutput = 1', 'expected a target in quotes, such as "openai/'),
        ('[prices."a/b"]\ninput = -1\noutput = 0', 'prices."a/b".input: expected a number, from 0'),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line_and_a_fix(text: str, fault: str) -> None:
    """Each fault says file, line, key, what is wrong, and what would be right."""
    assert fault in only(text)


@pytest.mark.parametrize(
    ("was", "now", "fault"),
    [
        ("local/small", "local/smal", "no model `smal` in [models]; did you mean small?"),
        ("local/small", "opena/gpt", "no provider `opena` in [providers]; did you mean openai?"),
        ("local/small", "fast", "`fast` is no target, which is \"PROVIDER/MODEL\"; routes stand"),
        ("local/small", "gpt-4o", "\"PROVIDER/MODEL\"; did you mean openai/gpt-4o?"),
        ('to = ["local/small"]', 'to = ["local/small"]\nfallback = ["fats"]',
         "routes.fast.fallback[0]: no route `fats` in [routes]; did you mean fast?"),
        ('groups = ["all"]', 'groups = ["alll"]', "no group `alll` in [groups]; did you mean all?"),
        ('team = "ml"', 'team = "mll"', "ann.team: no team `mll` in [teams]; did you mean ml?"),
        ('user = "ann"', 'user = "anne"', "keys.one.user: no user `anne` in [users]; did you mean"),
        ('user = "ann"', 'user = "ann"\ntags = { run = "261130-0a1b2c3d" }',
         "gateway.toml:20: keys.one.tags.run: is of a run of `tollway run`, which alone may say it;"
         " number runs of your own otherwise, such as 42"),
        ('user = "ann"', 'project = "bott"', "keys.one.project: no project `bott` in [projects]"),
        ('user = "ann"', "", "keys.one: needs a user or a project"),
        ('user = "ann"', 'user = "ann"\nproject = "bot"', "the user is in team `ml`, the project"),
        ('models = ["*"]', "models = []", "groups.all.models: allows nothing"),
        ('user = "ann"', 'user = "ann"\nmodels = []',
         "keys.one.models: is empty, which narrows nothing"),
        ('team = "ml"', 'team = "ml"\ngroups = []', "groups: is empty, which narrows nothing"),
        (HASH, "sha256:123", "keys.one.hash: expected sha256: and 64 hex digits"),
        (f'hash = "{HASH}"\n', "", "keys.one: hash is missing"),
        ('user = "ann"', f'user = "ann"\n[keys.two]\nuser = "ann"\nhash = "{HASH}"',
         "keys.two.hash: the same as that of the key `one`"),
        ('user = "ann"', "user = 'ann'\nexpires = '2027-01-31'", "expected a date without quotes"),
        ("[providers", "[server]\nsingle_user = true\n[providers", "single_user: excludes [keys]"),
        ('kind = "openai"', 'kind = "openai"\nbase_url = "example.com"', "expected a URL, such as"),
        ('kind = "openai"', "kind = 'openai'\nbase_url = 'https://x/v1/chat/completions/'",
         "providers.openai.base_url: ends in `/chat/completions`, which each call adds"),
        ('kind = "openai"', 'kind = "openai"\nproxy = "http://me:pw@proxy"', "holds a name or a"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(was: str, now: str, fault: str) -> None:
    """References must lead somewhere, and exclusions hold."""
    assert parse(BASE, path=GATEWAY)
    assert was in BASE
    assert fault in only(BASE.replace(was, now, 1))


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("single_user = true", "where single_user would let everyone in"),
        ("single_user = true\nbehind_proxy = true", "where single_user would let everyone in"),
        ("", "where keys would travel unencrypted"),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.0.7", "gateway.example"])  # noqa: S104
def test_only_loopback_is_listened_on_without_a_proxy(host: str, extra: str, fault: str) -> None:
    """A gateway that is open to the network by mistake costs money."""
    assert fault in only(f'[server]\nlisten = "{host}:4141"\n{extra}')


@pytest.mark.parametrize("host", ["*", "*.example", "https://a.example", "a.example/v1", "", "a b"])
def test_a_host_that_no_client_can_send_is_refused(host: str) -> None:
    """They are compared whole; a pattern would let nobody in."""
    assert "server.allowed_hosts[1]: is no host as clients send it" in only(
        f'[server]\nallowed_hosts = ["a.example:8443", "{host}", "[::1]:1", "::1", "10.0.0.1"]'
    )


def test_a_ledger_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    """The daemon would start, and call every fault but this one."""
    (tmp_path / "data").mkdir()
    assert "ledger.path: is a folder; name a file in it" in only(
        f'[ledger]\npath = "{tmp_path}/data"'
    )
    assert parse(f'[ledger]\npath = "{tmp_path}/data/l.db"', path=GATEWAY)


def test_an_alert_s_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Else its owner would learn of it with the first alert, or never."""
    (tmp_path / "there").write_text("#!/bin/sh\n")
    (tmp_path / "there").chmod(0o755)
    text = '[server]\nsingle_user = true\nalerts = {{ command = ["{}", "-v"] }}'
    for name in ("sh", "./there", str(tmp_path / "there")):
        assert parse(text.format(name), path=tmp_path / "gateway.toml").warnings == ()
    for name in ("no-such-program", "./none", "/"):
        (told,) = parse(text.format(name), path=tmp_path / "gateway.toml").warnings
        assert f"gateway.toml:3: server.alerts.command: there is no program `{name}` here" in told


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.8.9.1:0", "[::1]:4141", "localhost:80"])
def test_loopback_needs_no_proxy(listen: str) -> None:
    """All of loopback's names are loopback."""
    server = parse(f'[server]\nlisten = "{listen}"\nsingle_user = true', path=GATEWAY).server
    assert listen in {f"{server.host}:{server.port}", f"[{server.host}]:{server.port}"}


def test_behind_a_proxy_any_address_may_be_listened_on() -> None:
    """The proxy speaks TLS; we are told so."""
    text = '[server]\nlisten = "0.0.0.0:4141"\nbehind_proxy = true'
    assert parse(text, path=GATEWAY).server.host == "0.0.0.0"  # noqa: S104


def test_all_faults_of_a_file_are_told_at_once_in_order() -> None:
    """Nobody wants to run `config check` ten times."""
    text = (
        BASE.replace("openai]", "openai]\nbogus = 1")
        .replace("small.gguf", "")
        .replace('team = "ml"', 'team = "x"')
    )
    lines = refusal(text).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "providers.openai.bogus",
        "models.small.gguf",
        "users.ann.team",
    ]
    assert [line.split(":")[1] for line in lines] == ["2", "6", "15"]


def test_a_broken_table_does_not_make_its_name_unknown() -> None:
    """One fault must not cause others elsewhere."""
    assert only(BASE.replace('gguf = "small.gguf"', 'gguf = ""')).endswith("found nothing")


def test_a_flood_of_faults_is_cut() -> None:
    """A file that is something else altogether gives a screen of faults, not a thousand."""
    text = "[teams]\n" + "".join(f"t{number} = 1\n" for number in range(5000))
    lines = refusal(text).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "and 150 more like these"


@pytest.mark.parametrize(
    "literal",
    [
        "sk-proj-c4n4ryc4n4ryc4n4ry",
        "c4n4ryc4n4ryc4n4ryc4n4ryc4n4ry",
        "keyring:sk-c4n4ryc4n4ryc4n4ry",
        "",
    ],
)
def test_a_secret_in_the_file_is_refused_with_the_way_out_and_never_shown(literal: str) -> None:
    """The message goes to terminals, logs and status pages."""
    text = f'[providers.openai]\nkind = "openai"\napi_key = "{literal}"'
    line = only(text)
    assert "c4n4ry" not in line
    assert line.startswith("gateway.toml:3: providers.openai.api_key: ")
    assert line.endswith('run `tollway secrets set openai`, then write api_key = "keyring:openai"')


@pytest.mark.parametrize(
    "template",
    [
        "[keys.a]\nhash = '{0}'\nuser = 'x'",
        "[keys.a]\nhash = 'sha256:0'\nuser = '{0}'",
        "[users.'{0}']\nbogus = 1",
        "[server]\n{0} = 1\nbudget = ['{0}']\ndrain = '{0}'\nlisten = '{0}'\ntimezone = '{0}'",
        "[server]\nlog_level = '{0}'\nmax_body = '5{0}'\nbudget = '{0}'",
        "[providers.p]\nkind = '{0}'\nbase_url = 'http://u:{0}@h'\nproxy = '{0}'",
        "[routes.r]\nto = ['{0}', '{0}/x', 'local/{0}']\nfallback = ['{0}']",
        "[prices.'{0}']\ninput = '{0}'",
        "{0}",
        "a = '{0}",
    ],
)
def test_no_error_shows_a_secret_wherever_it_was_put(template: str) -> None:
    """People paste keys into the wrong place."""
    canary = "sk-ant-c4n4ry0c4n4ry0c4n4ry0c4n4ry"
    assert "c4n4ry" not in refusal(template.replace("{0}", canary))


def test_a_secret_in_a_comment_is_a_warning_with_its_line() -> None:
    """A comment is the owner's, yet backups and screenshots have it."""
    text = "# one\n# api_key was sk-c4n4ryc4n4ryc4n4ry\n"
    (warning,) = parse(text, path=GATEWAY).warnings
    assert warning.startswith("gateway.toml:2: looks like a secret")
    assert "c4n4ry" not in warning


def test_what_may_not_be_meant_is_a_warning_with_its_line(tmp_path: Path) -> None:
    """Shadowed globs, hidden targets, missing files and prices of nothing are legal, yet odd."""
    (tmp_path / "small.gguf").touch()
    text = (
        BASE
        + '[providers.two]\nkind = "openai"\n[routes."openai/gpt-4o"]\nto = ["openai/gpt-4o"]\n'
        + '[models.gone]\ngguf = "gone.gguf"\n[prices."nobody/x"]\ninput = 1\noutput = 1\n'
        + '[providers.three]\nkind = "vllm"\nca_file = "gone.pem"\n'
    )
    warnings = parse(text, path=tmp_path / "gateway.toml").warnings
    told = [line.removeprefix(f"{tmp_path}/gateway.toml:") for line in warnings]
    assert any("`openai` stands before it and gets the bare names `gpt-" in line for line in told)
    assert any(line.startswith("20: providers.two: has no api_key") for line in told)
    assert '22: routes."openai/gpt-4o": hides the target of the same name' in told
    assert any(line.startswith("25: models.gone.gguf: there is no file") for line in told)
    assert '26: prices."nobody/x": prices a target that there is not' in told
    assert any(line.startswith("31: providers.three.ca_file: there is no file") for line in told)
    assert not any("small" in line for line in told)


def test_a_route_may_have_a_providers_name() -> None:
    """They are asked for differently."""
    text = BASE.replace("[routes.fast]", "[routes.openai]")
    assert "openai" in parse(text, path=GATEWAY).routes


def test_routes_may_fall_back_on_each_other() -> None:
    """Whoever walks them ends where it has been."""
    text = BASE + '[routes.a]\nto = ["local/small"]\nfallback = ["b"]\n'
    assert parse(text + '[routes.b]\nto = ["openai/x"]\nfallback = ["a"]', path=GATEWAY).routes


def test_a_rotated_keys_old_hash_is_read_as_a_moment() -> None:
    """The grace ends at a moment, not on a day."""
    old = HASH.replace("0", "f")
    text = f'{BASE}previous = [{{ hash = "{old}", until = 2030-01-01T00:00:00+01:00 }}]'
    assert parse(text, path=GATEWAY).keys["one"].previous[0].until == 1893452400.0
    assert "with its time zone" in only(text.replace("+01:00", ""))


def test_load_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, no UTF-8, a byte order mark: each is one clear line."""
    path = tmp_path / "gateway.toml"
    cases: list[tuple[bytes, str]] = [
        (b"\n\xff", ":2: is not UTF-8 text"),
        (b"\xef\xbb\xbf", ":1: begins with a byte order mark"),
        (b"#" * (5 * 2**20), ":1: larger than 2 MiB"),
    ]
    for data, fault in cases:
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=fault):
            load(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"none\.toml:1: there is no such file"):
        load(tmp_path / "none.toml")
    os.mkfifo(tmp_path / "pipe.toml")  # whoever opens it waits for ever, and reloads behind it
    with pytest.raises(ConfigError, match=r"pipe\.toml:1: is a pipe, not a file"):
        load(tmp_path / "pipe.toml")


def test_the_same_text_gives_an_equal_config(tmp_path: Path) -> None:
    """A reload that changes nothing can be told from one that does."""
    path = tmp_path / "gateway.toml"
    path.write_text(EXAMPLE)
    assert load(path) == load(path)
    assert load(path).path == path


def attempt(text: str) -> Config | None:
    """Parse a text; None where it is refused as it should be."""
    try:
        return parse(text, path=GATEWAY, home=Path("/home/x"))
    except ConfigError as refused:
        assert refused.message.startswith("gateway.toml:")
        return None


@given(st.text())
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    """Whatever stands in the file, a person gets a line, never a traceback."""
    attempt(text)


PIECES = sorted({piece for line in EXAMPLE.splitlines() for piece in line.split(" ") if piece})


@given(st.data())
def test_no_mutation_of_the_example_raises_anything_but_a_config_error(data: st.DataObject) -> None:
    """Deletions, swaps and foreign values in a real file."""
    lines = EXAMPLE.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        head, equals, _rest = lines[at].partition(" = ")
        new = data.draw(
            st.sampled_from(PIECES)
            | st.sampled_from(["1e999", "inf", "[]", "{}", "''", "[[1]]", "1979-05-27", "07:32:00"])
            | st.text(max_size=5)
        )
        lines[at] = data.draw(
            st.sampled_from(
                ["", f"{head}{equals}{new}", new, f"{new} = 1", lines[at] * 2, f"[{new}]"]
            )
        )
    attempt("\n".join(lines))


@given(
    st.recursive(
        st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates(),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["usd", "per", "at", "target", "hash", "input"]), inner
            )
        ),
        max_leaves=4,
    ),
    st.sampled_from([line.split(" = ")[0] for line in EXAMPLE.splitlines() if " = " in line]),
)
def test_a_value_of_any_type_under_any_key_is_read_or_refused(value: object, key: str) -> None:
    """No key trusts its value's type."""
    text = tomli_w.dumps({"x": value}).partition("x = ")[2]
    if not text.endswith("\n") or key.startswith("#"):
        return
    changed = [
        f"{key} = {text}" if one.startswith(f"{key} = ") else one for one in EXAMPLE.split("\n")
    ]
    attempt("\n".join(changed))


def test_reading_loads_no_writer_and_no_keyring() -> None:
    """Commands have half a second, and the daemon starts by reading."""
    code = (
        "import sys; from pathlib import Path; from tollway.daemon.config.load import parse;"
        "import tollway.daemon.secrets, tollway.daemon.config.edit;"
        f"parse({EXAMPLE!r}, path=Path('gateway.toml'));"
        "print([m for m in ('tomlkit', 'tomli_w', 'keyring', 'cryptography') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert ran.stdout == "[]\n"
