"""The fields that are known within a Gemini request, in either spelling; see `unread`.

What is unknown of a function is named where functions are read. A part of another kind is its
reader's to drop, or to refuse, as a whole.
"""

from collections.abc import Iterator
from typing import Any, Final

from tollway.providers.dialects.gemini_request import camel
from tollway.providers.dialects.unread import Shape, shape, unread

_DATA = shape("mimeType data displayName")
_FILE = shape("mimeType fileUri displayName")
_MEDIA = {"inlineData": _DATA, "fileData": _FILE}
_PART = shape(
    "text thought thoughtSignature",
    **_MEDIA,
    functionCall=shape("id name args"),
    functionResponse=shape("id name response", parts=shape("", **_MEDIA)),
)
_READ = frozenset({"text", *_PART.within})
_CONTENT = shape("role parts")
# Their names reach the model, those of files.
_NAMELESS = ("image/", "audio/")


def unknown(body: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of fields that nobody here knows within a request's own."""
    found = [
        *_of_contents(body.get("systemInstruction"), "systemInstruction."),
        *_of_contents(body.get("contents"), "contents."),
        *_within(body, "toolConfig", "functionCallingConfig", shape("mode allowedFunctionNames")),
        *_within(
            body,
            "generationConfig",
            "thinkingConfig",
            shape("includeThoughts thinkingBudget thinkingLevel"),
        ),
    ]
    return tuple(dict.fromkeys(found))


def _within(body: dict[str, Any], member: str, name: str, known: Shape) -> Iterator[str]:
    outer = body.get(member)
    for key, value in outer.items() if isinstance(outer, dict) else ():
        if camel(key) == name:
            yield from unread(value, known, f"{name}.", spelt=camel)
            if isinstance(value, dict) and str(value.get("mode")).upper() == "VALIDATED":
                yield f"{name}.mode"  # holds calls to their schemas, and is else "AUTO"


def _of_contents(contents: object, where: str) -> Iterator[str]:
    for content in contents if isinstance(contents, list) else [contents]:
        if not isinstance(content, dict):
            continue
        yield from unread(content, _CONTENT, where)
        parts = content.get("parts")
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, dict) and not _READ.isdisjoint(map(camel, part)):
                yield from unread(part, _PART, f"{where}parts.", spelt=camel)
                yield from _names(part, f"{where}parts.")


def _names(part: dict[str, Any], where: str) -> Iterator[str]:
    """Yield the name of what is no file, if it has one; a result may hold such parts too."""
    for key, value in part.items():
        said = {camel(name): one for name, one in value.items()} if isinstance(value, dict) else {}
        for within in said["parts"] if isinstance(said.get("parts"), list) else ():
            if isinstance(within, dict):
                yield from _names(within, f"{where}{camel(key)}.parts.")
        kind = said.get("mimeType")
        if said.get("displayName") and isinstance(kind, str) and kind.startswith(_NAMELESS):
            yield f"{where}{camel(key)}.displayName"


KNOWN_OF_FUNCTIONS: Final = frozenset({"name", "description", "parameters", "parametersJsonSchema"})
