"""/metrics tells what happened, in names that do not grow with what callers send."""

import asyncio
import subprocess
from typing import Any

import pytest
from gateway import CHAT, DONE, HEAD, KEY, USED, Gateway, body, chunk, gateway, whole
from needed import needed
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families
from shell import running, until
from upstreams import Step, reads, says, waits

from tollway.daemon.meter import CLASSES, OTHER, Histogram, Meter
from tollway.daemon.metric_names import SPECS, samples

ANSWER: list[Step] = [reads(), says(whole())]
Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(gate: Gateway, accept: str = "", *, admin: bool = False) -> Found:
    """Return every sample of a scrape, by name and sorted labels."""
    wanted = accept or "text/plain"
    answer = await gate.daemon.ask("GET", "/metrics", admin=admin, accept=wanted)
    assert answer.status == 200
    parse: Any = open_families if accept else text_string_to_metric_families
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in parse(answer.body.decode())
        for one in family.samples
    }


def check_with_promtool(program: str, page: bytes) -> None:
    """Check names, units, types and help as Prometheus would have them."""
    command = [program, "check", "metrics"]
    seen = subprocess.run(command, input=page, capture_output=True, check=False)
    assert (seen.returncode, seen.stderr) == (0, b"")


def of(found: Found, name: str, /, **labels: str) -> float | None:
    """Return one sample's value, None where there is none."""
    return found.get((name, tuple(sorted(labels.items()))))


async def test_a_call_is_counted_with_its_tokens_its_cost_and_its_times() -> None:
    """The numbers are those of the ledger's row."""
    stream = [reads(), says(HEAD + chunk("Hello") + chunk("", "stop") + USED + DONE)]
    more = '[routes.fast]\nto = ["up/m"]'
    async with gateway([ANSWER, stream], more=more) as gate:
        rows = [await gate.row(await gate.ask(body(model="fast")))]
        rows.append(await gate.row(await gate.ask(body(True, model="fast"))))
        await until(lambda: gate.daemon.server.daemon.active == 0)
        found = await scrape(gate)
    target = {"target": "up/m"}
    assert of(found, "tollway_calls_total", route="fast", endpoint="chat", outcome="answered") == 2
    assert of(found, "tollway_attempts_total", **target, outcome="answered") == 2
    spent = sum(row.call.cost_nanousd for row in rows)
    assert spent
    cost = of(found, "tollway_cost_usd_total", **target)
    assert cost == pytest.approx(spent / 1e9)
    assert of(found, "tollway_team_cost_usd_total", team="ml") == cost
    assert of(found, "tollway_tokens_total", **target, **{"class": "input"}) == 14
    assert of(found, "tollway_tokens_total", **target, **{"class": "output"}) == 6
    assert of(found, "tollway_team_tokens_total", team="ml", direction="output") == 6
    assert of(found, "tollway_call_duration_seconds_count", route="fast") == 2
    assert of(found, "tollway_first_token_seconds_count", **target) == 2
    assert of(found, "tollway_first_token_seconds_bucket", **target, le="+Inf") == 2
    budget = {"scope": "user", "name": "ann", "budget": "1/day"}
    assert of(found, "tollway_budget_spent_usd", **budget) == cost
    assert of(found, "tollway_budget_used_ratio", **budget) == cost
    assert of(found, "tollway_calls_active") == of(found, "tollway_holds") == 0
    assert of(found, "tollway_ledger_ok") == of(found, "tollway_config_ok") == 1


async def test_what_a_call_holds_while_it_runs_is_seen() -> None:
    """Holds, calls and streams under way are gauges of this moment."""
    go = asyncio.Event()
    end = chunk("lo", "stop") + USED + DONE
    async with gateway([[reads(), says(HEAD + chunk("Hel")), waits(go), says(end)]]) as gate:
        asked = asyncio.create_task(gate.ask(body(True)))
        await until(lambda: gate.held() > 0)
        found = await scrape(gate)
        assert of(found, "tollway_calls_active") == of(found, "tollway_streams_active") == 1
        assert of(found, "tollway_holds") == 1
        assert (of(found, "tollway_held_usd") or 0) > 0
        go.set()
        await asked


async def test_targets_of_cases_have_their_own_names_and_globs_have_none() -> None:
    """What a route's `when` leads to is named in the file; `*` stands for no target."""
    more = """[routes.fast]
to = ["up/m"]
when = [{ stream = false, to = ["up/special"] }]
[routes."wild-*"]
to = ["up/wild-*"]
"""
    async with gateway([ANSWER], more=more) as gate:
        await gate.row(await gate.ask(body(model="fast")))
        await until(lambda: gate.daemon.server.daemon.active == 0)
        found = await scrape(gate)
    assert of(found, "tollway_attempts_total", target="up/special", outcome="answered") == 1
    breakers = {dict(labels)["target"] for name, labels in found if "breaker_state" in name}
    assert breakers == {"up/m", "up/special"}


async def test_names_that_callers_make_up_are_counted_as_other() -> None:
    """Labels are gateway.toml's: a stranger's thousand names must not make a thousand series."""
    async with gateway([ANSWER], more='[routes.fast]\nto = ["up/m"]') as gate:
        for name in ("up/made-up-1", "up/made-up-2", "nobody/made-up", "made-up-3"):
            await gate.ask(body(model=name))
        await until(lambda: gate.daemon.server.daemon.active == 0)
        found = await scrape(gate)
    assert of(found, "tollway_attempts_total", target=f"up/{OTHER}", outcome="answered") == 2
    assert of(found, "tollway_errors_total", code="model_not_found") == 2
    assert of(found, "tollway_calls_total", route="", endpoint="chat", outcome="refused") == 2
    assert not any("made-up" in value for _, labels in found for _, value in labels)


async def test_keys_are_counted_only_where_the_file_asks_for_it() -> None:
    """A key's name can be a person's; who scrapes need not know it."""
    for asked in (False, True):
        server = f"metrics_per_key = {str(asked).lower()}"
        async with gateway([ANSWER], server=server) as gate:
            await gate.ask()
            await until(lambda: gate.daemon.server.daemon.active == 0)
            found = await scrape(gate)
        assert any("laptop" in value for _, labels in found for _, value in labels) is asked
        assert of(found, "tollway_key_calls_total", key="laptop") == (1 if asked else None)


async def test_both_formats_are_spoken_and_the_admin_socket_answers_too() -> None:
    """Prometheus asks for OpenMetrics; curl gets text. The library's own readers take each."""
    async with gateway([ANSWER]) as gate:
        await gate.ask()
        await until(lambda: gate.daemon.server.daemon.active == 0)
        plain = await gate.daemon.ask("GET", "/metrics")
        assert plain.headers["content-type"].startswith("text/plain")
        accept = "application/openmetrics-text; version=1.0.0"
        found = await scrape(gate, accept)
        assert of(found, "tollway_attempts_total", target=f"up/{OTHER}", outcome="answered") == 1
        assert set(await scrape(gate, admin=True)) >= set(found) - {
            key for key in found if key[0].endswith("_created")
        }


async def test_every_sample_stands_in_the_table_and_the_table_names_real_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table is what docs, dashboard and rules are checked against."""
    monkeypatch.setenv("UP_KEY", "sk-up-0123456789")
    provider = 'slots = 3\napi_keys = ["env:UP_KEY"]'
    more = '[routes.fast]\nto = ["up/m"]\n[models.tiny]\ngguf = "/nowhere.gguf"\nprice = "free"'
    async with gateway([ANSWER], more=more, provider=provider) as gate:
        await gate.ask(body(model="fast"))
        await gate.ask(body(model="nobody"))
        await until(lambda: gate.daemon.server.daemon.active == 0)
        found = await scrape(gate)
        page = (await gate.daemon.ask("GET", "/metrics")).body
    names = {name for name, _ in found}
    known = {name for spec in SPECS for name in samples(spec)}
    assert names <= known
    absent = {name for name in known - names if not name.startswith(("tollway_gpu", "tollway_key"))}
    # It has answered nothing yet, and there is no TLS.
    ends = "tollway_certificate_end_time_seconds"
    assert absent == {"tollway_local_model_tokens_per_second", ends}
    promtool = needed("promtool", package="prometheus")
    await asyncio.to_thread(check_with_promtool, promtool, page)


async def test_from_elsewhere_only_the_named_key_reads_it() -> None:
    """Behind a proxy every peer is on loopback, so that says nothing."""
    server = 'behind_proxy = true\nmetrics_key = "laptop"'
    async with gateway([], server=server) as gate:
        ask = gate.daemon.ask
        assert (await ask("GET", "/metrics")).status == 401
        assert (await ask("GET", "/metrics", authorization="Bearer tw-" + "x" * 40)).status == 401
        assert (await ask("GET", "/metrics", authorization=f"Bearer {KEY}")).status == 200
    async with gateway([], server="behind_proxy = true") as gate:
        answer = await gate.daemon.ask("GET", "/metrics", authorization=f"Bearer {KEY}")
        assert answer.status == 403
        assert "server.metrics_key" in answer.body.decode()


async def test_a_proxy_that_nobody_told_of_opens_nothing_to_those_behind_it() -> None:
    """With it everybody is on loopback; most say for whom they ask."""
    async with gateway([], server='metrics_key = "laptop"') as gate:
        ask = gate.daemon.ask
        for path in ("/metrics", "/ui", "/ui/events"):
            assert (await ask("GET", path, x_forwarded_for="203.0.113.5")).status == 401
        assert (await ask("GET", "/metrics", x_forwarded_for="127.0.0.1")).status == 200
        key = f"Bearer {KEY}"
        allowed = await ask("GET", "/metrics", x_forwarded_for="203.0.113.5", authorization=key)
        assert allowed.status == 200


async def test_it_answers_while_no_call_is_taken() -> None:
    """Monitoring matters most while something is broken."""
    async with running() as daemon:
        daemon.server.daemon.draining = True
        answer = await daemon.ask("GET", "/metrics")
        daemon.server.daemon.draining = False
    assert answer.status == 200
    assert b"\ntollway_draining 1.0\n" in answer.body


def test_a_histogram_counts_each_time_once_up_to_its_bound() -> None:
    """A bound belongs to the bucket below it, as Prometheus has it (`le`)."""
    found = Histogram((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.5, 1.0, 7.0):
        found.add(seconds)
    assert found.counts == [2, 2, 1]
    assert found.total == pytest.approx(8.6)


def test_the_last_minute_forgets_what_is_older() -> None:
    """What `top` calls the pace is of sixty seconds, whatever came before."""
    now = [1000.0]
    meter = Meter(lambda: now[0])
    note = meter._note
    note("ml", "up/m", (1, 10, 5, 100))
    now[0] += 30
    note("ml", "up/m", (1, 20, 5, 100))
    assert list(meter.lately()) == [("ml", "up/m", [2, 30, 10, 200])]
    now[0] += 31
    assert list(meter.lately()) == [("ml", "up/m", [1, 20, 5, 100])]
    now[0] += 60
    assert list(meter.lately()) == []


def test_every_class_of_tokens_has_a_count() -> None:
    """The ledger's classes and the metric's are the same."""
    from tollway.providers.canon import Usage  # noqa: PLC0415

    fields = set(Usage.__struct_fields__) - {"searches", "estimated"}
    assert set(CLASSES) == fields


async def test_an_error_at_the_door_is_counted_too() -> None:
    """A caller without a key never becomes a call, and shows all the same."""
    async with gateway([]) as gate:
        await gate.daemon.ask("POST", CHAT, body(), authorization="Bearer tw-" + "x" * 40)
        found = await scrape(gate)
    assert of(found, "tollway_errors_total", code="invalid_api_key") == 1


async def test_a_target_that_rests_and_keys_that_do_are_gauges() -> None:
    """By the same breakers that choose targets; keys are counted, not named."""
    down: list[Step] = [reads(), says(whole(status="500 Oops"))]
    more = '[routes.fast]\nto = ["up/m"]'
    async with gateway([down], more=more) as gate:
        found = await scrape(gate)
        assert of(found, "tollway_target_breaker_state", target="up/m") == 0
        assert of(found, "tollway_provider_up", provider="up") == 1
        for _ in range(10):
            await gate.ask(body(model="fast"))
        found = await scrape(gate)
    assert of(found, "tollway_target_breaker_state", target="up/m") == 2


async def test_a_key_that_rests_for_several_models_is_one_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gauge tells how many keys there are, not of how many models they have had enough."""
    monkeypatch.setenv("POOL_ONE", "sk-first-secret-0123456789")
    monkeypatch.setenv("POOL_TWO", "sk-second-secret-0123456789")
    slow: list[Step] = [reads(), says(whole(b"{}", status="429 Slow down"))]
    async with gateway([slow], provider='api_keys = ["env:POOL_ONE", "env:POOL_TWO"]') as gate:
        for model in ("a", "b", "c"):
            assert (await gate.ask(body(model=f"up/{model}"))).status == 429
        found = await scrape(gate)
    assert of(found, "tollway_provider_keys", provider="up", state="open") == 2
