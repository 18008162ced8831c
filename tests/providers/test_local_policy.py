"""Who gets a sequence and what a step reads: rules that hold for any calls."""

from collections.abc import Sequence

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from tollway.providers.llamacpp.policy import (
    PIECE_LEAST,
    STEP_TARGET_S,
    Place,
    Reader,
    Rules,
    Seq,
    Wait,
    budget,
    common,
    copy_least,
    place,
    plan,
)

tokens = st.lists(st.integers(0, 2), max_size=40)
RULES = Rules(copy_least=4)


@given(tokens, tokens, st.integers(0, 50))
def test_the_common_beginning_is_exact(one: list[int], other: list[int], most: int) -> None:
    """What is shared is equal, and the next token is not, or is beyond the limit."""
    count = common(one, other, most)
    assert one[:count] == other[:count]
    assert count <= most
    if count < min(len(one), len(other), most):
        assert one[count] != other[count]


def test_long_prompts_share_all_that_is_equal() -> None:
    """Also where the difference is inside of a block that is compared at once."""
    one = list(range(5000))
    for at in (0, 1, 255, 256, 257, 3071, 4999):
        other = [*one[:at], -1, *one[at + 1 :]]
        assert common(one, other, 5000) == at
    assert common(one, one, 5000) == 5000


@st.composite
def memories(draw: st.DrawFn) -> list[Seq]:
    """Return sequences in any state."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        busy = draw(st.booleans())
        cells = draw(tokens)
        reading = [*cells, *draw(tokens)] if busy and draw(st.booleans()) else None
        used, owner = draw(st.integers(0, 9)), draw(st.sampled_from(["", "ada", "bob"]))
        found.append(Seq(cells, busy, reading, used, owner))
    return found


@given(tokens.filter(bool), memories(), st.booleans(), st.sampled_from(["", "ada"]))
def test_what_is_another_s_is_as_if_it_were_not_there(
    prompt: list[int], seqs: list[Seq], copies: bool, owner: str
) -> None:
    """Where a call goes, what it keeps and whom it waits for tells nothing of others' tokens.

    Were the others' other tokens, as many of them, all would be the same: only which sequences
    are empty is seen.
    """
    rules = Rules(copies=copies, copy_least=4)
    found = place(prompt, seqs, rules, owner)
    strange = [
        seq
        if seq.owner == owner
        else msgspec.structs.replace(
            seq, cells=[9] * len(seq.cells), reading=None if seq.reading is None else [9]
        )
        for seq in seqs
    ]
    assert place(prompt, strange, rules, owner) == found
    match found:
        case Place(seq=seq, keep=keep, copy_from=source) if keep:
            assert seqs[seq if source is None else source].owner == owner
        case Wait(behind=behind):
            assert seqs[behind].owner == owner


def test_an_owner_s_conversation_goes_back_to_its_own_sequence() -> None:
    """Its own beginning is found again, read or being read, though another has more of it."""
    prompt = list(range(100))
    seqs = [Seq(prompt[:90], used=3), Seq(prompt[:60], used=2, owner="ada"), Seq(used=1)]
    assert place(prompt, seqs, Rules(), "ada") == Place(1, 60)
    assert place(prompt, seqs, Rules()) == Place(0, 90)
    assert place(prompt, seqs, Rules(), "bob") == Place(2, 0)
    reading = [Seq(busy=True, reading=prompt, owner="ada"), Seq()]
    assert place(prompt, reading, Rules(), "ada") == Wait(0)
    assert place(prompt, reading, Rules()) == Place(1, 0)


@given(tokens.filter(bool), memories(), st.booleans())
def test_a_call_gets_a_free_sequence_that_begins_as_it_does(
    prompt: list[int], seqs: list[Seq], copies: bool
) -> None:
    """Never a busy one; what it keeps is the prompt's, and at least one token is left to read."""
    found = place(prompt, seqs, Rules(copies=copies, copy_least=4))
    free = [at for at, seq in enumerate(seqs) if not seq.busy]
    match found:
        case None:
            assert not free
        case Place(seq=seq, keep=keep, copy_from=source):
            assert seq in free
            assert keep < len(prompt)
            owner = seqs[seq if source is None else source]
            assert list(owner.cells[:keep]) == prompt[:keep]
            assert source is None or (copies and source != seq and keep >= 4)
        case Wait(behind=behind):
            assert free
            assert copies
            assert seqs[behind].busy
            reading = seqs[behind].reading
            assert reading is not None
            ahead = common(reading, prompt, len(prompt) - 1)
            assert ahead > common(seqs[behind].cells, prompt, len(prompt) - 1)


def test_a_conversation_goes_back_to_its_own_sequence() -> None:
    """The longest common beginning wins over a shorter one that was used later."""
    system = [9] * 50
    seqs = [
        Seq([*system, *range(100, 140)], used=1),
        Seq([*system, *range(200, 240)], used=2),
    ]
    grown = [*system, *range(100, 140), 7, 8]
    assert place(grown, seqs, Rules()) == Place(0, 90)


def test_a_shared_beginning_does_not_cost_another_its_conversation() -> None:
    """A new conversation with the same system prompt takes a copy to an unused sequence."""
    system = [9] * 40
    seqs = [Seq([*system, *range(100, 300)], used=5), Seq(), Seq([1] * 10, used=2)]
    assert place([*system, 3, 4, 5], seqs, Rules()) == Place(1, 40, 0)
    assert place([*system, 3, 4, 5], seqs, Rules(copies=False)) == Place(1, 0)


def test_who_has_the_same_beginning_as_one_being_read_waits_for_it() -> None:
    """Where that saves enough; with what is left alone, reading oneself is no slower."""
    prompt = [*range(100), 7]
    reading = Seq(list(range(30)), busy=True, reading=list(range(200)))
    assert place(prompt, [reading, Seq()], Rules()) == Wait(0)
    done = Seq(list(range(100)), busy=True, reading=list(range(200)))
    assert place(prompt, [done, Seq()], Rules()) == Place(1, 100, 0)
    short = Seq(list(range(80)), busy=True, reading=list(range(200)))
    assert place(prompt, [short, Seq()], Rules()) == Place(1, 80, 0)


def test_a_prompt_that_is_known_whole_is_read_at_its_end() -> None:
    """Its last tokens are where the answer begins; `tail` says how many."""
    prompt = list(range(20))
    assert place(prompt, [Seq(prompt)], Rules(tail=1)) == Place(0, 19)
    assert place(prompt, [Seq(prompt)], Rules(tail=2)) == Place(0, 18)


readers = st.lists(st.integers(1, 300), max_size=8).map(
    lambda lefts: [Reader(seq, left) for seq, left in enumerate(lefts)]
)


@given(readers, st.integers(0, 300), st.booleans())
def test_a_step_keeps_its_budget(waiting: list[Reader], most: int, whole: bool) -> None:
    """And no prompt is read twice in it, or beyond its end."""
    pieces = plan(waiting, most, whole=whole)
    left = {reader.seq: reader.left for reader in waiting}
    assert sum(count for _, count in pieces) <= most
    assert len({seq for seq, _ in pieces}) == len(pieces)
    assert all(0 < count <= left[seq] for seq, count in pieces)


@given(readers.filter(bool), st.integers(2, 300))
def test_the_oldest_prompt_never_stands_still(waiting: list[Reader], most: int) -> None:
    """It gets half of each step at least, whoever comes."""
    pieces = dict(plan(waiting, most))
    assert pieces[0] >= min(waiting[0].left, most // 2)


@given(readers.filter(bool), st.integers(PIECE_LEAST * 2, 300))
def test_no_piece_is_a_single_token_of_a_longer_prompt(waiting: list[Reader], most: int) -> None:
    """One token read alone is rounded otherwise than among others."""
    left = {reader.seq: reader.left for reader in waiting}
    for seq, count in plan(waiting, most, whole=True):
        assert left[seq] == 1 or (count > 1 and left[seq] - count != 1)


@given(
    lefts=st.lists(st.integers(2, 400), min_size=1, max_size=6),
    more=st.lists(st.integers(2, 30), max_size=40),
    most=st.integers(PIECE_LEAST * 2, 128),
)
def test_every_prompt_is_read_to_its_end(lefts: list[int], more: list[int], most: int) -> None:
    """Though a short one comes with each step, and goes before the long ones."""
    waiting = {at: left for at, left in enumerate(lefts)}
    coming = list(more)
    for _ in range(sum(lefts) + sum(more)):
        if coming:
            waiting[len(waiting) + 100 * len(coming)] = coming.pop()
        alive = [Reader(seq, left) for seq, left in waiting.items() if left]
        if not alive:
            return
        for seq, count in plan(alive, most, whole=True):
            waiting[seq] -= count
        oldest = alive[0]
        assert waiting[oldest.seq] < oldest.left
    raise AssertionError(waiting)


@given(st.integers(1, 16), st.integers(1, 512), st.floats(0, 1))
@example(1, 1, 5e-324)
def test_beside_answers_a_step_stays_short(answers: int, most: int, token_s: float) -> None:
    """A prompt is read in as much as 150 ms allow, and in no less than progress needs."""
    allowed = budget(answers, most, token_s)
    assert 0 < allowed <= most
    assert budget(0, most, token_s) == most
    if token_s and allowed > 2 * PIECE_LEAST:
        assert allowed * token_s <= STEP_TARGET_S


def test_copies_pay_where_reading_again_takes_longer() -> None:
    """Split sequences are copied whole: a second for a copy, a tenth for a token, is twenty."""
    assert copy_least(1.0, 0.1, 8192) == 20
    assert copy_least(0.0, 0.1, 8192) == copy_least(0.001, 0.1, 8192) == 4
    assert copy_least(1.0, 0.0, 8192) == 128
    assert copy_least(1.0, 0.0, 512) == 32
    assert copy_least(1.0, 5e-324, 8192) == 8192


@given(
    prompts=st.lists(tokens.filter(lambda prompt: len(prompt) > 1), min_size=1, max_size=8),
    slots=st.integers(1, 4),
    most=st.integers(2, 20),
)
def test_no_call_waits_for_ever_and_no_sequence_is_lost(
    prompts: Sequence[list[int]], slots: int, most: int
) -> None:
    """Placed, read, let go: in the end all were served, and every sequence is free."""
    cells: list[list[int]] = [[] for _ in range(slots)]
    owner: list[int | None] = [None] * slots
    waiting, served = list(range(len(prompts))), 0
    for _ in range(40 * len(prompts) + 10):
        for call in tuple(waiting):
            facts = [
                Seq(cells[at], own is not None, None if own is None else prompts[own], at)
                for at, own in enumerate(owner)
            ]
            found = place(prompts[call], facts, RULES)
            if isinstance(found, Place):
                source = found.seq if found.copy_from is None else found.copy_from
                cells[found.seq] = cells[source][: found.keep]
                owner[found.seq] = call
                waiting.remove(call)
        left = [
            Reader(at, len(prompts[own]) - len(cells[at]))
            for at, own in enumerate(owner)
            if own is not None
        ]
        for seq, count in plan(sorted(left, key=lambda one: owner[one.seq] or 0), most):
            own = owner[seq]
            assert own is not None
            cells[seq] = prompts[own][: len(cells[seq]) + count]
        for at, own in enumerate(owner):
            if own is not None and len(cells[at]) == len(prompts[own]):
                owner[at], served = None, served + 1
        if served == len(prompts):
            break
    assert served == len(prompts)
    assert owner == [None] * slots
