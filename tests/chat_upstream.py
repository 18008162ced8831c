"""A provider of the OpenAI dialect for tests of `chat`: what it does follows from the question."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = b'{"object":"list","data":[{"id":"large","object":"model"}]}'
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def whole(text: str) -> bytes:
    """Return an answer that is not streamed."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "large"}
    return json.dumps({**head, "choices": [choice], "usage": USAGE}).encode()


class _Sender(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send(200, MODELS)

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def event(self, data: object) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


class ChatUpstream:
    """Answers "You said: QUESTION", streamed or not; `asked` has each request's body.

    Questions with a meaning: "break" ends the stream early, "fail" sends an error event, "refuse"
    is answered 400, "long" stops at the limit, "wait" says one word and then nothing until the
    client has left (`left` is set then); "burst" says all three at once first; "hush" says nothing
    before `go` is set; "at once" is answered in one piece, streamed or not.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.left = threading.Event()
        self.go = threading.Event()
        upstream = self

        class Handler(_Sender):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                upstream.asked.append(body)
                question = body["messages"][-1]["content"]
                if question == "refuse":
                    self.send(400, b'{"error":{"message":"No such thing","code":"bad"}}')
                    return
                if question == "hush":
                    upstream.go.wait(120)
                if not body.get("stream") or question == "at once":
                    self.send(200, whole(f"You said: {question}"))
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                self.close_connection = True
                for number, word in enumerate(("You ", "said: ", question)):
                    self.event({"choices": [{"index": 0, "delta": {"content": word}}]})
                    if (question, number) in {("wait", 0), ("burst", 2)}:
                        # The gateway hangs up when its client has; nothing else comes from it.
                        self.rfile.read(1)
                        upstream.left.set()
                        return
                if question == "break":
                    return
                if question == "fail":
                    self.event({"error": {"message": "The model is ill", "code": "ill"}})
                    return
                reason = "length" if question == "long" else "stop"
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
                self.event({"choices": [], "usage": USAGE})
                self.wfile.write(b"data: [DONE]\n\n")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
