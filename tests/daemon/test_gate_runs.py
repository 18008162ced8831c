"""The keys of `tollway run`, as the daemon keeps them; and how calls are explained by dialect."""

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway import KEY, WHOLE, body, config, error, gateway, whole
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from multidict import CIMultiDict
from shell import Client, Reply, Running, control, process, running, until, write_config
from upstreams import Peer, reads, says, upstream

from tollway.daemon.config.load import parse
from tollway.daemon.errors import RunNotKnown, Unauthorized
from tollway.daemon.gate.authenticate import Keyring
from tollway.daemon.runs import EXPECTED_S, LEASE_S, Asked, Carried, Runs, run_of
from tollway.providers.errors import GatewayError

SECRET = "tw-run-" + "r" * 40
HASH = "sha256:" + sha256(SECRET.encode()).hexdigest()
ANSWER = [reads(), says(whole(WHOLE, "Connection: close"))]
RUN = {"id": "261129-00000001", "hash": HASH, "tags": {"project": "shop"}, "budget_nanousd": 10**9}


async def post(daemon: Running, path: str, said: object = None) -> Reply:
    """Ask the admin socket."""
    data = b"" if said is None else json.dumps(said).encode()
    return await daemon.ask("POST", path, data, admin=True)


async def call(daemon: Running, **headers: str) -> Reply:
    """Make a call with the run's key."""
    sent = {"authorization": f"Bearer {SECRET}"} | headers
    return await daemon.ask("POST", "/v1/chat/completions", body(), admin=False, **sent)


def digest_of(secret: str) -> bytes:
    """Return what the daemon knows a secret by."""
    return sha256(secret.encode()).digest()


def asked(name: str, budget: int | None = None) -> Asked:
    """Return what a command asks for, whose secret is its run's name."""
    return Asked(name, f"sha256:{digest_of(name).hex()}", budget_nanousd=budget)


def add(runs: Runs, one: Asked) -> None:
    """Have a run known, as the control socket does."""
    if runs.keep(one) is None:
        runs.add(one, run_of(one))


def test_a_run_without_a_word_from_its_command_ends() -> None:
    """A command that was killed leaves a key that opens nothing for long."""
    now = [0.0]
    runs = Runs(lambda: now[0])
    add(runs, asked("261129-00000001"))
    now[0] = LEASE_S - 1
    assert runs.find(digest_of("261129-00000001"))
    assert runs.keep(asked("261129-00000001"))
    now[0] += LEASE_S - 1
    assert runs.find(digest_of("261129-00000001"))
    now[0] += 1
    assert runs.find(digest_of("261129-00000001")) is None
    add(runs, asked("261129-00000002"))
    assert list(runs.budgets()) == ["run=261129-00000002"]


NAMES = st.sampled_from(["261129-00000001", "261129-00000002", "261129-00000003"])


class Lives(RuleBasedStateMachine):
    """Runs of one daemon after the other, beside what should be known of each."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.runs = Runs(lambda: self.now_s)
        self.until_s: dict[str, float] = {}
        self.refused: dict[str, int] = {}
        self.expects_until_s = EXPECTED_S
        self.ended: set[str] = set()

    @rule(name=NAMES)
    def tells(self, name: str) -> None:
        """Its command says that it runs."""
        add(self.runs, asked(name, 7))
        if self.until_s.get(name, 0.0) <= self.now_s:
            self.refused[name] = 0
        self.until_s[name] = self.now_s + LEASE_S
        self.ended.discard(name)

    @rule(name=NAMES)
    def ends(self, name: str) -> None:
        """Its command says that it has ended, with a name that is not used again."""
        if self.runs.find(digest_of(name)):
            assert self.runs.end(name)
            assert self.runs.take_refusals(name).count == self.refused[name]
            del self.until_s[name]
            self.ended.add(name)

    @rule(name=NAMES)
    def is_refused(self, name: str) -> None:
        """Refuse a call of it."""
        if self.runs.find(digest_of(name)):
            self.runs.refused(name, GatewayError("so it was"), spent=False)
            self.refused[name] += 1

    @rule(seconds=st.sampled_from([0.5, EXPECTED_S, LEASE_S / 2, LEASE_S]))
    def waits(self, seconds: float) -> None:
        """Time goes by."""
        self.now_s += seconds

    @rule()
    def makes_way(self) -> None:
        """Another daemon is told of all there are, in bytes, and expects no more."""
        said = msgspec.json.encode(self.runs.carried())
        assert b"secret" not in said
        self.runs = Runs(lambda: self.now_s)
        self.runs.take(msgspec.json.decode(said, type=tuple[Carried, ...]))
        self.expects_until_s = self.now_s

    @rule()
    def is_killed(self) -> None:
        """Another daemon knows nothing, and expects them all."""
        self.runs = Runs(lambda: self.now_s)
        self.until_s, self.refused, self.ended = {}, {}, set()
        self.expects_until_s = self.now_s + EXPECTED_S

    @invariant()
    def each_is_known_as_long_as_it_lives(self) -> None:
        """With its own tags and budget, and counted as expected only while it may still tell."""
        for name in ("261129-00000001", "261129-00000002", "261129-00000003"):
            run = self.runs.find(digest_of(name))
            lives = self.until_s.get(name, 0.0) > self.now_s
            assert (run == run_of(asked(name, 7))) if lives else run is None
            if name in self.ended:
                assert not self.runs.expects(digest_of(name))
            elif not lives and name not in self.until_s:
                expected = self.now_s < self.expects_until_s
                assert self.runs.expects(digest_of(name)) == expected
            if lives:
                assert f"run={name}" in self.runs.budgets()


TestLives = Lives.TestCase


SINGLE = parse("[server]\nsingle_user = true\n", path=Path("gateway.toml"))
OURS = [SECRET, "tw-run-" + "0" * 64, "tw-" + "0" * 64, "tw-run-", KEY, "tw-your-key", "sk-own"]


@given(
    st.lists(st.tuples(st.sampled_from(["x-api-key", "x-tollway-key", "x-goog-api-key",
                                        "api-key", "authorization"]), st.sampled_from(OURS))),
    st.booleans(),
)  # fmt: skip
def test_no_credential_that_was_made_here_is_ever_nobody_s(
    sent: list[tuple[str, str]], known: bool
) -> None:
    """A single user's gateway takes any word, but what was to be counted never goes uncounted."""
    runs = Runs()
    if known:
        add(runs, Asked("261129-00000001", HASH))
    ring = Keyring(SINGLE, runs)
    headers = CIMultiDict(
        (name, f"Bearer {value}" if name == "authorization" else value) for name, value in sent
    )
    made_here = {value for _, value in sent} - {KEY, "tw-your-key", "sk-own"}
    try:
        found = ring.find(headers, None, 0.0, owner=False)
    except (Unauthorized, RunNotKnown):
        assert made_here - {SECRET} or (made_here and not known)
        return
    assert made_here == ({SECRET} if found.run else set())
    assert found.who.user == "local"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a b"}, {"id": ""}, {"id": "42"}, {"hash": "sha256:1"}, {"hash": SECRET},
        {"budget_nanousd": 0}, {"budget_nanousd": -1},
        {"tags": {"run": "261129-00000009"}}, {"tags": {"a b": "c"}},
        {"tags": {"a": "b c"}}, {"more": 1},
    ],
)  # fmt: skip
async def test_a_run_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """And nothing is kept of it."""
    async with gateway([ANSWER]) as gate:
        assert (await post(gate.daemon, "/control/runs", RUN | wrong)).status == 400
        assert (await call(gate.daemon)).status == 503


async def test_a_run_s_tags_cannot_be_set_by_its_calls() -> None:
    """Its budget hangs on them."""
    async with gateway([ANSWER]) as gate:
        assert (await post(gate.daemon, "/control/runs", RUN)).status == 200
        reply = await call(gate.daemon, x_tollway_tags="run=other,project=x,ticket=7")
        row = await gate.row(reply)
        wanted = {"project": "shop", "run": "261129-00000001", "ticket": "7"}
        assert json.loads(row.call.tags) == wanted
        ended = (await post(gate.daemon, "/control/runs/261129-00000001/end")).json()
        assert ended["cost_nanousd"] == 13_000
        assert ended["left_nanousd"] == 10**9 - 13_000
        assert (await call(gate.daemon)).status == 401
        assert (await post(gate.daemon, "/control/runs/261129-00000001/end")).status == 404


@pytest.mark.parametrize("mode", ["keys", "single user"])
async def test_a_run_s_tag_is_refused_to_everybody_else(tmp_path: Path, mode: str) -> None:
    """Living, ended or of another daemon: its budget and its cost are those of its own calls.

    Other numbers of other people's runs are tags as any.
    """
    async with upstream(ANSWER) as up:
        text, server, own = config([up]), "", {"authorization": f"Bearer {KEY}"}
        if mode == "single user":
            text, server = text.partition("[groups.all]")[0], "single_user = true"
            own = {"authorization": "Bearer any"}
        async with running(text, server=server, folder=tmp_path) as daemon:
            assert (await post(daemon, "/control/runs", RUN)).status == 200
            for name in (RUN["id"], "261129-0000000f"):
                said = await call(daemon, x_tollway_tags=f"env=ci,run={name}", **own)
                assert (said.status, error(said)["param"]) == (400, "x-tollway-tags")
                assert (
                    f"says `run={name}`, but this call is not of that run" in error(said)["message"]
                )
            assert (await call(daemon, x_tollway_tags="run=42", **own)).status == 200
            mine = await call(daemon, x_tollway_tags=f"run={RUN['id']}")
            assert mine.status == 200
            ended = (await post(daemon, f"/control/runs/{RUN['id']}/end")).json()
            assert ended["left_nanousd"] == 10**9 - 13_000
            late = await call(daemon, x_tollway_tags=f"run={RUN['id']}", **own)
            assert late.status == 400


@pytest.mark.parametrize("mode", ["keys", "single user"])
async def test_a_daemon_that_was_told_nothing_asks_a_run_to_wait_until_it_knows_it(
    tmp_path: Path, mode: str
) -> None:
    """With a 503, which clients try again; then its budget goes on. Never is it served unknown."""
    async with upstream(ANSWER) as up:
        text, server = config([up]), ""
        if mode == "single user":
            text, server = text.partition("[groups.all]")[0], "single_user = true"
        async with running(text, server=server, folder=tmp_path) as daemon:
            assert (await post(daemon, "/control/runs", RUN)).json()["new"] is True
            assert (await call(daemon)).status == 200
        async with running(text, server=server, folder=tmp_path) as daemon:
            early = await call(daemon)
            assert (early.status, early.headers["retry-after"]) == (503, "1")
            assert error(early)["code"] == "run_not_known"
            assert (await post(daemon, "/control/runs", RUN)).json()["new"] is True
            assert (await call(daemon)).status == 200
            ended = (await post(daemon, "/control/runs/261129-00000001/end")).json()
            assert (ended["cost_nanousd"], ended["targets"][0]["calls"]) == (26_000, 2)
            late = await call(daemon)
            assert late.status == 401
            assert "has ended, or is unknown here" in error(late)["message"]


async def test_once_runs_have_had_their_time_an_unknown_one_is_refused_for_good() -> None:
    """As it is where the daemon before this one has told of all: nobody should ask for ever."""
    async with gateway([ANSWER]) as gate:
        assert (await call(gate.daemon)).status == 503
        gate.daemon.server.daemon.runs.take(())
        assert (await call(gate.daemon)).status == 401


async def test_a_single_user_s_gateway_takes_words_but_no_keys_of_tollway_s() -> None:
    """Some libraries want a key; one that somebody was given had bounds, and is not forgotten."""
    async with upstream(ANSWER) as up:
        text = config([up]).partition("[groups.all]")[0]
        async with running(text, server="single_user = true") as daemon:
            for word in ("sk-own", "tw-your-key", "tw-"):
                assert (await call(daemon, authorization=f"Bearer {word}")).status == 200
            refused = await call(daemon, authorization=f"Bearer tw-{'0' * 64}")
            assert refused.status == 401
            assert "of a single user, without keys" in error(refused)["message"]


async def test_no_call_of_a_run_comes_before_its_budget() -> None:
    """Its secret opens nothing until its tag is declared: each served call is one that counts."""
    async with gateway([ANSWER]) as gate:
        for number in range(10):
            secret = f"tw-run-{number}"
            digest = digest_of(secret).hex()
            asks = RUN | {"id": f"261129-0000000{number}", "hash": f"sha256:{digest}"}
            sent = {"authorization": f"Bearer {secret}"}
            _, *replies = await asyncio.gather(
                post(gate.daemon, "/control/runs", asks),
                *(call(gate.daemon, **sent) for _ in range(4)),
            )
            ended = (await post(gate.daemon, f"/control/runs/261129-0000000{number}/end")).json()
            assert ended["cost_nanousd"] == 13_000 * sum(one.status == 200 for one in replies)


async def test_a_body_that_ends_after_its_run_is_refused() -> None:
    """Else it would be served with the tags of a run whose budget nobody looks at any more."""
    async with gateway([ANSWER]) as gate:
        await post(gate.daemon, "/control/runs", RUN)
        client = await gate.daemon.connect()
        said = body()
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + SECRET.encode()
            + b"\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(said)
        )
        # It is let in by its head.
        assert b"100" in await client.reader.readuntil(b"\r\n\r\n")
        await post(gate.daemon, "/control/runs/261129-00000001/end")
        await client.send(said)
        assert (await client.answer()).status == 401


async def test_what_a_killed_daemon_held_for_a_run_is_spent_of_its_budget(tmp_path: Path) -> None:
    """The call that it had sent may be billed: the next daemon does not give it back."""
    never = asyncio.Event()

    async def hangs(peer: Peer) -> None:
        await peer.read_request()
        await never.wait()

    async with upstream([hangs], ANSWER) as up:
        path = write_config(tmp_path, config([up]), server="")
        sent = len(body()) + 10_000
        with process(path) as first:
            port = first.ready()["listen"].rpartition(":")[2]
            assert control(tmp_path / "tollway.sock", "POST", "/control/runs", RUN)[0] == 200
            asking = asyncio.create_task(_ask(int(port), sent))
            await until(lambda: len(up.requests) == 1)
            first.kill()
            await asking
        with process(path) as second:
            port = second.ready()["listen"].rpartition(":")[2]
            status, _ = await _ask(int(port), 10)
            assert status == 503
            control(tmp_path / "tollway.sock", "POST", "/control/runs", RUN)
            status, said = await _ask(int(port), 10)
            assert status == 200, said
            _, ended = control(
                tmp_path / "tollway.sock", "POST", "/control/runs/261129-00000001/end"
            )
            held = ended["cost_nanousd"] - 13_000
            assert held > sent * 2000
        never.set()


async def _ask(port: int, most: int) -> tuple[int, bytes]:
    """Make a call with the run's key; return its status, 0 where the daemon died."""
    said = body(max_tokens=most)
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: Bearer {SECRET}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(said)}\r\n\r\n"
    )
    await client.send(head.encode() + said)
    answer = await client.all()
    client.close()
    return (int(answer.split(b" ")[1]) if answer else 0), answer


async def test_a_reload_keeps_runs_and_their_budgets() -> None:
    """They are in no file, and a new gate has them all the same."""
    async with gateway([ANSWER]) as gate:
        await post(gate.daemon, "/control/runs", RUN)
        await gate.daemon.server.reloader.reload()
        assert (await call(gate.daemon)).status == 200
        states = gate.daemon.server.daemon.gate.purse.states()
        assert [one.settled_nanousd for one in states if one.scope == "tag"] == [13_000]


async def test_a_run_ends_with_the_key_that_it_runs_as() -> None:
    """Who revokes a key means all that goes by it."""
    async with gateway([ANSWER]) as gate:
        await post(gate.daemon, "/control/runs", RUN | {"key": "laptop"})
        assert (await call(gate.daemon)).status == 200
        path = gate.daemon.config
        path.write_text(
            path.read_text().replace("[keys.laptop]", "[keys.laptop]\nrevoked = 2020-01-01")
        )
        await gate.daemon.server.reloader.reload()
        assert (await call(gate.daemon)).status == 401


# --- routes explain, by dialect -----------------------------------------------------------------

MORE = """
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:9/v1"
auth = "caller"
[providers.box]
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
[prices]
"box/*" = "free"
[routes.both]
to = ["claude/m", "box/m"]
[routes.strict]
to = ["box/m"]
on_loss = "refuse"
"""
ASKED = {
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "Hi"}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "top_k": 5,
}


async def explain(daemon: Running, **question: object) -> dict[str, Any]:
    """Return what the daemon says of a call."""
    reply = await post(daemon, "/control/explain", question)
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json()
    return found


async def test_explain_says_what_passes_and_what_is_translated() -> None:
    """By what the client speaks; a credential of its own goes with its own API alone."""
    async with gateway([ANSWER], more=MORE) as gate:
        said = await explain(gate.daemon, model="both", dialect="anthropic_messages")
        first, second = said["targets"]
        assert (first["passes"], first["dialect"], first["callers"]) == (
            *(True, "anthropic_messages", True),
        )
        assert (second["passes"], second["dialect"]) == (False, "openai_chat")
        assert said["refused"] == ""
        said = await explain(gate.daemon, model="both", dialect="openai_chat")
        assert "caller's own credential" in said["targets"][0]["why"]
        assert said["targets"][1]["passes"] is True
        assert said["refused"] == ""


async def test_explain_says_what_a_request_would_lose() -> None:
    """By the request itself: its fields, its tokens, and the route that refuses a loss."""
    async with gateway([ANSWER], more=MORE) as gate:
        asked = {"dialect": "anthropic_messages", "body": ASKED}
        (one,) = (await explain(gate.daemon, model="box/m", **asked))["targets"]
        assert "top_k" in one["dropped"]
        strict = await explain(gate.daemon, model="strict", **asked)
        assert "cannot be asked for" in strict["targets"][0]["why"]
        assert "cannot be asked for" in strict["refused"]
        small = await explain(
            gate.daemon, model="up/m", dialect="openai_chat", body=json.loads(body())
        )
        (held,) = small["targets"]
        (plain,) = (await explain(gate.daemon, model="up/m", tokens=10**6))["targets"]
        assert 0 < held["hold_nanousd"] < plain["hold_nanousd"]


async def test_explain_refuses_what_is_no_request() -> None:
    """In the words of the dialect's reader."""
    async with gateway([ANSWER], more=MORE) as gate:
        reply = await post(gate.daemon, "/control/explain", {"model": "box/m", "body": [1]})
        assert reply.status == 400
