"""Reads a form (`multipart/form-data`) as every reader behind us must read it, or refuses it.

A form passes as it came, and what it names decides who may send it and what it costs. So where
two readers could find another name or another value in it, it is refused.
"""

import re
from typing import NamedTuple

from tollway.providers.errors import RequestInvalid

BOUNDARY = re.compile(rb"--([^\r\n]{1,70})\r\n")
_HEADER = re.compile(rb"([A-Za-z0-9-]+):[^\r\n\0]*")
_VALUE = rb'(?:"[^"\\]*"|[^\s;"\\]+)'
_DISPOSITION = re.compile(
    rb"[a-z-]+:[ \t]*form-data(?:[ \t]*;[ \t]*[a-z]+\*?=" + _VALUE + rb")+[ \t]*;?[ \t]*",
    re.IGNORECASE,
)
# Within another's quotes too: not every reader minds them.
_NAME = re.compile(rb";\s*name\s*(\*?)\s*=\s*(" + _VALUE + rb")", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


class Part(NamedTuple):
    """A field of a form: where its value begins and ends in the body."""

    begin: int
    end: int


def form_of(body: bytes) -> dict[str, Part]:
    """Return the fields of a form; of a list ("include[]") the last value.

    Raises:
        RequestInvalid: It is none, a field's name is not clear, or a field that is no list stands
            in it twice, so that it is not clear which of the two another reader would take.
    """
    first = BOUNDARY.match(body)
    if first is None:
        raise RequestInvalid(
            "The body must be a form (`multipart/form-data`) that begins with its boundary"
        )
    mark = b"\r\n--" + first[1]
    found: dict[str, Part] = {}
    names: dict[str, str] = {}  # as they stand, by themselves without a list's brackets
    at = first.end()
    while True:
        begin, end = body.find(b"\r\n\r\n", at), body.find(mark, at - 2)
        if begin < 0 or end < begin:
            raise RequestInvalid("The body's form is cut short")
        key = _name(body[at:begin])
        known = names.setdefault(key.removesuffix("[]"), key)
        if (key in found and not key.endswith("[]")) or known != key:
            raise RequestInvalid(f"`{key}` stands twice in the form", param=key)
        found[key] = Part(begin + 4, max(end, begin + 4))
        after = end + len(mark)
        if body[after : after + 2] == b"--" and not body[after + 2 :].strip():
            return found
        if body[after : after + 2] != b"\r\n":
            raise RequestInvalid("The body's form is broken behind a boundary")
        at = after + 2


def _name(head: bytes) -> str:
    """Return the name of a field by the head of its part.

    Raises:
        RequestInvalid: It has none, or readers may differ on it.
    """
    said = []
    for line in head.split(b"\r\n"):
        header = _HEADER.fullmatch(line)
        if header is None:
            raise RequestInvalid("A part of the body's form has a broken head")
        if header[1].lower() == b"content-disposition":
            said.append(line)
    if len(said) == 1 and _DISPOSITION.fullmatch(said[0]):
        names = _NAME.findall(said[0])
        if len(names) == 1 and not names[0][0]:
            name = str(names[0][1], "latin-1").strip('"')
            if _PLAIN.fullmatch(name):
                return name
    raise RequestInvalid(
        "A part of the body's form has no clear name",
        hint='Write `Content-Disposition: form-data; name="file"` once in each part',
    )
