"""Requests in each other dialect, as files that a person has read.

`tests/golden/requests/DIALECT/CASE.json` is what a client sends, `CASE.to_DIALECT.json` what the
provider gets: its body and what was dropped, or why it is refused. After a change that is meant,
`GOLDEN=write pytest tests/providers/test_golden_requests.py` writes the latter anew; read them.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from translated import ASKS, CODECS

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.dialects.dialect import Asks, Facts
from tollway.providers.errors import Untranslatable

ROOT = Path(__file__).parent.parent / "golden" / "requests"
CASES = sorted(
    path for name in CODECS for path in (ROOT / name).glob("*.json") if ".to_" not in path.name
)
# What each target is: the model asked for there, and the words of its row.
FACTS = {
    "openai_chat": Facts("gpt-5.2", quirks=KINDS["openai"].quirks),
    "anthropic_messages": Facts("claude-sonnet-4-5"),
    "openai_responses": Facts("gpt-5.2", quirks=KINDS["openai"].quirks),
    "gemini": Facts("gemini-2.5-pro"),
    "cohere": Facts("command-a-plus-05-2026"),
    "bedrock": Facts("us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
}
PAIRS = [
    pytest.param(path, target, id=f"{path.parent.name}-{path.stem}-{target.name}")
    for path in CASES
    for target in ASKS.values()
    if target.name != path.parent.name
]


def written(path: Path, target: Asks) -> dict[str, Any]:
    """Return what becomes of a request: its body elsewhere, or its refusal."""
    said = json.loads(path.read_text("utf-8"))
    body = json.dumps(said, ensure_ascii=False).encode()
    call = Call("chat", path.parent.name, said["model"], body, stream=bool(said.get("stream")))
    try:
        conversation = CODECS[path.parent.name].read_request(call)
        found = target.write_request(conversation, FACTS[target.name])
    except Untranslatable as refusal:
        return {"refused": refusal.message, "hint": refusal.hint, "param": refusal.param}
    return {"dropped": list(found.dropped), "body": json.loads(found.body)}


@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_a_request_is_written_as_a_person_has_read_it(path: Path, target: Asks) -> None:
    """Each field stands where the other dialect has it; what it has not is dropped or refused."""
    golden = path.with_name(f"{path.stem}.to_{target.name}.json")
    found = written(path, target)
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    assert found == json.loads(golden.read_text("utf-8"))


def test_no_golden_file_is_left_over() -> None:
    """A file whose case is gone would say something that nobody checks."""
    cases = {path.with_suffix("") for path in CASES}
    for name in CODECS:
        for path in (ROOT / name).glob("*.to_*.json"):
            assert path.with_name(path.name.partition(".")[0]) in cases
