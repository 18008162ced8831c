"""`auth = "caller"`: the caller's own credential goes to the provider, and its account pays."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from gateway import CHAT, KEY, WHOLE, Gateway, body, error, whole
from shell import Reply, running
from upstreams import Step, Upstream, reads, says, upstream

from tollway.daemon.config.load import parse
from tollway.daemon.errors import ConfigError
from tollway.daemon.gate.authenticate import Keyring
from tollway.daemon.ledger.verify import verify
from tollway.daemon.reload import removed

MESSAGES = "/v1/messages"
OAUTH = "Bearer sk-ant-oat01-mine"
ANSWER = json.dumps(
    {"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
     "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
     "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 3}}
).encode()  # fmt: skip
ASKED = json.dumps(
    {"model": "up/m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
).encode()
LIMITS = ("anthropic-ratelimit-unified-status: allowed", "x-ratelimit-limit-requests: 5")
SCRIPT = [reads(), says(whole(ANSWER, *LIMITS, "request-id: req_1", "Connection: close"))]


def config(up: Upstream, paid: Upstream, kind: str, more: str) -> str:
    """Return a configuration whose provider `up` its callers pay, and `paid` the gateway."""
    return f"""
[providers.up]
kind = "{kind}"
base_url = "http://127.0.0.1:{up.port}/v1"
auth = "caller"
[providers.paid]
kind = "openai"
base_url = "http://127.0.0.1:{paid.port}/v1"
api_key = "env:PAID_KEY"
[prices]
"up/*" = {{ input = 1, output = 2 }}
"paid/*" = {{ input = 1, output = 2 }}
[routes.both]
to = ["up/m", "paid/m"]
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["1/day"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
{more}
"""


@asynccontextmanager
async def callers(
    monkeypatch: pytest.MonkeyPatch,
    *scripts: Sequence[Step],
    kind: str = "anthropic",
    more: str = "",
    server: str = "",
    budget: str = "1/day",
) -> AsyncIterator[Gateway]:
    """Yield a gateway before a provider that its callers pay, and one that it pays itself."""
    monkeypatch.setenv("PAID_KEY", "sk-paid")
    ours = [reads(), says(whole(WHOLE, "Connection: close"))]
    async with upstream(*scripts) as up, upstream(ours) as paid:
        text = config(up, paid, kind, more).replace("1/day", budget)
        if server:
            text = text[: text.index("[keys.laptop]")]
        async with running(text, server=server) as daemon:
            yield Gateway(daemon, [up, paid])


async def ask(gate: Gateway, said: bytes = ASKED, path: str = MESSAGES, /, **headers: str) -> Reply:
    """Send a call with no other headers than those given; `_` in a name stands for `-`."""
    return await gate.daemon.ask("POST", path, said, admin=False, **headers)


def sent(up: Upstream) -> list[tuple[str, str]]:
    """Return the headers that an upstream was sent first, names in lower case."""
    head = up.requests[0].partition(b"\r\n\r\n")[0].decode()
    pairs = (line.partition(": ") for line in head.split("\r\n")[1:])
    return [(name.lower(), value) for name, _, value in pairs]


@pytest.mark.parametrize(
    ("name", "value"), [("authorization", OAUTH), ("x_api_key", "sk-ant-api03-mine")]
)
async def test_the_caller_s_credential_arrives_untouched(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """And the Tollway key, which says who it is here, goes nowhere."""
    async with callers(monkeypatch, SCRIPT) as gate:
        headers = {name: value, "x_tollway_key": KEY, "anthropic_beta": "oauth-2025-04-20"}
        reply = await ask(gate, **headers)
        assert (reply.status, reply.body) == (200, ANSWER)
        got = sent(gate.ups[0])
        assert [pair for pair in got if pair[1] == value] == [(name.replace("_", "-"), value)]
        assert ("anthropic-beta", "oauth-2025-04-20") in got
        assert KEY not in str(got)
        row = await gate.row(reply)
        assert (row.call.key, row.call.user) == ("laptop", "ann")


async def test_the_provider_s_limits_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account is the caller's: Claude Code reads what is left of a subscription there."""
    more = "limits = { rpm = 60 }"
    async with callers(monkeypatch, SCRIPT, more=more) as gate:
        reply = await ask(gate, authorization=OAUTH, x_tollway_key=KEY)
        assert reply.headers["anthropic-ratelimit-unified-status"] == "allowed"
        assert reply.headers["x-ratelimit-limit-requests"] == "5"
        assert not [name for name in reply.headers if "upstream-" in name and "limit" in name]
        assert "anthropic-ratelimit-requests-limit" not in reply.headers


async def test_it_costs_nothing_here_and_its_tokens_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No budget is asked, or filled, by what somebody else pays; the ledger agrees with itself."""
    async with callers(monkeypatch, SCRIPT, budget="0.000001/day") as gate:
        for _ in range(3):
            reply = await ask(gate, authorization=OAUTH, x_tollway_key=KEY)
            assert reply.status == 200
            row = await gate.row(reply)
            assert (row.call.cost_nanousd, row.call.hold_nanousd) == (0, 0)
            assert (row.call.input_total, row.call.output_total) == (7, 3)
            (attempt,) = row.attempts
            assert attempt.price is not None and attempt.price.source == "caller"
        (state,) = gate.daemon.server.daemon.gate.purse.states()
        assert state.settled_nanousd == 0
        assert verify(gate.daemon.server.daemon.ledger.path) == []


async def test_without_a_tollway_key_nobody_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential of a provider's says nothing here."""
    async with callers(monkeypatch, SCRIPT) as gate:
        reply = await ask(gate, authorization=OAUTH)
        assert reply.status == 401
        assert gate.ups[0].requests == []


async def test_a_single_user_needs_no_tollway_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the base URL is all that an agent is told."""
    async with callers(monkeypatch, SCRIPT, server="single_user = true") as gate:
        assert (await ask(gate, authorization=OAUTH)).status == 200
        assert ("authorization", OAUTH) in sent(gate.ups[0])


@pytest.mark.parametrize("more", [{}, {"authorization": f"Bearer {KEY}"}, {"x_api_key": KEY}])
async def test_without_a_credential_of_its_own_a_call_is_refused(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str]
) -> None:
    """A Tollway key is none: it is told how both are sent, and nothing is asked of the provider."""
    async with callers(monkeypatch, SCRIPT) as gate:
        reply = await ask(gate, x_tollway_key=KEY, **more)
        assert reply.status == 401
        assert "takes its caller's own credential, and none was sent" in error(reply)["message"]
        assert "x-tollway-key" in str(reply.json())
        assert gate.ups[0].requests == []


async def test_a_credential_never_goes_to_another_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenAI client's key must not be shown to Anthropic."""
    async with callers(monkeypatch, SCRIPT) as gate:
        reply = await ask(gate, body(), CHAT, authorization="Bearer sk-openai", x_tollway_key=KEY)
        assert reply.status == 401
        assert "a client of another API has none for it" in error(reply)["message"]
        assert gate.ups[0].requests == []


async def test_a_route_goes_on_to_a_target_that_the_gateway_pays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has no account there is served by the next; that one sees no caller's credential."""
    async with callers(monkeypatch, SCRIPT) as gate:
        said = ASKED.replace(b"up/m", b"both")
        reply = await ask(gate, said, x_tollway_key=KEY, x_api_key="")
        assert (reply.status, reply.headers["x-tollway-target"]) == (200, "paid/m")
        mine = await ask(gate, said.replace(b"both", b"paid/m"), authorization=OAUTH,
                         x_tollway_key=KEY, chatgpt_account_id="acc")  # fmt: skip
        assert mine.status == 200
        for request in gate.ups[1].requests:
            assert b"sk-ant-oat01-mine" not in request and b"acc" not in request
            assert b"Bearer sk-paid" in request


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_the_provider_s_refusal_of_a_credential_is_the_caller_s(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """An agent refreshes its login when it hears 401; told 502 it would give up."""
    said = b'{"type":"error","error":{"type":"authentication_error","message":"expired"}}'
    script = [reads(), says(whole(said, "Connection: close", status=status))]
    async with callers(monkeypatch, script) as gate:
        reply = await ask(gate, authorization=OAUTH, x_tollway_key=KEY)
        assert reply.status == int(status[:3])
        assert "expired" in error(reply)["message"]


async def test_codex_s_login_takes_its_account_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ChatGPT's login a header beside the token says whose subscription it is."""
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    answer = {"id": "r", "object": "response", "status": "completed", "output": [], "usage": usage}
    script = [reads(), says(whole(json.dumps(answer).encode(), "Connection: close"))]
    async with callers(monkeypatch, script, kind="openai") as gate:
        said = json.dumps({"model": "up/m", "input": "Hi"}).encode()
        own = {"authorization": "Bearer eyJ.mine", "chatgpt_account_id": "acc-1"}
        reply = await ask(gate, said, "/v1/responses", x_tollway_key=KEY, **own)
        assert reply.status == 200
        got = sent(gate.ups[0])
        assert ("authorization", "Bearer eyJ.mine") in got and (
            "chatgpt-account-id",
            "acc-1",
        ) in got
        assert gate.ups[0].requests[0].startswith(b"POST /v1/responses ")


def test_a_key_beside_it_is_refused_with_its_line() -> None:
    """Which of the two would be sent must not be a guess."""
    text = '[providers.x]\nkind = "anthropic"\napi_key = "env:X"\nauth = "caller"\n'
    with pytest.raises(ConfigError) as refused:
        parse(text, path=Path("gateway.toml"))
    assert refused.value.message == (
        'gateway.toml:4: providers.x.auth: "caller" passes on the caller\'s own credential;'
        " remove api_key"
    )
    assert parse(text.replace('api_key = "env:X"\n', ""), path=Path("gateway.toml")).warnings == ()


# --- prefixes that a key shares with no other ---------------------------------------------------


def test_a_private_key_has_an_owner_that_names_it_not() -> None:
    """It is the same after a rotation, another key's is another, and it says nothing."""
    text = "".join(
        f'[keys.{name}]\nuser = "a"\nhash = "sha256:{at * 64}"\nprivate_prefix = {value}\n'
        for name, at, value in (("k", "0", "true"), ("l", "1", "true"), ("m", "2", "false"))
    )
    found = Keyring(parse("[users.a]\n" + text, path=Path("gateway.toml"))).callers
    turned = text.replace("0" * 64, "3" * 64)
    later = Keyring(parse("[users.a]\n" + turned, path=Path("gateway.toml"))).callers
    assert found["k"].prefix_owner == later["k"].prefix_owner
    assert len({found[name].prefix_owner for name in "klm"}) == 3
    assert found["m"].prefix_owner == ""
    assert re.fullmatch("[0-9a-f]{32}", found["k"].prefix_owner)


def test_a_key_that_is_private_no_more_waits_for_a_person() -> None:
    """A file that was cut off must not open what was closed."""
    text = f'[users.a]\n[keys.k]\nuser = "a"\nhash = "sha256:{"0" * 64}"\n'
    old = parse(text + "private_prefix = true\n", path=Path("gateway.toml"))
    new = parse(text, path=Path("gateway.toml"))
    assert removed(old, new) == ["keys.k.private_prefix"]
    assert removed(new, old) == []


def test_a_private_key_beside_a_command_is_told_what_that_does_not_keep() -> None:
    """Another's server shares prompts as it likes: nothing of ours can stop it."""
    text = (
        f'[users.a]\n[keys.k]\nuser = "a"\nhash = "sha256:{"0" * 64}"\nprivate_prefix = true\n'
        '[models.big]\ncommand = "serve --port ${PORT}"\n'
    )
    (told,) = parse(text, path=Path("gateway.toml")).warnings
    assert told.startswith("gateway.toml:5: keys.k.private_prefix")
    assert "local/big" in told


# --- tags that a key has ------------------------------------------------------------------------


async def test_a_key_s_tags_are_on_all_its_calls_and_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that can set no header are tagged all the same, and no header undoes it."""
    more = 'tags = { project = "shop", env = "ci" }\nrequire_tags = ["env"]\n'
    async with callers(monkeypatch, SCRIPT, more=more) as gate:
        own = {"authorization": f"Bearer {KEY}", "x_tollway_tags": "env=prod,ticket=7"}
        reply = await ask(gate, body(model="paid/m"), CHAT, **own)
        assert reply.status == 200, reply.body
        row = await gate.row(reply)
        assert json.loads(row.call.tags) == {"project": "shop", "env": "ci", "ticket": "7"}


def test_tags_that_a_key_lost_wait_for_a_person() -> None:
    """Budgets may hang on them, so a half-written file must not take them away."""
    text = f'[users.a]\n[keys.k]\nuser = "a"\nhash = "sha256:{"0" * 64}"\n'
    old = parse(text + 'tags = { env = "ci" }\n', path=Path("gateway.toml"))
    new = parse(text, path=Path("gateway.toml"))
    assert removed(old, new) == ["keys.k.tags"]
    assert removed(new, old) == []


def test_tags_that_cannot_be_are_refused_with_their_line() -> None:
    """They are written into headers and rows like those of calls."""
    text = (
        f'[users.a]\n[keys.k]\nuser = "a"\nhash = "sha256:{"0" * 64}"\ntags = {{ "a b" = "c" }}\n'
    )
    with pytest.raises(ConfigError, match=r"gateway.toml:5: keys\.k\.tags\."):
        parse(text, path=Path("gateway.toml"))
