"""How busy vLLM's servers say they are, and where calls go by it: on real sockets."""

from pathlib import Path

import pytest
from gateway import body, gateway, whole
from hypothesis import given
from hypothesis import strategies as st
from shell import until
from upstreams import answer, reads, says, upstream

from tollway.daemon.config.load import parse
from tollway.daemon.gate.upstream_loads import Told, pages_of, read

ANSWERS = [[reads(), says(whole())]]
# As vLLM 0.10 writes it, shortened.
PAGE = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-32B"} 12.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen3-32B"} 3.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="Qwen/Qwen3-32B"} 0.42
vllm:num_requests_waiting_by_reason{reason="capacity"} 9.0
"""


def test_a_page_of_metrics_is_read() -> None:
    """All engines of a server together; older servers call the cache by another name."""
    assert read(PAGE) == Told(12, 3, 0.42)
    second = PAGE.replace('engine="0"', 'engine="1"')
    assert read(PAGE + second) == Told(24, 6, 0.42)
    older = PAGE.replace("kv_cache", "gpu_cache").replace("} ", "} ").replace("0.42", "1e-05")
    assert read(older) == Told(12, 3, 0.00001)


@given(st.text())
def test_what_is_no_such_page_says_nothing(page: str) -> None:
    """An error page, another server's metrics, half of one."""
    assert read(page) is None
    assert read(page + "\nvllm:num_requests_running 1e999999\n") is None


TEXT = """[providers.box]
kind = "vllm"
base_url = "http://box:8000/v1"
[providers.other]
kind = "vllm"
base_url = "http://other:8000/prefix/v1/"
[providers.hosted]
kind = "openai"
api_key = "env:K"
[routes.r]
to = ["box/m", "hosted/m"]
when = [{ stream = true, to = ["other/m"], STRATEGY }]
"""


@pytest.mark.parametrize(
    ("strategy", "pages"),
    [
        ('strategy = "ordered"', {}),
        ('strategy = "least-busy"', {"other": "http://other:8000/prefix/metrics"}),
    ],
)
def test_only_servers_that_a_route_goes_by_are_asked(strategy: str, pages: dict[str, str]) -> None:
    """Nobody is asked for what nobody looks at."""
    found = parse(TEXT.replace("STRATEGY", strategy), path=Path("gateway.toml"))
    assert pages_of(found) == pages


async def test_calls_go_where_the_server_says_it_has_room() -> None:
    """Its own word counts, since others may ask it too; one that says nothing is judged by ours."""
    busy = [[reads(), says(answer(PAGE.encode(), "Content-Type: text/plain"))]]
    async with upstream(*busy) as server:
        more = f"""[providers.box]
kind = "vllm"
base_url = "http://127.0.0.1:{server.port}/v1"
[prices."box/*"]
input = 1
output = 2
[routes.r]
to = ["box/m", "up/m"]
strategy = "least-busy"
affinity = false
"""
        async with gateway(ANSWERS, more=more) as gate:
            loads = gate.daemon.server.daemon.upstream_loads
            await until(lambda: loads.told("box") is not None)
            reply = await gate.ask(body(model="r"))
            assert loads.told("box") == Told(12, 3, 0.42)
            assert loads.told("up") is None
    assert server.requests[0].startswith(b"GET /metrics HTTP/1.1")
    assert reply.headers["x-tollway-target"] == "up/m"


async def test_the_cheaper_target_is_asked_first() -> None:
    """By this call: one is cheap to read, the other cheap to write."""
    more = """[routes.r]
to = ["up/reads", "up1/writes"]
strategy = "cheapest"
affinity = false
[prices."up/reads"]
input = 1
output = 100
[prices."up1/writes"]
input = 10
output = 10
"""
    long = [{"role": "user", "content": "word " * 2000}]
    async with gateway(ANSWERS, ANSWERS, more=more, budget="9/day") as gate:
        reply = await gate.ask(body(model="r", messages=long, max_tokens=1))
        short = await gate.ask(body(model="r", max_tokens=100))
    assert reply.headers["x-tollway-target"] == "up/reads"
    assert short.headers["x-tollway-target"] == "up1/writes"


async def test_each_target_is_measured_and_the_faster_one_is_asked() -> None:
    """Each of them gets a first call; after that the times that were seen decide."""
    more = '[routes.r]\nto = ["up/m", "up1/m"]\nstrategy = "fastest"\naffinity = false\n'
    async with gateway(ANSWERS, ANSWERS, more=more) as gate:
        first = [(await gate.ask(body(model="r"))).headers["x-tollway-target"] for _ in range(2)]
        traffic = gate.daemon.server.daemon.traffic
        for name, took_s in (("up/m", 5.0), ("up1/m", 0.001)):
            for _ in range(20):
                traffic.began(name)
                traffic.ended(name, None, took_s, 1)
        then = {(await gate.ask(body(model="r"))).headers["x-tollway-target"] for _ in range(4)}
        assert traffic.pace("up/m").running == traffic.pace("up1/m").running == 0
    assert first == ["up/m", "up1/m"]
    assert then == {"up1/m"}
