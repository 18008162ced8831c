"""The table of how families of models call tools and think aloud.

A model's chat template tells its family. A family that is not in the table is a row away.
"""

import msgspec


class Style(msgspec.Struct, frozen=True):
    """How a family calls tools.

    `sign` in a chat template tells the family. A call stands between `begin` and `end`; `bare`
    ones may do without, and are then told from text by the name of a tool that is there.
    `arguments` is the key that they are trained on, `apart` what stands between two calls.
    `listed` calls stand in one list, `named` ones are a name and `[ARGS]` before the arguments.
    With `channels` all of an answer is messages with headers: see `harmony.py`.
    """

    name: str
    sign: str
    begin: str = ""
    end: str = ""
    bare: bool = False
    arguments: str = "arguments"
    apart: str = "\n"
    listed: bool = False
    named: bool = False
    channels: bool = False


# The first whose sign is in the template; JSON alone for templates that know no tools.
STYLES = (
    Style("harmony", "<|channel|>", " to=functions.", channels=True),
    Style("mistral", "[ARGS]", "[TOOL_CALLS]", named=True, apart=""),
    Style("mistral", "[TOOL_CALLS]", "[TOOL_CALLS]", listed=True, apart=", "),
    Style("phi", "<|tool_call|>", "<|tool_call|>", "<|/tool_call|>", listed=True, apart=", "),
    Style("hermes", "<tool_call>", "<tool_call>\n", "\n</tool_call>"),
    Style("llama3", "<|python_tag|>", bare=True, arguments="parameters", apart="; "),
    Style("llama3", "<|start_header_id|>", bare=True, arguments="parameters", apart="; "),
    Style("json", "", bare=True),
)
THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thought>", "</thought>"))
