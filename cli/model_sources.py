"""GGUF files where people have them: one file, a folder, Ollama's store, LM Studio's.

Read, never changed: what another program keeps stays its own.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from tollway.cli.discover import is_gguf, model_name, walk
from tollway.providers.errors import GatewayError

Store = Literal["ollama", "lm-studio"]

_MODEL_LAYER = "application/vnd.ollama.image.model"
_LARGEST_MANIFEST = 2**20
_DEEPEST = 6
_MOST_ENTRIES = 50_000


class Source(msgspec.Struct, frozen=True):
    """A model file, and what it would be called; `called` is its name in its store."""

    path: Path
    name: str
    called: str = ""


class NoModels(GatewayError):
    """There is no GGUF file in that place."""

    status = 404
    code = "no_models"


def stores(store: Store, home: Path, environ: Mapping[str, str]) -> list[Path]:
    """Return the folders where a program keeps its models, those that are there."""
    if store == "ollama":
        said = environ.get("OLLAMA_MODELS")
        usual = [home / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
        places = [Path(said).expanduser()] if said else usual
    else:
        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
        places = [home / ".lmstudio/models", cache / "lm-studio/models"]
    return [place for place in places if place.is_dir()]


def sources(place: Path) -> list[Source]:
    """Return the models in a folder or a store of Ollama's, or the one file that it is.

    Raises:
        NoModels: There is none.
    """
    if not place.is_dir():
        return [Source(place, model_name(place.name))]
    if (place / "manifests").is_dir() and (place / "blobs").is_dir():
        found = list(_ollama(place))
        what = "no models of Ollama"
    else:
        found = list(_folder(place))
        what = "no GGUF files"
    if not found:
        raise NoModels(f"There are {what} in `{place}`")
    return _apart(found)


def _folder(folder: Path) -> Iterator[Source]:
    left = _MOST_ENTRIES
    for entry in walk(folder, _DEEPEST):
        left -= 1
        if left < 0:
            return
        if (name := model_name(entry.name)) and is_gguf(entry.path):
            yield Source(Path(entry.path), name, os.path.relpath(entry.path, folder))


class _Layer(msgspec.Struct):
    mediaType: str = ""  # noqa: N815 - as Ollama writes it
    digest: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def _ollama(store: Path) -> Iterator[Source]:
    """Yield what Ollama has pulled: each tag's manifest names the blob with the weights."""
    for folder, _, tags in sorted(os.walk(store / "manifests")):
        for tag in sorted(tags):
            parts = (*Path(folder).relative_to(store / "manifests").parts, tag)
            blob = _blob(store, Path(folder) / tag)
            if blob is not None and len(parts) >= 3:
                yield Source(blob, _ollama_name(parts), _ollama_tag(parts))


def _blob(store: Path, manifest: Path) -> Path | None:
    try:
        with manifest.open("rb") as file:
            layers = msgspec.json.decode(file.read(_LARGEST_MANIFEST), type=_Manifest).layers
    except (OSError, msgspec.DecodeError):
        return None
    for layer in layers:
        if layer.mediaType == _MODEL_LAYER and re.fullmatch(r"sha256:[0-9a-f]{64}", layer.digest):
            blob = store / "blobs" / layer.digest.replace(":", "-")
            if is_gguf(str(blob)):  # a model of the cloud has none, a broken pull a part of it
                return blob
    return None


def _ollama_tag(parts: tuple[str, ...]) -> str:
    """Return what `ollama list` shows: "llama3:8b", "someone/model:latest", "hf.co/a/b:Q4_K_M"."""
    host, *names, tag = parts
    names = names[1:] if names[0] == "library" else names
    shown = "/".join(names if host == "registry.ollama.ai" else [host, *names])
    return f"{shown}:{tag}"


def _ollama_name(parts: tuple[str, ...]) -> str:
    *_, model, tag = parts
    said = model if tag == "latest" else f"{model}-{tag}"
    return re.sub(r"[^a-z0-9]+", "-", said.lower()).strip("-")


def _apart(found: list[Source]) -> list[Source]:
    """Return the models with a name each: the second of a name gets its file's whole one."""
    taken: dict[str, Source] = {}
    for one in found:
        name = one.name
        if name in taken:
            stem = one.called.removesuffix(".gguf").lower()
            name = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")
        number = 2
        base = name
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken[name] = msgspec.structs.replace(one, name=name)
    return list(taken.values())
