"""Grammars in processes of their own, with the real small model's vocabulary."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from gguf_files import real_model, with_layers
from local_models import NAME, body_of, chat, model, serving, text_of

from tollway.providers.errors import AnswerHeldUp

np = pytest.importorskip("numpy", reason="numpy comes with the `local` extra")

from tollway.providers.llamacpp.apart import Apart, ApartGrammar, Wanted  # noqa: E402
from tollway.providers.llamacpp.native import (  # noqa: E402
    GrammarFailed,
    GrammarLost,
    GrammarTooSlow,
)
from tollway.providers.llamacpp.samplers import Chain  # noqa: E402

pytestmark = [pytest.mark.local, pytest.mark.timeout(300)]

VOCABULARY = 49152
# Each optional letter may be left out: llama.cpp follows all of them at once.
SLOW = 'root ::= x{50} "b"\nx ::= y{60}\ny ::= "b"?'
NONE = "[^\\x00-\\U0010FFFF]"


@contextmanager
def others() -> Iterator[Apart]:
    """Yield what tries grammars and starts them."""
    apart = Apart(str(real_model()), version("llama_cpp_python"), VOCABULARY)
    try:
        yield apart
    finally:
        apart.close()


@contextmanager
def grammars(*wanted: Wanted) -> Iterator[list[ApartGrammar]]:
    """Yield grammars, each in a process of its own."""
    with others() as apart, ExitStack() as ends:
        made = [apart.grammar(one) for one in wanted]
        for one in made:
            ends.callback(one.free)
        yield made


def judged(grammar: ApartGrammar, token: int) -> bool:
    """Have a grammar judge a token."""
    grammar.ask(token)
    found = grammar.answer(60)
    assert found is not None
    return found


def letter_of(grammar: ApartGrammar) -> int:
    """Return the only token that a grammar allows."""
    assert not judged(grammar, 7)
    return int(np.flatnonzero(grammar.mask).item())


def test_a_grammar_apart_judges_tokens_and_goes_on_with_those_that_it_is_told() -> None:
    """What it refuses it has not taken; where it allows none, whoever asks is told."""
    with grammars(Wanted(f'root ::= "z" "b"* "c" {NONE}')) as (grammar,):
        grammar.accept(letter_of(grammar))
        assert not judged(grammar, 7)
        some = np.flatnonzero(grammar.mask)
        assert len(some) > 1
        assert all(judged(grammar, token) for token in (int(some[0]), int(some[0])))
    with grammars(Wanted(f'root ::= "z" {NONE}')) as (grammar,):
        grammar.accept(letter_of(grammar))
        with pytest.raises(GrammarFailed, match="allows no token"):
            judged(grammar, 7)


def test_a_chain_chooses_of_what_its_grammar_allows() -> None:
    """The likeliest, if it may be; else of the same output, even if llama.cpp wrote over it."""
    output = np.arange(VOCABULARY, dtype=np.float32)
    with grammars(Wanted('root ::= "z"'), Wanted('root ::= "z" | "b"')) as (one, two):
        letter = letter_of(one)
        chain = Chain(None, None, two)
        chain.held = False
        assert (chain.bound, chain.plain, chain.choose(output)) == (False, True, VOCABULARY - 1)
        chain.held = True
        assert (chain.bound, chain.plain) == (True, False)
        chain.propose(output[:])
        while (found := chain.chosen(0)) is None:
            output[:] = 0
        token, of = found
        assert token == max(np.flatnonzero(two.mask)) >= letter
        assert (of == np.arange(VOCABULARY)).all()


def test_a_grammar_that_takes_too_long_is_ended_and_no_other() -> None:
    """Whoever waits hears of it; until then there is no answer yet."""
    deep = "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000
    wanted = (Wanted('root ::= "b"+ "c"'), Wanted(SLOW, token_s=0.2), Wanted(deep))
    with grammars(Wanted('root ::= "b"'), *wanted) as (first, good, slow, killing):
        letter = letter_of(first)
        slow.ask(letter)
        with pytest.raises(GrammarTooSlow, match="too long"):
            while slow.answer(0) is None:
                pass
        assert judged(good, letter)
        slow.ask(letter)  # nobody is there to read it
        with pytest.raises(GrammarLost):
            slow.answer(60)
        with pytest.raises(GrammarTooSlow):
            judged(killing, letter)
        assert judged(good, letter)


def test_where_the_process_that_makes_grammars_has_ended_another_is_started() -> None:
    """Out of memory, it is the first that the system ends; where none starts, that is told."""
    with others() as apart:
        assert apart.bears('root ::= "a"')
        assert apart._process
        apart._process.kill()
        apart._process.wait()
        assert apart.bears('root ::= "a"')
    lost = Apart("/nowhere.gguf", version("llama_cpp_python"), VOCABULARY)
    try:
        with pytest.raises(GrammarLost, match="no process for the grammar"):
            lost.bears('root ::= "a"')
    finally:
        lost.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's children")
def test_a_grammar_that_nobody_waits_for_any_more_is_ended() -> None:
    """Who cancels such calls as quickly as they come would have any number of them run on."""
    with others() as apart:
        grammar = apart.grammar(Wanted(SLOW, token_s=600))
        grammar.ask(7)
        assert apart._process
        maker = apart._process.pid
        children = Path(f"/proc/{maker}/task/{maker}/children")
        while not children.read_text():
            pass
        grammar.free()
        while children.read_text():
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's children")
def test_what_the_system_ended_says_nothing_of_its_grammar() -> None:
    """Out of memory it ends whom it likes; whoever waited is told that, and of no fault."""
    with others() as apart:
        one, two = (apart.grammar(Wanted('root ::= "z"')) for _ in range(2))
        letter_of(one)
        letter_of(two)
        assert apart._process
        maker = apart._process.pid
        first, second = Path(f"/proc/{maker}/task/{maker}/children").read_text().split()
        os.kill(int(first), signal.SIGKILL)
        with pytest.raises(GrammarLost):
            one.answer(60)
        assert not judged(two, 7)
        assert int(second)
        apart._process.kill()
        with pytest.raises(GrammarLost):
            two.answer(60)
        one.free()
        two.free()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file is read by its name")
def test_grammars_have_the_vocabulary_of_the_file_that_was_loaded(tmp_path: Path) -> None:
    """It may be gone since, or another's: the worker serves on."""
    path = tmp_path / "m.gguf"
    with_layers(real_model(), path, 1)
    apart = Apart(str(path), version("llama_cpp_python"), VOCABULARY)
    path.unlink()
    try:
        assert apart.bears('root ::= "a"')
    finally:
        apart.close()


def test_a_trial_has_no_more_stack_than_any_thread() -> None:
    """The worker compiles what passed in a thread, and not everywhere has one eight megabytes."""
    with others() as apart:
        assert apart.bears("root ::= " + "(" * 1_000 + '"a"' + ")" * 1_000)
        assert not apart.bears("root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000)


def test_where_no_more_files_may_be_opened_a_grammar_is_lost_and_nothing_else() -> None:
    """It ends one answer: any other error would end the engine, and all answers with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with others() as apart:
        assert apart.bears('root ::= "a"')
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(GrammarLost, match="no room for a grammar"):
                apart.grammar(Wanted('root ::= "a"'))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert apart.bears('root ::= "a"')


# Its grammar would take a minute.
TRIES = """
import sys
from tollway.providers.llamacpp.apart import Apart, Wanted
apart = Apart(sys.argv[1], sys.argv[2], 49152)
grammar = apart.grammar(Wanted(sys.argv[3], trial=True, token_s=600))
print(apart._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's children")
def test_no_process_outlives_the_worker() -> None:
    """Neither that which makes grammars nor one that is within llama.cpp for hours."""
    words = [sys.executable, "-c", TRIES, str(real_model()), version("llama_cpp_python"), SLOW]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        maker = int(child.stdout.readline())
        while not (born := Path(f"/proc/{maker}/task/{maker}/children").read_text().split()):
            pass
        child.kill()
        assert child.stdout.read() == b""  # all that had its output open are gone
    while any(Path(f"/proc/{pid}").exists() and not _is_dead(pid) for pid in (str(maker), *born)):
        pass


def _is_dead(pid: str) -> bool:
    """Whether nobody but its parent, which may not look, knows of it any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_a_grammar_that_freezes_in_the_middle_holds_nobody_up(tmp_path: Path) -> None:
    """Behind more letters than are tried: its call ends, others go on, and then it is known."""
    small = tmp_path / "small.gguf"
    with_layers(real_model(), small, 1)
    late = 'root ::= "a"{270} "c" rest\n' + SLOW.replace("root", "rest")
    bad = chat("hi", grammar=late, max_tokens=400)
    async with serving(tmp_path, model(small)) as local:
        frozen = asyncio.create_task(local.send(NAME, "chat", bad))
        said = await text_of(local, chat("hi", max_tokens=60, ignore_eos=True))
        with pytest.raises(AnswerHeldUp, match="takes too long") as fault:
            await body_of(await frozen)
        assert fault.value.param == "grammar"
        again = await local.send(NAME, "chat", bad)
        assert again.status == 400
        assert "too much for llama.cpp" in (await body_of(again)).decode()
        assert await text_of(local, chat("hi", max_tokens=60, ignore_eos=True)) == said


async def test_a_schema_that_freezes_is_its_caller_s_fault(tmp_path: Path) -> None:
    """Made into a grammar, a pattern can be as much for llama.cpp as any that a caller writes."""
    small = tmp_path / "small.gguf"
    with_layers(real_model(), small, 1)
    schema = {"type": "string", "pattern": "^(a?){200}b$"}
    held = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    bad = chat("hi", response_format=held)
    async with serving(tmp_path, model(small)) as local:
        with pytest.raises(AnswerHeldUp, match="takes too long") as fault:
            await body_of(await local.send(NAME, "chat", bad))
        assert fault.value.param == "response_format"
        again = await local.send(NAME, "chat", bad)
        assert again.status == 400
        assert "too much for llama.cpp" in (await body_of(again)).decode()
