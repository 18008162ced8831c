"""What holds for every test."""

import asyncio
import functools
import gc
import inspect
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import settings

# No test may depend on how fast the machine is, and Hypothesis by itself fails a slow example.
# `--hypothesis-profile=thorough` looks longer, where something is suspected.
settings.register_profile("tollway", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("tollway")

# A shell without job control starts what is behind `&` with Ctrl-C ignored, and all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the daemon meets at its sockets: these run on its own event loop. asyncio's calls a
# protocol in another order at times, and has hidden a fault by that.
_AT_THE_SOCKETS = (
    *("test_connections", "test_direct_calls", "test_handover", "test_hostile_clients"),
    *("test_middleware_errors", "test_middleware_guard", "test_middleware_http"),
    *("test_middleware_limits", "test_tls"),
)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return what makes the event loop of a test."""
    module = item.nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")
    if module in _AT_THE_SOCKETS:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collector from what stays to the end anyway: half a million objects of the tests.

    And coverage from seeing every module imported once more by each process but the first.
    """
    watching = sys.gettrace()
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        sys.settrace(None)
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    sys.settrace(watching)
    return found


# So many examples of a property, and in each process so many cases of a test, are watched by
# coverage: the others hardly reach another line, and watching takes longer than most of them.
_EXAMPLES = 10
_CASES = 8
# And the processes of so many tests of a file: they are watched whole, and take twice as long.
_WITH_PROCESSES = 3
_OF_PROCESSES = "COVERAGE_PROCESS_CONFIG"  # coverage's, for those that are started
_seen: Counter[str] = Counter()
_watch: list[Any] = []  # what coverage looks with


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Let coverage look at tests alone, and not at what pytest does between them."""
    watching = sys.gettrace()
    if watching is None:
        return (yield)
    _watch.append(watching)
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(watching)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let coverage look at the first of what is tried again and again."""
    name, file = item.nodeid.partition("[")[0], item.nodeid.partition("::")[0]
    _seen.update((name, file))
    if not _watch or _seen[name] > _CASES:
        with _processes(watched=False):
            return (yield)
    sys.settrace(_watch[0])
    try:
        with (
            _processes(watched=_seen[file] <= _WITH_PROCESSES),
            _first_examples(getattr(getattr(item, "obj", None), "hypothesis", None)),
        ):
            return (yield)
    finally:
        sys.settrace(None)


@contextmanager
def _processes(*, watched: bool) -> Iterator[None]:
    said = os.environ.get(_OF_PROCESSES)
    if watched or said is None:
        yield
        return
    del os.environ[_OF_PROCESSES]
    try:
        yield
    finally:
        os.environ[_OF_PROCESSES] = said


@contextmanager
def _first_examples(handle: Any) -> Iterator[None]:
    inner = getattr(handle, "inner_test", None)
    if inner is None or inspect.iscoroutinefunction(inner):
        yield
        return
    seen = 0

    @functools.wraps(inner)
    def example(*args: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > _EXAMPLES:
            sys.settrace(None)
        return inner(*args, **named)

    handle.inner_test = example
    try:
        yield
    finally:
        handle.inner_test = inner


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` means: more than there are CPUs, for a third of the time tests wait."""
    given = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")
    return int(given) if given else (os.cpu_count() or 1) * 3 // 2
