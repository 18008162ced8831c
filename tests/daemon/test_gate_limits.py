"""Rate limits at every level, on real sockets; time passes when the test says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from gateway import (
    CHAT,
    DONE,
    HEAD,
    USED,
    WHOLE,
    Gateway,
    body,
    chunk,
    error,
    gateway,
    whole,
)
from shell import Reply, until
from upstreams import Step, floods, reads, resets, says, stalls, waits

from tollway.daemon.ledger.calls import recent

S = 1_000_000_000
SERVES = [reads(), says(whole())]
USAGE = 10  # tokens that WHOLE reports
# The tables whose limits every call of the tests' key must fit into.
OF_THE_CALLER = ["keys.laptop", "users.ann", "projects.web", "teams.ml", "server"]
PROJECT = '[projects.web]\nteam = "ml"\n[keys.laptop.x]\n'


class Clock:
    """A monotonic clock that stands still until it is moved on."""

    def __init__(self) -> None:
        self.ns = 10**15

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        return self.ns

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += round(seconds * S)


@contextlib.asynccontextmanager
async def limited(
    *scripts: Sequence[Sequence[Step]], limits: str, **more: Any
) -> AsyncIterator[tuple[Gateway, Clock]]:
    """Yield a gateway with some lines of limits, and its clock."""
    async with gateway(*(scripts or ([SERVES],)), more=limits, **more) as gate:
        clock = gate.daemon.server.daemon.rates.clock_ns = Clock()
        yield gate, clock


def on(table: str, **limits: int) -> str:
    """Return the lines that limit a table."""
    return "\n".join([f"[{table}.limits]", *(f"{name} = {most}" for name, most in limits.items())])


async def left(gate: Gateway) -> dict[str, int]:
    """Return what is left of each limit, by "scope name limit"."""
    status = (await gate.daemon.ask("GET", "/control/status", admin=True)).json()
    return {
        " ".join((one["scope"], one["name"], one["limit"])): one["left"] for one in status["limits"]
    }


def refused(reply: Reply) -> tuple[int, str, str]:
    """Return status, code and message of a refusal."""
    said = error(reply)
    return reply.status, said["code"], said["message"]


@pytest.mark.parametrize(
    ("table", "whose"),
    [
        ("keys.laptop", "Key `laptop`"),
        ("users.ann", "User `ann`"),
        ("teams.ml", "Team `ml`"),
        ("server", "The whole box"),
    ],
)
async def test_calls_over_a_limit_are_refused_until_it_has_room(table: str, whose: str) -> None:
    """Every level above a call holds it back, says whose limit it is and when to come again."""
    async with limited(limits=on(table, rpm=2)) as (gate, clock):
        assert [(await gate.ask()).status for _ in range(2)] == [200, 200]
        reply = await gate.ask()
        assert refused(reply) == (
            429,
            "rate_limit_exceeded",
            f"{whose} is at its limit of 2 calls a minute (`rpm`): 0 left."
            " There is room again in 30 s",
        )
        assert error(reply)["type"] == "rate_limit_error"
        assert reply.headers["retry-after"] == "30"
        assert "x-should-retry" not in reply.headers
        assert len(gate.ups[0].requests) == 2
        clock.passes(29.9)
        assert (await gate.ask()).status == 429
        clock.passes(0.1)
        assert (await gate.ask()).status == 200
        assert gate.held() == 0


async def test_a_project_limits_the_keys_that_are_billed_to_it() -> None:
    """A key of a project and a user is held back by both."""
    async with limited(limits=on("projects.web", rpm=1) + '\n[projects.web]\nteam = "ml"') as (
        gate,
        _,
    ):
        text = gate.daemon.config.read_text()
        gate.daemon.config.write_text(text.replace('user = "ann"', 'user = "ann"\nproject = "web"'))
        assert (await gate.daemon.ask("POST", "/control/reload", admin=True)).status == 200
        assert [(await gate.ask()).status for _ in range(2)] == [200, 429]


async def test_a_refused_call_is_a_row_that_cost_nothing() -> None:
    """The ledger says who was turned away, and why."""
    async with limited(limits=on("keys.laptop", rpm=1)) as (gate, _):
        await gate.ask()
        reply = await gate.ask()
        # Nobody waits for the row of a refusal.
        await until(lambda: len(recent(gate.daemon.server.daemon.ledger.path, limit=5)) == 2)
        row = await gate.row(reply)
        assert (row.call.state, row.call.error) == ("refused", "rate_limit_exceeded")
        assert row.call.cost_nanousd == 0


async def test_a_refused_call_takes_nothing_from_any_limit_or_budget() -> None:
    """All of them or none: a full team must not use up the key's minute."""
    limits = [on("keys.laptop", rpm=10, tpm=5000, rpd=10, concurrent=3), on("teams.ml", rpm=1)]
    async with limited(limits="\n".join(limits)) as (gate, _):
        await gate.ask()
        before = await left(gate)
        assert (await gate.ask()).status == 429
        assert await left(gate) == before
        assert before["key laptop rpm"] == before["key laptop rpd"] == 9
        assert before["key laptop concurrent"] == 3
        assert before["key laptop tpm"] == 5000 - USAGE
        assert gate.held() == 0


async def test_a_spent_budget_is_told_before_a_full_limit() -> None:
    """Waiting mends a limit, and would only lead to the 402."""
    async with limited(limits=on("keys.laptop", rpm=1), budget="0.00002/day") as (gate, _):
        reply = await gate.ask(body(max_tokens=1, messages=[]))
        assert [reply.status, (await gate.ask()).status] == [402, 402]
        assert (await left(gate))["key laptop rpm"] == 1


async def test_tokens_are_reserved_at_the_worst_case_and_given_back() -> None:
    """Two calls at once may not both have the tokens that are left; afterwards only use counts."""
    go = asyncio.Event()
    held = [reads(), waits(go), says(whole())]
    async with limited([held], limits=on("keys.laptop", tpm=5000)) as (gate, _):
        first = asyncio.create_task(gate.ask(body(max_tokens=3000)))
        await until(lambda: len(gate.ups[0].requests) == 1)
        reserved = 5000 - (await left(gate))["key laptop tpm"]
        assert 3000 < reserved < 5000
        status, code, said = refused(await gate.ask(body(max_tokens=3000)))
        assert (status, code) == (429, "rate_limit_exceeded")
        assert said.startswith("Key `laptop` is at its limit of 5,000 tokens a minute (`tpm`): ")
        assert f"{5000 - reserved} left, and this call may need {reserved:,}" in said
        go.set()
        assert (await first).status == 200
        assert (await left(gate))["key laptop tpm"] == 5000 - USAGE
        assert (await gate.ask(body(max_tokens=3000))).status == 200


async def test_a_call_larger_than_the_limit_is_never_told_to_wait() -> None:
    """No minute has room for it: 400, which no client library tries again."""
    async with limited(limits=on("keys.laptop", tpm=5000)) as (gate, _):
        status, code, said = refused(await gate.ask(body(max_tokens=5000)))
        assert (status, code) == (400, "over_rate_limit")
        assert "more than key `laptop` may ever use in a minute: 5,000 (`tpm`)" in said
        assert not gate.ups[0].requests


async def test_a_call_without_a_limit_of_its_own_gets_one_that_fits() -> None:
    """The default of 16,384 tokens would keep every such call out of a small limit for ever."""
    async with limited(limits=on("keys.laptop", tpm=5000)) as (gate, _):
        reply = await gate.ask(body(max_tokens=None))
        assert reply.status == 200
        written = int(reply.headers["x-tollway-output-limit"])
        assert 3000 < written < 5000
        assert b'"max_completion_tokens":%d' % written in gate.ups[0].requests[0]
        assert (await left(gate))["key laptop tpm"] == 5000 - USAGE


async def test_an_upstream_that_passes_its_limit_is_made_up_for() -> None:
    """What was used over the reservation is missing from the minute afterwards."""
    used = WHOLE.replace(b'"completion_tokens":3', b'"completion_tokens":3000')
    async with limited([[reads(), says(whole(used))]], limits=on("keys.laptop", tpm=5000)) as (
        gate,
        _,
    ):
        assert (await gate.ask()).status == 200
        assert (await left(gate))["key laptop tpm"] == 5000 - 3007


async def test_two_hundred_callers_cannot_pass_a_token_limit() -> None:
    """The check and the taking are one step, so a race has nothing to win."""
    go = asyncio.Event()
    async with limited([[reads(), waits(go), says(whole())]], limits=on("users.ann", tpm=5000)) as (
        gate,
        _,
    ):
        calls = [asyncio.create_task(gate.ask(body(max_tokens=100))) for _ in range(200)]
        await until(lambda: sum(call.done() for call in calls) >= 190)
        assert len(gate.ups[0].requests) == 4  # 1,120 tokens bound the prompt
        go.set()
        statuses = [reply.status for reply in await asyncio.gather(*calls)]
        assert set(statuses) == {200, 429}
        assert (await left(gate))["user ann tpm"] == 5000 - USAGE * statuses.count(200)


# --- calls at once ------------------------------------------------------------------------------


async def test_calls_at_once_are_refused_not_queued() -> None:
    """`concurrent` on who calls is a 429 at once; the next one in is served."""
    go = asyncio.Event()
    async with limited(
        [[reads(), waits(go), says(whole())]], limits=on("keys.laptop", concurrent=1)
    ) as (gate, _):
        first = asyncio.create_task(gate.ask())
        await until(lambda: len(gate.ups[0].requests) == 1)
        reply = await gate.ask()
        assert refused(reply) == (
            429,
            "rate_limit_exceeded",
            "Key `laptop` is at its limit of 1 call at once (`concurrent`): 0 left."
            " There is room again once one of its calls has ended",
        )
        assert reply.headers["retry-after"] == "1"
        go.set()
        assert (await first).status == 200
        assert (await gate.ask()).status == 200


ENDINGS: dict[str, tuple[list[Step], bytes]] = {
    "answered": (SERVES, body()),
    "streamed": ([reads(), says(HEAD + chunk("Hi", "stop") + USED + DONE)], body(True)),
    "refused": ([reads(), says(whole(b"{}", status="400 Bad Request"))], body()),
    "reset": ([reads(), resets()], body()),
    "broken stream": ([reads(), says(HEAD + chunk("Hi")), resets()], body(True)),
    "garbage": ([reads(), says(whole(b"<html>"))], body()),
    "unbounded": (SERVES, body(n=0)),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_however_a_call_ends_its_place_is_free(ending: str) -> None:
    """A place that leaks is lost until a restart, and after a few of them nobody gets in."""
    script, said = ENDINGS[ending]
    limits = "\n".join([on("keys.laptop", concurrent=1), on("providers.up", concurrent=1)])
    async with limited([script], limits=limits) as (gate, _):
        for _ in range(2):
            reply = await gate.ask(said)
            assert reply.status != 429, reply.body
        await until(lambda: not gate.daemon.server.daemon.active)
        assert set((await left(gate)).values()) == {1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_place(stream: bool) -> None:
    """Nobody reads on, so nothing runs on: before the first byte, and amid a stream."""
    script = [reads(), says(HEAD), floods(chunk("Hi"))] if stream else [reads(), stalls()]
    limits = "\n".join([on("keys.laptop", concurrent=1), on("providers.up", concurrent=1)])
    async with limited([script], limits=limits) as (gate, _):
        client = await gate.daemon.connect()
        said = body(stream)
        await client.send(_head(gate, said) + said)
        await until(lambda: len(gate.ups[0].requests) == 1)
        assert set((await left(gate)).values()) == {0}
        client.close()
        await until(lambda: not gate.daemon.server.daemon.active)
        assert set((await left(gate)).values()) == {1}


async def test_a_crash_of_the_gateway_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug ends its own call alone, and takes no place with it."""
    async with limited(limits=on("keys.laptop", concurrent=1, tpm=5000)) as (gate, _):
        daemon = gate.daemon.server.daemon
        # The one thing here that is not real: no real input makes the gateway crash.
        monkeypatch.setattr(daemon, "transport", None)
        assert (await gate.ask()).status == 500
        monkeypatch.undo()
        assert (await left(gate))["key laptop concurrent"] == 1
        assert (await gate.ask()).status == 200


async def test_a_drain_frees_every_place() -> None:
    """What is cut off at the end of a drain is settled like everything else."""
    async with limited([[reads(), stalls()]], limits=on("keys.laptop", concurrent=2)) as (gate, _):
        calls = [asyncio.create_task(gate.ask()) for _ in range(2)]
        await until(lambda: len(gate.ups[0].requests) == 2)
        for exchange in tuple(gate.daemon.server.daemon.exchanges):
            exchange.cut("drained")
        await asyncio.gather(*calls)
        assert (await left(gate))["key laptop concurrent"] == 2


# --- targets ------------------------------------------------------------------------------------

ROUTE = '[routes.both]\nto = ["up/m", "up1/m"]\n'


@pytest.mark.parametrize("limit", ["rpm", "rpd", "concurrent", "tpm"])
async def test_a_provider_that_is_full_is_passed_over(limit: str) -> None:
    """Its limit is its own affair: the caller is served by the next target."""
    go = asyncio.Event()
    most = 2000 if limit == "tpm" else 1
    async with limited(
        [[reads(), waits(go), says(whole())]],
        [SERVES],
        limits=ROUTE + on("providers.up", **{limit: most}),
    ) as (gate, _):
        first = asyncio.create_task(gate.ask(body(model="both", max_tokens=100)))
        await until(lambda: len(gate.ups[0].requests) == 1)
        second = await gate.ask(body(model="both", max_tokens=100))
        assert (second.status, second.headers["x-tollway-target"]) == (200, "up1/m")
        go.set()
        assert (await first).headers["x-tollway-target"] == "up/m"


async def test_only_when_every_target_is_full_is_the_caller_refused() -> None:
    """The refusal is that of the target which is free again first."""
    limits = "\n".join([ROUTE, on("providers.up", rpm=1), on("providers.up1", rpm=2)])
    async with limited([SERVES], [SERVES], limits=limits) as (gate, _):
        targets = [
            (await gate.ask(body(model="both"))).headers.get("x-tollway-target") for _ in range(3)
        ]
        assert targets == ["up/m", "up1/m", "up1/m"]
        reply = await gate.ask(body(model="both"))
        assert reply.status == 429
        assert error(reply)["message"].startswith("Provider `up1` is at its limit of 2 calls")
        assert reply.headers["retry-after"] == "30"
        # Another model of the same provider is another call of its limit.
        assert (await gate.ask(body(model="up/other"))).status == 429


async def test_a_target_too_small_for_a_call_is_passed_over() -> None:
    """What one provider's tokens a minute can never take, the next one may."""
    limits = ROUTE + on("providers.up", tpm=100)
    async with limited([SERVES], [SERVES], limits=limits) as (gate, _):
        reply = await gate.ask(body(model="both", max_tokens=500))
        assert reply.headers["x-tollway-target"] == "up1/m"
        assert (await gate.ask(body(max_tokens=500))).status == 400


async def test_a_route_that_is_full_flows_over_into_its_fallback() -> None:
    """Its calls go on to the targets of the routes behind it."""
    routes = '[routes.a]\nto = ["up/m"]\nfallback = ["b"]\n[routes.b]\nto = ["up1/m"]\n'
    limits = "\n".join([routes, on("routes.a", rpm=1), on("routes.b", rpm=1)])
    async with limited([SERVES], [SERVES], limits=limits) as (gate, _):
        replies = [await gate.ask(body(model="a")) for _ in range(3)]
        found = [reply.headers.get("x-tollway-target") for reply in replies]
        assert found == ["up/m", "up1/m", None]
        assert error(replies[2])["message"].startswith("Route `a` is at its limit of 1 call")
        # The route's limit is the route's: by another name the target still answers.
        assert (await gate.ask(body(model="up/m"))).status == 200


async def test_a_call_that_tries_two_targets_is_one_call_to_its_caller() -> None:
    """Each provider counts its own attempt; the key, the route and the ledger count one call."""
    fails = [reads(), says(whole(b"{}", status="500 Oops"))]
    limits = "\n".join(
        [
            ROUTE,
            on("keys.laptop", rpm=5, concurrent=5, tpm=5000),
            on("routes.both", rpm=5),
            on("providers.up", rpm=5),
            on("providers.up1", rpm=5),
        ]
    )
    async with limited([fails], [SERVES], limits=limits) as (gate, _):
        assert (await gate.ask(body(model="both"))).headers["x-tollway-attempts"] == "2"
        assert await left(gate) == {
            "key laptop rpm": 4,
            "key laptop concurrent": 5,
            "key laptop tpm": 5000 - USAGE,
            "route both rpm": 4,
            "provider up rpm": 4,
            "provider up1 rpm": 4,
        }


async def test_a_failure_of_a_provider_is_told_before_another_ones_limit() -> None:
    """What went wrong is the news; that the second choice was full is not."""
    fails = [reads(), says(whole(b"{}", status="500 Oops"))]
    limits = ROUTE + on("providers.up1", rpm=1)
    async with limited([fails], [SERVES], limits=limits) as (gate, _):
        assert (await gate.ask(body(model="up1/m"))).status == 200
        reply = await gate.ask(body(model="both"))
        assert (reply.status, error(reply)["source"]) == (500, "provider")


# --- what the caller sees -----------------------------------------------------------------------


async def test_a_reply_says_how_the_callers_tightest_limits_stand() -> None:
    """`x-ratelimit-*` are OpenAI's names, which its clients read; the provider's have others."""
    upstream = whole(WHOLE, "x-ratelimit-remaining-requests: 77", "x-ratelimit-limit-tokens: 9")
    limits = "\n".join([on("keys.laptop", rpm=60, tpm=5000), on("teams.ml", rpm=3, tpm=90_000)])
    async with limited([[reads(), says(upstream)]], limits=limits) as (gate, clock):
        await gate.ask()
        clock.passes(5)
        reply = await gate.ask()
        assert {
            name.removeprefix("x-"): value
            for name, value in reply.headers.items()
            if "ratelimit" in name
        } == {
            "ratelimit-limit-requests": "3",
            "ratelimit-remaining-requests": "1",
            "ratelimit-reset-requests": "35s",
            "ratelimit-limit-tokens": "5000",
            "ratelimit-remaining-tokens": str(5000 - USAGE),
            "ratelimit-reset-tokens": "120ms",
            "upstream-ratelimit-remaining-requests": "77",
            "upstream-ratelimit-limit-tokens": "9",
        }


async def test_a_stream_says_so_too() -> None:
    """Its headers leave before its tokens are known: what it reserved counts as used."""
    script = [reads(), says(HEAD + chunk("Hi", "stop") + USED + DONE)]
    async with limited([script], limits=on("keys.laptop", tpm=5000)) as (gate, _):
        reply = await gate.ask(body(True, max_tokens=500))
        assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 5000 - 500


async def test_a_client_of_anthropic_reads_it_in_its_own_words() -> None:
    """Other names, moments instead of spans, and its own type of error."""
    async with limited(limits=on("keys.laptop", rpm=1, tpm=5000)) as (gate, _):
        reply = await gate.ask(body(), "/v1/messages")
        assert reply.status == 200
        assert not [name for name in reply.headers if name.startswith("x-ratelimit")]
        assert reply.headers["anthropic-ratelimit-tokens-remaining"] == str(5000 - USAGE)
        reply = await gate.ask(body(), "/v1/messages")
        assert (reply.status, reply.headers["retry-after"]) == (429, "60")
        assert error(reply)["type"] == "rate_limit_error"
        assert reply.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert reply.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert reply.headers["anthropic-ratelimit-requests-reset"].endswith("Z")


async def test_a_refusal_says_how_the_full_limit_stands() -> None:
    """Clients that read the headers and not the message must see what is full."""
    limits = "\n".join([on("providers.up", rpm=2), on("keys.laptop", tpm=5000)])
    async with limited(limits=limits) as (gate, _):
        for _ in range(2):
            await gate.ask()
        reply = await gate.ask()
        assert reply.status == 429
        assert reply.headers["x-ratelimit-limit-requests"] == "2"
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert reply.headers["x-ratelimit-reset-requests"] == "1m0s"


async def test_a_caller_without_limits_is_told_of_none() -> None:
    """A provider's own limit is nobody's business until it is full."""
    async with limited(limits=on("providers.up", rpm=5)) as (gate, _):
        reply = await gate.ask()
        assert not [name for name in reply.headers if "ratelimit" in name]


async def test_a_member_sees_its_own_limits() -> None:
    """`GET /v1/tollway/budgets` says what is left, of those limits that would refuse the caller."""
    limits = "\n".join([on("keys.laptop", rpm=2), on("providers.up", rpm=1), on("server", rpd=9)])
    async with limited(limits=limits) as (gate, _):
        await gate.ask()
        headers = {"authorization": "Bearer tw-" + "k" * 40}
        said = (await gate.daemon.ask("GET", "/v1/tollway/budgets", **headers)).json()["limits"]
        assert [(one["scope"], one["limit"], one["most"], one["left"]) for one in said] == [
            ("key", "rpm", 2, 1),
            ("box", "rpd", 9, 8),
        ]


async def test_explain_tells_which_limits_apply_and_what_is_left() -> None:
    """`routes explain` takes nothing, and says what a call would meet."""
    limits = "\n".join([ROUTE, on("keys.laptop", rpm=2), on("providers.up", rpm=1)])
    async with limited([SERVES], [SERVES], limits=limits) as (gate, _):
        await gate.ask(body(model="both"))
        question = b'{"model": "both", "key": "laptop", "output": 10}'
        for _ in range(2):
            answer = await gate.daemon.ask("POST", "/control/explain", question, admin=True)
            said = answer.json()
            assert [
                (one["scope"], one["name"], one["limit"], one["most"], one["left"])
                for one in said["limits"]
            ] == [("key", "laptop", "rpm", 2, 1), ("provider", "up", "rpm", 1, 0)]
            assert said["refused"] == ""
            assert said["targets"][0]["why"].startswith("Provider `up` is at its limit")
            assert not said["targets"][1]["why"]
        await gate.ask(body(model="both"))
        answer = await gate.daemon.ask("POST", "/control/explain", question, admin=True)
        assert answer.json()["refused"].startswith("Key `laptop` is at its limit of 2 calls")


# --- days, reloads, restarts --------------------------------------------------------------------


async def test_calls_a_day_are_free_again_after_midnight() -> None:
    """A day is that of the day budgets; hours of waiting are no client library's business."""
    async with limited(limits=on("keys.laptop", rpd=2)) as (gate, _):
        rates = gate.daemon.server.daemon.rates
        now = rates.now_ms()
        assert [(await gate.ask()).status for _ in range(3)] == [200, 200, 429]
        midnight = (now // 86_400_000 + 1) * 86_400_000
        rates.now_ms = lambda: midnight - 3_600_000
        reply = await gate.ask()
        assert "The day turns over on " in error(reply)["message"]
        assert " 00:00 UTC" in error(reply)["message"]
        assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("3600", "false")
        rates.now_ms = lambda: midnight
        assert (await gate.ask()).status == 200


async def test_a_restart_does_not_begin_the_day_anew() -> None:
    """The ledger knows how many calls there were; a restart a day would double every limit."""
    limits = [
        on("keys.laptop", rpd=3),
        on("users.ann", rpd=30),
        on("teams.ml", rpd=31),
        on("server", rpd=32),
        on("providers.up", rpd=33),
        on("routes.r", rpd=34),
        '[routes.r]\nto = ["up/m"]',
    ]
    async with limited(limits="\n".join(limits)) as (gate, _):
        for model in ("up/m", "r"):
            await gate.row(await gate.ask(body(model=model)))
        await gate.daemon.server.daemon.ledger.ready()
        # What a new process would do with the same file and the same ledger.
        daemon = gate.daemon.server.daemon
        daemon.rates = type(daemon.rates)(daemon.books.now_ms)
        assert (await gate.daemon.ask("POST", "/control/reload", admin=True)).status == 200
        assert list((await left(gate)).values()) == [30, 31, 33, 29, 28, 1]
        assert [(await gate.ask()).status for _ in range(2)] == [200, 429]


async def test_a_day_that_nobody_counted_is_read_from_the_ledger() -> None:
    """A limit that comes back knows of the calls that were made while it was gone."""
    limit = on("keys.laptop", rpd=5)
    async with limited(limits=limit) as (gate, _):
        await gate.row(await gate.ask())
        await _change(gate, limit, "")
        await gate.row(await gate.ask())
        await gate.daemon.server.daemon.ledger.ready()
        await _change(gate, "[ledger]", f"{limit}\n[ledger]")
        assert await left(gate) == {"key laptop rpd": 3}


async def test_a_reload_grants_no_fresh_burst() -> None:
    """What was used stays used, whether or not the limit changed; a place stays taken."""
    go = asyncio.Event()
    scripts = [SERVES, SERVES, [reads(), waits(go), says(whole())]]
    limits = on("keys.laptop", rpm=3, tpm=5000, rpd=4, concurrent=1)
    async with limited(scripts, limits=limits) as (gate, clock):
        for _ in range(2):
            await gate.ask()
        running = asyncio.create_task(gate.ask())
        await until(lambda: len(gate.ups[0].requests) == 3)
        before = await left(gate)
        await _reload(gate, "default_output = 100")
        assert await left(gate) == before
        assert before["key laptop rpm"] == before["key laptop concurrent"] == 0
        await _change(gate, "rpm = 3", "rpm = 6")
        go.set()
        await running
        assert await left(gate) == {
            "key laptop rpm": 3,
            "key laptop tpm": 5000 - 3 * USAGE,
            "key laptop rpd": 1,
            "key laptop concurrent": 1,
        }
        await _change(gate, "rpm = 6", "rpm = 2")
        assert (await gate.ask()).status == 429
        clock.passes(60)
        assert (await gate.ask()).status == 200


async def _reload(gate: Gateway, line: str) -> None:
    await _change(gate, "[server]", f"[server]\n{line}")


async def _change(gate: Gateway, old: str, new: str) -> None:
    text = gate.daemon.config.read_text()
    assert old in text
    gate.daemon.config.write_text(text.replace(old, new))
    assert (await gate.daemon.ask("POST", "/control/reload", admin=True)).status == 200


def _head(gate: Gateway, said: bytes) -> bytes:
    lines = [
        f"POST {CHAT} HTTP/1.1",
        f"host: {gate.daemon.host.decode()}",
        "authorization: Bearer tw-" + "k" * 40,
        "content-type: application/json",
        f"content-length: {len(said)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()
