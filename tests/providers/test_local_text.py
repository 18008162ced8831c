"""The text of an answer, the chat template, and the frames: pure parts of a worker."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp.frames import (
    Done,
    FrameError,
    Message,
    Prompt,
    Quit,
    Sampling,
    Submit,
    Token,
    Tool,
    ToolCall,
    Up,
    Used,
    frame_length,
    pack,
    read_down,
    read_up,
)
from tollway.providers.llamacpp.text import Beside, TextOut

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
import contextlib

from tollway.providers.llamacpp.template import (
    CHATML,
    ChatTemplate,
    TemplateRefused,
)

pieces = st.lists(st.integers(1, 5), max_size=60)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of the given sizes, and the rest."""
    found, at = [], 0
    for count in sizes:
        found.append(data[at : at + count])
        at += count
    return [*found, data[at:]]


@given(st.text(max_size=60), pieces)
def test_text_is_whole_wherever_tokens_cut_it(text: str, sizes: list[int]) -> None:
    """A token may end inside a character; nothing of it is shown before it is whole."""
    text = text.encode("utf-8", "replace").decode()
    out = TextOut([])
    given_out = [out.feed(piece) for piece in cut(text.encode(), sizes)]
    assert "".join([*given_out, out.finish()]) == text
    assert "\ufffd" not in "".join(given_out).replace(
        "\ufffd", "" if "\ufffd" in text else "\ufffd"
    )


@given(
    text=st.text("abé", max_size=40),
    stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    sizes=pieces,
)
def test_tokens_are_told_of_with_their_text(text: str, stops: list[str], sizes: list[int]) -> None:
    """Of each that gave a part of what is shown something is told, once; of no other."""
    out = TextOut(stops)
    beside = Beside[int](out)
    tokens = [piece for piece in cut(text.encode(), sizes) if piece]
    shown, told, at = "", [], 0
    for at, piece in enumerate(tokens, 1):
        shown += out.feed(piece)
        told += beside.take(at - 1)
        assert len(b"".join(tokens[: len(told)])) >= len(shown.encode())
        if out.stopped:
            break
    shown += out.finish()
    told += beside.finish()
    assert told == list(range(len(told)))
    if not out.stopped:
        assert len(told) == len(tokens[:at])
        return
    size = len(shown.encode())
    assert len(b"".join(tokens[: len(told)])) >= size
    assert not told or len(b"".join(tokens[: len(told) - 1])) < size


@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    sizes=pieces,
)
def test_nothing_from_a_stop_string_on_is_shown(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    """Stop strings are found across tokens, and the first end of one wins."""
    out = TextOut(stops)
    shown = ""
    for piece in cut(text.encode(), sizes):
        shown += out.feed(piece)
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
    shown += out.finish()
    if out.stopped:
        assert text[len(shown) :].startswith(out.stop)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
    else:
        assert shown == text


def test_half_a_character_at_the_end_is_dropped() -> None:
    """An answer cut off by its token limit does not end in a replacement character."""
    out = TextOut([])
    assert out.feed("ok ☃".encode()[:-1]) == "ok "
    assert out.finish() == ""


def test_templates_render_as_transformers_does() -> None:
    """Blocks are trimmed, loop controls and `generation` known, JSON not escaped for HTML."""
    source = (
        "{% for m in messages %}\n  {% if loop.index > 2 %}{% break %}{% endif %}\n"
        "{% generation %}[{{ m['role'] }}] {{ m.content | tojson }}{% endgeneration %}\n"
        "{% endfor %}\n{{ bos_token }}{{ strftime_now('%Y') | length }}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    said = [Message("user", "<é>"), Message("assistant", "b"), Message("user", "never")]
    rendered = ChatTemplate(source, bos="<s>", eos="</s>").render(said)
    assert rendered == '[user] "<é>"[assistant] "b"<s>4>'


def test_chatml_is_what_models_were_trained_on() -> None:
    """The template for models whose vocabulary has its marks and whose file has none."""
    rendered = ChatTemplate(CHATML, bos="", eos="").render([Message("user", "hi")])
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('no system role') }}", "refuses these messages: no system role"),
        ("{{ messages[7].content.x.y }}", "does not take"),
        ("{{ 1 / 0 }}", "does not take"),
        ("{% if %}", "is broken"),
        ("{{ 2 ** 100000 }}", "is broken"),
        ("{% for a in b %}" * 21 + "{% endfor %}" * 21, "is broken"),
        ("{% if a %}" * 120 + "{% endif %}" * 120, "is broken"),
        ("{{ cycler() }}", "does not take these messages"),
        ("{{ ().__class__.__bases__[0].__subclasses__() }}", "does not take"),
        ("{{ messages.clear() }}", "does not take"),
        ("{% for i in range(10**9) %}{% endfor %}", "does not take"),
    ],
)
def test_a_bad_template_is_refused_and_can_do_no_harm(source: str, words: str) -> None:
    """Templates come with a download; they reach nothing but the messages."""
    template = ChatTemplate(source, bos="", eos="")
    with pytest.raises(TemplateRefused, match=words):
        template.render([Message("user", "hi")])


# Gemma 2's, and Mistral's first: no instructions, and turns that alternate.
ALTERNATES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('must alternate') }}{% endif %}[{{ m.role }}]{{ m.content | trim }}"
    "{% endfor %}>"
)
# Gemma 3's and many more: one instruction in front; what comes later is not looked for.
IN_FRONT = (
    "{% if messages[0].role == 'system' %}<{{ messages[0].content }}>{% endif %}"
    "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}[{{ m.role }}]{{ m.content }}"
    "{% endif %}{% endfor %}>"
)
SYSTEM, HI, HELLO, MORE = (
    Message("system", " Be brief. "),
    Message("user", "hi"),
    Message("assistant", "hello"),
    Message("user", "more"),
)


@pytest.mark.parametrize(
    ("source", "said", "rendered"),
    [
        (ALTERNATES, [HI, HELLO, MORE], "[user]hi[assistant]hello[user]more>"),
        (ALTERNATES, [SYSTEM, HI], "[user]Be brief. \n\nhi>"),
        (ALTERNATES, [SYSTEM], "[user]Be brief.>"),
        (ALTERNATES, [HI, MORE], "[user]hi\n\nmore>"),
        (ALTERNATES, [HI, HELLO, SYSTEM, MORE],
         "[user]hi[assistant]hello[user]Be brief. \n\nmore>"),
        (ALTERNATES, [HI, HELLO, HELLO, MORE], "[user]hi[assistant]hello\n\nhello[user]more>"),
        (IN_FRONT, [SYSTEM, HI], "< Be brief. >[user]hi>"),
        (IN_FRONT, [HI, Message("system", "Stop.")], "[user]hi\n\nStop.>"),
        (IN_FRONT, [SYSTEM, Message("system", "Stop."), HI], "< Be brief. \n\nStop.>[user]hi>"),
        ("{{ messages | tojson }}", [SYSTEM, HI], '[{"role": "system", "content": " Be brief. "}, '
         '{"role": "user", "content": "hi"}]'),
        ("{{ messages[-1].content }}", [SYSTEM, HI], " Be brief. \n\nhi"),
        ("no room for it", [SYSTEM, HI], "no room for it"),
    ],
)  # fmt: skip
def test_instructions_reach_every_template(source: str, said: list[Message], rendered: str) -> None:
    """Many refuse them, or leave them out without a word; then the user says them."""
    assert ChatTemplate(source, bos="", eos="").render(said) == rendered


LOOKS = Message("assistant", "I look.", calls=[ToolCall("a", "look", "{}")])
TURNS = [HI, LOOKS, Message("tool", "sun", call_id="a")]
# Llama 3's and others: a call, or what is said.
EITHER = (
    "{% for m in messages %}{% if m.tool_calls %}<{{ m.tool_calls[0].function.name }}>"
    "{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}>{# tools #}"
)
# Mistral's: calls and results are no turns, the user's words behind a result are.
MISTRAL = (
    "{% set ns = namespace(at=0) %}{% for m in messages %}{% if m.role != 'tool' and not"
    " m.tool_calls %}{% if (m.role == 'user') != (ns.at % 2 == 0) %}{{ raise_exception('no') }}"
    "{% endif %}{% set ns.at = ns.at + 1 %}{% endif %}[{{ m.role }}]{{ m.content }}{% for c in"
    " m.tool_calls or [] %}<{{ c.function.name }}>{% endfor %}{% endfor %}>{# tools #}"
)


@pytest.mark.parametrize(
    ("source", "said", "rendered"),
    [
        (EITHER, TURNS, "[user]hi[assistant]I look.<look>[tool]sun>"),
        (EITHER, [SYSTEM, *TURNS], "[system] Be brief. [user]hi[assistant]I look.<look>[tool]sun>"),
        (MISTRAL, TURNS, "[user]hi[assistant]I look.<look>[tool]sun>"),
        (MISTRAL, [*TURNS, MORE],
         "[user]hi[assistant]I look.<look>[tool]sun[assistant][user]more>"),
        # What no way keeps keeps nobody from an answer.
        ("{% for m in messages %}{% if not m.tool_calls %}{{ m.role[0] }}{% endif %}{% endfor %}"
         "{# tools #}", TURNS, "ut"),
    ],
)  # fmt: skip
def test_what_is_said_about_calls_reaches_every_template(
    source: str, said: list[Message], rendered: str
) -> None:
    """Beside one, which many leave out, and behind its result, which Mistral's refuse."""
    assert ChatTemplate(source, bos="", eos="").render(said) == rendered


def test_a_refused_conversation_is_asked_about_once_in_each_form() -> None:
    """Most ways to tell one change nothing of it; half a megabyte takes 25 ms to render."""
    renderings = 0

    class Counted:
        def __str__(self) -> str:
            nonlocal renderings
            renderings += 1
            return ""

    template = ChatTemplate("{{ seen }}{{ tools }}{{ raise_exception('no') }}", bos="", eos="")
    with pytest.raises(TemplateRefused):
        template.render([HI, HELLO, MORE], variables={"seen": Counted()})
    assert renderings == 1
    with pytest.raises(TemplateRefused):
        template.render([HI, SYSTEM, HELLO, MORE], variables={"seen": Counted()})
    assert renderings == 1 + 2  # and with its instructions in front, or where they stand


def test_what_a_template_refuses_all_the_same_is_told_as_it_said_first() -> None:
    """The answer that begins a conversation is nobody's to invent a question for."""
    with pytest.raises(TemplateRefused, match="must alternate"):
        ChatTemplate(ALTERNATES, bos="", eos="").render([HELLO, HI])


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ("<|tool_call|> <|start_of_role|>",
         'I look.<|tool_call|>[{"name": "look", "arguments": {"at": "é"}}]'),
        ("<|tool_list_start|>", "I look.<|tool_call_start|>[look(at='é')]<|tool_call_end|>"),
        ("", 'I look.{"name": "look", "arguments": {"at": "é"}}'),
    ],
)  # fmt: skip
def test_calls_reach_a_template_that_knows_tools_and_no_calls(signs: str, said: str) -> None:
    """Granite 3.3's and LFM2's: a result stood there of what nobody had asked for."""
    source = f"{{# {signs} tools #}}{{% for m in messages %}}[{{{{ m.content }}}}]{{% endfor %}}"
    call = ToolCall("a", "look", '{"at": "\\u00e9"}')
    asked = [HI, Message("assistant", "I look.", calls=[call]), Message("tool", "2", call_id="a")]
    assert ChatTemplate(source, bos="", eos="").render(asked) == f"[hi][{said}][2]"


def test_tools_reach_a_template_that_takes_no_instructions() -> None:
    """They are told in one where a template knows no tools."""
    tool = Tool("look", "Looks.", {"type": "object"})
    text = ChatTemplate(ALTERNATES, bos="", eos="").render([HI], [tool])
    assert text.startswith("[user]You may call these tools:")
    assert text.endswith("\n\nhi>")


def test_frames_carry_every_kind_of_message() -> None:
    """What is packed on one side is read on the other."""
    job = Submit(7, "chat", [Prompt(messages=[Message("user", "é")])], sampling=Sampling(seed=1))
    frame = pack([job, Quit()])
    assert frame_length(frame[:4]) == len(frame) - 4
    assert read_down(frame[4:]) == [job, Quit()]
    up: list[Up] = [Token(7, 0, "x"), Done(7, Used(1, 0, 1))]
    assert read_up(pack(up)[4:]) == up


@given(st.binary(max_size=40))
def test_garbage_on_the_link_is_a_frame_error(data: bytes) -> None:
    """A worker that writes nonsense is a dead worker, not a crash of the daemon."""
    for read in (read_up, read_down):
        with contextlib.suppress(FrameError):
            read(data)
    with pytest.raises(FrameError):
        frame_length(b"\xff\xff\xff\xff")
    with pytest.raises(FrameError):
        read_up(msgspec.msgpack.encode([{"type": "unheard"}]))
