"""Events fold to an answer, and an answer unfolds to events that fold to it again."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.providers.canon import Usage
from tollway.providers.conversation import (
    Citation,
    Opaque,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    carried,
    carry,
)
from tollway.providers.effort import BUDGETS, EFFORTS, budget_of, effort_of, nearest
from tollway.providers.events import (
    Answer,
    Choice,
    Failed,
    Logprob,
    PartEnd,
    Signed,
    Start,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
)
from tollway.providers.fold import Fold, fold, unfold

_TEXT = st.text(min_size=1, max_size=20)
_PARTS: st.SearchStrategy[Part] = st.one_of(
    st.builds(
        Text, _TEXT, st.lists(st.builds(Citation, url=_TEXT, quote=_TEXT), max_size=2).map(tuple)
    ),
    st.builds(Thinking, _TEXT, _TEXT, by=st.just("anthropic_messages")),
    st.builds(Thinking, encrypted=_TEXT, by=st.just("anthropic_messages")),
    st.builds(Refusal, _TEXT),
    st.builds(ToolCall, _TEXT, _TEXT, _TEXT, st.sampled_from(("function", "custom"))),
    st.builds(Opaque, st.just("gemini"), st.binary(max_size=8)),
)
_CHOICES = st.builds(
    Choice,
    st.lists(_PARTS, max_size=5).map(tuple),
    st.sampled_from(("end", "length", "tools", None)),
    st.just(""),
    st.lists(st.builds(Logprob, _TEXT, st.just(-0.5)), max_size=2).map(tuple),
)


@settings(max_examples=50)
@given(
    st.builds(
        Answer,
        st.lists(_CHOICES, min_size=1, max_size=3).map(tuple),
        st.none() | st.builds(Usage, input=st.integers(0, 9), output=st.integers(0, 9)),
        _TEXT,
        _TEXT,
    )
)
def test_an_answer_unfolds_to_events_that_fold_to_it(answer: Answer) -> None:
    """A whole answer can be given to a client that wants a stream, and nothing is lost."""
    folded = fold(unfold(answer))
    empty = [choice == Choice() for choice in answer.choices]
    if not any(empty):  # a choice of which nothing came leaves no event
        assert folded == answer


def test_a_new_kind_of_part_ends_the_open_one_and_a_part_end_divides_two_of_a_kind() -> None:
    """Dialects without marks between parts need write none, and those with marks keep them."""
    answer = fold(
        [
            Start("id", "model"),
            ThinkingDelta("a"),
            ThinkingDelta("b"),
            Signed("anthropic_messages", "sig"),
            TextDelta("c"),
            TextDelta("d"),
            PartEnd(),
            TextDelta("e"),
            ToolStart("1", "f"),
            ToolDelta("{"),
            ToolDelta("}"),
            ToolStart("2", "g"),
            Stopped("tools"),
        ]
    )
    assert answer.parts == (
        Thinking("ab", "sig", by="anthropic_messages"),
        Text("cd"),
        Text("e"),
        ToolCall("1", "f", "{}"),
        ToolCall("2", "g", ""),
    )
    assert answer.stop == "tools"


def test_a_failure_within_an_answer_keeps_what_came_before() -> None:
    """What came of a broken answer is still known; that it broke too."""
    folded = Fold()
    for event in (Start("id", "m"), TextDelta("half"), Failed(529, "Overloaded")):
        folded.add(event)
    assert folded.failed == Failed(529, "Overloaded")
    assert folded.answer().parts == (Text("half"),)
    assert folded.answer().stop is None


def test_effort_and_budget_map_to_each_other() -> None:
    """Each word's budget reads as that word, and budgets between two words as the longer."""
    for word in EFFORTS:
        assert effort_of(budget_of(word)) == word
    assert effort_of(BUDGETS["low"] + 1) == "medium"
    assert effort_of(10**9) == "max"
    assert budget_of("never heard") == BUDGETS["medium"]
    assert nearest("xhigh", ("low", "medium", "high")) == "high"
    assert nearest("none", ("low", "high")) == "low"
    assert nearest("never heard", ("low", "high")) == "low"


@given(_TEXT)
def test_what_is_carried_comes_back(text: str) -> None:
    """A signature of one dialect survives in a place of another's that clients give back."""
    assert carried(carry("gemini", "sig", text)) == ("gemini", "sig", text)
    assert carried("EqkECkYIBxgCKkA8") is None
