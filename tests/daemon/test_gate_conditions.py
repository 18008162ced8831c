"""What conditions see of a call, and when they hold."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.config.schema import Between, Case, Globs, Part
from tollway.daemon.gate.conditions import Conditions, is_then
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Call
from tollway.providers.dialects.features import Features, features


class Facts:
    """A call of which all is known."""

    def __init__(self, **said: Any) -> None:
        self.who = said.get("who", Who())
        self.requested = said.get("requested", "r")
        self.endpoint = said.get("endpoint", "chat")
        self.stream = said.get("stream", False)
        self.tags = said.get("tags", ())
        self.output = said.get("output", 100)
        self.features = said.get("features", Features())
        self.moment = said.get("moment", datetime(2026, 11, 29, 12, 0))  # a Sunday
        self.used = said.get("used", Decimal(0))
        self._headers = said.get("headers", {})

    def header(self, name: str) -> tuple[str, ...]:
        """Return the values of a header."""
        found: tuple[str, ...] = self._headers.get(name, ())
        return found


def takes(case: Case, **said: Any) -> bool:
    """Return whether a case takes a call; both ways of asking must agree."""
    conditions = Conditions(case)
    checked = conditions.check(Facts(**said))
    taken = conditions.match(Facts(**said))
    assert taken == all(one.holds for one in checked)
    assert all(one.condition and one.seen for one in checked)
    return taken


ML = Case(team=Globs(("ml",)))
NIGHT = Case(between=Between(22 * 60, 6 * 60), days=("fri",))


@pytest.mark.parametrize(
    ("case", "yes", "no"),
    [
        (ML, {"who": Who(team="ml")}, {"who": Who(team="mlx")}),
        (Case(team=Globs(("*",))), {"who": Who(team="ml")}, {}),
        (Case(user=Globs(("a*", "b"))), {"who": Who(user="ann")}, {"who": Who(user="bo")}),
        (Case(project=Globs(("p",))), {"who": Who(project="p")}, {"who": Who(user="p")}),
        (Case(key=Globs(("ci-?",))), {"who": Who(key="ci-1")}, {"who": Who(key="ci-12")}),
        (Case(model=Globs(("x-*",))), {"requested": "x-1"}, {"requested": "y"}),
        (Case(tag={"env": Globs(("ci",))}), {"tags": ("a=b", "env=ci")}, {"tags": ("env=cix",)}),
        (Case(tag={"env": Globs(("*",))}), {"tags": ("env=x",)}, {"tags": ("environment=x",)}),
        (
            Case(header={"x-tier": Globs(("b*",))}),
            {"headers": {"x-tier": ("a", "batch")}},
            {"headers": {"x-tier": ("a",)}},
        ),
        (Case(endpoint=("embeddings",)), {"endpoint": "embeddings"}, {}),
        (Case(endpoint=("chat",)), {"endpoint": "count_tokens"}, {"endpoint": "completions"}),
        (Case(stream=True), {"stream": True}, {}),
        (Case(stream=False), {}, {"stream": True}),
        (Case(output_over=100), {"output": 101}, {"output": 100}),
        (Case(output_under=100), {"output": 99}, {"output": 100}),
        (Case(input_over=9), {"features": Features(tokens=10)}, {"features": Features(tokens=9)}),
        (Case(input_under=9), {"features": Features(tokens=8)}, {"features": Features(tokens=9)}),
        (Case(tools=True), {"features": Features(tools=True)}, {}),
        (Case(images=False), {}, {"features": Features(images=True)}),
        (Case(files=True), {"features": Features(files=True)}, {}),
        (Case(schema=True), {"features": Features(schema=True)}, {}),
        (Case(reasoning=True), {"features": Features(reasoning=True)}, {}),
        (Case(days=("sun",)), {}, {"moment": datetime(2026, 11, 30)}),
        (Case(between=Between(720, 780)), {}, {"moment": datetime(2026, 11, 29, 13, 0)}),
        (NIGHT, {"moment": datetime(2026, 11, 28, 5, 59)}, {"moment": datetime(2026, 11, 27, 5)}),
        (Case(budget_over=Part(Decimal("0.8"))), {"used": Decimal("0.8")}, {"used": Decimal(0)}),
        (Case(team=Globs(("ml",)), stream=True), {"who": Who(team="ml"), "stream": True},
         {"who": Who(team="ml")}),
    ],
)  # fmt: skip
def test_a_condition_holds_for_what_it_says_and_nothing_else(
    case: Case, yes: dict[str, Any], no: dict[str, Any]
) -> None:
    """Each at its edge; all that a case says must hold."""
    assert takes(case, **yes)
    assert not takes(case, **no)


@given(
    start=st.integers(0, 1439),
    length=st.integers(1, 1439),
    days=st.sets(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])),
)
def test_a_time_of_day_lasts_as_long_as_it_says(start: int, length: int, days: set[Any]) -> None:
    """Over a whole week: so many minutes on each day named, over midnight too."""
    times = Between(start, (start + length) % 1440)
    chosen = tuple(sorted(days))
    week = datetime(2026, 11, 23)
    step = 7  # minutes; a week is a whole number of them
    held = sum(
        is_then(week + timedelta(minutes=at), times, chosen) for at in range(0, 7 * 1440, step)
    )
    wanted = length * (len(days) or 7)
    assert abs(held * step - wanted) <= step * (len(days) or 7) * 2


def of(dialect: str, **said: object) -> Features:
    """Return the features of a body."""
    return features(Call("chat", dialect, "m", msgspec.json.encode(said)))


def user(*parts: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the messages of one user."""
    return [{"role": "user", "content": list(parts)}]


PNG = "iVBORw0KGgo" * 1000
TEXT = {"type": "text", "text": "Hi"}


@pytest.mark.parametrize(
    ("name", "dialect", "said"),
    [
        ("tools", "openai_chat", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("tools", "gemini", {"tools": [{"functionDeclarations": [{"name": "f"}]}]}),
        ("images", "openai_chat",
         {"messages": user(TEXT, {"type": "image_url", "image_url": {"url": PNG}})}),
        ("images", "openai_responses", {"input": user({"type": "input_image", "image_url": PNG})}),
        ("images", "anthropic_messages",
         {"messages": user({"type": "tool_result", "content": [
             {"type": "image", "source": {"type": "base64", "data": PNG}}]})}),
        ("images", "gemini",
         {"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": PNG}}]}]}),
        ("files", "openai_chat", {"messages": user({"type": "file", "file": {"file_data": PNG}})}),
        ("files", "anthropic_messages",
         {"messages": user({"type": "document", "source": {"type": "base64", "data": PNG}})}),
        ("files", "gemini",
         {"contents": [{"parts": [{"fileData": {"mimeType": "text/csv", "fileUri": "x"}}]}]}),
        ("schema", "openai_chat", {"response_format": {"type": "json_schema", "json_schema": {}}}),
        ("schema", "openai_responses", {"text": {"format": {"type": "json_schema"}}}),
        ("schema", "anthropic_messages", {"output_config": {"format": {"type": "json_schema"}}}),
        ("schema", "gemini", {"generationConfig": {"responseSchema": {"type": "object"}}}),
        ("reasoning", "openai_chat", {"reasoning_effort": "low"}),
        ("reasoning", "openai_responses", {"reasoning": {"effort": "high"}}),
        ("reasoning", "anthropic_messages", {"thinking": {"type": "enabled", "budget_tokens": 99}}),
        ("reasoning", "gemini", {"generationConfig": {"thinkingConfig": {"thinkingBudget": -1}}}),
    ],
)  # fmt: skip
def test_each_dialect_s_features_are_seen(name: str, dialect: str, said: dict[str, Any]) -> None:
    """And no other one; a picture's bytes are no text."""
    found = of(dialect, model="m", **said)
    flags = {"tools", "images", "files", "schema", "reasoning"}
    assert {flag for flag in flags if getattr(found, flag)} == {name}
    assert found.tokens < 2000


@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}, "tools": [], "thinking": {"type": "disabled"}},
        {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}},
        {"response_format": {"type": "text"}, "text": {"format": {"type": "json_object"}}},
    ],
)
def test_what_is_switched_off_is_not_used(said: dict[str, Any]) -> None:
    """A field that says no is no use of it."""
    assert msgspec.structs.replace(of("openai_chat", model="m", **said), tokens=0) == Features()


@given(st.text(max_size=400))
def test_tokens_are_a_quarter_of_the_text_s_bytes(text: str) -> None:
    """However JSON escapes it; what frames a message adds a few."""
    empty = of("openai_chat", messages=[{"role": "user", "content": ""}])
    found = of("openai_chat", messages=[{"role": "user", "content": text}])
    size = len(text.encode("utf-8", "replace"))
    assert abs((found.tokens - empty.tokens) - size / 4) <= 1


def test_token_ids_count_one_each_and_pictures_as_large_ones() -> None:
    """The two inputs that are no text."""
    assert of("openai_chat", prompt=list(range(1000))).tokens in range(1000, 1010)
    picture = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    assert of("openai_chat", messages=user(picture, picture)).tokens in range(3200, 3220)


FIELDS = ("type", "content", "source", "inlineData", "thinking", "text", "format", "tools")
PLAIN = st.none() | st.booleans() | st.integers() | st.sampled_from(FIELDS)


@given(
    st.recursive(
        PLAIN,
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS), inner),
    )
)
def test_no_body_is_too_strange(said: Any) -> None:
    """A call that `peek` has taken is never lost over a condition."""
    assert features(Call("chat", "openai_chat", "m", msgspec.json.encode(said))).tokens >= 0
