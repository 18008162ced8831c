"""Spans and metrics reach an OTLP collector, and nothing goes anywhere unless the file says so."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from gateway import DONE, HEAD, USED, WHOLE, Gateway, body, chunk, gateway, whole
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from shell import until
from upstreams import Step, reads, says

from tollway.daemon.telemetry import Telemetry

ANSWER: list[Step] = [reads(), says(whole())]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """An OTLP collector on loopback: what came, decoded."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.port = 0

    def take(self, path: str, headers: dict[str, str], data: bytes) -> None:
        """Take one post."""
        self.headers.append(headers)
        self.bodies.append(data)
        if path == "/v1/traces":
            self.traces.append(ExportTraceServiceRequest.FromString(data))
        elif path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(data))

    def spans(self) -> list[Any]:
        """Return all spans."""
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def points(self) -> dict[str, list[Any]]:
        """Return the last points of each metric, by its name."""
        found: dict[str, list[Any]] = {}
        for request in self.metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        kind = metric.WhichOneof("data")
                        found[metric.name] = list(getattr(metric, kind).data_points)
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Yield a collector that listens."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            found.take(self.path, {k.lower(): v for k, v in self.headers.items()}, data)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def attributes(one: Any) -> dict[str, Any]:
    """Return a span's or a point's attributes as Python's values."""
    found = {}
    for pair in one.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = (
            [item.string_value for item in value.values] if kind == "array_value" else value
        )
    return found


def asked(collector: Collector, more: str = "") -> str:
    """Return the table that turns it on."""
    return f'[telemetry]\notlp = "http://127.0.0.1:{collector.port}"\n{more}\n'


async def sent(gate: Gateway) -> None:
    """Return once all that there is has been sent."""
    await until(lambda: gate.daemon.server.daemon.active == 0)
    telemetry = gate.daemon.server.daemon.meter.watcher
    assert isinstance(telemetry, Telemetry)
    import asyncio  # noqa: PLC0415

    assert await asyncio.to_thread(telemetry.flush)


async def test_a_call_is_a_span_with_one_for_each_attempt_inside_the_callers_trace(
    collector: Collector,
) -> None:
    """By the conventions' names, with the ledger's numbers; the caller's trace goes on here."""
    down: list[Step] = [reads(), says(whole(status="500 Oops"))]
    said = chunk("Hello") + chunk("", "stop").replace(b'"choices"', b'"model":"m-2026","choices"')
    stream: list[Step] = [reads(), says(HEAD + said + USED + DONE)]
    more = asked(collector) + '[routes.fast]\nto = ["up/m", "up1/n"]'
    async with gateway([down], [stream], more=more) as gate:
        parent = f"00-{TRACE}-{PARENT}-01"
        row = await gate.row(await gate.ask(body(True, model="fast"), traceparent=parent))
        await sent(gate)
    first, second, call = sorted(collector.spans(), key=lambda one: (one.kind == 2, one.name))
    assert {span.trace_id.hex() for span in (call, first, second)} == {TRACE}
    assert call.parent_span_id.hex() == PARENT
    assert first.parent_span_id == second.parent_span_id == call.span_id
    assert (call.name, first.name, second.name) == ("chat fast", "chat m", "chat n")
    told = attributes(call)
    assert told["tollway.call.id"] == row.call.id
    assert told["gen_ai.usage.input_tokens"] == row.call.input_total
    assert (told["tollway.route"], told["tollway.team"]) == ("fast", "ml")
    assert (first.status.code, second.status.code, call.status.code) == (2, 0, 0)
    assert attributes(first)["error.type"] == "upstream_refused"
    told = attributes(second)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "openai"
    assert told["gen_ai.request.model"] == "n"
    assert told["gen_ai.response.model"] == "m-2026"
    assert told["gen_ai.response.id"] == "chatcmpl-1"
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["gen_ai.usage.output_tokens"] == row.call.output_total == 3
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", gate.ups[1].port)
    assert call.start_time_unix_nano <= first.start_time_unix_nano
    assert second.end_time_unix_nano <= call.end_time_unix_nano + 2_000_000
    assert not any(b"Hello" in data or b"Hi" in data for data in collector.bodies)


async def test_metrics_have_the_conventions_names_and_bounded_models(collector: Collector) -> None:
    """Tokens by type, durations by operation; a made-up model is "other"."""
    more = asked(collector, "traces = false") + '[routes.fast]\nto = ["up/m"]'
    async with gateway([ANSWER], more=more) as gate:
        await gate.ask(body(model="fast"))
        await gate.ask(body(model="up/made-up"))
        await sent(gate)
    assert not collector.traces
    points = collector.points()
    assert set(points) == {
        "gen_ai.client.token.usage", "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk", "gen_ai.server.request.duration",
        "tollway.cost",
    }  # fmt: skip
    usage = {
        (told["gen_ai.request.model"], told["gen_ai.token.type"]): one.sum
        for one in points["gen_ai.client.token.usage"]
        if (told := attributes(one))
    }
    assert usage == {(model, kind): count for model in ("m", "other")
                     for kind, count in (("input", 7), ("output", 3))}  # fmt: skip
    assert sum(one.count for one in points["gen_ai.server.request.duration"]) == 2


async def test_a_refused_call_is_a_span_with_its_error_and_a_parent_that_is_not_sampled_is_heeded(
    collector: Collector,
) -> None:
    """What never reached a provider is seen; what its caller does not sample is not sent."""
    async with gateway([ANSWER], more=asked(collector)) as gate:
        await gate.ask(body(model="nobody/x"))
        await gate.ask(traceparent=f"00-{TRACE}-{PARENT}-00")
        await sent(gate)
    (span,) = collector.spans()
    told = attributes(span)
    assert (told["tollway.outcome"], told["error.type"]) == ("refused", "model_not_found")
    assert span.status.code == 2


async def test_a_token_goes_along_and_stands_nowhere_else(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that wants one gets it from where secrets are kept."""
    monkeypatch.setenv("OTLP_TOKEN", "otlp-secret-value")
    more = asked(collector, 'token = "env:OTLP_TOKEN"')
    async with gateway([ANSWER], more=more) as gate:
        await gate.ask()
        await sent(gate)
        gate.daemon.server.output.flush()
        said = gate.daemon.log.read_text()
    assert all(one["authorization"] == "Bearer otlp-secret-value" for one in collector.headers)
    assert collector.headers
    assert "otlp-secret-value" not in said


async def test_a_key_that_a_provider_repeats_is_not_sent_on(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model and its reasons are its own words."""
    secret = "sk-canary-0123456789"
    monkeypatch.setenv("UP_KEY", secret)
    said = whole(WHOLE.replace(b'"model":"m"', b'"model":"%b"' % secret.encode()))
    said = said.replace(b'"stop"', b'"%b"' % secret.encode())
    script: list[Step] = [reads(), says(whole(said.partition(b"\r\n\r\n")[2]))]
    provider = 'api_key = "env:UP_KEY"'
    async with gateway([script], more=asked(collector), provider=provider) as gate:
        await gate.ask()
        await sent(gate)
    attempt = next(span for span in collector.spans() if span.kind == 3)
    told = attributes(attempt)
    assert (told["gen_ai.response.model"], told["gen_ai.response.finish_reasons"]) == (
        "***",
        ["***"],
    )
    assert not any(secret.encode() in data for data in collector.bodies)


async def test_the_standard_variables_decide_where_the_file_leaves_it_to_them(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `otlp = "env"`; without it they turn nothing on."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gate-of-ours")
    async with gateway([ANSWER]) as gate:
        await gate.ask()
        assert gate.daemon.server.daemon.meter.watcher is None
    assert not collector.bodies
    async with gateway([ANSWER], more='[telemetry]\notlp = "env"') as gate:
        await gate.ask()
        await sent(gate)
    assert len(collector.spans()) == 2
    (resource,) = {attributes(one.resource)["service.name"]
                   for request in collector.traces for one in request.resource_spans}  # fmt: skip
    assert resource == "gate-of-ours"


async def test_a_collector_that_is_gone_costs_no_call_anything(collector: Collector) -> None:
    """Sending is a thread's: calls are answered, and the daemon stops in time."""
    more = '[telemetry]\notlp = "http://127.0.0.1:9"'
    async with gateway([ANSWER], more=more) as gate:
        assert (await gate.ask()).status == 200


def test_nothing_of_it_is_imported_where_it_is_not_asked_for() -> None:
    """It takes memory and a tenth of a second, and what is not there sends nothing."""
    code = (
        "import sys, tollway.daemon.run, tollway.daemon.metrics;"
        "print([one for one in sys.modules if one.startswith(('opentelemetry', 'prometheus'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_package_the_file_is_refused_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """`config check` says so, rather than a daemon that sends nothing."""
    from tollway.daemon.config import check  # noqa: PLC0415
    from tollway.daemon.config.load import parse  # noqa: PLC0415
    from tollway.daemon.errors import ConfigError  # noqa: PLC0415

    monkeypatch.setattr(check, "OTEL", "opentelemetry_that_is_not_there")
    with pytest.raises(ConfigError) as refused:
        parse('[telemetry]\notlp = "http://x:4318"\n', path=tmp_path / "gateway.toml")
    assert "gateway.toml:2: telemetry.otlp: " in refused.value.message
    assert "pip install 'tollway[otel]'" in refused.value.message
