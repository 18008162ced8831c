"""BOUND.md is the proof beside the code: each counter-example that it names is a test."""

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
NOTE = TESTS.parent / "providers" / "dialects" / "BOUND.md"


def test_every_counter_example_of_the_note_is_a_test() -> None:
    """A row whose test is gone claims what nobody tries."""
    rows = re.findall(r"`(test_\w+)`", NOTE.read_text())
    assert len(rows) > 20
    code = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)", code, re.MULTILINE))
    assert [name for name in rows if name not in there] == []
