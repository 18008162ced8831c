"""The output items of a Responses answer while they come: one is open, the others are whole.

Each method returns the events, as (type, fields), that a stream must show; the item itself is
kept, since the last event repeats all of them.
"""

import secrets
from typing import Any

import msgspec

from tollway.providers.conversation import Citation, Opaque, Thinking, carry
from tollway.providers.dialects.responses_proofs import with_text
from tollway.providers.dialects.responses_request import NAME
from tollway.providers.dialects.responses_tools import SEARCH
from tollway.providers.dialects.wire import object_in
from tollway.providers.events import Logprob, Signed, ToolStart

Shown = list[tuple[str, dict[str, Any]]]


class Items:
    """All items of one answer.

    `namespaces` are the tools' namespaces and names there; `searches` says that a call of the
    function named `SEARCH` is the client's search for tools, `summary` that it asked to be shown
    what is thought.
    """

    def __init__(
        self,
        namespaces: dict[str, tuple[str, str]],
        *,
        searches: bool = False,
        summary: bool = False,
    ) -> None:
        self._searches = searches
        self._summary = summary
        self.whole: list[dict[str, Any]] = []
        self._namespaces = namespaces
        self._open: dict[str, Any] | None = None
        self._kind = ""  # of the open item; or of its open part
        self._part: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._halves: list[dict[str, Any]] = []  # how likely tokens were that are no text yet

    def text(self, text: str, *, refusal: bool = False) -> Shown:
        """Take more of the answer's text, or of a refusal; nothing begins with no text."""
        if not text:
            return []
        kind = "refusal" if refusal else "output_text"
        shown = self._message(kind)
        self._pieces.append(text)
        # OpenAI's own SDK adds up the `logprobs` of every piece.
        more: dict[str, Any] = {} if refusal else {"logprobs": []}
        shown.append((f"response.{kind}.delta", {**self._at_part(), "delta": text, **more}))
        return shown

    def thinking(self, text: str, *, summary: bool) -> Shown:
        """Take more of what was thought; nothing begins with no text, which may be but signed.

        Clients show the summary that they asked for, and hide a text: what others than OpenAI tell
        of their thoughts is the one.
        """
        shown: Shown = []
        if not text:
            return shown
        kind = "summary_text" if summary or self._summary else "reasoning_text"
        if self._kind not in ("summary_text", "reasoning_text"):
            shown = self.close()
            shown += self._begin("rs", {"type": "reasoning", "summary": []})
        if self._kind != kind:
            shown += self._end_part()
            self._kind = kind
            self._part = {"type": kind, "text": ""}
            shown.append(
                (f"response.{_PARTS[kind]}.added", {**self._at_part(), "part": self._part})
            )
        self._pieces.append(text)
        event = f"response.{_TEXTS[kind]}.delta"
        return [*shown, (event, {**self._at_part(), "delta": text})]

    def sign(self, event: Signed) -> Shown:
        """Take what proves that the open thinking is its provider's; it is shown with its end.

        What another provider signed is carried where OpenAI's clients give back what they do not
        read.
        """
        shown: Shown = []
        if self._kind not in ("summary_text", "reasoning_text", "reasoning"):
            shown = self.close() + self._begin("rs", {"type": "reasoning", "summary": []})
            self._kind = "reasoning"
        item = self._open or {}
        if event.encrypted:
            ours = event.by == NAME
            item["encrypted_content"] = (
                event.encrypted if ours else carry(event.by, "encrypted", event.encrypted)
            )
        elif event.signature:
            item["encrypted_content"] = carry(event.by, "signature", event.signature)
        if event.id and event.by == NAME:
            item["id"] = event.id
        return shown

    def call(self, event: ToolStart) -> Shown:
        """Begin a tool call."""
        shown = self.close()
        if event.by and event.signature:
            proof = carry(event.by, "call", event.signature)
            shown += self._begin("rs", {"type": "reasoning", "summary": []})
            (self._open or {})["encrypted_content"] = proof
            shown += self.close()
        namespace, name = self._namespaces.get(event.name, ("", event.name))
        named: dict[str, Any] = {"call_id": event.id, "name": name}
        if namespace:
            named["namespace"] = namespace
        if self._searches and event.name == SEARCH:
            search: dict[str, Any] = {"type": "tool_search_call", "status": "in_progress"}
            search |= {"execution": "client", "call_id": event.id, "arguments": {}}
            self._kind = "search"
            return shown + self._begin("tsc", search)
        if event.kind == "custom":
            shown += self._begin("ctc", {"type": "custom_tool_call", **named, "input": ""})
        else:
            shown += self._begin("fc", {"type": "function_call", **named, "arguments": ""})
        self._kind = event.kind
        return shown

    def arguments(self, text: str) -> Shown:
        """Take more of the open call's arguments."""
        self._pieces.append(text)
        if not text or self._kind == "search":  # whose arguments are shown at its end
            return []
        event = _ARGUMENTS["input" if self._kind == "custom" else "arguments"]
        return [(f"response.{event}.delta", {**self._at_item(), "delta": text})]

    def cite(self, citation: Citation) -> Shown:
        """Take a source of the open text."""
        shown = self._message("output_text")
        part = self._part or {}
        note = _annotation(citation, len("".join(self._pieces)))
        part["annotations"].append(note)
        place = len(part["annotations"]) - 1
        said = {**self._at_part(), "annotation_index": place, "annotation": note}
        return [*shown, ("response.output_text.annotation.added", said)]

    def logprobs(self, tokens: tuple[Logprob, ...]) -> Shown:
        """Take how likely the last text was; of half a letter that begins it, with what follows."""
        said = [*self._halves, *(_token(one) for one in tokens)]
        self._halves = said if self._open is None else []
        if self._part is None or self._kind != "output_text":
            return []
        self._part.setdefault("logprobs", []).extend(said)
        delta = {**self._at_part(), "delta": "", "logprobs": said}
        return [("response.output_text.delta", delta)]

    def put(self, part: Thinking | Opaque) -> Shown:
        """Take an item in one piece: encrypted thinking, or what only this dialect has."""
        shown = self.close()
        if isinstance(part, Opaque):
            item = msgspec.json.decode(part.payload, type=dict[str, Any])
            shown += self._begin("item", item)
        else:
            shown += self.sign(Signed(part.by, part.signature, part.encrypted, part.id))
        return [*shown, *self.close()]

    def end_part(self) -> Shown:
        """End the open part; a message stays open for more of the same.

        So does a call until something follows: only the end of the answer says if it was cut.
        """
        if self._kind in _CALLS:
            return []
        return self._end_part() if self._kind in ("output_text", "refusal") else self.close()

    def finish(self, *, cut: bool) -> Shown:
        """End the last item; one that was `cut` short says so, but for a call that is whole."""
        item = self._open or {}
        called = (
            self._kind in ("function", "search") and object_in("".join(self._pieces)) is not None
        )
        if cut and not called and item.get("type") in _WITH_STATUS:
            item["status"] = "incomplete"
        return self.close()

    def close(self) -> Shown:
        """End the open item."""
        item = self._open
        if item is None:
            return []
        shown = self._end_part()
        if self._kind == "search":
            text = "".join(self._pieces)
            self._pieces.clear()
            item["arguments"] = object_in(text) or {}
        elif self._kind in _CALLS:
            shown.append(self._end_call(item))
        elif item["type"] == "reasoning":
            told = "".join(part["text"] for part in item.get("content", ()))
            item["encrypted_content"] = with_text(item.get("encrypted_content", ""), told)
        if item["type"] in _WITH_STATUS and item.get("status") == "in_progress":
            item["status"] = "completed"
        shown.append(("response.output_item.done", {"output_index": self._place, "item": item}))
        self.whole.append(item)
        self._open, self._kind = None, ""
        return shown

    @property
    def _place(self) -> int:
        return len(self.whole)

    def _message(self, kind: str) -> Shown:
        shown: Shown = []
        if self._open is None or self._open["type"] != "message":
            shown = self.close()
            message = {"type": "message", "status": "in_progress", "role": "assistant"}
            shown += self._begin("msg", {**message, "content": []})
        if self._part is None or self._kind != kind:
            shown += self._end_part()
            self._kind = kind
            text = "refusal" if kind == "refusal" else "text"
            self._part = {"type": kind, text: ""}
            if kind == "output_text":
                self._part["annotations"] = []
            said = {**self._at_part(), "part": dict(self._part)}
            shown.append(("response.content_part.added", said))
        return shown

    def _begin(self, prefix: str, item: dict[str, Any]) -> Shown:
        self._open = item if "id" in item else {"id": f"{prefix}_{secrets.token_hex(16)}", **item}
        if item["type"] in ("function_call", "custom_tool_call"):
            self._open["status"] = "in_progress"
        added = {name: [] if name == "content" else value for name, value in self._open.items()}
        return [("response.output_item.added", {"output_index": self._place, "item": added})]

    def _end_part(self) -> Shown:
        part, self._part = self._part, None
        if part is None:
            return []
        item = self._open or {}
        text = "".join(self._pieces)
        self._pieces.clear()
        kind = part["type"]
        at = self._at_part()
        part["refusal" if kind == "refusal" else "text"] = text
        within = _WITHIN[kind]
        item.setdefault(within, []).append(part)
        said: dict[str, Any] = {**at, "refusal" if kind == "refusal" else "text": text}
        if kind == "output_text":
            said["logprobs"] = part.get("logprobs", [])
        return [
            (f"response.{_TEXTS[kind]}.done", said),
            (f"response.{_PARTS[kind]}.done", {**at, "part": part}),
        ]

    def _end_call(self, item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        text = "".join(self._pieces)
        self._pieces.clear()
        field = "input" if self._kind == "custom" else "arguments"
        item[field] = text
        return f"response.{_ARGUMENTS[field]}.done", {**self._at_item(), field: text}

    def _at_item(self) -> dict[str, Any]:
        item = self._open or {}
        return {"item_id": item.get("id", ""), "output_index": self._place}

    def _at_part(self) -> dict[str, Any]:
        """Return where the open part stands: as many as are whole come before it."""
        within = _WITHIN[self._kind]
        index = "summary_index" if within == "summary" else "content_index"
        return {**self._at_item(), index: len((self._open or {}).get(within, ()))}


_CALLS = ("function", "custom", "search")
_WITH_STATUS = ("message", "function_call", "custom_tool_call", "tool_search_call")
_WITHIN = {
    "output_text": "content",
    "refusal": "content",
    "reasoning_text": "content",
    "summary_text": "summary",
}
_TEXTS = {
    "output_text": "output_text",
    "refusal": "refusal",
    "reasoning_text": "reasoning_text",
    "summary_text": "reasoning_summary_text",
}
_PARTS = {
    "output_text": "content_part",
    "refusal": "content_part",
    "reasoning_text": "content_part",
    "summary_text": "reasoning_summary_part",
}
_ARGUMENTS = {"arguments": "function_call_arguments", "input": "custom_tool_call_input"}


def _annotation(citation: Citation, end: int) -> dict[str, Any]:
    if citation.by == NAME and citation.payload:
        return msgspec.json.decode(citation.payload, type=dict[str, Any])
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title,
        # Below zero: in a part that is over, to which nothing can be added.
        "start_index": max(0, citation.start or 0),
        "end_index": end if citation.end is None else max(0, citation.end),
    }


def _token(one: Logprob) -> dict[str, Any]:
    return {
        "token": one.token,
        "logprob": one.logprob,
        "bytes": list(one.bytes if one.bytes is not None else one.token.encode()),
        "top_logprobs": [
            {
                "token": top.token,
                "logprob": top.logprob,
                "bytes": list(top.bytes if top.bytes is not None else top.token.encode()),
            }
            for top in one.top
        ],
    }
