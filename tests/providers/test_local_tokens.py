"""A text that begins like an earlier one is cut into the same tokens as by itself."""

import re

import alphabet
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp.frames import Prompt
from tollway.providers.llamacpp.jobs import Jobs
from tollway.providers.llamacpp.tokens import Tokenizer, common

# Longer ones are looked for first, as llama.cpp does; some take the blanks beside them.
CONTROLS = ("<s>\n", "<e>", "<s>", "<l>", "<r>")
WORDS = st.sampled_from([*CONTROLS, "<", "s>", "\n", " ", "ab", "abc", "é"])
FAR = max(map(len, CONTROLS))


class Marked(alphabet.Alphabet):
    """Knows special tokens, and cuts the text between two of them into pairs of letters."""

    def __init__(self) -> None:
        super().__init__()
        self.names = list(CONTROLS)
        self.cut = 0  # characters

    def tokenize(self, text: str, *, ends: bool) -> list[int]:
        """Return the tokens; a new pair of letters gets the next number."""
        self.cut += len(text)
        found: list[int] = []
        parts = re.split(f" *(<l>)|(<r>) *|{'|'.join(f'({one})' for one in CONTROLS)}", text)
        for part in filter(None, parts):
            pairs = [part[at : at + 2] for at in range(0, len(part), 2)]
            for one in [part] if part in CONTROLS else pairs:
                if one not in self.names:
                    self.names.append(one)
                found.append(self.names.index(one))
        return found

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return what a token says."""
        name = self.names[token]
        return b"" if name in CONTROLS and not special else name.encode()


@given(st.lists(st.tuples(st.integers(0, 20), st.lists(WORDS, max_size=12)), max_size=30))
def test_tokens_do_not_depend_on_what_was_cut_before(turns: list[tuple[int, list[str]]]) -> None:
    """Whatever begins like something else, and wherever it goes on otherwise."""
    native, text = Marked(), ""
    tokenizer = Tokenizer(native, far=FAR)
    for kept, words in turns:
        text = text[: len(text) * kept // 16] + "".join(words)
        assert tokenizer.tokenize(text) == native.tokenize(text, ends=False)


def test_a_turn_of_a_long_conversation_costs_what_is_new() -> None:
    """Also where another conversation that begins alike was there in between."""
    native = Marked()
    tokenizer = Tokenizer(native)
    system, turn = "<s>" + "abc " * 10_000 + "<e>", "<s>" + "abc " * 40 + "<e>"
    for at in range(1, 40):
        for who in "ab":
            native.cut = 0
            said = system + f"{turn}<s>{who}<e>" * at
            tokens = tokenizer.tokenize(said)
            assert at == 1 or native.cut < 1000
            native.cut = 0
            assert tokenizer.tokenize(said) == tokens
            assert native.cut == 0


def test_what_is_private_is_neither_kept_nor_told_by_how_soon_it_is_cut() -> None:
    """Who asks with the same text, or again, has it cut anew; what all share is cut once."""
    native = Marked()
    jobs, prompt, cut = Jobs(native, None), Prompt(text="<s>abc"), []
    for private in (True, True, False, True, False):
        native.cut = 0
        jobs.tokens("completions", prompt, private=private)
        cut.append(native.cut > 0)
    assert cut == [True, True, True, True, False]


@given(st.text("ab", max_size=40), st.text("ab", max_size=40))
def test_what_texts_have_in_common_is_their_longest_beginning(one: str, other: str) -> None:
    """To the character."""
    found = common(one, other)
    assert one[:found] == other[:found]
    assert found == min(len(one), len(other)) or one[found] != other[found]
