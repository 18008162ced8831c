"""The daemon's process: it serves until a signal or the control socket says stop.

`python -m tollway.daemon --config PATH` is the process; `tollway serve` is the same in the
foreground.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from tollway.daemon import early, handover, supervisor
from tollway.daemon.config.load import load
from tollway.daemon.config.paths import state_paths
from tollway.daemon.config.schema import Config
from tollway.daemon.connection import EdgeLimits
from tollway.daemon.errors import ConfigError
from tollway.daemon.handover import Handed
from tollway.daemon.log import Log
from tollway.daemon.log_file import LogFile
from tollway.daemon.process import (
    Ready,
    Start,
    StartedBy,
    make_private,
    raise_file_limit,
    tell,
    tell_error,
    too_poor,
)
from tollway.daemon.server import Server
from tollway.providers.errors import GatewayError

log = logging.getLogger(__name__)


async def serve(config: Config, output: Log, limits: EdgeLimits, start: Start) -> Handed | None:
    """Serve until a signal or the control socket says stop, then drain.

    `start.ready_fd` is told once calls are answered. SIGTERM and SIGINT stop, a second one
    hurries; SIGHUP reloads. Returns with what this process is to begin anew, None where it is to
    end.

    Raises:
        GatewayError: It cannot start.
        StoppedEarly: It was told to stop before it served.
    """
    loop = asyncio.get_running_loop()
    server = Server(config, output, limits=limits, start=start)
    await _started(server)
    for number in early.SIGNALS:
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    early.take_reloads()
    # What lives now lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # A call makes no cycles; looking for them every 700 objects took 2 % of the time.
    gc.set_threshold(10_000, 20, 50)
    log.info("ready on %s, process %d", server.listen, os.getpid())
    tell(start.ready_fd, Ready(ready=True, pid=os.getpid(), listen=server.listen, url=server.url))
    supervisor.notify("READY=1", f"STATUS=Serving {server.listen}")
    try:
        await server.stopped()
        while not await server.drain():
            await server.stopped()
    finally:
        handed = await server.close()
    if handed is not None:
        early.hold()  # the loop's end takes its handlers away
    return handed


async def _started(server: Server) -> None:
    """Start a server; told to stop meanwhile, give back what it has taken and raise."""
    loop = asyncio.get_running_loop()
    starting = loop.create_task(server.start(), name="start")
    told: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        told.append(number)
        starting.cancel()

    for number in early.SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        await starting
    except asyncio.CancelledError:
        if told:
            raise early.StoppedEarly(told[0]) from None
        raise
    if told:  # too late for that
        server.stop()


def main(config_path: Path, start: Start, *, take_over: bool = False, hurry: bool = False) -> int:
    """Run the daemon until it is told to stop; return its exit code: 0, but after an early Ctrl-C.

    With `take_over` the daemon that runs makes way first; `hurry` cuts its calls.

    Raises:
        GatewayError: It cannot start. `start.ready_fd` is left for `tell_error`.
    """
    make_private()
    if start.ready_fd is not None:
        os.set_inheritable(start.ready_fd, False)  # a model's worker must not hold it open
    config = load(config_path)
    limits = EdgeLimits(connections=raise_file_limit())
    handed = handover.inherited(config)
    if take_over:
        handed = handover.take_over(config, hurry=hurry)
    start = msgspec.structs.replace(start, sockets=tuple(handed.sockets), runs=handed.runs)
    output = Log(file=LogFile.of(state_paths(config.ledger.path).log))
    output.install(config.server.log_level, config.server.log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            again = runner.run(serve(config, output, limits, start))
    except early.StoppedEarly as stopped:
        return stopped.code
    finally:
        output.close()
    if again is not None:
        handover.begin_anew(config, again)
    return 0


def program() -> int:
    """Run the process by its arguments; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tollway.daemon")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--take-over", action="store_true", help="once the running one makes way")
    parser.add_argument("--hurry", action="store_true", help="cut that one's calls")
    parser.add_argument("--check", metavar="HOST:PORT", help="only look whether it could serve")
    said = parser.parse_args()
    by: StartedBy = (
        "up" if said.ready_fd is not None else "systemd" if supervisor.is_systemds() else "serve"
    )
    try:
        if said.check:
            return handover.look(load(said.config), said.check)
        start = Start(ready_fd=said.ready_fd, by=by)
        return main(said.config, start, take_over=said.take_over, hurry=said.hurry)
    except (GatewayError, OSError, MemoryError, RuntimeError) as fault:
        error = fault if isinstance(fault, GatewayError) else too_poor(fault)
        if error is None:
            raise
        tell_error(said.ready_fd, error)
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    # How a daemon of an earlier version, which may be running, begins anew or is asked to.
    sys.exit(program())
