"""Ollama's store of models, as files."""

import hashlib
import json
from pathlib import Path


def ollama_store(store: Path, **tags: bytes | None) -> Path:
    """Write a store as Ollama does; `tags` are "library__llama3__8b" and the weights' bytes."""
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    for tag, data in tags.items():
        manifest = store / "manifests/registry.ollama.ai" / tag.replace("__", "/")
        manifest.parent.mkdir(parents=True, exist_ok=True)
        layers = [{"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00"}]
        if data is not None:
            digest = hashlib.sha256(data).hexdigest()
            (store / f"blobs/sha256-{digest}").write_bytes(data)
            kind = "application/vnd.ollama.image.model"
            layers.insert(0, {"mediaType": kind, "digest": f"sha256:{digest}"})
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return store
