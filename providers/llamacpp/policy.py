"""Which sequence a call gets, and what goes into the next step: pure functions over plain facts.

Nothing here knows llama.cpp. `engine.py` tells what is, and does what is said here; BATCHING.md
beside this file says what is promised.
"""

from collections.abc import Sequence

import msgspec

SHARE_LEAST = 32  # sharing fewer tokens than this is not worth a wait
COPY_LEAST = 4  # nor fewer than this a copy, be it free
COPY_PART = 64  # of a context: what a copy must save before it is known how long reading takes
COPY_GAIN = 2  # how much longer the reading that it saves must take; both are estimates
PIECE_LEAST = 16
STEP_TARGET_S = 0.15  # the longest that streams should stand still for a prompt


class Seq(msgspec.Struct, frozen=True):
    """One sequence of the model's memory: the tokens in it, and who uses it.

    `reading` is the whole prompt of a call whose prompt is being read. `used` orders sequences
    by their last use, higher is later. `owner` is whose tokens they are, "" for everybody's.
    """

    cells: Sequence[int] = ()
    busy: bool = False
    reading: Sequence[int] | None = None
    used: int = 0
    owner: str = ""


class Rules(msgspec.Struct, frozen=True):
    """What this model's memory can do.

    `copies`: one sequence's tokens can be taken over by another, which takes `copy_s` seconds (0
    where sequences share cells) and pays from `copy_least` tokens on. `tail`: so many tokens of a
    prompt are always read, also where all are known.
    """

    copies: bool = True
    copy_least: int = SHARE_LEAST
    tail: int = 1
    copy_s: float = 0.0


class Place(msgspec.Struct, frozen=True):
    """The sequence for a call, and how many tokens it begins with: its own, or a copy's."""

    seq: int
    keep: int = 0
    copy_from: int | None = None


class Wait(msgspec.Struct, frozen=True):
    """The call should wait: its beginning is being read by another at this moment."""

    behind: int


class Reader(msgspec.Struct, frozen=True):
    """A prompt being read, with so many tokens left. Readers are told oldest first."""

    seq: int
    left: int


def common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Return how many tokens both begin with, counting up to `most`."""
    most = min(most, len(one), len(other))
    at, width = 0, 256
    # Slices are compared in C: a prompt of many thousand tokens costs microseconds.
    while at < most:
        end = min(at + width, most)
        if one[at:end] == other[at:end]:
            at = end
        elif width == 1:
            return at
        else:
            width = max(1, width // 4)
    return at


def place(
    prompt: Sequence[int], seqs: Sequence[Seq], rules: Rules, owner: str = ""
) -> Place | Wait | None:
    """Return where a call goes, that it should wait for its beginning, or None: no room.

    Only tokens of the same owner are looked at: how soon a call is answered tells what was kept.

    In place where most of what a free sequence holds is the prompt's beginning; else a copy of
    the longest common beginning into the sequence that nobody has used for longest.
    """
    free = [at for at, seq in enumerate(seqs) if not seq.busy]
    if not free:
        return None
    most = max(0, len(prompt) - rules.tail)
    shared = [common(seq.cells, prompt, most) if seq.owner == owner else 0 for seq in seqs]
    own = max(free, key=lambda at: (shared[at], seqs[at].used))
    target = own if _mostly(shared[own], seqs[own]) else _spare(seqs, free)
    best = max(range(len(seqs)), key=lambda at: shared[at]) if rules.copies else target
    gain = shared[best] - shared[target]
    pays = best != target and gain >= rules.copy_least
    have = shared[best] if pays else shared[target]
    if rules.copies:
        coming = {
            at: common(seq.reading, prompt, most)
            for at, seq in enumerate(seqs)
            if seq.busy and seq.reading is not None and seq.owner == owner
        }
        behind = max(coming, key=lambda at: coming[at], default=None)
        if behind is not None and coming[behind] - have >= max(SHARE_LEAST, rules.copy_least):
            return Wait(behind)
    return Place(target, have, best) if pays else Place(target, have)


def plan(readers: Sequence[Reader], budget: int, *, whole: bool = False) -> list[tuple[int, int]]:
    """Return how many tokens of which prompts the next step reads, `budget` at most in all.

    The oldest prompt gets half of the budget at least, so that it never stands still; of the
    rest, those that are soonest done go first, so that a short prompt is not held up by long
    ones. With `whole`, pieces are cut so that none is a single token of a longer prompt.
    """
    if not readers or budget <= 0:
        return []
    oldest, *others = readers
    first = min(oldest.left, budget if not others else (budget + 1) // 2)
    left = budget - first
    taken: list[tuple[Reader, int]] = []
    for reader in sorted(others, key=lambda one: one.left):
        piece = min(reader.left, left)
        if piece < min(reader.left, PIECE_LEAST):
            break
        taken.append((reader, piece))
        left -= piece
    first = min(oldest.left, first + left)
    pieces = [(oldest, first), *taken]
    if whole:
        pieces = [(reader, _not_one(reader.left, piece)) for reader, piece in pieces]
    return [(reader.seq, piece) for reader, piece in pieces if piece]


def budget(decoding: int, most: int, token_s: float) -> int:
    """Return how many tokens of prompts a step may read beside `decoding` running answers.

    All of `most` where no answer runs; else what is read in about 150 ms, going by how many
    seconds one token took of late (0: not known yet).
    """
    if not decoding:
        return most
    # By a product first: the time of one token may be so small that it divides to infinity.
    room = most if most * token_s <= STEP_TARGET_S else int(STEP_TARGET_S / token_s)
    return max(min(PIECE_LEAST * 2, most), min(most, room // PIECE_LEAST * PIECE_LEAST))


def copy_least(copy_s: float, token_s: float, context: int) -> int:
    """Return from how many tokens on a copy is quicker than reading them again.

    A copy of a sequence that has cells of its own takes the memory of a whole context along.

    Args:
        copy_s: Seconds that a copy takes, 0 where cells are shared.
        token_s: Seconds that one token took of late to read, 0: not known yet.
        context: Tokens that a sequence holds.
    """
    if not copy_s:
        return COPY_LEAST
    if not token_s:
        return max(SHARE_LEAST, context // COPY_PART)
    # No more than a context: the time of one token may be so small that it divides to infinity.
    return max(COPY_LEAST, int(min(context, COPY_GAIN * copy_s / token_s)))


def _mostly(shared: int, seq: Seq) -> bool:
    return shared > 0 and 2 * shared >= len(seq.cells)


def _spare(seqs: Sequence[Seq], free: Sequence[int]) -> int:
    return min(free, key=lambda at: (len(seqs[at].cells) > 0, seqs[at].used))


def _not_one(left: int, piece: int) -> int:
    """Return the piece, one token smaller where it would leave a single one behind."""
    if left - piece == 1:
        piece -= 1
    return 0 if piece == 1 < left else piece
