"""Rate limits and the targets of a call, what callers see of them, days and reloads."""

import asyncio

import pytest
from gateway import DONE, HEAD, USED, WHOLE, Gateway, body, chunk, error, whole
from limited import SERVES, USAGE, left, limited, on
from shell import running, until
from upstreams import reads, says, waits

DAY_OR_MINUTE = {"rpm": "a minute", "rpd": "a day"}
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
        key = "Bearer tw-" + "k" * 40
        reply = await gate.daemon.ask("GET", "/v1/tollway/budgets", authorization=key)
        said = reply.json()["limits"]
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


@pytest.mark.parametrize("limit", ["rpm", "rpd", "concurrent"])
async def test_explain_foresees_what_a_call_s_own_attempts_use(limit: str) -> None:
    """A target whose provider's last call of the minute the one before it was is passed over."""
    route = '[routes.both]\nto = ["up/m", "up/n", "up1/m"]\n'
    fails = [reads(), says(whole(b"{}", status="503 Away"))]
    limits = route + on("providers.up", **{limit: 1})
    async with limited([fails], [SERVES], limits=limits) as (gate, _):
        question = b'{"model": "both", "key": "laptop", "output": 10}'
        answer = await gate.daemon.ask("POST", "/control/explain", question, admin=True)
        said = answer.json()
        told = [(one["target"], one["why"].partition(":")[0]) for one in said["targets"]]
        full = f"Provider `up` would be at its limit of 1 call {DAY_OR_MINUTE.get(limit)}"
        passed = limit != "concurrent"  # one attempt ends before the next begins
        assert told == [
            ("up/m", ""),
            ("up/n", f"{full} (`{limit}`)" if passed else ""),
            ("up1/m", ""),
        ]
        assert said["refused"] == ""
        reply = await gate.ask(body(model="both"))
        assert reply.headers["x-tollway-target"] == "up1/m"
        assert reply.headers["x-tollway-attempts"] == ("2" if passed else "3")


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


async def test_a_daily_limit_needs_no_ledger_that_is_there_already() -> None:
    """The first start ever has no calls to count, and no budget whose account it waits for."""
    async with running("[server.limits]\nrpd = 5") as daemon:
        assert (await daemon.ask("GET", "/readyz")).status == 200
        (limit,) = daemon.server.daemon.gate.limits.states()
        assert (limit.left, limit.whole_s) == (5, 0.0)
