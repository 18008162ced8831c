"""GGUF files where people have them: one file, a folder, Ollama's store, LM Studio's.

Read, never changed: what another program keeps stays its own.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
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
    """A model file, and what it would be called; `others` where that is taken, best first.

    `called` is its name in its store, or all of them.
    """

    path: Path
    name: str
    called: str = ""
    others: tuple[str, ...] = ()

    def is_called(self, said: str) -> bool:
        """Whether a person who says this means it: a name of the store's, or the one here."""
        names = (self.name, *self.called.split(", "))
        return said in names or f"{said}:latest" in names


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
        return [Source(place, model_name(place.name), others=(_stem(place.name),))]
    if (place / "manifests").is_dir() and (place / "blobs").is_dir():
        found = list(_ollama(place))
        what = "no models of Ollama"
    else:
        found = list(_folder(place))
        what = "no GGUF files"
    if not found:
        raise NoModels(f"There are {what} in `{place}`")
    return found


def named(found: Sequence[Source], known: Mapping[str, Path | None]) -> list[Source]:
    """Return the models with a name each that nothing else has.

    `known` are the names in use and whose files they are: a file that has one keeps it.
    """
    offered = Counter(name for one in found for name in set(one.others))
    names = set(known)
    told = []
    for one in found:
        name = known_as(one, known)
        if name is None:
            # What fits two of them tells neither apart.
            others = (other for other in one.others if offered[other] == 1)
            tried = chain((one.name,), others, _numbered(one))
            name = next(name for name in tried if name not in names)
        names.add(name)
        told.append(msgspec.structs.replace(one, name=name))
    return told


def known_as(one: Source, known: Mapping[str, Path | None]) -> str | None:
    """Return the name that a file has already; None for none."""
    if known.get(one.name) == one.path:
        return one.name
    return next((name for name, path in known.items() if path == one.path), None)


def _numbered(one: Source) -> Iterator[str]:
    base = one.others[0] if one.others else one.name
    return (f"{base}-{number}" for number in count(2))


def _folder(folder: Path) -> Iterator[Source]:
    left = _MOST_ENTRIES
    seen: set[str] = set()  # Hugging Face's cache links a file from each revision
    for entry in walk(folder, _DEEPEST):
        left -= 1
        if left < 0:
            return
        real = os.path.realpath(entry.path)
        # macOS leaves files of that name beside others, for what its file system says of them.
        if not (name := model_name(entry.name)) or real in seen or entry.name.startswith("._"):
            continue
        if not os.path.isfile(real):
            continue
        seen.add(real)
        called = os.path.relpath(entry.path, folder)
        stem, whole = _stem(entry.name), _slug(called.removesuffix(".gguf"))
        owner = _slug(called.split(os.sep)[0])
        more = (f"{owner}-{name}", f"{owner}-{stem}") if os.sep in called else ()
        yield Source(Path(entry.path), name, called, (stem, *more, whole))


def _stem(file: str) -> str:
    return _slug(re.sub(r"-\d{5}-of-\d{5}$", "", file.removesuffix(".gguf")))


def _slug(said: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", said.lower()).strip("-")


class _Layer(msgspec.Struct):
    mediaType: str = ""  # noqa: N815 - as Ollama writes it
    digest: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def _ollama(store: Path) -> Iterator[Source]:
    """Yield what Ollama has pulled: each tag's manifest names the blob with the weights.

    Tags of the same weights are one model; it has the plainest of their names.
    """
    tags: dict[Path, list[tuple[str, ...]]] = {}
    for parts in _tags(store):
        blob = _blob(store, store.joinpath("manifests", *parts))
        if blob is not None:
            tags.setdefault(blob, []).append(parts)
    for blob, same in tags.items():
        same.sort(key=lambda parts: ("/" in _ollama_tag(parts), len(_ollama_name(parts))))
        called = [_ollama_tag(parts) for parts in same]
        yield Source(blob, _ollama_name(same[0]), ", ".join(called), (_slug(called[0]),))


def has_tag(store: Path, said: str) -> bool:
    """Return whether Ollama lists a model by this name, whatever it is kept as."""
    return any(said in {tag, tag.removesuffix(":latest")} for tag in map(_ollama_tag, _tags(store)))


def _tags(store: Path) -> Iterator[tuple[str, ...]]:
    """Yield where each manifest is in its store: host, names and tag."""
    for folder, _, files in sorted(os.walk(store / "manifests")):
        for tag in sorted(files):
            parts = (*Path(folder).relative_to(store / "manifests").parts, tag)
            if len(parts) >= 3:
                yield parts


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
    model = re.sub("-gguf$", "", model, flags=re.IGNORECASE)  # a repository of Hugging Face
    return _slug(model if tag == "latest" else f"{model}-{tag}")
