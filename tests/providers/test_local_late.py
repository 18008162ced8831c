"""Several answers whose tokens other processes choose, and how long the loop waits for each."""

from collections.abc import Sequence

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from alphabet import Alphabet

from tollway.providers.llamacpp.engine import LATE_TURN_S, Engine
from tollway.providers.llamacpp.frames import Prompt, Submit, Token
from tollway.providers.llamacpp.native import Late, NativeFailed, Pick, Picked


class Soon:
    """A token that is not there when it is asked for first; with `looks` not so soon."""

    def __init__(self, found: Picked | NativeFailed | Late, looks: int) -> None:
        assert isinstance(found, Picked)
        self.found = found
        self.left = looks
        self.waited_s = 0.0

    def get(self, wait_s: float) -> Picked | NativeFailed | None:
        """Return it in its time."""
        self.waited_s += wait_s
        self.left -= 1
        return None if self.left >= 0 else self.found


class Two(Alphabet):
    """A "model" of which all tokens come late: those of the first caller only at its end."""

    def __init__(self) -> None:
        super().__init__("z", slots=2)
        self.frozen: list[Soon] = []

    def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
        """Let all wait."""
        found: list[Picked | NativeFailed | Late] = []
        for pick, one in zip(picks, super().sample(picks), strict=True):
            first = self.outputs[pick.row] < ord("k")
            found.append(Soon(one, 50 if first else 1))
            self.frozen += [found[-1]] if first and isinstance(found[-1], Soon) else []
        return found


def test_an_answer_does_not_wait_long_for_another_whose_grammar_is_frozen() -> None:
    """Where all wait, each is waited for in turn: its own tokens may be there at once."""
    native = Two()
    engine = Engine(native, None)
    for number, text in enumerate(("abc", "klm")):
        engine.submit(Submit(number, "completions", [Prompt(text=text)], max_tokens=6))
    made = 0
    while made < 6:
        made += sum(isinstance(up, Token) and up.id == 1 for up in engine.step())
    assert native.frozen[0].waited_s <= 2 * made * LATE_TURN_S
