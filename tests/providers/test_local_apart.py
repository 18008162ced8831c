"""Chains in processes of their own, with the real small model's vocabulary."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from gguf_files import real_model, with_layers
from local_models import NAME, body_of, chat, model, serving, text_of

from tollway.providers.errors import AnswerHeldUp

np = pytest.importorskip("numpy", reason="numpy comes with the `local` extra")

from tollway.providers.llamacpp.apart import Apart, ApartChain, Wanted  # noqa: E402
from tollway.providers.llamacpp.frames import Sampling  # noqa: E402
from tollway.providers.llamacpp.native import (  # noqa: E402
    GrammarFailed,
    GrammarTooSlow,
    NativeFailed,
)

pytestmark = [pytest.mark.local, pytest.mark.timeout(300)]

VOCABULARY = 49152
GREEDY = Sampling(temperature=0)
# Each optional letter may be left out: llama.cpp follows all of them at once.
SLOW = 'root ::= x{50} "b"\nx ::= y{60}\ny ::= "b"?'


@contextmanager
def others() -> Iterator[Apart]:
    """Yield what tries grammars and starts chains."""
    apart = Apart(str(real_model()), version("llama_cpp_python"), VOCABULARY)
    try:
        yield apart
    finally:
        apart.close()


@contextmanager
def chains(*wanted: Wanted) -> Iterator[list[ApartChain]]:
    """Yield chains, each in a process of its own."""
    with others() as apart, ExitStack() as ends:
        made = [apart.chain(one) for one in wanted]
        for one in made:
            ends.callback(one.free)
        yield made


def likeliest(token: int) -> Any:
    """Return a step's output that has one token before all others."""
    logits = np.zeros(VOCABULARY, np.float32)
    logits[token] = 1
    return logits


def chosen(chain: ApartChain, token: int) -> int:
    """Have a chain choose, and return its token."""
    chain.ask(likeliest(token))
    found = chain.answer(60)
    assert found is not None
    return found


def test_a_chain_apart_chooses_as_one_of_this_process_does() -> None:
    """What the grammar allows, from where it binds; what the prompt said counts for penalties."""
    none = "[^\\x00-\\U0010FFFF]"
    penal = Sampling(temperature=0, repeat=9.0)
    with chains(Wanted(f'root ::= "z" {none}', GREEDY), Wanted("root ::= [a-z]+", penal)) as made:
        chain, other = made
        chain.held = False
        assert chosen(chain, 7) == 7
        chain.held = True
        letter = chosen(chain, 7)
        assert letter != 7
        chain.ask(likeliest(7))
        with pytest.raises(GrammarFailed, match="allows no token"):
            chain.answer(60)
        other.accept(letter)
        logits = likeliest(letter)
        logits[letter - 1] = 0.5
        other.ask(logits)
        assert other.answer(60) == letter - 1


def test_a_chain_that_takes_too_long_is_ended_and_no_other() -> None:
    """Whoever waits hears of it; until then it has no answer yet."""
    deep = "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000
    with chains(
        Wanted('root ::= "b"+ "c"', GREEDY),
        Wanted(SLOW, GREEDY, token_s=0.2),
        Wanted(deep, GREEDY),
    ) as (good, slow, killing):
        letter = chosen(good, 7)
        slow.ask(likeliest(letter))
        with pytest.raises(GrammarTooSlow, match="too long"):
            while slow.answer(0) is None:
                pass
        assert chosen(good, letter) == letter
        slow.ask(likeliest(letter))  # nobody is there to read it
        with pytest.raises(GrammarTooSlow):
            slow.answer(60)
        killing.ask(likeliest(letter))
        with pytest.raises(GrammarTooSlow):
            killing.answer(60)
        assert chosen(good, letter) == letter


def test_where_the_process_that_makes_chains_has_ended_another_is_started() -> None:
    """Out of memory, it is the first that the system ends; where none starts, that is told."""
    with others() as apart:
        assert apart.bears('root ::= "a"')
        assert apart._process
        apart._process.kill()
        apart._process.wait()
        assert apart.bears('root ::= "a"')
    lost = Apart("/nowhere.gguf", version("llama_cpp_python"), VOCABULARY)
    with pytest.raises(NativeFailed, match="cannot be started"):
        lost.bears('root ::= "a"')


# Its chain would take a minute.
TRIES = """
import sys
from tollway.providers.llamacpp.apart import Apart, Wanted
apart = Apart(sys.argv[1], sys.argv[2], 49152)
chain = apart.chain(Wanted(sys.argv[3], trial=True, token_s=600))
print(apart._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's children")
def test_no_process_outlives_the_worker() -> None:
    """Neither that which makes chains nor one that is within llama.cpp for hours."""
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
