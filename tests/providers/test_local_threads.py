"""How many threads compute: found by trying, and without changing a bit of any answer."""

import itertools
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable

import pytest
from gguf_files import real_model
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp.threads import (
    BLOCK,
    WAIT_MOST,
    Threads,
    ThreadsBySize,
)

Cost = Callable[[int], float]


def work(threads: Threads, steps: int, cost: Cost, shape: object = "answers") -> list[int]:
    """Do steps that take what `cost` says of so many threads; return what each of them had."""
    used = []
    for _ in range(steps):
        used.append(threads.begin(shape))
        threads.took(cost(used[-1]))
    return used


def quiet(count: int) -> float:
    """Return a step's seconds where nobody else computes."""
    return 0.01 / count


def crowded(count: int) -> float:
    """Return a step's seconds where every thread has to wait for those beside it."""
    return 0.01 * count


def test_a_quiet_machine_uses_all_threads() -> None:
    """Trials of fewer become rare, so that they cost a few steps in a hundred at most."""
    threads = Threads(8)
    work(threads, 1000, quiet)
    later = work(threads, 10 * WAIT_MOST, quiet)
    assert threads.usual == 8
    # A first step that is clearly slower than the usual one ends the trial.
    assert sum(count != 8 for count in later) <= len(later) / WAIT_MOST + 1


def test_a_rival_that_is_a_little_slower_gets_two_steps() -> None:
    """One might have been chance; as soon as all of its are slower, the trial is over."""
    threads = Threads(2)
    used = work(threads, 1000, lambda count: 0.012 - 0.002 * count)
    first = used.index(1)
    assert used[first - 1 : first + 4] == [2, 1, 1, 2, 2]
    assert threads.usual == 2


def test_steps_that_are_long_once_in_a_while_count() -> None:
    """Two threads are quicker in most steps, and slower in sum: that takes a row to see."""
    threads = Threads(2)
    two = itertools.cycle([0.009] * 5 + [0.020])
    used = work(threads, 400, lambda count: 0.010 if count == 1 else next(two))
    first = used.index(1)
    assert used[first : first + 2 * BLOCK] == [1] * BLOCK + [2] * BLOCK
    assert threads.usual == 1


@pytest.mark.parametrize("quick", [1, 2])
def test_a_small_gain_is_found_where_steps_differ_by_much_more(quick: int) -> None:
    """A fourteenth less time, in steps a sixth apart, at a pace that wanders: mostly used."""
    shares = []
    for seed in range(10):
        chance, pace = random.Random(seed), 1.0  # noqa: S311 - must repeat itself
        threads, used = Threads(2), []
        for _ in range(4000):
            used.append(threads.begin("answers"))
            pace = 1 + 0.95 * (pace - 1) + chance.gauss(0, 0.02)
            usual = 1.0 if used[-1] == quick else 1.07
            threads.took(0.0046 * pace * chance.gauss(usual, 0.15))
        shares.append(used.count(quick) / len(used))
    assert statistics.mean(shares) > 0.8


def test_a_crowded_machine_gets_to_one_thread_and_back() -> None:
    """What others do beside us changes: it is noticed both ways."""
    threads = Threads(8)
    work(threads, 1000, quiet)
    work(threads, 200, crowded)
    assert threads.usual == 1
    work(threads, 4 * WAIT_MOST, quiet)
    assert threads.usual == 8


def test_what_became_slow_is_looked_at_at_once() -> None:
    """Not only when the next trial would have come."""
    threads = Threads(2)
    work(threads, 1000, quiet)
    assert 1 in work(threads, 12, lambda count: 10 * crowded(count))


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(1e-6, 10, allow_nan=False)), max_size=300),
)
def test_any_times_and_shapes_give_a_number_that_there_is(
    most: int, steps: list[tuple[str, float]]
) -> None:
    """Never none, never more than all; and one thread is no choice but where it is one of two."""
    threads = Threads(most)
    for shape, seconds in steps:
        assert 1 <= threads.begin(shape) <= most
        threads.took(seconds)
    if most == 1:
        assert threads.usual == 1


@given(st.lists(st.sampled_from("abcdefgh"), min_size=50, max_size=200))
def test_different_steps_are_not_compared(shapes: list[str]) -> None:
    """However long each shape takes, fewer threads never look good where more are quicker."""
    threads = Threads(4)
    for shape in shapes:
        count = threads.begin(shape)
        threads.took((1 + ord(shape) % 7) ** 3 * quiet(count))
    assert threads.usual == 4


def test_fewer_threads_that_are_as_quick_leave_the_rest_to_others() -> None:
    """A token that waits for memory comes no sooner by a second CPU."""
    threads = Threads(8)
    work(threads, 400, lambda count: 0.01 if count >= 2 else 0.02)
    assert threads.usual == 2
    work(threads, 4 * WAIT_MOST, lambda count: 0.01 / count**0.02)
    assert threads.usual == 2  # a seventieth less time is not worth twice as many
    work(threads, 8 * WAIT_MOST, lambda count: 0.01 / count**0.1)
    assert threads.usual == 8  # a fifteenth is
    work(threads, 400, lambda count: 0.01 if count >= 2 else 0.02)
    assert threads.usual == 2
    work(threads, 4 * WAIT_MOST, quiet)
    assert threads.usual == 8


def test_what_lies_between_two_steps_of_a_row_counts() -> None:
    """A second thread that takes the CPU from whoever passes tokens on gains nothing by it."""
    gain, loss = {1: 0.010, 2: 0.009}, {1: 0.001, 2: 0.002}
    alone, passed_on = ThreadsBySize(2), ThreadsBySize(2)
    for _ in range(200):
        used = alone.begin(1, 1)
        alone.took(gain[used], 0.0)
        used = passed_on.begin(1, 1)
        passed_on.took(gain[used], loss[used])
    assert (alone.begin(1, 1), passed_on.begin(1, 1)) == (2, 1)
    waits = ThreadsBySize(2)
    for _ in range(200):
        used = waits.begin(1, 1)
        waits.took(gain[used], 1.0 if used == 2 else 0.0)  # for the next call
    assert waits.begin(1, 1) == 2


def test_each_size_of_step_has_its_own_number() -> None:
    """A lone answer that is quickest with one thread does not make prompts be read with one."""
    threads = ThreadsBySize(4)
    used: dict[str, list[int]] = {"alone": [], "eight": [], "prompt": []}

    def step(kind: str, pieces: int, tokens: int, cost: Cost) -> None:
        used[kind].append(threads.begin(pieces, tokens))
        threads.took(tokens * cost(used[kind][-1]), 0.0)

    for number in range(600):
        step("alone", 1, 1, crowded)
        step("eight", 8, 8, quiet)
        length = 40 + number * 37 % 400  # prompts are of all lengths
        step("prompt", 1, length, quiet)
    usual = {kind: statistics.mode(each[-100:]) for kind, each in used.items()}
    assert usual == {"alone": 1, "eight": 4, "prompt": 4}


def test_prompts_of_all_lengths_get_fewer_threads_on_a_crowded_machine() -> None:
    """They compare by their tokens: hardly two have the same length."""
    threads = ThreadsBySize(4)
    used = []
    for number in range(400):
        length = 40 + number * 37 % 400
        used.append(threads.begin(1, length))
        threads.took(length * crowded(used[-1]), 0.0)
    assert statistics.mode(used[-50:]) == 1


SCRIPT = """
import sys
import llama_cpp, numpy
from tollway.providers.llamacpp.binding import LlamaCpp
from tollway.providers.llamacpp.fit import Offload
from tollway.providers.llamacpp.frames import Load
from tollway.providers.llamacpp.native import Piece
load = Load(sys.argv[1], 512, 0, Offload((), 0), None, "", slots=3)
native = LlamaCpp(llama_cpp, load, lambda percent: None)
seen = []
for threads in (1, 2):
    native._threads = None
    llama_cpp.llama_set_n_threads(native._context, threads, threads)
    rows = []
    def decode(*pieces):
        native.decode(pieces)
        for at in native._samplers._rows:
            row = llama_cpp.llama_get_logits_ith(native._context, at)
            rows.append(numpy.ctypeslib.as_array(row, shape=(native.vocabulary,)).tobytes())
    for seq in range(3):
        native.keep(seq, 0)
        decode(Piece(seq, 0, range(500, 540 + 30 * seq)))
    for step in range(3):
        decode(*(Piece(seq, 40 + 30 * seq + step, [900 + step]) for seq in range(3)))
    decode(Piece(1, 73, [901]))
    seen.append(rows)
assert len(seen[0]) == 13
assert seen[0] == seen[1]
"""


@pytest.mark.local
def test_threads_change_no_bit() -> None:
    """So that a number of threads can be tried at any time: outputs of prompts and answers."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(real_model())],
        env=os.environ | {"GOMP_SPINCOUNT": "0"},  # tests run beside each other
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
