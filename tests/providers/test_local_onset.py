"""Where in an answer its first tool call begins, wherever its tokens are cut."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.manner import Manner
from tollway.providers.llamacpp.onset import Onset

SAID = st.lists(
    st.sampled_from(["<tool_call>", "</tool_call>", "<tool", "_call>", "<think>", "</think>", ">",
                     "<", "\n", "Hi é☃", "{", '"']), max_size=8,
).map("".join)  # fmt: skip


def onset(*, thinks: bool = False) -> Onset:
    """Return one for a family that thinks and marks its calls."""
    manner = Manner("<tool_call> </think>")
    return Onset(manner.speech([Tool("look")], thinks=thinks), "<tool_call>")


@given(SAID, st.booleans(), st.sets(st.integers(1, 60)))
def test_a_call_begins_where_its_mark_ends_wherever_tokens_are_cut(
    said: str, thinks: bool, cuts: set[int]
) -> None:
    """A byte at a time tells where; any other cut must tell the same byte."""
    data = said.encode()
    alone = onset(thinks=thinks)
    begins = next((at + 1 for at in range(len(data)) if alone.take(data[at : at + 1])), None)
    ends = sorted({cut for cut in cuts if cut < len(data)} | {len(data)})
    watched, at = onset(thinks=thinks), 0
    for end in ends:
        piece = data[at:end]
        if not piece:
            continue
        kept = watched.before(piece)
        assert 0 < kept <= len(piece)
        if watched.take(piece[:kept]):
            assert at + kept == begins
            return
        assert kept == len(piece)
        at = end
    assert begins is None


def test_a_mark_in_a_thought_begins_nothing() -> None:
    """What a model says to itself is no call."""
    watched = onset()
    assert watched.before(b"<think>a <tool_call>{") == len(b"<think>a <tool_call>{")
    assert not watched.take(b"<think>a <tool_call>{")
    assert watched.before(b'</think>\n<tool_call>\n{"') == len(b"</think>\n<tool_call>")
