"""Runs `tollway` many times from one process that has imported it once.

The program's start is mostly imports, and the tests start it hundreds of times. Each run here is
a fork: a process of its own, with the exit code, signals, environment, folder and pipes that it
was asked to have, and it enters where `python -m tollway.cli` does. What a fork cannot show is
what a start imports and costs; `Home.tollway(..., fresh=True)` is for that.

This file is a script: `program.py` starts it and sends it one message for each run.
"""

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import time
from importlib import import_module
from typing import Any

PROGRAM = "tollway.cli"
# Imported by a command where it needs them, so that other commands need not wait.
LATER = (
    "asyncio",
    "importlib.metadata",
    "pydantic.fields",  # what Typer reads options with
    "pydantic.functional_validators",
    "pydantic.type_adapter",
    "rich.console",
    "rich.progress",
    "rich.table",
    "rich.text",
    "tomlkit",
    "tollway.daemon.config.document",
    "traceback",
)
MESSAGE_BYTES = 1 << 20


def preload() -> None:
    """Import the program and what its commands need; what then exists is never collected."""
    sys.path.pop(0)  # the tests' own folder, where a real run has its working folder
    commands = import_module(f"{PROGRAM}.app").COMMANDS
    for row in commands:
        if row.home:
            import_module(f"{PROGRAM}.{row.home.partition(':')[0]}")
    for name in LATER:
        import_module(name)
    gc.collect()
    gc.freeze()


def wait(control: socket.socket) -> dict[str, Any]:
    """Fork for each message; return it in the fork. The server itself ends with its starter."""
    running: dict[int, tuple[int, socket.socket]] = {}
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is control:
                data, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 4)
                if not data:
                    sys.exit()
                answers = socket.socket(fileno=fds.pop())
                pid = os.fork()
                if not pid:
                    selector.close()
                    control.close()
                    answers.close()
                    for _, other in running.values():
                        other.close()
                    for number, fd in enumerate(fds):
                        os.dup2(fd, number)
                        os.close(fd)
                    return dict(json.loads(data))
                for fd in fds:
                    os.close(fd)
                answers.sendall(b"%d\n" % pid)
                watched = os.pidfd_open(pid)
                running[watched] = pid, answers
                selector.register(watched, selectors.EVENT_READ)
            else:
                pid, answers = running.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                # Whoever asked may have given up on it.
                with answers, contextlib.suppress(BrokenPipeError):
                    answers.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def become(run: dict[str, Any]) -> None:
    """Make this process what a new one would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Set by the interpreter itself, where it was told of no locale.
    locale = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}
    os.environ.clear()
    os.environ.update(locale | run["env"])
    time.tzset()
    os.chdir(run["cwd"])
    sys.path.insert(0, run["cwd"])
    sys.argv[1:] = run["words"]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload()
    with socket.socket(fileno=int(sys.argv[1])) as messages:
        messages.sendall(b"ready\n")
        become(wait(messages))
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)
