"""The generating loop where llama.cpp says no, or cannot do what most models can."""

from collections.abc import Sequence
from functools import partial

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from alphabet import END, Alphabet

from tollway.providers.llamacpp.engine import LATE_S, Engine
from tollway.providers.llamacpp.frames import (
    Broken,
    Cancel,
    ChoiceEnded,
    Count,
    Counted,
    Done,
    Message,
    Prompt,
    Reading,
    Refused,
    Shape,
    Submit,
    Token,
    Tool,
    Up,
    Used,
)
from tollway.providers.llamacpp.jobs import Jobs, Read, Refusal
from tollway.providers.llamacpp.native import (
    GrammarLost,
    GrammarTooSlow,
    Late,
    NativeFailed,
    Pick,
    Picked,
)
from tollway.providers.llamacpp.policy import Rules
from tollway.providers.llamacpp.template import ChatTemplate


def job(text: str, number: int = 1, **fields: object) -> Submit:
    """Return a completion call."""
    return Submit(number, "completions", [Prompt(text=text)], **fields)  # type: ignore[arg-type]


def run(engine: Engine) -> list[Up]:
    """Return all that comes up until nothing is left to do."""
    said: list[Up] = []
    while engine.busy:
        said += engine.step()
    return said


def text(said: list[Up]) -> str:
    """Return the text of an answer."""
    return "".join(up.text for up in said if isinstance(up, Token | ChoiceEnded))


def test_a_prompt_is_read_in_pieces_and_answered() -> None:
    """Each step says that it was done, so a cancel and the watchdog wait for one only."""
    native = Alphabet("h")
    said = run(Engine(native, None))
    assert said == []
    engine = Engine(native, None)
    engine.submit(job("zzzzzzzzza"))
    said = run(engine)
    assert native.decoded[:3] == [4, 4, 2]
    assert [up.done for up in said if isinstance(up, Reading)] == [4, 8, 10]
    assert text(said) == "bcdefgh"
    assert said[-1] == Done(1, Used(prompt=10, cached=0, completion=7))
    assert native.chains == 0


def test_where_no_token_can_be_chosen_the_others_have_theirs_once() -> None:
    """A chain that is asked twice for one place has taken the first: its grammar goes astray."""

    class Choosy(Alphabet):
        asked = 0

        def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
            self.asked += len(picks)
            none = NativeFailed("the grammar allows no token here")
            return [none if one == Picked(ord("d")) else one for one in super().sample(picks)]

    native = Choosy("h", slots=2)
    engine = Engine(native, None)
    engine.submit(job("abc"))
    engine.submit(job("e", 2))
    said = run(engine)
    assert [up.message for up in said if isinstance(up, Broken)] == [
        "the grammar allows no token here"
    ]
    assert text(said) == "fgh"
    assert native.asked == 1 + 4  # three letters and the end
    assert native.chains == 0


class Elsewhere(Alphabet):
    """A "model" whose first caller's tokens another process chooses, once it has been asked often.

    It counts how long it was waited for in all, and takes the place of `native.Late` itself.
    """

    looks = 3
    waited_s = 0.0
    fault: NativeFailed | None = None

    def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
        """Let the first sequence wait for each token."""
        found: list[Picked | NativeFailed | Late] = [*super().sample(picks)]
        for at, pick in enumerate(picks):
            if self.outputs[pick.row] < ord("k"):
                self.later, self.left = found[at], self.looks
                found[at] = self
        return found

    def get(self, wait_s: float) -> Picked | NativeFailed | None:
        """Return it at the third time; then too soon would be an error."""
        self.waited_s += wait_s
        self.left -= 1
        assert self.left >= 0
        if self.left:
            return None
        assert isinstance(self.later, Picked)
        return self.fault or self.later


def test_nobody_waits_for_a_token_that_another_process_chooses() -> None:
    """The others go on, a step each; its own goes on when it comes. A prompt is not read twice."""
    native = Elsewhere("z", slots=2)
    engine = Engine(native, None)
    engine.submit(job("xabc", 1, max_tokens=2))
    engine.submit(job("klm", 2, max_tokens=6))
    said = run(engine)
    assert [up.text for up in said if isinstance(up, Token) and up.id == 1] == ["d", "e"]
    assert [up.text for up in said if isinstance(up, Token) and up.id == 2] == list("nopqrs")
    assert [up.id for up in said if isinstance(up, Token)] == [2, 2, 1, 2, 2, 2, 1, 2]
    assert native.waited_s == 0.0
    assert native.cells[0] == list(b"xabcd")


def test_where_all_wait_for_tokens_of_other_processes_the_loop_waits_too() -> None:
    """Not for long, since calls may come; and not at all while it has something else to do."""
    native = Elsewhere("z", slots=2)
    engine = Engine(native, None)
    engine.submit(job("abc", 1, max_tokens=1))
    assert text(run(engine)) == "d"
    assert native.waited_s == native.looks * LATE_S


def test_a_token_that_another_process_cannot_choose_ends_its_call() -> None:
    """And the grammar is refused from then on, where it was what took too long."""
    native = Elsewhere("z", slots=2)
    native.fault = GrammarTooSlow("the grammar takes too long")
    engine = Engine(native, None)
    shape = Shape(grammar="root")
    engine.submit(job("abc", 1, shape=shape))
    engine.submit(job("klm", 2, max_tokens=3))
    said = run(engine)
    assert Broken(1, "the grammar takes too long", "grammar") in said
    assert text(said) == "nop"
    assert native.chains == 0
    assert not engine.doubts(job("abc", 3, shape=shape))
    engine.submit(job("abc", 3, shape=shape))
    assert [up.param for up in run(engine) if isinstance(up, Refused)] == ["grammar"]


def test_where_answers_and_calls_have_grammars_of_their_own_the_one_that_bound_is_told() -> None:
    """And only that is refused from then on."""
    native = Elsewhere("z", slots=2)
    native.fault = GrammarTooSlow("the grammar takes too long")
    source = "abc{# <|start|>assistant<|channel|>analysis<|message|> tools #}"
    engine = Engine(native, ChatTemplate(source, bos="", eos=""))
    prompt = Prompt(messages=[Message("user", "a")], tools=[Tool("look")])
    engine.submit(Submit(1, "chat", [prompt], shape=Shape(schema={"type": "null"}, calls="")))
    assert Broken(1, "the grammar takes too long", "response_format") in run(engine)
    read = engine.read(Submit(2, "chat", [prompt], shape=Shape(calls="", auto=True))).read
    assert isinstance(read, Read)
    assert read.calls


class Killed(Alphabet):
    """A "model" that has no process to try grammars in."""

    def bears(self, grammar: str) -> bool:
        """Tell so."""
        raise GrammarLost("it was killed")


def test_a_trial_that_was_killed_is_nobody_s_fault() -> None:
    """Its call fails, and the grammar may be tried again."""
    engine, asked = Engine(Killed("z"), None), job("abc", 1, shape=Shape(grammar="root"))
    engine.try_out(asked)
    engine.submit(asked)
    assert run(engine) == [Broken(1, "it was killed")]
    assert engine.doubts(asked)


def test_tools_whose_grammar_is_too_much_are_free_unless_a_call_was_promised() -> None:
    """A call that nobody forced goes on without it; a strict tool, or a forced call, is refused."""
    native = Alphabet("z")
    jobs = Jobs(native, ChatTemplate("a{# <tool_call> tools #}", bos="", eos=""))

    def asked(shape: Shape, *, strict: bool = False) -> Submit:
        prompt = Prompt(messages=[Message("user", "a")], tools=[Tool("look", strict=strict)])
        return Submit(1, "chat", [prompt], shape=shape)

    free, forced = Shape(calls="", auto=True), Shape(calls="")
    for shape in (free, forced):
        read = jobs.read(asked(shape))
        assert read.calls or read.grammar
        jobs.refuse(read.grammar or read.calls)
    assert not jobs.read(asked(free)).calls
    with pytest.raises(Refusal, match="is too much") as no:
        jobs.read(asked(forced))
    assert no.value.param == "tool_choice"
    with pytest.raises(Refusal, match="is too much") as no:
        jobs.read(asked(free, strict=True))
    assert no.value.param == "tools"


def test_a_call_that_waits_for_another_process_can_be_cancelled() -> None:
    """At once: what comes later is nobody's."""
    native = Elsewhere("z")
    engine = Engine(native, None)
    engine.submit(job("abc", 1))
    engine.step()
    assert engine.cancel(1) == [Done(1, Used(3, 0, 0), cancelled=True)]
    assert not engine.busy
    assert native.chains == 0


def test_a_kept_prefix_is_read_only_once() -> None:
    """All but the last token of a prompt may come from the call before."""
    native = Alphabet("h")
    engine = Engine(native, None)
    engine.submit(job("xyzabcd"))
    run(engine)
    native.decoded.clear()
    engine.submit(job("xyzabcd", 2, max_tokens=1))
    said = run(engine)
    assert native.decoded == [1]
    assert said[-1] == Done(2, Used(prompt=7, cached=6, completion=1))
    assert text(said) == "e"


def test_what_an_owner_leaves_is_the_owner_s() -> None:
    """One sequence, three callers: only who asks with the same owner finds the prompt kept."""
    engine = Engine(Alphabet("h"), None)
    cached = []
    for owner in ("ada", "ada", "", "", "bob", "ada"):
        engine.submit(job("xyzabcd", owner=owner, max_tokens=1))
        done = run(engine)[-1]
        assert isinstance(done, Done)
        cached.append(done.usage.cached)
    assert cached == [0, 6, 0, 6, 0, 0]


def test_a_fresh_call_reads_all_of_its_prompt_and_leaves_none() -> None:
    """Whoever asks for that gets what the model says with nothing kept."""
    engine = Engine(Alphabet("h"), None)
    cached = []
    for number, fresh in enumerate((False, True, True, False, False)):
        engine.submit(job("xyzabcd", number, fresh=fresh, max_tokens=1))
        done = run(engine)[-1]
        assert isinstance(done, Done)
        cached.append(done.usage.cached)
    assert cached == [0, 0, 0, 0, 6]


def test_a_memory_that_cannot_forget_parts_is_read_afresh() -> None:
    """Recurrent and sliding-window models: the same answer, only slower."""
    native = Alphabet("h", forgets_parts=False)
    engine = Engine(native, None)
    for number in (1, 2):
        engine.submit(job("xyzabcd", number))
        said = run(engine)
        assert text(said) == "efgh"
        assert said[-1] == Done(number, Used(prompt=7, cached=0, completion=4))


@pytest.mark.parametrize("mixes", [False, True])
def test_a_step_that_fails_ends_its_call_alone(mixes: bool) -> None:
    """Those that were in the same step go on, and nothing of it stays in the memory."""
    native = Alphabet("h", slots=3, mixes=mixes)
    native.bad = ord("f")
    engine = Engine(native, None)
    engine.submit(job("abc"))  # says "f" and fails at reading it again
    engine.submit(job("f", 2))
    engine.submit(job("g", 3))
    said = run(engine)
    assert {up.id for up in said if isinstance(up, Broken)} == {1, 2}
    assert Done(3, Used(prompt=1, completion=1)) in said
    assert native.chains == 0
    engine.submit(job("g", 4))
    assert text(run(engine)) == "h"


def test_all_slots_answer_at_once() -> None:
    """Each step has a token of every answer, whatever the others read."""
    native = Alphabet("z", slots=3)
    engine = Engine(native, None)
    for number, begin in enumerate("abc"):
        engine.submit(job(begin, number, max_tokens=8))
    steps: list[list[Up]] = []
    while engine.busy:
        steps.append(engine.step())
    assert len(steps) == 8  # the first reads all three prompts
    assert all(sum(isinstance(up, Token) for up in step) == 3 for step in steps)
    said = [up for step in steps for up in step]
    for number, begin in enumerate("abc"):
        mine = "".join(up.text for up in said if isinstance(up, Token) and up.id == number)
        assert mine == "".join(chr(ord(begin) + 1 + at) for at in range(8))


def test_a_long_prompt_does_not_hold_up_an_answer() -> None:
    """The answer has its token in each step while the prompt is read in pieces."""
    native = Alphabet("z", slots=2)
    engine = Engine(native, None)
    engine.submit(job("a", 1, max_tokens=20))
    engine.step()
    engine.submit(job("z" * 24, 2, max_tokens=1))
    for _ in range(6):
        said = engine.step()
        assert any(isinstance(up, Token) and up.id == 1 for up in said)
        assert any(isinstance(up, Reading) and up.id == 2 for up in said)


def test_choices_of_a_prompt_read_it_once() -> None:
    """The others wait while it is read, and take a copy; usage counts one prompt."""
    native = Alphabet("z", slots=3)
    native.chunk = 64
    native.context = 64
    prompt = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxya"
    engine = Engine(native, None)
    engine.submit(job(prompt, n=3, max_tokens=2))
    said = run(engine)
    assert native.copied == 2
    assert said[-1] == Done(1, Used(prompt=len(prompt), cached=0, completion=6))
    for choice in range(3):
        assert "".join(u.text for u in said if isinstance(u, Token) and u.choice == choice) == "bc"
    assert sum(native.decoded) < 2 * len(prompt)


def test_what_a_copy_saves_is_told_by_how_long_reading_takes() -> None:
    """A beginning of 20 tokens is copied by a slow model, and read again by a quick one."""
    for token_s, copied in ((0.01, 1), (0.000_1, 0)):
        now_s = iter(at * token_s * 50 for at in range(100))
        native = Alphabet("z", slots=2, rules=Rules(copy_s=0.05))
        native.chunk = native.context = 64
        engine = Engine(native, None, partial(next, now_s))
        for number, end in enumerate(("x" * 30, "y" * 30)):
            engine.submit(job("a" * 20 + end, number, max_tokens=1))
            assert isinstance(run(engine)[-1], Done)
        assert native.copied == copied


def test_a_grammar_that_is_none_is_refused() -> None:
    """Before anything is generated: never an answer that is held to nothing."""
    engine = Engine(Alphabet(), None)
    engine.submit(job("a", shape=Shape(grammar="$")))
    (refused,) = run(engine)
    assert isinstance(refused, Refused)
    assert refused.param == "grammar"
    engine.submit(job("a", 2, shape=Shape(schema={"not": {}})))
    (refused,) = run(engine)
    assert isinstance(refused, Refused)
    assert "`not`" in refused.message


def test_a_cancelled_call_gives_back_what_it_had() -> None:
    """Running or waiting; an unknown one is no fault."""
    native = Alphabet("z")
    engine = Engine(native, None)
    engine.submit(job("a"))
    engine.submit(job("b", 2))
    engine.step()
    assert engine.cancel(2) == [Done(2, Used(), cancelled=True)]
    assert engine.cancel(1) == [Done(1, Used(prompt=1, completion=1), cancelled=True)]
    assert engine.cancel(Cancel(3).id) == []
    assert not engine.busy
    assert native.chains == 0


def test_the_begin_mark_stands_once() -> None:
    """Whether or not the text already has it."""
    engine = Engine(Alphabet(begin=ord("^")), None)
    for asked in ("abc", "^abc"):
        count = Count(1, "completions", [Prompt(text=asked)])
        assert engine.count(count) == Counted(1, 4)


def test_without_a_chat_template_chat_is_refused() -> None:
    """With words that say what works instead."""
    engine = Engine(Alphabet(), None)
    engine.submit(Submit(1, "chat", [Prompt(messages=[Message("user", "hi")])]))
    (refused,) = run(engine)
    assert isinstance(refused, Refused)
    assert "no chat template" in refused.message
    assert isinstance(engine.count(Count(2, "chat", [Prompt(messages=[])])), Refused)


@pytest.mark.parametrize("length", [31, 32])
def test_a_prompt_may_fill_the_context_but_for_one_token(length: int) -> None:
    """The last cell is for an answer; beyond that is a refusal with both numbers."""
    engine = Engine(Alphabet(), None)
    engine.submit(job("a" * length, max_tokens=5))
    said = run(engine)
    if length == 31:
        assert said[-1] == Done(1, Used(prompt=31, completion=1))
        assert [up.reason for up in said if isinstance(up, ChoiceEnded)] == ["length"]
    else:
        assert isinstance(said[0], Refused)
        assert said[0].code == "context_length_exceeded"
        assert "32 tokens and the model's context holds 32" in said[0].message


def test_a_text_that_no_context_holds_is_not_cut_into_tokens() -> None:
    """Megabytes take the tokenizer seconds; the longest of its tokens tells what can't fit."""

    class Slow(Alphabet):
        def tokenize(self, text: str, *, ends: bool) -> list[int]:
            raise AssertionError(text)

    engine = Engine(Slow(), None)
    engine.submit(job("a" * 1000))
    (refused,) = run(engine)
    assert isinstance(refused, Refused)
    assert (refused.param, refused.code) == ("prompt", "context_length_exceeded")
    assert "1,000 bytes, more than 32 tokens can say" in refused.message
    assert isinstance(engine.count(Count(1, "completions", [Prompt(text="a" * 1000)])), Refused)


def test_a_text_that_llama_cpp_cannot_cut_is_refused() -> None:
    """It is the caller's text: nobody else's answer ends for it."""

    class Unable(Alphabet):
        def tokenize(self, text: str, *, ends: bool) -> list[int]:
            raise NativeFailed("the text cannot be cut into tokens")

    engine = Engine(Unable(), None)
    engine.submit(job("abc"))
    assert run(engine) == [Refused(1, "the text cannot be cut into tokens", "prompt")]


@pytest.mark.parametrize(
    ("grammar", "words"),
    [('root ::= "a" # heavy', "too much for llama.cpp"), ("root ::= a" * 30_000, "over 256 KiB")],
    ids=["heavy", "large"],
)
def test_a_grammar_that_would_hold_up_all_others_is_refused(grammar: str, words: str) -> None:
    """It is tried apart, once; one of our own making is not."""
    engine = Engine(Alphabet("b"), None)
    engine.submit(job("a", shape=Shape(grammar=grammar)))
    (refused,) = run(engine)
    assert isinstance(refused, Refused)
    assert refused.param == "grammar"
    assert words in refused.message
    engine.submit(job("a", 2, shape=Shape(schema={"const": "#"})))
    assert isinstance(run(engine)[-1], Done)


class Script(Alphabet):
    """A "model" that says what is written, in tokens of several letters."""

    context = 64
    vocabulary = 200
    words = ("ok <tool_", 'call>\n{"x', "call>", '{"name": "look"}', "c")

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return a word, or a letter of the prompt."""
        return self.words[token - 150].encode() if token >= 150 else bytes([token])

    def token_of(self, data: bytes) -> int:
        """Return the longest word that begins so."""
        fitting = [word for word in self.words if data.startswith(word.encode())]
        return 150 + self.words.index(max(fitting, key=len))

    def sample(self, picks: Sequence[Pick]) -> list[Picked]:
        """Say the two words, then the last one if the call's grammar binds by now."""
        last = self.outputs[picks[0].row]
        if last == 150:
            return [Picked(151)]
        return [Picked(END if last > 150 else 150)]


def test_a_token_that_ends_a_calls_mark_and_goes_on_is_cut_there() -> None:
    """What no grammar has seen is not said: the model says it again, bound by then."""
    template = "a{# <tool_call> tools #}"
    native = Script()
    engine = Engine(native, ChatTemplate(template, bos="", eos=""))
    tools = [Tool("look")]
    prompt = Prompt(messages=[Message("user", "a")], tools=tools)
    engine.submit(Submit(1, "chat", [prompt], shape=Shape(calls="", auto=True)))
    while engine.busy:
        engine.step()
    assert native.cells[0][-2:] == [150, 152]
    assert "look" in native.holding
