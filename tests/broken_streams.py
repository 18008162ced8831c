"""Recorded streams of each dialect, and what becomes of them when their providers fail."""

from matrix_requests import ANTHROPIC, CHAT, COHERE, GEMINI, RESPONSES
from matrix_world import CLIENTS, TARGETS
from wire.recordings import recordings

from tollway.providers.conversation import Conversation
from tollway.providers.dialects.table import UPSTREAMS
from tollway.providers.events import TextDelta
from tollway.providers.sse import Splitter

PAIRS = [
    (client, source)
    for client in CLIENTS
    for source in (*CLIENTS, COHERE)
    if (client, source) != (CHAT, RESPONSES)
]
MODELS = {
    CHAT: TARGETS["openai-compatible"],
    RESPONSES: TARGETS["openai, reasoning"],
    ANTHROPIC: TARGETS["anthropic"],
    GEMINI: TARGETS["gemini"],
    COHERE: TARGETS["cohere"],
}
STREAMS = {
    CHAT: "openai/chat_stream_gpt-4o",
    RESPONSES: "openai/responses_stream_gpt-4o-mini",
    ANTHROPIC: "anthropic/messages_stream_claude-haiku-4-5",
    GEMINI: "gemini/streamgeneratecontent_stream_thinking_tool-result_gemini-3-pro-preview",
    COHERE: "cohere/v2-chat_stream_citations_thinking_cache-read_command-a-plus-05-2026",
}
FAILED = {
    CHAT: b'data: {"error":{"message":"Oh","type":"server_error","code":null}}\n\n',
    RESPONSES: b'event: error\ndata: {"type":"error","code":"server_error","message":"Oh",'
    b'"param":null,"sequence_number":9}\n\n',
    ANTHROPIC: b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"Oh"}}\n\n',
    GEMINI: b'data: {"error":{"code":503,"message":"Oh","status":"UNAVAILABLE"}}\r\n\r\n',
    COHERE: b'event: message-end\ndata: {"type":"message-end","delta":{"error":"Oh",'
    b'"finish_reason":"ERROR"}}\n\n',
}
ALIVE = {
    CHAT: b": processing\n\n",
    RESPONSES: b'event: keepalive\ndata: {"type":"keepalive","sequence_number":9}\n\n',
    ANTHROPIC: b'event: ping\ndata: {"type": "ping"}\n\n',
    GEMINI: b": processing\n\n",
    COHERE: b": processing\n\n",
}


def opening(source: str) -> bytes:
    """Return a recorded stream up to where some text has come."""
    (body,) = [one.body for one in recordings() if one.id == STREAMS[source]]
    codec = UPSTREAMS[source].codec
    reader = codec.events(Conversation(source, "m", ()), frozenset())
    found = b""
    for event in Splitter().feed(body):
        found += event.raw
        meant = reader.event(event)
        if any(isinstance(one, TextDelta) and one.text for one in meant):
            assert not reader.ended
            return found
    raise AssertionError(f"{STREAMS[source]} has no text")
