"""Recorded streams of each dialect, and what becomes of them when their providers fail."""

from eventstreams import framed
from matrix_requests import ANTHROPIC, BEDROCK, CHAT, COHERE, GEMINI, RESPONSES
from matrix_world import CLIENTS, TARGETS
from wire.recordings import recordings

from tollway.providers import eventstream, sse
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.table import UPSTREAMS
from tollway.providers.events import TextDelta
from tollway.providers.streams import Splitter

PAIRS = [
    (client, source)
    for client in CLIENTS
    for source in (*CLIENTS, COHERE)
    if (client, source) != (CHAT, RESPONSES)
]
# Streams of AWS's are no lines of text, so that only faults made for them fit.
EVERY_PAIR = [*PAIRS, *((client, BEDROCK) for client in CLIENTS)]
MODELS = {
    CHAT: TARGETS["openai-compatible"],
    RESPONSES: TARGETS["openai, reasoning"],
    ANTHROPIC: TARGETS["anthropic"],
    GEMINI: TARGETS["gemini"],
    COHERE: TARGETS["cohere"],
    BEDROCK: TARGETS["bedrock"],
}
STREAMS = {
    CHAT: "openai/chat_stream_gpt-4o",
    RESPONSES: "openai/responses_stream_gpt-4o-mini",
    ANTHROPIC: "anthropic/messages_stream_claude-haiku-4-5",
    GEMINI: "gemini/streamgeneratecontent_stream_thinking_tool-result_gemini-3-pro-preview",
    COHERE: "cohere/v2-chat_stream_citations_thinking_cache-read_command-a-plus-05-2026",
}
FRAMED = {BEDROCK: "bedrock/converse-stream_stream_cache-write_claude-3-7-sonnet"}
FAILED = {
    CHAT: b'data: {"error":{"message":"Oh","type":"server_error","code":null}}\n\n',
    RESPONSES: b'event: error\ndata: {"type":"error","code":"server_error","message":"Oh",'
    b'"param":null,"sequence_number":9}\n\n',
    ANTHROPIC: b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"Oh"}}\n\n',
    GEMINI: b'data: {"error":{"code":503,"message":"Oh","status":"UNAVAILABLE"}}\r\n\r\n',
    COHERE: b'event: message-end\ndata: {"type":"message-end","delta":{"error":"Oh",'
    b'"finish_reason":"ERROR"}}\n\n',
    BEDROCK: framed(
        b'{"message":"Oh"}', message_type=b"exception", exception_type=b"throttlingException"
    ),
}
GARBAGE = {BEDROCK: framed(b"{]", event_type=b"contentBlockDelta")}
ALIVE = {
    CHAT: b": processing\n\n",
    RESPONSES: b'event: keepalive\ndata: {"type":"keepalive","sequence_number":9}\n\n',
    ANTHROPIC: b'event: ping\ndata: {"type": "ping"}\n\n',
    GEMINI: b": processing\n\n",
    COHERE: b": processing\n\n",
}


def splitter(source: str) -> Splitter:
    """Return what cuts a source's streams."""
    return eventstream.Splitter() if source in FRAMED else sse.Splitter()


def opening(source: str) -> bytes:
    """Return a recorded stream up to where some text has come."""
    (body,) = [one.body for one in recordings() if one.id == (STREAMS | FRAMED)[source]]
    codec = UPSTREAMS[source].codec
    reader = codec.events(Conversation(source, "m", ()), frozenset())
    found = b""
    for event in splitter(source).feed(body):
        found += event.raw
        meant = reader.event(event)
        if any(isinstance(one, TextDelta) and one.text for one in meant):
            assert not reader.ended
            return found
    raise AssertionError(f"the stream of {source} has no text")
