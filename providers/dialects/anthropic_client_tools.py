"""Tools of Anthropic's that the client runs, as models read them that do not know them by heart.

A request names such a tool by a type and gives no schema. What the model calls it with, and what
the client does then, is Anthropic's documentation; so another model is given that as a function
of the same name, and its calls are the very ones that the client's own code expects. The computer
and the browser are not here: where to click is what their models were trained for.
"""

from typing import Final, NamedTuple

import msgspec


class ClientTool(NamedTuple):
    """What a model must know of a tool to call it."""

    description: str
    schema: bytes


def _schema(required: str, **members: dict[str, object]) -> bytes:
    return msgspec.json.encode(
        {"type": "object", "properties": members, "required": required.split()}
    )


def _text(description: str, *words: str) -> dict[str, object]:
    return {"type": "string", "description": description} | ({"enum": words} if words else {})


_RANGE: dict[str, object] = {
    "type": "array",
    "items": {"type": "integer"},
    "description": "Of `view`: the first and the last line to show, counted from 1; -1 is the end",
}
_LINE: dict[str, object] = {
    "type": "integer",
    "description": "Of `insert`: the line behind which the text is put; 0 is the beginning",
}
_PATH = _text("The file, or for `view` a directory")
_OLD = _text("Of `str_replace`: the text to replace, exactly as it stands there, which is once")
_WHOLE = _text("Of `create`: what the new file holds")

_BASH = ClientTool(
    "Run a command in a bash session that lasts: its directory, variables and files stay.",
    _schema(
        "",
        command=_text("The command; needed unless the session is restarted"),
        restart={"type": "boolean", "description": "Begin a new session instead"},
    ),
)
_EDITOR = ClientTool(
    "View and edit text files. `view` shows a file with line numbers, or what a directory holds;"
    " `create` writes a new file; `str_replace` replaces a text that stands there once; `insert`"
    " puts a text behind a line.",
    _schema(
        "command path",
        command=_text("What to do", "view", "create", "str_replace", "insert"),
        path=_PATH,
        view_range=_RANGE,
        file_text=_WHOLE,
        old_str=_OLD,
        new_str=_text("Of `str_replace`: what stands there then; nothing, where it is left out"),
        insert_line=_LINE,
        insert_text=_text("Of `insert`: the text"),
    ),
)
_EDITOR_THAT_UNDOES = ClientTool(
    f"{_EDITOR.description} `undo_edit` takes back the last edit of a file.",
    _schema(
        "command path",
        command=_text("What to do", "view", "create", "str_replace", "insert", "undo_edit"),
        path=_PATH,
        view_range=_RANGE,
        file_text=_WHOLE,
        old_str=_OLD,
        new_str=_text("Of `str_replace` and `insert`: the new text"),
        insert_line=_LINE,
    ),
)
_MEMORY = ClientTool(
    "Keep what must be known later in files below /memories, and look there before a task begins:"
    " what is only in this conversation may be lost at any time. `view` shows a file or a"
    " directory; `create`, `str_replace` and `insert` write; `delete` and `rename` act on either.",
    _schema(
        "command",
        command=_text("What to do", "view", "create", "str_replace", "insert", "delete", "rename"),
        path=_text("What it is done to, below /memories; of all but `rename`"),
        view_range=_RANGE,
        file_text=_WHOLE,
        old_str=_OLD,
        new_str=_text("Of `str_replace`: what stands there then"),
        insert_line=_LINE,
        insert_text=_text("Of `insert`: the text"),
        old_path=_text("Of `rename`: what it is called"),
        new_path=_text("Of `rename`: what it is called then"),
    ),
)
CLIENT_TOOLS: Final[dict[str, ClientTool]] = {
    "bash_20241022": _BASH,
    "bash_20250124": _BASH,
    "text_editor_20241022": _EDITOR_THAT_UNDOES,
    "text_editor_20250124": _EDITOR_THAT_UNDOES,
    "text_editor_20250429": _EDITOR,
    "text_editor_20250728": _EDITOR,
    "memory_20250818": _MEMORY,
}
