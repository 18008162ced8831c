"""Who takes part when `tollway bench` and `benchmarks/` measure: an upstream and a gateway.

Each is a process of its own, in a temporary folder and on free ports of loopback, and ends with
the block that started it.
"""

import http.client
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from tollway.daemon.bench_upstream import MODEL
from tollway.providers.errors import GatewayError
from tollway.providers.words import counted

KEY = "tw-" + "bench" * 9  # opens nothing but a gateway made for measuring
_READY_WITHIN_S = 30.0
_END_WITHIN_S = 20.0
_CONFIG = """
[server]
listen = "127.0.0.1:{port}"
budget = ["1000000/month"]
watch = false

[ledger]
path = "{folder}/ledger.db"

[groups.everyone]
models = [{names}]
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

[prices."*/{model}"]
input = 0.15
output = 0.60
"""
_ROUTE = """
[providers.{name}]
kind = "openai-compatible"
base_url = "{url}"
[routes.{name}]
to = ["{name}/{model}"]
"""


def cores() -> tuple[int, int] | None:
    """Return a core for the load and the upstream, and one for the gateway; None for no choice."""
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (free[0], free[1]) if len(free) > 1 and shutil.which("taskset") else None


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """Return the command, run on that core; None leaves it as it is."""
    return [*command] if core is None else ["taskset", "-c", str(core), *command]


def machine() -> str:
    """Return what is measured on, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor() or platform.machine()},"
        f" {counted(os.cpu_count() or 1, 'core')}, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, tollway {version('tollway')},"
        f" load average before: {os.getloadavg()[0]:.1f}"
    )


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_for(port: int, path: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a child answers 200.

    Raises:
        GatewayError: It ended, or is not ready within half a minute; with what it wrote.
    """
    deadline = time.monotonic() + _READY_WITHIN_S
    while not _answers(port, path):
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            raise GatewayError(f"{child.args!r} is not ready:\n{log.read_text()[-2000:]}")
        time.sleep(0.002)


def end(child: "subprocess.Popen[bytes]") -> None:
    """Stop a child and wait for it."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def upstream(events: int, events_per_s: float, core: int | None = None) -> Iterator[str]:
    """Run the built-in upstream as a process and give its base URL."""
    script = [sys.executable, "-P", "-m", "tollway.daemon.bench_upstream"]
    child = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
        pinned(core, [*script, str(events), str(events_per_s)]),
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for whoever measures
    )
    try:
        assert child.stdout  # noqa: S101 - it was asked for
        yield child.stdout.readline().decode().strip()
    finally:
        end(child)
        if child.stdout:
            child.stdout.close()


class BenchGateway:
    """A daemon with everything on: key, group, routes, four budgets, ledger on disk.

    `start` it, measure at `url` with `KEY`, `stop` it. Its files are in `folder`, which is the
    caller's to remove. `upstreams` are base URLs by the name of the route that leads there.
    """

    def __init__(
        self, folder: Path, upstreams: Mapping[str, str], *, core: int | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.folder = folder
        self.ledger = folder / "ledger.db"
        self.file = folder / "gateway.toml"
        text = _CONFIG.format(
            port=self.port,
            folder=folder,
            names=", ".join(f'"{name}"' for name in upstreams),
            hash=sha256(KEY.encode()).hexdigest(),
            model=MODEL,
        )
        for name, url in upstreams.items():
            text += _ROUTE.format(name=name, url=url, model=MODEL)
        self.file.write_text(text)
        self.file.chmod(0o600)
        kinds = ("DATA", "CACHE", "STATE", "CONFIG", "RUNTIME")
        homes = {f"XDG_{kind}_{'DIR' if kind == 'RUNTIME' else 'HOME'}": kind for kind in kinds}
        self._environment = os.environ | {name: str(folder / sub) for name, sub in homes.items()}
        for sub in kinds:
            (folder / sub).mkdir(mode=0o700)
        self._core = core
        self._child: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return what runs the daemon in the foreground."""
        module = ["-P", "-m", "tollway.daemon"]
        return [sys.executable, *module, "--config", str(self.file)]

    def start(self) -> float:
        """Start the daemon and return the seconds until it was ready.

        Raises:
            GatewayError: It does not become ready; with its last words.
        """
        log = self.folder / "tollway.log"
        began = time.perf_counter()
        with log.open("ab") as output:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                pinned(self._core, self.command()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        wait_for(self.port, "/readyz", self._child, log)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Stop the daemon, if it runs."""
        if self._child:
            end(self._child)
            self._child = None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._child  # noqa: S101 - asked for only while it runs
        return self._child.pid
