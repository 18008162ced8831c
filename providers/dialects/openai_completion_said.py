"""Reads a legacy completion into the neutral form, for targets that hold conversations alone.

The prompt is what a user says. What only makes sense where a text is gone on with is refused.
"""

from typing import Final

import msgspec

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation, Message, Text
from tollway.providers.dialects import openai_chat_said as chat
from tollway.providers.dialects.openai_chat_parts import NAME
from tollway.providers.dialects.wire import Body
from tollway.providers.errors import Untranslatable

RAW: Final = "raw_prompt"
"""What is lost: that the prompt is a text to go on with, and no question."""

_HINT = "Call a model whose provider serves `/v1/completions`, or ask in `/v1/chat/completions`"
_PROMPT: msgspec.json.Decoder[str | list[str | int | list[int]]] = msgspec.json.Decoder(
    str | list[str | int | list[int]]
)
_INT = msgspec.json.Decoder(int)
_STR = msgspec.json.Decoder(str)
_BOOL = msgspec.json.Decoder(bool)
_STOP = msgspec.json.Decoder(str | list[str])


def read_request(call: Call) -> Conversation:
    """Return what a body says.

    Raises:
        RequestInvalid: A field has the wrong type; `param` names it.
        Untranslatable: It asks for what no conversation is: tokens, several prompts, a text to be
            filled in or repeated.
    """
    body = Body(call.body)
    for name in ("model", "stream", "stream_options"):
        body.raw(name)
    prompt = _prompt(body)
    _refuse(body)
    stop = body.take(_STOP, "stop")
    lost = (RAW, "logprobs") if body.raw("logprobs") else (RAW,)
    return Conversation(
        by=NAME,
        model=call.model,
        messages=(Message("user", (Text(prompt),)),),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        sampling=chat.sampling(body),
        n=body.take(_INT, "n") or 1,
        output_limit=body.take(_INT, "max_tokens"),
        user=body.take(_STR, "user") or "",
        stream=call.stream,
        wants_usage=call.wants_usage,
        extras=body.extras,
        unread=lost,
    )


def _prompt(body: Body) -> str:
    said = body.take(_PROMPT, "prompt")
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], str):
        said = said[0]
    if not isinstance(said, str) or not said:
        raise Untranslatable(
            "The target takes one text as `prompt`: no tokens, no several prompts, none at all",
            hint=_HINT,
            param="prompt",
        )
    return said


def _refuse(body: Body) -> None:
    best_of = body.take(_INT, "best_of") or 1
    asked = {
        "suffix": bool(body.take(_STR, "suffix")),
        "echo": bool(body.take(_BOOL, "echo")),
        "best_of": best_of > 1,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise Untranslatable(
                f"The target holds conversations, and has no `{name}`", hint=_HINT, param=name
            )
