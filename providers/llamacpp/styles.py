"""The table of how families of models call tools and think aloud.

A model's chat template tells its family. A family that is not in the table is a row away.
"""

import msgspec


class Tags(msgspec.Struct, frozen=True):
    """How a call is written whose arguments stand between tags.

    `call`, a name and `head_end`; for each argument `key`, its name, `head_end`, `value` and
    the value up to `value_end`, `pad` around it; then `end`. `quote` stands behind a name, and
    `sorts` behind that: one for texts, another one for all else.
    """

    call: str
    key: str
    value_end: str
    end: str
    head_end: str = ">"
    value: str = ""
    pad: str = ""
    quote: str = ""
    sorts: tuple[str, str] | None = None


class Style(msgspec.Struct, frozen=True):
    """How a family calls tools.

    Where all of `signs` are in a chat template, it is the family's. A call stands between
    `begin` and `end`; `bare` ones may do without, and are then told from text by the name of a
    tool that is there.
    `arguments` is the key that they are trained on, `apart` what stands between two calls.
    `head` is what stands before a call's name, `listed` calls stand in one list, `named` ones are a
    name and `[ARGS]` before the arguments. `tags` are those of arguments between tags
    (`tagged.py`); of these `listed` ones stand behind one another. `curly` is what stands around
    texts in calls that are nearly JSON (`curly.py`); `python` ones are Python's (`pythonic.py`).
    `marks` are tokens within all these. With `channels` all of an answer is messages with headers
    (`harmony.py`).
    """

    name: str
    signs: tuple[str, ...]
    begin: str = ""
    end: str = ""
    bare: bool = False
    head: str = '{"name": '
    arguments: str = "arguments"
    apart: str = "\n"
    listed: bool = False
    named: bool = False
    channels: bool = False
    tags: Tags | None = None
    curly: str = ""
    python: bool = False
    marks: tuple[str, ...] = ()


_FUNCTION = Tags("<function=", "<parameter=", "</parameter>", "</function>")
_INVOKE = Tags('<invoke name="', '<parameter name="', "</parameter>", "</invoke>", quote='"')
_OURS = "\uff5cDSML\uff5c"  # a token of DeepSeek's, with wide bars
_DSML = Tags(
    f'<{_OURS}invoke name="',
    f'<{_OURS}parameter name="',
    f"</{_OURS}parameter>",
    f"</{_OURS}invoke>",
    quote='"',
    sorts=(' string="true"', ' string="false"'),
)
# Its calls have no tags of their own: a name alone, up to the end of what it stands in.
_ARG = Tags("", "<arg_key>", "</arg_value>", "", "</arg_key>", "<arg_value>")

# The first whose sign is in the template; JSON alone for templates that know no tools.
STYLES = (
    Style("harmony", ("<|channel|>",), " to=functions.", channels=True),
    Style("deepseek", (_OURS, "function_calls"), f"<{_OURS}function_calls>\n",
          f"</{_OURS}function_calls>", listed=True, tags=_DSML, marks=(_OURS,)),
    Style("deepseek", (_OURS,), f"<{_OURS}tool_calls>\n", f"</{_OURS}tool_calls>", listed=True,
          tags=_DSML, marks=(_OURS,)),
    Style("minimax", ("<minimax:tool_call>",), "<minimax:tool_call>\n", "</minimax:tool_call>",
          listed=True, tags=_INVOKE),
    Style("seed", ("<seed:tool_call>", "<function="), "<seed:tool_call>\n", "\n</seed:tool_call>",
          tags=_FUNCTION),
    Style("qwen", ("<tool_call>", "<function=", "<parameter="), "<tool_call>\n", "\n</tool_call>",
          tags=msgspec.structs.replace(_FUNCTION, pad="\n")),
    Style("glm", ("<tool_call>", "<arg_key>"), "<tool_call>", "</tool_call>",
          apart="\n", tags=_ARG),
    Style("gemma", ("<|tool_call>call:",), "<|tool_call>", "<tool_call|>", apart="",
          curly='<|"|>', marks=('<|"|>',)),
    Style("gemma", ("<start_function_call>",), "<start_function_call>", "<end_function_call>",
          apart="", curly="<escape>", marks=("<escape>",)),
    Style("lfm", ("<|tool_list_start|>",), "<|tool_call_start|>", "<|tool_call_end|>",
          apart=", ", listed=True, python=True),
    Style("lfm", ("<|tool_call_start|>",), "<|tool_call_start|>", "<|tool_call_end|>",
          apart=", ", listed=True, python=True),
    Style("lfm", ("List of tools: [",), "<|tool_call_start|>", "<|tool_call_end|>",
          apart=", ", listed=True, python=True),
    Style("mistral", ("[ARGS]",), "[TOOL_CALLS]", named=True, apart=""),
    Style("mistral", ("[TOOL_CALLS]",), "[TOOL_CALLS]", listed=True, apart=", "),
    Style("granite", ("<|tool_call|>", "<|start_of_role|>"), "<|tool_call|>", listed=True,
          apart=", "),
    Style("phi", ("<|tool_call|>",), "<|tool_call|>", "<|/tool_call|>", listed=True, apart=", "),
    Style("command", ("<|START_ACTION|>",), "<|START_ACTION|>", "<|END_ACTION|>", listed=True,
          apart=", ", head='{"tool_call_id": "0", "tool_name": ', arguments="parameters"),
    Style("nemotron", ("<TOOLCALL>",), "<TOOLCALL>", "</TOOLCALL>", listed=True, apart=", "),
    Style("apriel", ("<tool_calls>[",), "<tool_calls>", "</tool_calls>", listed=True, apart=", "),
    Style("hermes", ("<tool_call>",), "<tool_call>\n", "\n</tool_call>"),
    Style("llama3", ("<|python_tag|>",), bare=True, arguments="parameters", apart="; "),
    Style("llama3", ("<|start_header_id|>",), bare=True, arguments="parameters", apart="; "),
    Style("json", (), bare=True),
)  # fmt: skip
THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
