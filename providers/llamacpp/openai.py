"""Reads OpenAI's requests for a local model.

What a local model cannot do yet is refused by name: an option silently ignored is an answer to
another question.
"""

import re
from typing import TypeVar

import msgspec

from tollway.providers.canon import Endpoint
from tollway.providers.errors import RequestInvalid
from tollway.providers.llamacpp.conversation import read_messages, read_tools
from tollway.providers.llamacpp.frames import (
    SAMPLERS,
    Prompt,
    Sampling,
    Shape,
    Submit,
    Tool,
)

MAX_CHOICES = 128  # of all prompts of a call together
MAX_INPUTS = 2048
MAX_STOPS = 16
MAX_BREAKERS = 8  # each is looked for in all of the vocabulary
MAX_SAMPLERS = 16
MAX_TOP = 20  # alternatives that are told of each token
_MOST = 2**31 - 1
COMPLETION_TOKENS = 16  # what the legacy endpoint's reference gives when no limit is asked for

_SAMPLING = {
    "temperature", "top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty",
    "repeat_penalty", "repeat_last_n", "seed", "logit_bias",
    # llama-server's own, and vLLM's name of one.
    "repetition_penalty", "ignore_eos", "dynatemp_range", "dynatemp_exponent", "top_n_sigma",
    "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta",
    "samplers",
}  # fmt: skip
_GENERATING = {
    "model", "stream", "stream_options", "max_tokens", "stop", "n", "logprobs", "response_format",
    "grammar",
    # llama-server's words for some of these, and its own.
    "n_predict", "json_schema", "cache_prompt",
} | _SAMPLING  # fmt: skip
_CHAT = {
    "messages", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls",
    "top_logprobs", "chat_template_kwargs", "reasoning_effort",
}  # fmt: skip
_READ = {
    "chat": _GENERATING | _CHAT,
    "completions": _GENERATING | {"prompt"},
    "embeddings": {"model", "input", "encoding_format", "dimensions"},
}
# Labels and hints for the provider's own books: they change no answer.
_NO_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
    # Which slot of llama-server's: here a call finds the one that knows most of its prompt.
    "id_slot",
}  # fmt: skip
# Options that can be written without asking for anything.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    # llama-server's defaults, which its clients write out.
    "n_probs": (0,),
    "min_keep": (0,),
    "n_keep": (0,),
    "reasoning_format": ("auto", "deepseek"),
    "parse_tool_calls": (True,),
    "return_tokens": (False,),
    "return_progress": (False,),
    "timings_per_token": (False,),
    "post_sampling_probs": (False,),
}

# What a chat template is always told by us.
_OURS = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "self"}

T = TypeVar("T")


class Asked(msgspec.Struct, frozen=True):
    """A request, read. `job` has no id yet."""

    endpoint: Endpoint
    model: str
    job: Submit
    stream: bool = False
    include_usage: bool = False
    base64: bool = False


def read_request(endpoint: Endpoint, body: bytes) -> Asked:
    """Return what a body asks for.

    Raises:
        RequestInvalid: It is malformed, or asks for what a local model cannot do; `param` names
            the field.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise RequestInvalid(f"The body is not a JSON object: {fault}") from fault
    fields = {name: value for name, value in fields.items() if value is not None}
    _only_known(endpoint, fields)
    model = _typed(fields, "model", str, "")
    if endpoint == "embeddings":
        return _embeddings(model, fields)
    if endpoint in ("count_tokens", "compact"):
        raise RequestInvalid(f"A local model has no endpoint for `{endpoint}`")
    assert endpoint in ("chat", "completions")  # noqa: S101 - what is left; for the types
    tools = read_tools(fields) if endpoint == "chat" else []
    shape, tools = _shape(fields, tools)
    prompts = [_chat(fields, tools)] if endpoint == "chat" else _prompts(fields, "prompt")
    choices = _number(fields, "n", 1, 1, MAX_CHOICES)
    if choices * len(prompts) > MAX_CHOICES:
        raise RequestInvalid(f"A call has at most {MAX_CHOICES} choices in all", param="n")
    options = _typed(fields, "stream_options", dict, {})
    return Asked(
        endpoint,
        model,
        Submit(
            0,
            endpoint,
            prompts,
            n=choices,
            max_tokens=_limit(endpoint, fields),
            stop=_stops(fields),
            sampling=_sampling(fields),
            logprobs=_logprobs(endpoint, fields),
            shape=shape,
            # Who names a tool waits for one call of it; small models would go on for ever.
            parallel=_typed(fields, "parallel_tool_calls", bool, True)
            and not (shape and shape.calls),
            fresh=not _typed(fields, "cache_prompt", bool, True),
        ),
        stream=_typed(fields, "stream", bool, False),
        include_usage=options.get("include_usage") is True,
    )


def _only_known(endpoint: Endpoint, fields: dict[str, object]) -> None:
    for name, value in fields.items():
        if name in _READ[endpoint] or name in _NO_EFFECT:
            continue
        if name not in _NEUTRAL:
            raise RequestInvalid(f"Local models do not know the field `{name}`", param=name)
        if value not in _NEUTRAL[name]:
            raise RequestInvalid(f"Local models do not support `{name}`", param=name)


def _typed(fields: dict[str, object], name: str, kind: type[T], default: T) -> T:
    value = fields.get(name, default)
    if not isinstance(value, kind):
        words = {str: "a text", bool: "true or false", dict: "an object"}
        raise RequestInvalid(f"`{name}` must be {words[kind]}", param=name)
    return value


def _number(fields: dict[str, object], name: str, default: int, low: int, high: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestInvalid(f"`{name}` must be a whole number, {low} to {high}", param=name)
    return value


def _fraction(
    fields: dict[str, object], name: str, default: float, low: float, high: float
) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestInvalid(f"`{name}` must be a number, {low:g} to {high:g}", param=name)
    return float(value)


def _sampling(fields: dict[str, object]) -> Sampling:
    repeat = "repeat_penalty" if "repeat_penalty" in fields else "repetition_penalty"
    seed = fields.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise RequestInvalid("`seed` must be a whole number", param="seed")
    return Sampling(
        temperature=_fraction(fields, "temperature", 0.8, 0, 2),
        top_k=max(0, _number(fields, "top_k", 40, -1, 2**31 - 1)),  # below 0 is all, as 0 is
        top_p=_fraction(fields, "top_p", 0.95, 0, 1),
        min_p=_fraction(fields, "min_p", 0.05, 0, 1),
        typical_p=_fraction(fields, "typical_p", 1, 0, 1),
        presence=_fraction(fields, "presence_penalty", 0, -2, 2),
        frequency=_fraction(fields, "frequency_penalty", 0, -2, 2),
        repeat=_fraction(fields, repeat, 1, 0.01, 10),
        repeat_last=_number(fields, "repeat_last_n", 64, -1, 2**20),
        seed=None if seed is None else seed % 2**32,
        bias=_bias(fields),
        endless=_typed(fields, "ignore_eos", bool, False),
        spread=_fraction(fields, "dynatemp_range", 0, 0, 2),
        exponent=_fraction(fields, "dynatemp_exponent", 1, 0, 10),
        sigma=_fraction(fields, "top_n_sigma", -1, -1, 100),
        xtc=_fraction(fields, "xtc_probability", 0, 0, 1),
        xtc_threshold=_fraction(fields, "xtc_threshold", 0.1, 0, 1),
        dry=_fraction(fields, "dry_multiplier", 0, 0, 100),
        dry_base=_fraction(fields, "dry_base", 1.75, 1, 100),
        dry_allowed=_number(fields, "dry_allowed_length", 2, 0, 2**20),
        dry_last=_number(fields, "dry_penalty_last_n", 64, -1, 2**20),
        dry_breakers=_breakers(fields),
        mirostat=_number(fields, "mirostat", 0, 0, 2),
        tau=_fraction(fields, "mirostat_tau", 5, 0, 100),
        eta=_fraction(fields, "mirostat_eta", 0.1, 0, 1),
        order=_order(fields),
    )


def _order(fields: dict[str, object]) -> tuple[str, ...]:
    said = fields.get("samplers", SAMPLERS)
    if isinstance(said, list | tuple) and len(said) <= MAX_SAMPLERS:
        names = tuple("typ_p" if one == "typical_p" else one for one in said)
        if all(name in SAMPLERS for name in names):
            return names
    raise RequestInvalid(
        f"`samplers` must be a list of {', '.join(f'`{name}`' for name in SAMPLERS)}",
        param="samplers",
    )


def _breakers(fields: dict[str, object]) -> tuple[str, ...]:
    name = "dry_sequence_breakers"
    said = fields.get(name, Sampling().dry_breakers)
    if isinstance(said, list | tuple) and len(said) <= MAX_BREAKERS:
        texts = tuple(one for one in said if isinstance(one, str) and 0 < len(one.encode()) <= 40)
        if len(texts) == len(said) and not any("\0" in one for one in texts):
            return texts
    raise RequestInvalid(
        f"`{name}` must be up to {MAX_BREAKERS} texts of 1 to 40 bytes", param=name
    )


def _bias(fields: dict[str, object]) -> dict[int, float]:
    bias: dict[int, float] = {}
    for token, value in _typed(fields, "logit_bias", dict, {}).items():
        # Ten digits: more would not fit the type that llama.cpp gives a token.
        if not re.fullmatch(r"[0-9]{1,9}", str(token)):
            raise RequestInvalid("`logit_bias` must be keyed by token numbers", param="logit_bias")
        bias[int(token)] = _fraction({"logit_bias": value}, "logit_bias", 0, -100, 100)
    return bias


def _limit(endpoint: Endpoint, fields: dict[str, object]) -> int | None:
    limits: list[int] = []
    # The newer name wins, as it does at OpenAI.
    for name in ("max_completion_tokens", "max_tokens"):
        if name in fields:
            limits.append(_number(fields, name, 1, 1, _MOST))
            break
    if (own := _number(fields, "n_predict", -1, -1, _MOST)) == 0:
        raise RequestInvalid(
            "`n_predict` must be at least 1, or -1 for no limit", param="n_predict"
        )
    if own > 0:  # the gate may have written a limit of its own beside it
        limits.append(own)
    if not limits and endpoint == "completions" and "n_predict" not in fields:
        return COMPLETION_TOKENS
    return min(limits, default=None)


def _stops(fields: dict[str, object]) -> list[str]:
    value = fields.get("stop", [])
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestInvalid(f"`stop` must be a text or up to {MAX_STOPS} of them", param="stop")
    if not all(isinstance(stop, str) and 0 < len(stop) <= 1024 for stop in stops):
        raise RequestInvalid("Each `stop` must be a text of 1 to 1024 characters", param="stop")
    return stops


def _chat(fields: dict[str, object], tools: list[Tool]) -> Prompt:
    variables = dict(_typed(fields, "chat_template_kwargs", dict, {}))
    for name in _OURS & variables.keys():
        raise RequestInvalid(
            f"`{name}` of a chat template is not a caller's to set", param="chat_template_kwargs"
        )
    effort = fields.get("reasoning_effort")
    if effort is not None:
        if not isinstance(effort, str):
            raise RequestInvalid("`reasoning_effort` must be a text", param="reasoning_effort")
        # The names that templates of models with a choice know.
        variables = {"reasoning_effort": effort, "enable_thinking": effort != "none", **variables}
    return Prompt(messages=read_messages(fields), tools=tools, variables=variables)


def _shape(fields: dict[str, object], tools: list[Tool]) -> tuple[Shape | None, list[Tool]]:
    """Return what the answer is held to, and the tools that the model is told of."""
    shapes: list[Shape] = []
    match fields.get("tool_choice", "auto"):
        case "none":
            tools = []
        case "auto":
            pass
        case "required" if tools:
            shapes.append(Shape(calls=""))
        case {"type": "function", "function": {"name": str(name)}}:
            _among(tools, [name])
            shapes.append(Shape(calls=name))
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, **of},
        }:
            # The model is told of these alone: no grammar keeps it from the others else.
            tools = _among(tools, _names(of.get("tools")))
            shapes += [Shape(calls="")] if mode == "required" else []
        case _:
            raise RequestInvalid("`tool_choice` chooses no tool that is there", param="tool_choice")
    if form := _form(fields):
        # Told of tools, a model may call one instead.
        free = tools and not shapes
        shapes.append(msgspec.structs.replace(form, calls="") if free else form)
    if grammar := _typed(fields, "grammar", str, ""):
        shapes.append(Shape(grammar=grammar))
    if len(shapes) > 1:
        form_name = "json_schema" if "json_schema" in fields else "response_format"
        raise RequestInvalid(
            f"An answer can be held to one of `tool_choice`, `{form_name}` and `grammar`",
            param=form_name if form else "grammar",
        )
    if tools and not shapes:
        shapes.append(Shape(calls="", auto=True))
    if shapes and fields.get("ignore_eos") is True:
        raise RequestInvalid(
            "`ignore_eos` forbids the end that what holds the answer asks for", param="ignore_eos"
        )
    return (shapes[0] if shapes else None), tools


def _names(said: object) -> list[str]:
    found: list[str] = []
    for one in said if isinstance(said, list) else []:
        match one:
            case {"type": "function", "function": {"name": str(name)}}:
                found.append(name)
            case _:
                found.append("")
    return found


def _among(tools: list[Tool], names: list[str]) -> list[Tool]:
    """Return the tools of these names.

    Raises:
        RequestInvalid: There is none of one of them, or no name at all.
    """
    for name in names or [""]:
        if name not in {tool.name for tool in tools}:
            raise RequestInvalid(f"There is no tool `{name}` to choose", param="tool_choice")
    return [tool for tool in tools if tool.name in names]


def _form(fields: dict[str, object]) -> Shape | None:
    if (own := fields.get("json_schema")) is not None:
        if "response_format" in fields or not isinstance(own, dict | bool):
            raise RequestInvalid(
                "`json_schema` must be a schema, without a `response_format` beside it",
                param="json_schema",
            )
        return Shape(schema=own)
    match fields.get("response_format", {"type": "text"}):
        case {"type": "text"}:
            return None
        case {"type": "json_object", "schema": (dict() | bool()) as schema}:
            return Shape(schema=schema)  # llama-server's, and others'
        case {"type": "json_object", "schema": some} if some is not None:
            pass
        case {"type": "json_object"}:
            return Shape(schema={"type": "object"})
        case {"type": "json_schema", "json_schema": {"schema": (dict() | bool()) as schema}}:
            return Shape(schema=schema)
    raise RequestInvalid(
        "`response_format` must be `text`, `json_object`, or `json_schema` with a schema",
        param="response_format",
    )


def _logprobs(endpoint: Endpoint, fields: dict[str, object]) -> int | None:
    if endpoint != "chat":
        return _number(fields, "logprobs", 0, 0, MAX_TOP) if "logprobs" in fields else None
    asked = _typed(fields, "logprobs", bool, False)
    top = _number(fields, "top_logprobs", 0, 0, MAX_TOP)
    if top and not asked:
        raise RequestInvalid("`top_logprobs` needs `logprobs`", param="top_logprobs")
    return top if asked else None


def _prompts(fields: dict[str, object], name: str) -> list[Prompt]:
    value = fields.get(name)
    if isinstance(value, str):
        return [Prompt(text=value)]
    if isinstance(value, list) and value:
        if _are_tokens(value):
            return [Prompt(tokens=value)]
        if len(value) > MAX_INPUTS:
            raise RequestInvalid(f"`{name}` holds more than {MAX_INPUTS} texts", param=name)
        if all(isinstance(text, str) for text in value):
            return [Prompt(text=text) for text in value]
        if all(isinstance(tokens, list) and tokens and _are_tokens(tokens) for tokens in value):
            return [Prompt(tokens=tokens) for tokens in value]
    raise RequestInvalid(
        f"`{name}` must be a text, a list of texts, or tokens as a list of numbers", param=name
    )


def _are_tokens(value: list[object]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) for token in value) and all(
        isinstance(token, int) and 0 <= token < 2**31 for token in value
    )


def _embeddings(model: str, fields: dict[str, object]) -> Asked:
    form = fields.get("encoding_format", "float")
    if form not in {"float", "base64"}:
        raise RequestInvalid(
            "`encoding_format` must be `float` or `base64`", param="encoding_format"
        )
    dimensions = fields.get("dimensions")
    if dimensions is not None:
        dimensions = _number(fields, "dimensions", 1, 1, 2**20)
    job = Submit(0, "embeddings", _prompts(fields, "input"), dimensions=dimensions)
    return Asked("embeddings", model, job, base64=form == "base64")
