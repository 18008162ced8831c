"""References within schemas, as providers take them: to what `$defs` holds, and nowhere else."""

import json
from typing import Any

import pytest
from msgspec.structs import replace
from translated import ANTHROPIC, BEDROCK, GEMINI, OPENAI, RESPONSES

from tollway.providers.conversation import Conversation, Format, Message, Text, Tool, ToolResult
from tollway.providers.dialects.dialect import Asks, Facts
from tollway.providers.dialects.openai_strict import bare
from tollway.providers.dialects.plain_refs import Room, plain, with_plain_refs
from tollway.providers.errors import RequestInvalid, Untranslatable

WORD = {"type": "string"}


def shut(*needed: str, **members: Any) -> dict[str, Any]:
    """Return the schema of an object with members, of which some must be there."""
    return {
        "type": "object",
        "properties": members,
        "required": list(needed),
        "additionalProperties": False,
    }


def to(place: str) -> dict[str, str]:
    """Return a reference."""
    return {"$ref": place}


def items(place: str) -> dict[str, Any]:
    """Return the schema of a list of what is referred to."""
    return {"type": "array", "items": to(place)}


def asked(schema: dict[str, Any], *, strict: bool = False, shape: bool = False) -> Conversation:
    """Return a request with a tool of a schema, or for an answer of it."""
    text = json.dumps(schema).encode()
    said = Conversation("", "m", (Message("user", (Text("Hi"),)),))
    if shape:
        return Conversation("", "m", said.messages, format=Format("json_schema", text))
    return Conversation("", "m", said.messages, tools=(Tool("f", schema=text, strict=strict),))


TREE = shut("kids", kids=items("#/$defs/root"))
INNER = shut("z", z=WORD)
ROUND = shut("left", left=to("#/$defs/A"))


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        (shut("kids", kids=items("#")), TREE | {"$defs": {"root": TREE}}),
        (
            shut(a=INNER, b=to("#/properties/a")),
            shut(a=INNER, b=to("#/$defs/a")) | {"$defs": {"a": INNER}},
        ),
        (
            shut(a=to("#/definitions/X")) | {"definitions": {"X": WORD, "unused": WORD}},
            shut(a=to("#/$defs/X")) | {"$defs": {"X": WORD}},
        ),
        (
            shut(a=to("#/$defs/X/properties/z")) | {"$defs": {"X": INNER, "z": {}}},
            shut(a=to("#/$defs/z_2")) | {"$defs": {"z_2": WORD}},
        ),
        (
            shut(a=to("#/$defs/A~1b%20c")) | {"$defs": {"A/b c": WORD}},
            shut(a=to("#/$defs/A_1b_c")) | {"$defs": {"A_1b_c": WORD}},
        ),
        (
            shut(a=to("#here")) | {"$defs": {"X": {"$anchor": "here", **WORD}}},
            shut(a=to("#/$defs/here")) | {"$defs": {"here": WORD}},
        ),
        (
            shut(a=to("https://a.b/c#/$defs/X")) | {"$id": "https://a.b/c", "$defs": {"X": WORD}},
            shut(a=to("#/$defs/X")) | {"$defs": {"X": WORD}},
        ),
        (
            shut(a=to("a.json#/$defs/X")) | {"$id": "a.json#", "$defs": {"X": WORD}},
            shut(a=to("#/$defs/X")) | {"$defs": {"X": WORD}},
        ),
        (
            shut(a=to("Type"), b=WORD | {"$id": "Type"}) | {"$id": "T"},
            shut(a=to("#/$defs/Type"), b=WORD) | {"$defs": {"Type": WORD}},
        ),
        (
            shut(a=shut(b=items("T0")) | {"$id": "T0"}, **{"$id": WORD}),
            shut(a=shut(b=items("#/$defs/T0")), **{"$id": WORD})
            | {"$defs": {"T0": shut(b=items("#/$defs/T0"))}},
        ),
        (to("#/$defs/X") | {"$defs": {"X": INNER}}, INNER),
        (
            shut(a=to("#/$defs/X")) | {"$defs": {"X": WORD, "unused": to("#/nowhere")}},
            shut(a=to("#/$defs/X")) | {"$defs": {"X": WORD}},
        ),
        (
            shut(a=to("#/$defs/X")) | {"$defs": {"X": WORD, "unused": shut(k=to("#/$defs/X"))}},
            shut(a=to("#/$defs/X")) | {"$defs": {"X": WORD}},
        ),
        (
            to("#/$defs/X") | {"$defs": {"X": shut(k=items("#/$defs/X"))}},
            shut(k=items("#/$defs/X")) | {"$defs": {"X": shut(k=items("#/$defs/X"))}},
        ),
        (
            shut(a=shut(z=to("#/properties/a/$defs/X")) | {"$defs": {"X": True}}),
            shut(a=shut(z=to("#/$defs/X"))) | {"$defs": {"X": {}}},
        ),
        (
            shut(a={"prefixItems": [WORD, to("#/properties/a/prefixItems/0")]}),
            shut(a={"prefixItems": [WORD, to("#/$defs/0")]}) | {"$defs": {"0": WORD}},
        ),
    ],
)
def test_what_is_referred_to_stands_in_defs(
    schema: dict[str, Any], written: dict[str, Any]
) -> None:
    """OpenAI and Google refuse references to other places, and whole requests with them."""
    found, lost = plain(json.dumps(schema).encode(), "tools", Room())
    assert (json.loads(found), lost) == (written, ())


@pytest.mark.parametrize(
    "schema",
    [
        TREE | {"$defs": {"root": TREE}},
        shut(**{"$ref": WORD, "$defs": WORD}),
        {"enum": [{"$ref": "#/nowhere"}]},
        ["$ref"],
    ],
)
def test_what_is_plain_keeps_its_bytes(schema: Any) -> None:
    """A member may be called `$ref`, and a value may hold one."""
    text = json.dumps(schema).encode()
    assert plain(text, "tools", Room())[0] is text


@pytest.mark.parametrize(
    "place", ["#/$defs/none", "https://a.b/c", "#gone", "#/$defs/X", "#/$defs/X/a", "other.json"]
)
def test_what_leads_nowhere_is_named(place: str) -> None:
    """A tool's argument may then be anything; an answer of no known shape is not asked for."""
    schema = shut("a", a=to(place) | {"title": "A"}) | {"$defs": {"X": to("#/$defs/X")}}
    said = with_plain_refs(asked(schema, strict=True))
    written = GEMINI.write_request(said, Facts("gemini-2.5-pro"))
    assert written.dropped == ("tools.parameters.$ref", "tools.strict")
    (tool,) = json.loads(written.body)["tools"][0]["functionDeclarations"]
    assert tool["parametersJsonSchema"]["properties"] == {"a": {"title": "A"}}
    with pytest.raises(RequestInvalid, match="which is not in it") as refused:
        with_plain_refs(asked(schema, shape=True))
    assert refused.value.param == "response_format"


def test_a_schema_that_only_refers_to_itself_is_any() -> None:
    """It says nothing."""
    assert plain(b'{"$ref":"#"}', "tools", Room()) == (b"{}", ("#",))


def test_a_way_of_many_references_leads_nowhere() -> None:
    """It would be gone as often as it is long; honest ones are of two or three."""
    last = 500
    ways = {f"p{at}": to(f"#/properties/p{at + 1}") for at in range(last)}
    _, lost = plain(json.dumps(shut(**ways, **{f"p{last}": WORD})).encode(), "tools", Room())
    assert "#/properties/p1" in lost
    assert f"#/properties/p{last}" not in lost


def test_copies_have_an_end() -> None:
    """Each level of a deep schema, referred to by its place, would be put into `$defs` whole."""
    deep: dict[str, Any] = {"description": "x" * 9000}
    places = ["#"]
    for _ in range(200):
        deep = shut(a=deep)
        places.append(f"{places[-1]}/properties/a")
    text = json.dumps(deep | {"anyOf": [to(place) for place in places]}).encode()
    with pytest.raises(Untranslatable, match="too large") as refused:
        plain(text, "tools", Room())
    assert refused.value.param == "tools"


def test_the_copies_of_a_request_have_an_end() -> None:
    """A hundred tools of a few kilobytes each held everybody up for seconds."""
    deep: dict[str, Any] = {"description": "x" * 9000}
    places = ["#"]
    for _ in range(9):
        deep = shut(a=deep)
        places.append(f"{places[-1]}/properties/a")
    (tool,) = asked(deep | {"anyOf": [to(place) for place in places]}).tools
    said = Conversation("", "m", (), tools=(tool,) * 9)
    with_plain_refs(said)
    with pytest.raises(Untranslatable, match="too large"):
        with_plain_refs(replace(said, tools=said.tools * 9))


def test_what_only_changes_its_place_takes_no_room() -> None:
    """Sessions have hundreds of tools, whose schemas may be large."""
    (tool,) = asked(shut(a=to("#/$defs/X")) | {"$defs": {"X": {"enum": ["x" * 50_000]}}}).tools
    said = Conversation("", "m", (), tools=(tool,) * 50)
    assert with_plain_refs(said) is said


def test_descriptions_are_put_in_place_within_bounds() -> None:
    """A node that is described within itself was put there thousands of times, for each tool."""
    node = shut("n", n=to("#/$defs/N") | {"description": "next"})
    (loop,) = asked(node | {"$defs": {"N": node}}, strict=True).tools
    noted = shut("a", a=to("#/$defs/X") | {"description": "which"}) | {"$defs": {"X": INNER}}
    (honest,) = asked(noted, strict=True).tools
    unlike, put = bare((loop, honest))
    assert isinstance(put, Tool)
    assert (unlike, b"which" in put.schema, b"#/$defs/X" in put.schema) == (loop, True, False)
    ways = {f"W{at}": {"anyOf": [to(f"#/$defs/W{at + 1}") | {"title": ""}] * 50} for at in range(9)}
    (many,) = asked(ways["W0"] | {"$defs": ways | {"W9": WORD}}, strict=True).tools
    assert list(bare((many, honest))) == [many, honest]
    level: dict[str, Any] = to("#/$defs/Y") | {"title": ""}
    for _ in range(600):
        level = {"items": level}
    within = json.loads(json.dumps(level).replace("/Y", "/X"))
    (deep,) = asked(within | {"$defs": {"X": level, "Y": WORD}}, strict=True).tools
    assert list(bare((deep,))) == [deep]


@pytest.mark.parametrize("target", [OPENAI, RESPONSES], ids=lambda each: each.name)
def test_openai_is_sent_nothing_beside_a_reference(target: Asks) -> None:
    """It refuses strict schemas with such, and clients of Anthropic's and Google's send them."""
    noted = shut("a", a=to("#/$defs/X") | {"description": "which"}) | {"$defs": {"X": INNER}}
    written = target.write_request(asked(noted, strict=True), Facts("gpt-5.2"))
    tool = json.loads(written.body)["tools"][0]
    tool = tool.get("function", tool)
    assert tool["parameters"]["properties"] == {"a": INNER | {"description": "which"}}
    assert (tool["strict"], written.dropped) == (True, ())
    said = json.loads(target.write_request(asked(noted, shape=True), Facts("gpt-5.2")).body)
    shape = said["text"]["format"] if "text" in said else said["response_format"]["json_schema"]
    assert shape["schema"]["properties"] == tool["parameters"]["properties"]
    assert shape["strict"] is True


@pytest.mark.parametrize("target", [OPENAI, RESPONSES], ids=lambda each: each.name)
@pytest.mark.parametrize(
    "beside",
    [
        {"$ref": "#/$defs/X", "type": "object"},
        {"$ref": "#/$defs/T", "description": "a tree"},
        {"$ref": "#/$defs/none", "description": "nothing"},
    ],
)
def test_what_stands_beside_a_reference_for_good_is_not_strict(
    target: Asks, beside: dict[str, Any]
) -> None:
    """A tree cannot stand within itself, and other words say more than a note."""
    tree = shut("k", k=beside)
    schema = shut("a", a=beside) | {"$defs": {"X": INNER, "T": tree}}
    written = target.write_request(asked(schema, strict=True), Facts("gpt-5.2"))
    assert written.dropped == ("tools.strict",)
    tool = json.loads(written.body)["tools"][0]
    assert tool.get("function", tool)["parameters"] == schema


@pytest.mark.parametrize(
    ("schema", "refused"),
    [
        (shut("f", f=to("#/$defs/A")) | {"$defs": {"A": ROUND}}, True),
        (shut() | {"$defs": {"A": shut("b", b=to("#/$defs/B")), "B": ROUND}}, True),
        (shut() | {"$defs": {"A": shut("b", b={"anyOf": [WORD, to("#/$defs/A")]})}}, True),
        (shut() | {"$defs": {"A": shut("b", b=items("#/$defs/A") | {"minItems": 1})}}, True),
        (shut() | {"$defs": {"A": shut("b", b={"allOf": [to("#/$defs/A")]})}}, True),
        (shut() | {"$defs": {"A": shut("b", b=items("#/$defs/A"))}}, False),
        (shut() | {"$defs": {"A": shut(left=to("#/$defs/A"))}}, False),
        (
            shut() | {"$defs": {"A": shut("b", b={"oneOf": [to("#/$defs/A"), {"type": "null"}]})}},
            False,
        ),
        (shut("a", "b", a=to("#/$defs/A"), b=to("#/$defs/A")) | {"$defs": {"A": WORD}}, False),
    ],
)
def test_google_is_sent_no_loop_that_must_go_on(schema: dict[str, Any], refused: bool) -> None:
    """It refuses all of the request for one; what may be left out, null or empty ends a loop."""
    found = GEMINI.write_request(asked(schema), Facts("gemini-3-pro-preview"))
    assert found.dropped == (("tools.parameters.$ref",) if refused else ())
    (tool,) = json.loads(found.body)["tools"][0]["functionDeclarations"]
    assert (tool["parametersJsonSchema"] == schema) is not refused
    if not refused:
        GEMINI.write_request(asked(schema, shape=True), Facts("gemini-3-pro-preview"))
        return
    with pytest.raises(Untranslatable, match="must hold themselves") as error:
        GEMINI.write_request(asked(schema, shape=True), Facts("gemini-3-pro-preview"))
    assert error.value.param == "response_format"


@pytest.mark.parametrize("target", [ANTHROPIC, BEDROCK], ids=lambda each: each.name)
def test_a_tree_by_any_name_is_one(target: Asks) -> None:
    """Claude holds no answer to a schema that holds itself, wherever it says so."""
    for place in ("#", "#/properties/a"):
        schema = shut("a", a=shut("b", b=items(place)))
        with pytest.raises(Untranslatable, match="holds itself"):
            target.write_request(
                with_plain_refs(asked(schema, shape=True)), Facts("anthropic.claude-sonnet-4-5")
            )


def test_a_result_that_holds_references_is_text_to_google() -> None:
    """Within JSON it takes `$ref` for the name of a picture beside it, and refuses the request."""
    result = json.dumps({"schema": to("#/components/schemas/Error")})
    said = Conversation("", "m", (Message("tool", (ToolResult("a", (Text(result),), name="f"),)),))
    body = json.loads(GEMINI.write_request(said, Facts("gemini-3-pro-preview")).body)
    assert body["contents"][-1]["parts"][0]["functionResponse"]["response"] == {"result": result}
