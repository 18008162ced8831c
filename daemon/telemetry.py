"""Spans and metrics of calls for an OTLP collector, where `telemetry.otlp` names one.

The only file that imports OpenTelemetry, and it is imported only then. What is sent says who,
where, how long, how many tokens and how much money; no prompt, no reply, no key. A call's spans
are made when it has ended, from what is known of it by then: nothing is added to its way.

Names are those of the GenAI semantic conventions (opentelemetry-semantic-conventions 0.66b2,
https://github.com/open-telemetry/semantic-conventions-genai); what they have none for begins
with `tollway.`.
"""

import asyncio
import logging
import os
import time
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tollway.daemon.config.schema import Telemetry as Wanted
from tollway.daemon.log import Mask
from tollway.daemon.meter import Meter
from tollway.providers.money import plain_usd

if TYPE_CHECKING:
    from tollway.daemon.gate.attempt import Attempt
    from tollway.daemon.gate.send import Exchange
    from tollway.daemon.ledger.rows import AttemptEnded

Value = str | bool | int | float | list[str]

_NAME = "tollway"
_ASK_WITHIN_S = 5.0
_CLOSE_WITHIN_S = 8.0
_LONGEST = 200  # of a text that somebody else chose
_WHOLE = frozenset({"answered", "no_usage"})
# The caller's doing, or nobody's fault.
_NO_ERROR = _WHOLE | {"client_left", "at_cap"}
_OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "bedrock": "aws.bedrock",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
# As the conventions ask for.
_TOKENS = [4**power for power in range(14)]
_SECONDS = [0.01 * 2**power for power in range(14)]


class Telemetry:
    """Makes spans and metrics of calls that have ended. Runs on the event loop, but for sending."""

    def __init__(self, wanted: Wanted, token: str | None, meter: Meter) -> None:
        """Begin to send; takes a tenth of a second for what it imports and sets up."""
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # it warns at each retry
        self._meter = meter
        own = {"service.version": version("tollway")}
        if "OTEL_SERVICE_NAME" not in os.environ:
            own["service.name"] = wanted.service
        resource = Resource.create(own)
        to = None if wanted.otlp == "env" else (wanted.otlp or "").rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else None
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        if wanted.traces:
            spans = OTLPSpanExporter(
                to and f"{to}/v1/traces", headers=headers, timeout=_ASK_WITHIN_S
            )
            self._traces.add_span_processor(BatchSpanProcessor(spans))
        readers = []
        if wanted.metrics:
            sums = OTLPMetricExporter(
                to and f"{to}/v1/metrics", headers=headers, timeout=_ASK_WITHIN_S
            )
            every_ms = float(wanted.every) * 1000
            readers.append(PeriodicExportingMetricReader(sums, export_interval_millis=every_ms))
        self._metrics = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer(_NAME, own["service.version"])
        self._is_traced = wanted.traces
        self._propagator = TraceContextTextMapPropagator()
        self._instruments()

    def _instruments(self) -> None:
        found = self._metrics.get_meter(_NAME)
        self._tokens = found.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )  # fmt: skip
        self._attempt_s = found.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip
        self._first_s = found.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s",
            "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip
        self._call_s = found.create_histogram(
            "gen_ai.server.request.duration", "s", "Generative AI server request duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip
        self._cost = found.create_counter("tollway.cost", "{USD}", "What attempts cost.")

    def call(self, exchange: "Exchange") -> None:
        """Take a call that has ended, with all its attempts."""
        facts = exchange.facts
        operation = _operation(exchange)
        route = exchange.plan.found.route if exchange.plan else ""
        said: dict[str, Value] = {"gen_ai.operation.name": operation, "tollway.outcome": facts.word}
        if route:
            said["tollway.route"] = route
        failed = facts.word not in _NO_ERROR
        if failed:
            said["error.type"] = facts.error or facts.word
        self._call_s.record(facts.took_s, said)
        tries = facts.tries or []
        for attempt, ended in tries:
            self._measure(operation, attempt, ended)
        if not self._is_traced:
            return
        start_ns = exchange.at_ms * 1_000_000
        span = self._tracer.start_span(
            f"{operation} {route}".strip(),  # not what was asked for, which anybody makes up
            self._context(exchange),
            kind=SpanKind.SERVER,
            start_time=start_ns,
        )
        if span.is_recording():  # else it was not sampled: nothing need be put together
            span.set_attributes(said | _of_call(exchange))
            inside = set_span_in_context(span)
            for attempt, ended in tries:
                self._span(exchange, attempt, ended, inside)
        if failed:
            span.set_status(Status(StatusCode.ERROR, facts.error or facts.word))
        span.end(start_ns + int(facts.took_s * 1e9))

    def _context(self, exchange: "Exchange") -> Context:
        carrier = {
            name: value
            for name, value in exchange.origin.headers
            if name in {"traceparent", "tracestate"}
        }
        return self._propagator.extract(carrier, Context())

    def _measure(self, operation: str, attempt: "Attempt", ended: "AttemptEnded") -> None:
        name = self._meter.label(attempt.target.name, attempt.target.provider)
        said: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _provider(attempt),
            "gen_ai.request.model": name.partition("/")[2] or name,
            "tollway.provider": attempt.target.provider,
        }
        usage = ended.usage
        for kind, count in (("input", usage.input_total), ("output", usage.output_total)):
            if count:
                self._tokens.record(count, said | {"gen_ai.token.type": kind})
        self._cost.add(ended.cost_nanousd / 1e9, said)
        if ended.first_ms is not None:
            self._first_s.record(ended.first_ms / 1000, said)
        if ended.ending not in _NO_ERROR:
            said["error.type"] = ended.error or ended.ending
        self._attempt_s.record(max(0, ended.ended_ms - attempt.opened.started_ms) / 1000, said)

    def _span(
        self, exchange: "Exchange", attempt: "Attempt", ended: "AttemptEnded", inside: Context
    ) -> None:
        operation = _operation(exchange)
        told = _of_attempt(attempt, ended, exchange.gate.mask)
        span = self._tracer.start_span(
            f"{operation} {attempt.target.model}",
            inside,
            kind=SpanKind.CLIENT,
            attributes={"gen_ai.operation.name": operation, **told},
            start_time=attempt.opened.started_ms * 1_000_000,
        )
        if ended.ending not in _NO_ERROR:
            span.set_status(Status(StatusCode.ERROR, ended.error or ended.ending))
        span.end(max(ended.ended_ms, attempt.opened.started_ms) * 1_000_000)

    def flush(self) -> bool:
        """Send all that there is, and return whether it arrived in time; it blocks."""
        began = time.monotonic()
        done = self._traces.force_flush(int(_ASK_WITHIN_S * 1000))
        left_s = max(0.1, _ASK_WITHIN_S - (time.monotonic() - began))
        return self._metrics.force_flush(left_s * 1000) and done

    async def close(self) -> None:
        """Send what is left and stop; a collector that does not answer is not waited for long."""

        def stop() -> None:
            self._traces.shutdown()
            self._metrics.shutdown(timeout_millis=_ASK_WITHIN_S * 1000)

        task = asyncio.get_running_loop().run_in_executor(None, stop)
        done, _ = await asyncio.wait([task], timeout=_CLOSE_WITHIN_S)
        if not done:
            logging.getLogger(__name__).warning(
                "the OTLP collector does not answer: spans are lost"
            )


def _operation(exchange: "Exchange") -> str:
    endpoint = exchange.call.endpoint
    if endpoint == "chat" and exchange.call.dialect == "gemini":
        return "generate_content"
    return _OPERATIONS.get(endpoint, endpoint)


def _provider(attempt: "Attempt") -> str:
    kind = attempt.target.kind.name
    return _PROVIDERS.get(kind, kind)


def _of_call(exchange: "Exchange") -> dict[str, Value]:
    facts, who = exchange.facts, exchange.caller.who
    said: dict[str, Value] = {
        "gen_ai.request.model": exchange.gate.mask(exchange.call.model[:_LONGEST]),
        "gen_ai.request.stream": exchange.call.stream,
        "gen_ai.usage.input_tokens": facts.input,
        "gen_ai.usage.output_tokens": facts.output,
        "tollway.call.id": exchange.call_id,
        "tollway.attempts": exchange.attempts,
        "tollway.cost_usd": plain_usd(exchange.cost_nanousd),
    }
    for name in ("key", "user", "team", "project"):
        if value := getattr(who, name):
            said[f"tollway.{name}"] = value
    if (waited_ms := exchange.turn.waited_ms) is not None:
        said["tollway.queue_ms"] = waited_ms
    return said


def _of_attempt(attempt: "Attempt", ended: "AttemptEnded", mask: Mask) -> dict[str, Value]:
    usage, reader, target = ended.usage, attempt.reader, attempt.target
    said: dict[str, Value] = {
        "gen_ai.provider.name": _provider(attempt),
        "gen_ai.request.model": target.model,
        "gen_ai.usage.input_tokens": usage.input_total,
        "gen_ai.usage.output_tokens": usage.output_total,
        "tollway.provider": target.provider,
        "tollway.attempt": ended.number,
        "tollway.ending": ended.ending,
        "tollway.cost_usd": plain_usd(ended.cost_nanousd),
        "tollway.estimated": usage.estimated,
    }
    known: dict[str, Value | None] = {
        "gen_ai.request.max_tokens": attempt.worst.write_output,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write + usage.cache_write_1h,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
        "gen_ai.response.id": ended.upstream_id,
        "gen_ai.response.model": mask(reader.model[:_LONGEST]),  # a provider may repeat a key
        "gen_ai.response.finish_reasons": [mask(one[:_LONGEST]) for one in reader.finish_reasons],
        "http.response.status_code": ended.status,
    }
    said |= {name: value for name, value in known.items() if value}
    if ended.first_ms is not None:
        said["gen_ai.response.time_to_first_chunk"] = ended.first_ms / 1000
    if ended.ending not in _NO_ERROR:
        said["error.type"] = ended.error or ended.ending
    address = urlsplit(target.base_url)
    if address.hostname:
        said["server.address"] = address.hostname
        said["server.port"] = address.port or (443 if address.scheme == "https" else 80)
    return said
