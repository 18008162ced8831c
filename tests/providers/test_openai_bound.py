"""The input bound: no provider can count more, and what has no bound is told."""

import json
import unicodedata
from html import escape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.canon import Bound, Endpoint
from tollway.providers.dialects import openai_bound
from tollway.providers.dialects.openai_bound import Tally, strings
from tollway.providers.dialects.openai_chat import DIALECT
from tollway.providers.errors import RequestInvalid

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MARKS = st.text(st.sampled_from("aeéṡ\u0323\u0301\u0307\u1f82\ufdfa\u1161\u1100각ﬁ①"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


def bound(endpoint: Endpoint = "chat", **said: Any) -> Bound:
    """Return the bound of a request with these fields."""
    empty: dict[Endpoint, dict[str, Any]] = {
        "chat": {"messages": []},
        "completions": {},
        "embeddings": {"input": ""},
    }
    needs = empty[endpoint]
    body = json.dumps({"model": "m", **needs, **said}).encode()
    return DIALECT.bound(DIALECT.peek(endpoint, body))


def user(content: Any) -> dict[str, Any]:
    """Return a conversation of one message."""
    return {"messages": [{"role": "user", "content": content}]}


def printed(value: Any, *, ascii_only: bool) -> int:
    """Return the bytes of a value as Hugging Face's templates print it with indent 4."""
    text = json.dumps(value, indent=4, ensure_ascii=ascii_only)
    for mark in "<>&'":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return len(text.encode())


@given(TEXT | MARKS)
def test_no_normal_form_of_a_text_is_longer(text: str) -> None:
    """Tokenizers normalise first: NFKC turns the 3 bytes of U+FDFA into 33."""
    for form in ("NFC", "NFKC"):
        assert len(unicodedata.normalize(form, text).encode()) <= Tally().text_bytes(text)
    assert Tally().text_bytes(text) >= len(text.encode())


def test_the_largest_expansion_is_counted() -> None:
    """The counter-example of the design: eighteen letters in one character."""
    assert Tally().text_bytes("\ufdfa") == 33
    assert bound(**user("\ufdfa" * 1000)).input >= 33_000
    assert Tally().text_bytes("\U0001d160") == 12  # NFC: a note that is written as its parts


@given(st.lists(TEXT | MARKS, max_size=4))
def test_texts_that_a_template_joins_are_bounded_apart(texts: list[str]) -> None:
    """A mark may change the character before it, across the seam, by less than a part's room."""
    whole = "".join(texts)
    apart = sum(Tally().text_bytes(text) + openai_bound.PART for text in texts)
    for form in ("NFC", "NFKC"):
        assert len(unicodedata.normalize(form, whole).encode()) <= apart


def test_a_seam_costs_less_than_its_room_for_every_character() -> None:
    """Decomposing a composed character once more adds at most its full decomposition."""
    worst = max(
        len(unicodedata.normalize("NFD", chr(code)).encode()) - len(chr(code).encode())
        for code in range(0x110000)
        if not 0xD800 <= code < 0xE000 and unicodedata.is_normalized("NFC", chr(code))
    )
    assert worst <= openai_bound.PART


def test_no_character_comes_apart_into_more_than_its_bytes() -> None:
    """Tokenizers that decompose, in lower case, drop the marks and cut characters, not bytes."""
    for code in range(0x110000):
        text = chr(code)
        if unicodedata.category(text) in ("Cn", "Co", "Cs"):
            continue  # no letter: it neither comes apart nor has another case
        for said in {text, text.lower(), text.casefold()}:
            apart = unicodedata.normalize("NFKD", said)
            if len(apart) > len(text.encode()):
                left = sum(unicodedata.category(one) != "Mn" for one in apart)
                assert left <= Tally().text_bytes(text)


def test_a_long_text_is_normalised_in_pieces() -> None:
    """Hundreds of megabytes at once, or seconds, would stop every other call."""
    text = "\ufdfa" * 200_000
    assert 33 * 200_000 <= Tally().text_bytes(text) <= 33 * 200_000 + 1000


@given(VALUES)
def test_no_print_of_a_schema_is_longer(value: Any) -> None:
    """Compact schemas grow fivefold where a template prints them with indent 4 and escapes."""
    tally = Tally()
    most = tally.printed(value)
    for ascii_only in (True, False):
        assert printed(value, ascii_only=ascii_only) <= most
    assert tally.strings == strings(json.dumps(value).encode())


@given(TEXT)
def test_no_way_to_quote_a_text_is_longer(text: str) -> None:
    """Escapes to ASCII, for HTML, or line by line as comments."""
    most = Tally().quoted_bytes(text)
    assert len(json.dumps(text)) <= most
    assert len(json.dumps(text, ensure_ascii=False).encode()) <= most
    assert len("\n".join(f"// {line}" for line in text.split("\n")).encode()) <= most + 3
    assert len(escape(text, quote=False)) <= most


def test_a_nested_tool_costs_what_it_costs_printed() -> None:
    """The counter-example of the design: deep and compact, it grows with every level."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(40):
        schema = {"a": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert len(json.dumps(tool)) < 500
    assert bound(tools=[tool]).input >= printed([tool], ascii_only=True) > 5 * 500
    assert bound(functions=[tool["function"]]).input >= printed(schema, ascii_only=True)
    format_ = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert bound(response_format=format_).input >= printed(format_, ascii_only=True)


def test_tool_calls_and_results_are_bounded_as_printed() -> None:
    """Templates quote them, or read their JSON and print it anew."""
    compact = json.dumps({"a": [[[[[[1]]]]]] * 20}, separators=(",", ":"))
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": compact}}]
    said = bound(messages=[{"role": "assistant", "content": None, "tool_calls": calls}])
    assert said.input >= printed(json.loads(compact), ascii_only=True) > 5 * len(compact)
    result = bound(messages=[{"role": "tool", "tool_call_id": "1", "content": "<" * 100}])
    assert result.input >= 600


@given(st.lists(TEXT, max_size=4), st.integers(1, 4))
def test_prompts_and_inputs_are_bounded_text_by_text(texts: list[str], n: int) -> None:
    """Completions and embeddings count every text of a list."""
    most = sum(len(unicodedata.normalize("NFKC", text).encode()) for text in texts)
    assert bound("embeddings", input=texts).input >= most
    assert bound("embeddings", input=texts).output == 0
    said = bound("completions", prompt=texts or "", n=n, max_tokens=5)
    assert said.input >= most
    assert (said.choices, said.output) == (n * max(1, len(texts)), 5)


def test_token_ids_are_one_token_each() -> None:
    """They are what they are: no text, no bytes."""
    some, more = bound("embeddings", input=[5] * 10), bound("embeddings", input=[50_000] * 1010)
    assert more.input - some.input == 1000
    assert bound("embeddings", input=[[1, 2], [3]]).input >= 3


def test_every_answer_asked_for_is_counted() -> None:
    """`best_of` makes answers that are billed and never shown."""
    assert bound(n=3).choices == 3
    assert bound("completions", prompt=["a", "b"], n=2, best_of=5).choices == 10
    assert bound(best_of=4).choices == 4
    assert bound("embeddings", n=3).choices == 1


def test_no_limit_is_no_bound_on_the_output() -> None:
    """The gateway then writes one."""
    assert bound().output is None
    assert bound(max_completion_tokens=9).output == 9


def test_images_and_sounds_are_bounded_by_the_window_alone() -> None:
    """Their bytes say nothing of their tokens; nor are they counted as text."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    for part in (
        picture,
        {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "A" * 100_000}},
        {"type": "something_new", "data": "A" * 100_000},
    ):
        said = bound(**user([{"type": "text", "text": "what is it"}, part]))
        assert (said.by_window, said.unbounded) == (True, ()), part
        assert said.input < 2000
    assert not bound(**user([{"type": "text", "text": "A"}])).by_window
    assert bound(chat_template="{% for i in range(9) %}{{ i }}{% endfor %}").by_window


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": "HTTP://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "//example.com/a.png"}},
        {"type": "video_url", "video_url": {"url": "gs://bucket/a.mp4"}},
        {"type": "file", "file": {"file_id": "file-123"}},
        {"type": "file", "file": {"file_data": "https://example.com/a.pdf"}},
    ],
)
def test_what_is_elsewhere_has_no_bound(part: dict[str, Any]) -> None:
    """Not even its size is known here."""
    assert bound(**user([part])).unbounded == (f"messages[].content[].{part['type']}",)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"web_search_options": {}}, "web_search_options"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"models": ["a/b"]}, "models"),
        ({"route": "fallback"}, "route"),
        ({"provider": {"order": ["dear"]}}, "provider"),
        ({"service_tier": ["default"]}, "service_tier"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"tools": [{"type": "web_search"}]}, "tools[].web_search"),
        ({"tools": [{"type": ["function"]}]}, "tools[].['function']"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
        ({"max_tokens": 5, "n_predict": -1}, "n_predict"),
        ({"n": 1, "n_cmpl": 50}, "n_cmpl"),
        ({"max_tokens": 5, "enable_thinking": True}, "enable_thinking"),
        ({"enable_enhancement": True}, "enable_enhancement"),
        ({"force_search_enhancement": True}, "force_search_enhancement"),
        ({"features": {"web_search": True}}, "features"),
        ({"tool_ids": ["search"]}, "tool_ids"),
        ({"prompt_id": "dear"}, "prompt_id"),
        ({"max_tokens": 5, "thinking_budget": "9"}, "thinking_budget"),
    ],
)
def test_a_field_that_can_raise_the_bill_is_named(said: dict[str, Any], field: str) -> None:
    """While a hard budget applies, such a request is refused."""
    assert bound(**said).unbounded == (field,)


def test_a_search_that_is_off_raises_no_bill() -> None:
    """Grok's CLI says so with each call."""
    assert bound(search_parameters={"mode": "off"}).unbounded == ()


@given(st.sampled_from(("user", "assistant", "system", "developer")), TEXT | MARKS)
def test_a_message_of_a_role_and_a_text_is_bounded_as_any_other(role: str, text: str) -> None:
    """Nearly all are such, and are counted by a shorter way."""
    plain = {"role": role, "content": text}
    found = bound(messages=[plain])
    other = bound(messages=[plain | {"x": None}])
    assert (found.input + 1, found.by_window) == (other.input, other.by_window)


def test_files_that_an_instruction_names_are_bounded_by_the_window_alone() -> None:
    """Alibaba's long models read what `fileid://` says, and bill all of it; users may say it."""
    parts = [{"type": "text", "text": "fileid://a"}]
    for content in ("Read fileid://a", parts):
        assert bound(messages=[{"role": "system", "content": content}]).by_window
        assert not bound(messages=[{"role": "user", "content": content}]).by_window


def test_a_conversation_to_embed_is_bounded_as_one() -> None:
    """A vLLM takes `messages` in place of `input`, or beside it; pictures are no text there."""
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/large.png"}}
    said = [{"role": "user", "content": [picture]}]
    found = bound("embeddings", messages=said)
    assert (found.by_window, found.media) == (True, True)
    assert found.unbounded == ("messages[].content[].image_url",)
    words = bound("embeddings", messages=[{"role": "user", "content": "x" * 999}])
    assert words.input >= 999 + openai_bound.CALL
    assert not words.by_window


def test_harmless_values_of_such_fields_are_not() -> None:
    """The defaults, spelt out; a cheaper tier; tools that the caller runs; `store`."""
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {}}]
    for tier in ("auto", "default", "standard", "flex", None):
        assert bound(service_tier=tier).unbounded == ()
    said = bound(tools=tools, modalities=["text"], models=None, plugins=[], files=[], store=True)
    assert said.unbounded == ()
    for more in ({"enable_thinking": False}, {"enable_thinking": True, "thinking_budget": 5}):
        assert bound(max_tokens=5, **more).unbounded == ()
    assert bound(max_completion_tokens=5, enable_thinking=True).unbounded == ()


def test_thoughts_beside_the_limit_are_counted_beside_it() -> None:
    """Qwen's `max_tokens` holds the answer's words; `max_completion_tokens` holds both."""
    thinks: dict[str, Any] = {"enable_thinking": True, "thinking_budget": 100}
    assert (bound(max_tokens=5, **thinks).output, bound(max_tokens=5, **thinks).beside) == (5, 100)
    assert (bound(**thinks).output, bound(**thinks).beside) == (None, 100)
    assert bound(max_tokens=5, thinking_budget=100).beside == 100
    assert bound(max_completion_tokens=5, **thinks).beside == 0
    assert bound(max_tokens=5, enable_thinking=False, thinking_budget=100).beside == 0


def test_the_service_tier_asked_for_is_told() -> None:
    """What it costs is the price's to say; nothing said leaves the choice to the provider."""
    for said, tier in (("priority", "priority"), ("default", "default"), (None, "auto")):
        assert bound(service_tier=said).service == tier
    assert bound().service == "auto"


def test_only_images_and_audio_can_cost_what_they_cost() -> None:
    """A request of text alone is not held at the price of spoken tokens."""
    assert not bound(**user("hello")).media
    assert bound(**user([{"type": "image_url", "image_url": {"url": "data:x"}}])).media


def test_a_key_that_hides_another_within_a_message_is_refused() -> None:
    """Decoding shows the last `content`; a parser that takes the first would read the other."""
    for inner in (
        '{"role": "user", "content": "long", "content": "x"}',
        '{"role": "user", "content": [{"type": "text", "text": "\\\\\\"", "t\\u0065xt": "x"}]}',
    ):
        body = f'{{"model": "m", "messages": [{inner}]}}'.encode()
        with pytest.raises(RequestInvalid, match="twice"):
            DIALECT.bound(DIALECT.peek("chat", body))


@given(VALUES, st.booleans())
def test_strings_are_counted_in_the_text_itself(value: Any, ascii_only: bool) -> None:
    """Keys and values, whatever is escaped within them."""
    tally = Tally()
    tally.text(value)
    assert tally.strings == strings(json.dumps(value, ensure_ascii=ascii_only).encode())


@given(VALUES, VALUES, VALUES)
def test_a_request_of_any_shape_is_bounded_or_refused(one: Any, two: Any, three: Any) -> None:
    """Only a provider need understand it."""
    message = {"role": one, "content": two, "tool_calls": three, "name": one}
    bound(messages=[one, message, {"role": "tool", "content": three}], tools=two, stop=three)


def test_no_character_grows_more_than_the_growth_assumed() -> None:
    """Past the part that is normalised, every character counts as the one that grows most."""
    worst = max(
        len(unicodedata.normalize("NFKD", chr(code)).encode()) / len(chr(code).encode())
        for code in range(0x110000)
        if not 0xD800 <= code < 0xE000
    )
    assert worst == openai_bound._GROWTH


@given(st.lists(TEXT | MARKS, min_size=1, max_size=6))
def test_the_part_that_is_not_normalised_is_bounded_too(texts: list[str]) -> None:
    """A text has no smaller bound for coming after others."""
    tally = Tally()
    tally.text_bytes("é" * 100_000)
    for text in texts:
        assert tally.text_bytes(text) >= Tally().text_bytes(text)
    assert tally.text_bytes("plain" * 100) == 500


def test_a_request_of_too_many_values_is_refused() -> None:
    """Millions of them would take gigabytes and seconds; commas in a text are not values."""
    for many in (b"[" + b"1," * 100_000 + b"1]", b'["' + b'","' * 300_000 + b'"]'):
        with pytest.raises(RequestInvalid, match="100,000 values"):
            DIALECT.peek("chat", b'{"model":"m","messages":[],"x":' + many + b"}")
    with pytest.raises(RequestInvalid, match="1,000 fields"):
        DIALECT.peek("chat", json.dumps(dict.fromkeys(map(str, range(2000)))).encode())
    prose = [{"role": "user", "content": '[well, "{ ' * 200_000}]
    assert bound(messages=prose).input > 10 * 200_000
    assert bound("embeddings", input=[7] * 500_000).input > 500_000
    with pytest.raises(RequestInvalid, match="100,000 values"):
        bound("embeddings", x=[7] * 500_000)


def test_a_request_that_nests_too_deeply_is_refused() -> None:
    """Short of the parser's own limit it is bounded, in time that grows with its length."""
    for depth, refused in ((400, False), (100_000, True)):
        body = b'{"model":"m","messages":[],"x":' + b"[" * depth + b"]" * depth + b"}"
        if refused:
            with pytest.raises(RequestInvalid):
                DIALECT.peek("chat", body)
        else:
            assert DIALECT.bound(DIALECT.peek("chat", body)).input > 2 * depth * depth


def test_a_number_that_no_float_holds_is_refused() -> None:
    """Not raised as something else: 1e400 is JSON, and no parser's number."""
    call = DIALECT.peek("chat", b'{"model":"m","messages":[],"temperature":1e400}')
    with pytest.raises(RequestInvalid):
        DIALECT.bound(call)
