"""A small OpenAI-speaking server, run as a command: `python command_server.py PORT [WORD...]`.

Words: `never` (never healthy), `dies` (ends at once), `leaves` (the same, as if all were well),
`stubborn` (ignores SIGTERM), `child` (starts a process of its own and says its id), `alone` (does
one thing at a time). What it was asked is echoed in the answer, unless that is to `die`, to
`hang`, to `work` without end, or to `say` something in chunks, then to `end`, `die` or `hang`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

WORDS = sys.argv[2:]


class Handler(BaseHTTPRequestHandler):
    """Answers health checks and chats."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer the health check."""
        self._whole(503 if "never" in WORDS else 200, {"path": self.path})

    def do_POST(self) -> None:
        """Answer a chat, whole or streamed, with what it asked for."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = str(asked["messages"][-1]["content"])
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "hang":
            time.sleep(600)
        while text == "work":
            pass
        if text.startswith("say "):
            self._say(*text.split()[1:])
            return
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        said = json.dumps({"model": asked["model"], "env": os.environ.get("ECHO", "")})
        message: dict[str, Any] = {"role": "assistant", "content": said}
        head = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
        if not asked.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._whole(200, body)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for delta, reason in ((message, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            self._event({**head, "object": "chat.completion.chunk", "choices": [choice]})
        self._event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _say(self, *words: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in words[:-1]:
            data = f"data: {word}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            time.sleep(0.01)  # so that each comes by itself; nothing depends on it
        if words[-1] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if words[-1] == "hang":
            time.sleep(600)
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, event: object) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _whole(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    if "dies" in WORDS:
        sys.exit("cudaMalloc failed: out of memory")
    if "leaves" in WORDS:
        sys.exit()
    if "stubborn" in WORDS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in WORDS:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(f"child {child.pid}", flush=True)
    print("listening", flush=True)
    kind = HTTPServer if "alone" in WORDS else ThreadingHTTPServer
    kind(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
