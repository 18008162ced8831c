"""Writes a local model's answers in OpenAI's shapes."""

import base64
import time
import uuid
from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from tollway.providers.errors import RequestInvalid
from tollway.providers.llamacpp.frames import (
    CallPiece,
    ChoiceEnded,
    Done,
    Likely,
    Logprob,
    Refused,
    Token,
    Up,
    Used,
    Vectors,
)
from tollway.providers.llamacpp.openai import Asked


class Writer(Protocol):
    """Turns what comes up from the worker into the bytes of an answer."""

    content_type: str

    def write(self, up: Up) -> bytes:
        """Return the bytes that can be sent now; often none."""
        ...


def writer(asked: Asked) -> Writer:
    """Return the writer for a request: a stream's, or a whole answer's."""
    if asked.endpoint == "embeddings":
        return _Embedded(asked)
    return _Stream(asked) if asked.stream else _Whole(asked)


def refusal(refused: Refused | RequestInvalid) -> bytes:
    """Return the body of a 400 in OpenAI's shape."""
    return msgspec.json.encode(
        {
            "error": {
                "message": refused.message,
                "type": "invalid_request_error",
                "param": refused.param,
                "code": refused.code,
            }
        }
    )


class _Stream:
    content_type = "text/event-stream"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._chat = asked.endpoint == "chat"
        head = _head(asked, "chat.completion.chunk" if self._chat else "text_completion")
        self._before = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":'
        self._after = b',"usage":null}\n\n' if asked.include_usage else b"}\n\n"
        self._begun: set[int] = set()
        self._offset: dict[int, int] = {}

    def write(self, up: Up) -> bytes:
        match up:
            case Token(choice=choice):
                if choice in self._begun and not (up.thought or up.calls or up.logprobs):
                    return self._more(choice, up.text)
                return self._begin(choice) + self._said(up)
            case ChoiceEnded(choice=choice, reason=reason):
                said = self._begin(choice) + self._said(up)
                ended = self._choice(choice, {}, "", reason, [])
                return said + self._event([{**ended, **_stopped(up.stop)}])
            case Done(usage=used):
                last = self._event([], _usage(used)) if self._asked.include_usage else b""
                return last + b"data: [DONE]\n\n"
            case _:
                return b""

    def _begin(self, choice: int) -> bytes:
        if not self._chat or choice in self._begun:
            return b""
        self._begun.add(choice)
        first = {"role": "assistant", "content": ""}
        return self._event([{"index": choice, "delta": first, "finish_reason": None}])

    def _more(self, choice: int, text: str) -> bytes:
        """Return the event of a token that is text and nothing else, as nearly all of a chat."""
        if not text:
            return b""
        return b'%b[{"index":%d,"delta":{"content":%b},"finish_reason":null}]%b' % (
            self._before,
            choice,
            msgspec.json.encode(text),
            self._after,
        )

    def _said(self, up: Token | ChoiceEnded) -> bytes:
        deltas: list[dict[str, object]] = []
        if up.thought:
            deltas.append({"reasoning_content": up.thought})
        if up.text:
            deltas.append({"content": up.text})
        if up.calls:
            deltas.append({"tool_calls": [_call_piece(piece) for piece in up.calls]})
        if up.logprobs and not deltas:
            deltas.append({})
        said = b""
        for at, delta in enumerate(deltas):
            likely = up.logprobs if at == 0 else []
            text = str(delta.get("content", ""))
            said += self._event([self._choice(up.choice, delta, text, None, likely)])
        return said

    def _choice(
        self,
        choice: int,
        delta: dict[str, object],
        text: str,
        reason: str | None,
        logprobs: Sequence[Logprob],
    ) -> dict[str, object]:
        if self._chat:
            said: dict[str, object] = {"delta": delta}
            if logprobs:
                said["logprobs"] = _chat_logprobs(logprobs)
        else:
            begin = self._offset.get(choice, 0)
            self._offset[choice] = begin + sum(len(_text(one.chosen)) for one in logprobs)
            told = _text_logprobs(logprobs, begin) if logprobs else None
            said = {"text": text, "logprobs": told}
        return {"index": choice, **said, "finish_reason": reason}

    def _event(self, choices: list[dict[str, object]], usage: object = None) -> bytes:
        used = b',"usage":' + msgspec.json.encode(usage) if self._asked.include_usage else b""
        return b"%b%b%b}\n\n" % (self._before, msgspec.json.encode(choices), used)


class _Choice:
    """One choice of a whole answer, as it grows."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[Logprob] = []
        self.reason = self.stop = ""

    def hear(self, up: Token | ChoiceEnded) -> None:
        self.texts.append(up.text)
        self.thoughts.append(up.thought)
        self.logprobs += up.logprobs
        for piece in up.calls:
            if piece.index == len(self.calls):
                function = {"name": piece.name, "arguments": ""}
                self.calls.append({"id": piece.call_id, "type": "function", "function": function})
            self.calls[piece.index]["function"]["arguments"] += piece.arguments

    def message(self) -> dict[str, object]:
        text = "".join(self.texts)
        # Null beside tool calls, as OpenAI has it: no text is not an empty one.
        said: dict[str, object] = {
            "role": "assistant",
            "content": text if text or not self.calls else None,
            "refusal": None,
        }
        if any(self.thoughts):
            said["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            said["tool_calls"] = self.calls
        return said


class _Whole:
    content_type = "application/json"

    def __init__(self, asked: Asked) -> None:
        self._chat = asked.endpoint == "chat"
        self._head = _head(asked, "chat.completion" if self._chat else "text_completion")
        count = len(asked.job.prompts) * asked.job.n
        self._choices = [_Choice() for _ in range(count)]

    def write(self, up: Up) -> bytes:
        match up:
            case Token(choice=choice):
                self._choices[choice].hear(up)
            case ChoiceEnded(choice=choice, reason=reason):
                self._choices[choice].hear(up)
                self._choices[choice].reason, self._choices[choice].stop = reason, up.stop
            case Done(usage=used):
                choices = [self._choice(at, one) for at, one in enumerate(self._choices)]
                return msgspec.json.encode(
                    {**self._head, "choices": choices, "usage": _usage(used)}
                )
        return b""

    def _choice(self, at: int, one: _Choice) -> dict[str, object]:
        told: object = None
        if self._chat:
            said: dict[str, object] = {"message": one.message()}
            if one.logprobs:
                told = _chat_logprobs(one.logprobs)
        else:
            said = {"text": "".join(one.texts)}
            if one.logprobs:
                told = _text_logprobs(one.logprobs, 0)
        said |= {"logprobs": told, "finish_reason": one.reason, **_stopped(one.stop)}
        return {"index": at, **said}


def _stopped(stop: str) -> dict[str, object]:
    # vLLM's word for it; OpenAI's own has none, and clients of Anthropic's API ask for it.
    return {"stop_reason": stop} if stop else {}


def _call_piece(piece: CallPiece) -> dict[str, object]:
    if not piece.name:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.call_id, "type": "function", "function": function}


def _text(likely: Likely) -> str:
    return likely.data.decode("utf-8", "replace")


def _chat_logprobs(found: Sequence[Logprob]) -> dict[str, object]:
    def entry(likely: Likely) -> dict[str, object]:
        return {
            "token": _text(likely),
            "logprob": likely.logprob,
            "bytes": list(likely.data),
        }

    content = [
        {**entry(one.chosen), "top_logprobs": [entry(likely) for likely in one.top]}
        for one in found
    ]
    return {"content": content, "refusal": None}


def _text_logprobs(found: Sequence[Logprob], begin: int) -> dict[str, object]:
    offsets = []
    for one in found:
        offsets.append(begin)
        begin += len(_text(one.chosen))
    return {
        "tokens": [_text(one.chosen) for one in found],
        "token_logprobs": [one.chosen.logprob for one in found],
        "top_logprobs": [{_text(each): each.logprob for each in one.top} for one in found],
        "text_offset": offsets,
    }


class _Embedded:
    content_type = "application/json"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._vectors: dict[int, bytes] = {}

    def write(self, up: Up) -> bytes:
        match up:
            case Vectors(index=at, vector=vector):
                self._vectors[at] = vector  # a short text is done before a long one
            case Done(usage=used):
                data = [
                    {"object": "embedding", "index": at, "embedding": self._shown(vector)}
                    for at, vector in sorted(self._vectors.items())
                ]
                usage = {"prompt_tokens": used.prompt, "total_tokens": used.prompt}
                return msgspec.json.encode(
                    {"object": "list", "data": data, "model": self._asked.model, "usage": usage}
                )
        return b""

    def _shown(self, vector: bytes) -> str | list[float]:
        if self._asked.base64:
            return base64.b64encode(vector).decode()
        return array("f", vector).tolist()


def _head(asked: Asked, kind: str) -> dict[str, object]:
    prefix = "chatcmpl" if asked.endpoint == "chat" else "cmpl"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.model,
        "system_fingerprint": "llama.cpp",
    }


def _usage(used: Used) -> dict[str, object]:
    return {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "total_tokens": used.prompt + used.completion,
        "prompt_tokens_details": {"cached_tokens": used.cached},
        **(
            {"completion_tokens_details": {"reasoning_tokens": used.thought}}
            if used.thought
            else {}
        ),
    }
