"""A server on loopback that says one thing, and remembers who asked."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class OneAnswer:
    """Answers every GET alike until `close`; `asked` has each path and its credential.

    With `only`, paths that begin otherwise are not there.
    """

    def __init__(self, status: int, body: bytes, only: str = "") -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []  # of each request, names in lower case
        asked, heads = self.asked, self.headers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers["authorization"]))
                heads.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(status if self.path.startswith(only) else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

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
