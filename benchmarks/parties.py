"""Who takes part in a measurement: the upstream, nginx and Tollway, each a child process."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tollway.daemon.bench_gateway import BenchGateway, cores, end, free_port, pinned, wait_for

LOAD_CORE, GATEWAY_CORE = cores() or (None, None)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

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


@contextmanager
def bare(folder: Path, target: str) -> Iterator[Party]:
    """Run the least that a proxy in Python can do."""
    port, upstream = free_port(), target.removeprefix("http://").partition("/")[0]
    script = [sys.executable, str(Path(__file__).with_name("bare.py"))]
    log = folder / "bare.log"
    with log.open("wb") as output:
        command = pinned(GATEWAY_CORE, [*script, str(port), upstream.rpartition(":")[2]])
        child = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(port, "/v1/models", child, log)
        yield Party(f"http://127.0.0.1:{port}/v1", child.pid)
    finally:
        end(child)


class Tollway(BenchGateway):
    """The gateway as a user starts it, and what it takes of the machine."""

    def __init__(self, folder: Path, quick: str, slow: str) -> None:
        super().__init__(folder, {"bench": quick, "slow": slow}, core=GATEWAY_CORE)
        self.program = str(Path(sys.executable).with_name("tollway"))

    def command(self) -> list[str]:
        """Return what a user types; its own start counts."""
        return [self.program, "serve", "--config", str(self.file)]

    @property
    def party(self) -> Party:
        """Where it answers, and its process."""
        return Party(self.url, self.pid)

    def memory_mb(self) -> float:
        """Return the resident memory, in 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024 / 1e6
