"""Who takes part in a measurement: the upstream, nginx and Tollway, each a child process."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

KEY = "tw-" + "bench" * 9
LOAD_CORE, GATEWAY_CORE = "0", "1"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

GATEWAY_TOML = """
[server]
listen = "127.0.0.1:{port}"
admin_socket = "{folder}/admin.sock"
budget = ["1000000/month"]
watch = false

[ledger]
path = "{folder}/ledger.db"

[providers.bench]
kind = "openai-compatible"
base_url = "{quick}"
[providers.slow]
kind = "openai-compatible"
base_url = "{slow}"

[routes.bench]
to = ["bench/bench"]
[routes.slow]
to = ["slow/bench"]

[groups.everyone]
models = ["bench", "slow"]
[teams.road]
groups = ["everyone"]
budget = ["100000/month"]
[users.walker]
team = "road"
budget = ["100000/month"]
[keys.walker]
hash = "sha256:{hash}"
user = "walker"
budget = ["100000/month"]

[prices."*/bench"]
input = 0.15
output = 0.60
"""

NGINX_CONF = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream quick {{ server {upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://quick;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def pinned(core: str, command: list[str]) -> list[str]:
    """Return a command that runs on one core, where this system can do that."""
    can = shutil.which("taskset") and (os.cpu_count() or 1) > 1
    return ["taskset", "-c", core, *command] if can else command


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def ask(port: int, path: str) -> int:
    """Return the status of a GET, 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def wait_for(port: int, path: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a child answers 200.

    Raises:
        SystemExit: It ended, or is not ready within half a minute; with what it wrote.
    """
    deadline = time.monotonic() + 30
    while ask(port, path) != 200:
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            raise SystemExit(f"{child.args!r} is not ready:\n{log.read_text()[-2000:]}")
        time.sleep(0.002)


def end(child: "subprocess.Popen[bytes]") -> None:
    """Stop a child and wait for it."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def upstream(events: int, events_per_s: float) -> Iterator[str]:
    """Run an upstream and give its base URL."""
    script = str(Path(__file__).with_name("upstream.py"))
    command = pinned(LOAD_CORE, [sys.executable, script, str(events), str(events_per_s)])
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert child.stdout
        yield child.stdout.readline().decode().strip()
    finally:
        end(child)


class Party(NamedTuple):
    """Somewhere to send calls to. `pid` is the process whose CPU counts; None: nobody's."""

    url: str
    pid: int | None = None

    def cpu_s(self) -> float:
        """Return the seconds of CPU that the process, its threads and its children have used."""
        return _cpu_s(self.pid) if self.pid else 0.0


def _cpu_s(pid: int) -> float:
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    children = (process / "task" / str(pid) / "children").read_text().split()
    return own + sum(_cpu_s(int(child)) for child in children)


@contextmanager
def nginx(folder: Path, target: str) -> Iterator[Party | None]:
    """Run nginx as a plain reverse proxy; None where it isn't installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    host = target.removeprefix("http://").partition("/")[0]
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, port=port, upstream=host))
    log = folder / "nginx.log"
    with log.open("wb") as output:
        command = pinned(GATEWAY_CORE, [program, "-p", str(folder), "-c", str(conf)])
        child = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(port, "/v1/models", child, log)
        yield Party(f"http://127.0.0.1:{port}/v1", child.pid)
    finally:
        end(child)


class Tollway:
    """The daemon with everything on: key, group, route, four budgets, ledger on disk."""

    def __init__(self, folder: Path, quick: str, slow: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.program = str(Path(sys.executable).with_name("tollway"))
        self.folder = folder
        self.file = folder / "gateway.toml"
        self.file.write_text(
            GATEWAY_TOML.format(
                port=self.port,
                folder=folder,
                quick=quick,
                slow=slow,
                hash=sha256(KEY.encode()).hexdigest(),
            )
        )
        self.file.chmod(0o600)
        kinds = ("DATA", "CACHE", "STATE", "CONFIG", "RUNTIME")
        homes = {f"XDG_{kind}_{'DIR' if kind == 'RUNTIME' else 'HOME'}": kind for kind in kinds}
        self._environment = os.environ | {name: str(folder / sub) for name, sub in homes.items()}
        for sub in kinds:
            (folder / sub).mkdir(mode=0o700)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start the daemon and return the seconds until it was ready."""
        log = self.folder / "tollway.log"
        began = time.perf_counter()
        with log.open("ab") as output:
            command = [self.program, "serve", "--config", str(self.file)]
            self._child = subprocess.Popen(
                pinned(GATEWAY_CORE, command),
                stdout=output,
                stderr=output,
                env=self._environment,
            )
        wait_for(self.port, "/readyz", self._child, log)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Stop the daemon, if it runs."""
        if self._child:
            end(self._child)
            self._child = None

    @property
    def party(self) -> Party:
        """Where it answers, and its process."""
        return Party(self.url, self.pid)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._child
        return self._child.pid

    def memory_mb(self) -> float:
        """Return the resident memory, in 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024 / 1e6
