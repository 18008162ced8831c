"""What clients give back of another provider's answers, taken out of calls that pass as they are.

A client of a route does not know whose answer it gives back: it was told the thoughts of one
model, and the next call may go to another. Proofs of thoughts that the gateway carried through
another dialect (`carry`) hold nowhere but where they came from; to a provider that checks them, a
foreign one fails the whole call, and so does one that is missing.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from tollway.providers.canon import Call
from tollway.providers.conversation import UNPROVEN, carried
from tollway.providers.dialects import gemini_echoes, openai_chat_choice, openai_echoes
from tollway.providers.dialects.gemini_ask import CALL_IDS_FROM_3, UNSIGNED
from tollway.providers.dialects.gemini_request import camel
from tollway.providers.dialects.gemini_said import unpacked
from tollway.providers.dialects.gemini_thinking import is_third
from tollway.providers.dialects.json_edit import Field, edit
from tollway.providers.dialects.openai_quirks import ALL_OF_OPENAI
from tollway.providers.dialects.wire import text_of

# The endpoints whose calls hold answers.
ECHOED: Final = frozenset({"chat", "compact", "count_tokens"})

_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_OURS = b'"tollway.'
# Our own mark in base64, as far as all of it is the same.
_MARK = "dG9sbHdheS"
_THOUGHT = b'"reasoning"'
_OURS_AT_GOOGLE = b'"' + _MARK.encode()
_IN_WORDS = b'"reasoning_text"'
_NO_PROOF = re.compile(rb'"signature"\s*:\s*""')
# What other models say before they call a tool, or instead of an answer, and Claude never does.
_BLANK = re.compile(rb'"(?:text|content)"\s*:\s*(?:"(?:\\[nrt]|\s)*"|\[\s*\])')
_CALLED = (b'"functionCall"', b'"function_call"')
_BUDGET, _FORGETS = b'"budget_tokens"', b'"clear_thinking'
# Fields in which a chat tells thoughts.
_TOLD = ("reasoning_content", "reasoning", "reasoning_details")
_PROOFS_OF_CALLS = ("extra_content",)  # Google's, as of a thought
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_OF_MODEL = b'"assistant"'
_QUOTED_THOUGHTS = (b'"thinking"', b'"redacted_thinking"')
_SIGNATURES = ("thoughtSignature", "thought_signature")
_PROOFS = tuple(b'"' + name.encode() + b'"' for name in _SIGNATURES)


class _Turn(msgspec.Struct):
    role: Any = None
    content: msgspec.Raw = msgspec.Raw(b"")


class _Block(msgspec.Struct):
    type: Any = None


_TURN = msgspec.json.Decoder(_Turn)
_BLOCKS = msgspec.json.Decoder(list[_Block])


class To(NamedTuple):
    """Where a call goes: the model, and what is known of its provider.

    `refused` are the fields of turns that fail a call there, `quirks` the words of its row;
    `checks` is whether it takes no thought that nobody signed, `bare` whether it has said that it
    cannot read some that it was given: then it is given none.
    """

    model: str
    refused: tuple[str, ...] = ()
    checks: bool = True
    quirks: frozenset[str] = frozenset()
    bare: bool = False


Cleaned = tuple[Call, tuple[str, ...]]


def without_echoes(call: Call, to: To) -> Cleaned:
    """Return a call without what fails it at a target, and the names of what is lost by that.

    All else stays byte for byte. A turn that cannot be read is the target's to refuse.
    """
    if call.endpoint not in ECHOED:
        return call, ()
    try:
        return _WAYS[call.dialect](call, to)
    except (msgspec.DecodeError, RecursionError):
        return call, ()


def _of_chat(call: Call, to: To) -> Cleaned:
    """Take out fields of turns, and the names of tools of a choice that knows words alone."""
    refused = (*to.refused, *_TOLD, *_PROOFS_OF_CALLS) if to.bare else to.refused
    call, lost = openai_echoes.without_echoes(call, refused, to.quirks)
    return openai_chat_choice.in_words(call, to.quirks), lost


def _edited(
    call: Call, values: dict[str, bytes], lost: list[str], without: str | None = None
) -> Cleaned:
    body = edit(call.body, openai_echoes.known_fields(call), values, without=without)
    return msgspec.structs.replace(call, body=body, scan=None), tuple(dict.fromkeys(lost))


def _turns(
    call: Call, name: str, words: tuple[bytes, ...], clean: Callable[[bytes], bytes]
) -> list[bytes] | None:
    """Return the cleaned turns of a call; None where nothing changes.

    `clean` returns what is left of a turn that has one of the words, b"" for nothing.
    """
    known = openai_echoes.known_fields(call)
    if name not in known:
        return None
    given = [bytes(one) for one in _LIST.decode(known[name].raw)]
    left = [clean(raw) if any(word in raw for word in words) else raw for raw in given]
    return None if left == given else [raw for raw in left if raw]


def _array(turns: list[bytes]) -> bytes:
    return b"[" + b",".join(turns) + b"]"


def _of_messages(call: Call, to: To) -> Cleaned:
    """Take out Anthropic's blocks of thoughts that it did not sign.

    And texts of white space alone, as other models write them before they call a tool, and turns
    of nothing: "text content blocks must contain non-whitespace text"
    (anthropics/claude-code#23369).
    Where the turn to go on with has called tools without a thought, as another model does or as
    it is then, there is no thinking before it is over: Anthropic refuses to be asked for it.
    """
    unsigned = to.checks and b'"signature"' in call.body and _NO_PROOF.search(call.body)
    blank = to.checks and _BLANK.search(call.body) is not None
    marked = _OURS in call.body or bool(unsigned) or to.bare or blank
    if not marked and not (to.checks and (_BUDGET in call.body or _FORGETS in call.body)):
        return call, ()
    known = openai_echoes.known_fields(call)
    lost: list[str] = []

    def clean(raw: bytes) -> bytes:
        turn = _FIELDS.decode(raw)
        content = bytes(turn.get("content", b""))
        answer = blank and bytes(turn.get("role", b"")) == _OF_MODEL
        if not content.startswith(b"["):
            return b"" if answer and _says_nothing(content) else raw
        blocks = [bytes(one) for one in _LIST.decode(content)]
        kept = [one for one in blocks if not _is_foreign(one, lost, to)]
        if answer:
            kept = [one for one in kept if not _says_nothing(one)]
        if len(kept) == len(blocks) and (blocks or not answer):
            return raw
        return msgspec.json.encode({**turn, "content": msgspec.Raw(_array(kept))}) if kept else b""

    words = (*_QUOTED_THOUGHTS, _OF_MODEL) if blank else _QUOTED_THOUGHTS
    turns = _turns(call, "messages", words, clean) if marked else None
    values = {} if turns is None else {"messages": _array(turns)}
    way = _thinks(known)
    if way == "enabled" and (values or to.checks):
        if turns is None:
            turns = [bytes(one) for one in _LIST.decode(known["messages"].raw)]
        if _is_unthought(turns):
            way, values["thinking"] = "disabled", b'{"type":"disabled"}'
            lost.append("reasoning")
    without = None
    if way == "disabled" and "context_management" in known:
        raw = bytes(known["context_management"].raw)
        kept = _remembered(raw)
        values |= {"context_management": kept} if kept and kept != raw else {}
        without = None if kept else "context_management"
    return _edited(call, values, lost, without) if values or without else (call, ())


def _says_nothing(raw: bytes) -> bool:
    """Whether a text, or a block of one, has white space at most."""
    said = _ANY.decode(raw)
    if isinstance(said, dict) and text_of(said, "type") == "text":
        said = said.get("text")
    return isinstance(said, str) and not said.strip()


def _thinks(known: dict[str, Field]) -> str:
    """Return the way in which thoughts are asked for: "enabled" is by a budget; "" for none."""
    said = _ANY.decode(known["thinking"].raw) if "thinking" in known else None
    return text_of(said, "type") if isinstance(said, dict) else ""


def _remembered(raw: bytes) -> bytes:
    """Return what manages a context but for which thoughts to forget; b"" where nothing is left.

    "`clear_thinking_20251015` strategy requires `thinking` to be enabled"
    (anthropics/claude-code#11971).
    """
    said = _ANY.decode(raw) if _FORGETS in raw else None
    edits = said.get("edits") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(edits, list):
        return raw
    kept = [
        one
        for one in edits
        if not (isinstance(one, dict) and text_of(one, "type").startswith("clear_thinking"))
    ]
    return msgspec.json.encode({**said, "edits": kept}) if kept else b""


def _is_foreign(raw: bytes, lost: list[str], to: To) -> bool:
    block = _ANY.decode(raw) if any(word in raw for word in _QUOTED_THOUGHTS) else None
    if not isinstance(block, dict) or text_of(block, "type") not in _THOUGHTS:
        return False
    proof = text_of(block, "signature") or text_of(block, "data")
    if proof == UNPROVEN:
        proof = ""
    foreign = to.bare or carried(proof) is not None or (not proof and to.checks)
    if foreign and (to.bare or block.get("thinking")):
        lost.append("thinking")
    return foreign


def _is_unthought(turns: list[bytes]) -> bool:
    """Whether the turn to go on with has called tools without a thought.

    One thought is enough, however many calls ago: Claude may think once for all calls of a turn,
    and a turn with a thought may not go on without (BerriAI/litellm#18929).
    """
    begun = spoken = False
    for raw in reversed(turns):
        turn = _TURN.decode(raw)
        blocks = _BLOCKS.decode(turn.content) if bytes(turn.content).startswith(b"[") else []
        kinds = [block.type for block in blocks if isinstance(block.type, str)]
        if turn.role != "assistant":
            # What is said behind a result does not end the turn.
            spoken = "tool_result" not in kinds
            continue
        if spoken:
            break
        if not _THOUGHTS.isdisjoint(kinds):
            return False
        begun = True
    return begun


def _of_responses(call: Call, to: To) -> Cleaned:
    """Take out items of thoughts that OpenAI did not encrypt.

    One that is not encrypted at all OpenAI looks for where it keeps answers, unless none is kept;
    and it takes no text of any: "Invalid 'input[39].content': array too long"
    (musistudio/claude-code-router#1783).
    """
    own = ALL_OF_OPENAI in to.quirks
    plain = own and _THOUGHT in call.body and _keeps_nothing(call)
    told = own and _IN_WORDS in call.body
    if _OURS not in call.body and not (plain or told or to.bare):
        return call, ()
    lost: list[str] = []

    def clean(raw: bytes) -> bytes:
        item = _OBJECT.decode(raw)
        if to.bare and item.get("type") == "reasoning":
            lost.append("thinking")
            return b""
        proof = text_of(item, "encrypted_content")
        made = carried(proof)
        if unproven := made is not None and not made[0]:
            # Servers of open models refuse what they did not encrypt, and take a thought alone.
            proof = ""
            del item["encrypted_content"]
        shown = bool(item.get("summary") or item.get("content"))
        unheld = not proof and (
            plain or (unproven and (own or not shown)) or (told and bool(item.get("content")))
        )
        if item.get("type") != "reasoning" or not (carried(proof) is not None or unheld):
            return msgspec.json.encode(item) if unproven else raw
        if shown or unproven:
            lost.append("thinking")
        return b""

    turns = _turns(call, "input", (_THOUGHT,), clean)
    return (call, ()) if turns is None else _edited(call, {"input": _array(turns)}, lost)


def _keeps_nothing(call: Call) -> bool:
    stores = openai_echoes.known_fields(call).get("store")
    return stores is not None and bytes(stores.raw) == b"false"


def _of_gemini(call: Call, to: To) -> Cleaned:
    """Take proofs of others off the parts; its third generation wants one of each first call.

    And ids of calls, where none are taken.
    """
    third = is_third(to.model)
    nameless = CALL_IDS_FROM_3 in to.quirks and not third
    words = (_OURS_AT_GOOGLE, *(_CALLED if third else ()), *(_PROOFS if to.bare else ()))
    words += gemini_echoes.QUOTED if nameless else ()
    if not any(word in call.body for word in words):
        return call, ()
    known = openai_echoes.known_fields(call)
    if "contents" not in known:  # as where a count holds a whole request
        return call, ()
    turns = [bytes(one) for one in _LIST.decode(known["contents"].raw)]
    left = [
        _proven(raw, before, to) if any(word in raw for word in words) else raw
        for raw, before in zip(turns, [b"", *turns], strict=False)
    ]
    left = gemini_echoes.without_ids(left) if nameless else left
    if left == turns:
        return call, ()
    lost = ["thinking"] if to.bare else []
    return _edited(call, {"contents": _array([raw for raw in left if raw])}, lost)


def _role(turn: bytes) -> object:
    return _TURN.decode(turn).role if turn else ""


def _proven(raw: bytes, before: bytes, to: To) -> bytes:
    """Return a turn without foreign proofs, and with one of its first call if it needs one.

    What follows on another turn of the model's has no first call.

    b"" stands for a turn that held nothing else.
    """
    said = _FIELDS.decode(raw)
    given = bytes(said.get("parts", b""))
    if not given.startswith(b"["):
        return raw
    parts = [bytes(one) for one in _LIST.decode(given)]
    left = [part for one in parts if (part := _unmarked(one, bare=to.bare))]
    signed = _signed(left) if is_third(to.model) else left
    if signed is not left and _role(raw) == "model" and _role(before) != "model":
        left = signed
    if left == parts:
        return raw
    return msgspec.json.encode({**said, "parts": msgspec.Raw(_array(left))}) if left else b""


def _unmarked(raw: bytes, *, bare: bool) -> bytes:
    """Return a part without a foreign proof, b"" where it stood for one alone."""
    if _OURS_AT_GOOGLE not in raw and not bare:
        return raw
    part = _FIELDS.decode(raw)
    marked = [name for name in _SIGNATURES if name in part and (bare or _is_ours(part[name]))]
    if not marked:
        return raw
    for name in marked:
        del part[name]
    return b"" if bytes(part.get("text", b"")) == b'""' else msgspec.json.encode(part)


def _is_ours(value: msgspec.Raw) -> bool:
    proof = _ANY.decode(value)
    return isinstance(proof, str) and proof.startswith(_MARK) and unpacked(proof) is not None


def _signed(parts: list[bytes]) -> list[bytes]:
    """Return parts whose first call has what Google takes for a proof, if it has none."""
    for place, raw in enumerate(parts):
        if not any(word in raw for word in _CALLED):
            continue
        part = _FIELDS.decode(raw)
        if "functionCall" not in {camel(name) for name in part}:
            continue
        if any(_ANY.decode(part.pop(name)) for name in _SIGNATURES if name in part):
            break
        part["thoughtSignature"] = msgspec.Raw(msgspec.json.encode(UNSIGNED))
        return [*parts[:place], msgspec.json.encode(part), *parts[place + 1 :]]
    return parts


_WAYS: Final[dict[str, Callable[[Call, To], Cleaned]]] = {
    "openai_chat": _of_chat,
    "anthropic_messages": _of_messages,
    "openai_responses": _of_responses,
    "gemini": _of_gemini,
}
