"""What providers really sent, one JSON file each; README.md says where each comes from."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollway.providers.canon import Call, Endpoint
from tollway.providers.catalog import KINDS

WIRE = Path(__file__).parent
# Who answered, as a kind of ours; the others speak the dialect without a row of their own.
_KINDS = {"llamacpp": "llama-server"}
# Who speaks a dialect that no client of ours does, so that nothing of theirs passes through.
UPSTREAM_ALONE = ("bedrock", "cohere")
_ENDPOINTS: dict[str, Endpoint] = {
    "chat": "chat",
    "openai_chat": "chat",
    "completions": "completions",
    "embeddings": "embeddings",
}


@dataclass(frozen=True)
class Recording:
    """One exchange: what was asked, and the bytes of the answer."""

    id: str  # "openai/chat_gpt-4o"
    provider: str
    api: str  # "openai.chat", "anthropic.messages"
    path: str  # of the request, with its query
    features: frozenset[str]
    endpoint: Endpoint | None  # of OpenAI's; None for lists of models, and for upstreams alone
    asked: dict[str, Any]
    status: int
    headers: dict[str, str]
    body: bytes
    streamed: bool
    chunk_sizes: tuple[int, ...]  # as the client saw it, where known

    @property
    def call(self) -> Call:
        """The call that was recorded, as the gate would see it."""
        options = self.asked.get("stream_options") or {}
        return Call(
            endpoint=self.endpoint or "chat",
            dialect="openai_chat",
            model=self.asked.get("model") or "recorded",
            body=self.request,
            stream=self.streamed,
            wants_usage=bool(options.get("include_usage")),
            choices=self.asked.get("n") or 1,
        )

    @property
    def request(self) -> bytes:
        """The request's body; written anew, since only its value was recorded."""
        return json.dumps({"model": "recorded", **self.asked}, ensure_ascii=False).encode()

    @property
    def quirks(self) -> frozenset[str]:
        """The words of the provider's row."""
        kind = _KINDS.get(self.provider, self.provider)
        return KINDS[kind if kind in KINDS else "openai-compatible"].quirks


def recordings(pattern: str = "*/*.json") -> list[Recording]:
    """Return the recordings whose paths match a glob."""
    found = [_read(path) for path in sorted(WIRE.glob(pattern))]
    assert found, f"no recordings match {pattern}"
    return found


def _read(path: Path) -> Recording:
    said = json.loads(path.read_text("utf-8"))
    answer = said["response"]
    if "sse" in answer:
        body = answer["sse"].encode()
    elif "base64" in answer:
        body = base64.b64decode(answer["base64"])
    elif "text" in answer:
        body = answer["text"].encode()
    else:
        body = json.dumps(answer["body"], ensure_ascii=False).encode()
    return Recording(
        id=f"{path.parent.name}/{path.stem}",
        provider=said["provider"],
        api=said["api"],
        path=said["request"]["path"],
        features=frozenset(said["features"]),
        endpoint=None
        if said["provider"] in UPSTREAM_ALONE
        else _ENDPOINTS.get(said["api"].rpartition(".")[2]),
        asked=said["request"]["body"] or {},
        status=answer["status"],
        headers=answer["headers"],
        body=body,
        streamed="sse" in answer or "base64" in answer,
        chunk_sizes=tuple(answer.get("chunk_sizes") or ()),
    )
