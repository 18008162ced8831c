"""What a local call is told that it used, and what it leaves behind."""

from collections.abc import Sequence

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from alphabet import Alphabet

from tollway.providers.llamacpp.engine import Engine
from tollway.providers.llamacpp.frames import Broken, Done, Message, Prompt, Submit, Up, Used
from tollway.providers.llamacpp.native import Late, NativeFailed, Pick, Picked
from tollway.providers.llamacpp.template import ChatTemplate


def job(text: str, number: int = 1, n: int = 1) -> Submit:
    """Return a completion call."""
    return Submit(number, "completions", [Prompt(text=text)], n=n)


def run(engine: Engine) -> list[Up]:
    """Return all that comes up until nothing is left to do."""
    said: list[Up] = []
    while engine.busy:
        said += engine.step()
    return said


def test_what_each_prompt_of_a_call_finds_in_memory_is_added_up() -> None:
    """Cached tokens cost less: those of the last prompt alone would bill the others in full."""
    engine = Engine(Alphabet("h"), None)
    engine.submit(job("zzzzzza"))
    run(engine)
    engine.submit(Submit(2, "completions", [Prompt(text="zzzzzza"), Prompt(text="zzzzzzb")]))
    done = [up for up in run(engine) if isinstance(up, Done)]
    assert done == [Done(2, Used(prompt=14, cached=12, completion=13))]


def test_a_call_that_breaks_leaves_none_of_its_choices_in_memory() -> None:
    """Neither of the one that failed nor of those beside it in the same step."""

    class Once(Alphabet):
        broken = False

        def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
            found = super().sample(picks)
            if self.broken or len(found) < 2:
                return found
            self.broken = True
            return [NativeFailed("no token"), *found[1:]]

    engine = Engine(Once("h", slots=2), None)
    engine.submit(job("abcd", n=2))
    assert run(engine)[-1] == Broken(1, "no token")
    engine.submit(job("abcd", 2, n=2))
    assert run(engine)[-1] == Done(2, Used(prompt=4, cached=0, completion=8))


def test_what_a_model_says_to_itself_is_counted_apart() -> None:
    """The mark that ends a thought is its last token; the answer behind it is none of it."""

    class Thinker(Alphabet):
        script = iter(b"Hm</think>So\0")

        def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
            return [Picked(next(self.script)) for _ in picks]

    engine = Engine(Thinker(), ChatTemplate("a<think>{# </think> #}", bos="", eos=""))
    engine.submit(Submit(1, "chat", [Prompt(messages=[Message("user", "a")])]))
    assert run(engine)[-1] == Done(1, Used(prompt=8, completion=12, thought=10))


def test_a_call_that_no_step_has_begun_ends_with_nothing_used() -> None:
    """Its caller hears of the end all the same: who hears nothing would wait for it."""
    engine = Engine(Alphabet("h"), None)
    engine.submit(job("abc"))
    assert engine.cancel(1) == [Done(1, Used(), cancelled=True)]
    assert not engine.busy
