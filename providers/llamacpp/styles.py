"""The table of how families of models call tools and think aloud.

A model's chat template tells its family. A family that is not in the table is a row away.
"""

import msgspec


class Tags(msgspec.Struct, frozen=True):
    """How a call is written whose arguments stand between tags.

    `call`, a name and `head_end`; for each argument `key`, its name, `head_end`, `value` and
    the value up to `value_end`, `pad` around it; then `end`. `quote` stands behind a name, and
    `sorts` behind that: one for texts, another one for all else. `name_end` stands behind the
    call's name, where that is another one. With `cdata` a text may stand in `<![CDATA[` and `]]>`.
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
    name_end: str | None = None
    cdata: bool = False

    @property
    def behind_name(self) -> str:
        """What ends a call's name; "" where only what follows does."""
        if self.name_end is not None:
            return self.name_end
        return self.quote + self.head_end if self.call else ""


class Frame(msgspec.Struct, frozen=True):
    """How a call is written whose name stands apart from its arguments, which are JSON.

    `open`, `lead`, the name, `sep`, the arguments and `close`. With `counted`, a name has its
    call's place in the conversation behind it, and both are the call's id.
    """

    open: str
    sep: str
    close: str = ""
    lead: str = ""
    counted: bool = False


class Style(msgspec.Struct, frozen=True):
    """How a family calls tools.

    Where all of `signs` are in a chat template, it is the family's. A call stands between
    `begin` and `end`; `bare` ones may do without, and are then told from text by the name of a
    tool that is there.
    `arguments` is the key that they are trained on, `apart` what stands between two calls.
    `head` is what stands before a call's name, `listed` calls stand in one list, within `brackets`,
    `named` ones are a name and `[ARGS]` before the arguments. `frame` is that of calls whose name
    stands apart (`framed.py`), `tags` are those of arguments between tags
    (`tagged.py`); of these `listed` ones stand behind one another. `curly` is what stands around
    texts in calls that are nearly JSON (`curly.py`); `python` ones are Python's (`pythonic.py`).
    `marks` are tokens within all these, `thoughts` stand around what the family thinks, where its
    template writes that otherwise than in `THOUGHTS`. With `channels` all of an answer is messages
    with headers (`harmony.py`), which say to whom it is where these have `tags` (`recipients.py`),
    and no more than that where they have a `frame` (`prompted.py`).
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
    brackets: tuple[str, str] = ("[", "]")
    named: bool = False
    channels: bool = False
    frame: Frame | None = None
    tags: Tags | None = None
    curly: str = ""
    python: bool = False
    marks: tuple[str, ...] = ()
    thoughts: tuple[str, str] | None = None


_FUNCTION = Tags("<function=", "<parameter=", "</parameter>", "</function>")
_INVOKE = Tags('<invoke name="', '<parameter name="', "</parameter>", "</invoke>", quote='"')
_ATEM = Tags(
    '<atem:invoke name="',
    '<atem:parameter name="',
    "</atem:parameter>",
    "</atem:invoke>",
    quote='"',
)
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
# MiniCPM's calls stand in nothing else: what begins one is told as what it stands in.
_PARAM = Tags("", '<param name="', "</param>", "", quote='"', name_end='">', cdata=True)


def _hunyuan(kind: str) -> Tags:
    return Tags(
        f"<tool_call{kind}>",
        f"<arg_key{kind}>",
        f"</arg_value{kind}>",
        f"</tool_call{kind}>",
        f"</arg_key{kind}>",
        f"<arg_value{kind}>",
        name_end=f"<tool_sep{kind}>",
    )


_KIMI = Frame("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
              "functions.", counted=True)  # fmt: skip
_TOOL, _BAR = "<\uff5ctool\u2581", "\uff5c>"  # DeepSeek's own bars and spaces
_CALLS, _CALLS_END = f"{_TOOL}calls\u2581begin{_BAR}", f"{_TOOL}calls\u2581end{_BAR}"
_CALL, _SEP = f"{_TOOL}call\u2581begin{_BAR}", f"{_TOOL}sep{_BAR}"
_CALL_END = f"{_TOOL}call\u2581end{_BAR}"
_FENCED = Frame(f"{_CALL}function{_SEP}", "\n```json\n", f"\n```{_CALL_END}")
_NONE = ("", "")

# The first whose sign is in the template; JSON alone for templates that know no tools.
STYLES = (
    Style("muse", ("<atem:function_calls>", "to=self"), "<atem:function_calls>\n",
          "</atem:function_calls>", channels=True, tags=_ATEM),
    Style("harmony", ("<|channel|>",), " to=functions.", channels=True),
    Style("deepseek", (_OURS, "function_calls"), f"<{_OURS}function_calls>\n",
          f"</{_OURS}function_calls>", listed=True, tags=_DSML, marks=(_OURS,)),
    Style("deepseek", (_OURS,), f"<{_OURS}tool_calls>\n", f"</{_OURS}tool_calls>", listed=True,
          tags=_DSML, marks=(_OURS,)),
    Style("deepseek", (_CALLS, "```json"), _CALLS, _CALLS_END, listed=True, brackets=_NONE,
          apart="\n", frame=_FENCED, marks=(_CALL, _SEP, _CALL_END)),
    Style("deepseek", (_CALLS,), _CALLS, _CALLS_END, listed=True, brackets=_NONE, apart="",
          frame=Frame(_CALL, _SEP, _CALL_END), marks=(_CALL, _SEP, _CALL_END)),
    Style("kimi", ("tool_declare", "<|im_middle|>"), "<|tool_calls_section_begin|>",
          "<|tool_calls_section_end|>", listed=True, brackets=_NONE, apart="", frame=_KIMI,
          marks=(_KIMI.open, _KIMI.sep, _KIMI.close)),
    Style("minimax", ("<minimax:tool_call>",), "<minimax:tool_call>\n", "</minimax:tool_call>",
          listed=True, tags=_INVOKE),
    Style("seed", ("<seed:tool_call>", "<function="), "<seed:tool_call>\n", "\n</seed:tool_call>",
          tags=_FUNCTION),
    Style("qwen", ("<tool_call>", "<function=", "<parameter="), "<tool_call>\n", "\n</tool_call>",
          tags=msgspec.structs.replace(_FUNCTION, pad="\n")),
    Style("hunyuan", ("tool_sep{}", ":opensource"), "<tool_calls:opensource>\n",
          "</tool_calls:opensource>", listed=True, tags=_hunyuan(":opensource"),
          thoughts=("<think:opensource>", "</think:opensource>")),
    Style("hunyuan", ("<tool_sep>", "<arg_key>"), "<tool_calls>\n", "</tool_calls>", listed=True,
          tags=_hunyuan("")),
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
    Style("gigachat", ("<|function_call|>", "<|role_sep|>"), "<|function_call|>", apart=""),
    Style("granite", ("<|tool_call|>", "<|start_of_role|>"), "<|tool_call|>", listed=True,
          apart=", "),
    Style("phi", ("<|tool_call|>",), "<|tool_call|>", "<|/tool_call|>", listed=True, apart=", "),
    Style("command", ("<|START_ACTION|>",), "<|START_ACTION|>", "<|END_ACTION|>", listed=True,
          apart=", ", head='{"tool_call_id": "0", "tool_name": ', arguments="parameters"),
    Style("nemotron", ("<TOOLCALL>",), "<TOOLCALL>", "</TOOLCALL>", listed=True, apart=", "),
    Style("minimax", ("<beginning_of_sentence>", "<tool_calls>"), "<tool_calls>\n",
          "\n</tool_calls>", listed=True, brackets=_NONE),
    Style("apertus", ("<|tools_prefix|>",), "<|tools_prefix|>", "<|tools_suffix|>", listed=True,
          apart=", ", frame=Frame('{"', '": ', "}")),
    Style("minicpm", ('<function name="', '<param name="'), '<function name="', "</function>",
          tags=_PARAM),
    Style("functionary", (">>>all", "<|start_header_id|>"), channels=True,
          frame=Frame("", "\n")),
    Style("functionary", ("<function=", "<|start_header_id|>"), "<function=", "</function>",
          apart="", frame=Frame("", ">")),
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
    ("<mm:think>", "</mm:think>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
