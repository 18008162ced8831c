"""What is already on this box: provider keys, model servers, GGUF files, a GPU.

Nothing is changed and nothing leaves the box: the only connections go to loopback.
"""

import http.client
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec

from tollway.providers.llamacpp.gguf import GgufError, describe

# Environment variable -> kind of provider. A kind's name is also its table's name.
PROVIDER_KEYS = {
    "OPENAI_API_KEY": "openai",
    "ANTHROPIC_API_KEY": "anthropic",
    "GEMINI_API_KEY": "gemini",
    "GOOGLE_API_KEY": "gemini",
    "MISTRAL_API_KEY": "mistral",
    "GROQ_API_KEY": "groq",
    "DEEPSEEK_API_KEY": "deepseek",
    "XAI_API_KEY": "xai",
    "OPENROUTER_API_KEY": "openrouter",
    "TOGETHER_API_KEY": "together",
    "FIREWORKS_API_KEY": "fireworks",
    "CEREBRAS_API_KEY": "cerebras",
    "PERPLEXITY_API_KEY": "perplexity",
    "COHERE_API_KEY": "cohere",
    "CO_API_KEY": "cohere",
}
# Port on loopback -> kind of server that listens there when nobody changed it.
SERVER_PORTS = {
    11434: "ollama",
    8000: "vllm",
    30000: "sglang",
    1234: "lmstudio",
    8080: "llama-server",
}
# What a server calls itself in `owned_by`, where that is telling: 8000 and 8080 are popular.
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama-server"}

_MOST_ENTRIES = 5_000  # a search that a person does not notice, even on a slow disk
_MOST_FILES = 20
_DEEPEST = 4
_MAGIC = b"GGUF"
_QUANTISATION = re.compile(
    r"[-._](?:ud-)?(i?q\d\w*|bf16|f16|f32|fp16|mxfp4\w*)$", flags=re.IGNORECASE
)


class LocalServer(msgspec.Struct, frozen=True):
    """A model server on loopback that lists its models without a key."""

    kind: str
    base_url: str
    models: tuple[str, ...]


class ModelFile(msgspec.Struct, frozen=True):
    """A GGUF file; `name` is what it would be called in gateway.toml.

    `problem` says why it cannot be served: a download that broke off, most likely.
    """

    name: str
    path: Path
    bytes: int
    problem: str = ""


class Gpu(msgspec.Struct, frozen=True):
    """A GPU that its driver reports."""

    name: str
    memory_mib: int


def provider_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Return {variable: kind} for every provider key that is set; the keys stay unread.

    A kind whose key may stand in either of two variables is found in the first that is set.
    """
    found: dict[str, str] = {}
    for name, kind in PROVIDER_KEYS.items():
        if environ.get(name, "").strip() and kind not in found.values():
            found[name] = kind
    return found


def server_ports(said: Mapping[int, str], environ: Mapping[str, str]) -> dict[int, str]:
    """Return {port: kind} of where to look for servers.

    A kind that is `said` to be at a port, or Ollama by its own $OLLAMA_HOST, is not looked for at
    its usual one.
    """
    found = dict(said)
    # Ollama's own reading: a host, a port or both, with or without a scheme.
    own = re.fullmatch(
        r"(?:https?://)?(127\.\d+\.\d+\.\d+|localhost|0\.0\.0\.0|):(\d{1,5})/?",
        environ.get("OLLAMA_HOST", "").strip(),
    )
    if own and "ollama" not in found.values():
        found.setdefault(int(own[2]), "ollama")
    kinds = set(found.values())
    usual = {port: kind for port, kind in SERVER_PORTS.items() if kind not in kinds}
    return usual | found


def local_servers(
    ports: Mapping[int, str] = SERVER_PORTS, *, timeout_s: float = 1.0
) -> list[LocalServer]:
    """Return the servers that answer `GET /v1/models` on loopback in time, all asked at once.

    A port where nobody listens refuses at once: only one that hangs takes the time.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(ports))) as askers:
        found = askers.map(lambda port: _ask(port, ports[port], timeout_s), ports)
        return [server for server in found if server]


def _ask(port: int, kind: str, timeout_s: float) -> LocalServer | None:
    # http.client and not urllib: an HTTP_PROXY in the environment must not see this.
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        try:
            connection.request("GET", "/v1/models")
            answer = connection.getresponse()
            body = answer.read(2**20) if answer.status == 200 else b""
        except (OSError, http.client.HTTPException):
            return None
    try:
        listed = msgspec.json.decode(body, type=_Listing).data
    except (msgspec.DecodeError, ValueError):  # ValueError: it is no UTF-8
        return None
    kinds = [_OWNERS[model.owned_by] for model in listed if model.owned_by in _OWNERS]
    return LocalServer(
        kinds[0] if kinds else kind,
        f"http://127.0.0.1:{port}/v1",
        tuple(model.id for model in listed),
    )


class _Listed(msgspec.Struct):
    id: str
    owned_by: str | None = None


class _Listing(msgspec.Struct):
    data: list[_Listed]


def model_folders(home: Path, environ: Mapping[str, str]) -> list[Path]:
    """Return where GGUF files usually are. Ollama's blobs are left out: Ollama serves those."""
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    return [
        home / "models",
        home / ".lmstudio/models",
        cache / "lm-studio/models",
        cache / "llama.cpp",
    ]


def model_files(folders: Iterable[Path]) -> list[ModelFile]:
    """Return up to 20 GGUF files under the folders, each name once; the search is bounded.

    Of two with one name it is the one that is whole.
    """
    found: dict[str, ModelFile] = {}
    left = _MOST_ENTRIES
    for folder in folders:
        for entry in walk(folder, _DEEPEST):
            left -= 1
            if left < 0 or len(found) >= _MOST_FILES:
                return list(found.values())
            name = model_name(entry.name)
            there = found.get(name)
            if name and (there is None or there.problem) and is_gguf(entry.path):
                one = _looked_at(name, Path(entry.path))
                found[name] = there if there and one.problem else one
    return list(found.values())


def _looked_at(name: str, path: Path) -> ModelFile:
    try:
        return ModelFile(name, path, describe(path).file_bytes)
    except GgufError as fault:
        return ModelFile(name, path, 0, fault.message)


def walk(folder: str | Path, depth: int) -> Iterator[os.DirEntry[str]]:
    """Yield all that is in a folder and `depth` - 1 folders below it, by name; links stay."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # not there, or not ours to read: nothing is found in it
    for entry in entries:
        yield entry
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, depth - 1)


def model_name(file: str) -> str:
    """Return a short name for a GGUF file, "" for one that is no model by itself.

    "SmolLM2-135M-Instruct.Q4_1.gguf" is "smollm2-135m-instruct". Projectors (`mmproj`) and the
    second and later parts of a split file are no models.
    """
    stem = file.removesuffix(".gguf")
    if stem == file or stem.lower().startswith("mmproj"):
        return ""
    if part := re.search(r"-(\d{5})-of-\d{5}$", stem):
        if int(part[1]) != 1:
            return ""
        stem = stem[: part.start()]
    return re.sub(r"[^a-z0-9]+", "-", _QUANTISATION.sub("", stem).lower()).strip("-")


def is_gguf(path: str) -> bool:
    """Return whether a file begins as a GGUF file does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def gpus(command: Sequence[str] = ("nvidia-smi",)) -> list[Gpu]:
    """Return what the NVIDIA driver reports; none where there is no driver."""
    program = shutil.which(command[0])
    if not program:
        return []
    try:
        ended = subprocess.run(  # noqa: S603 - a fixed command, no shell
            [
                program,
                *command[1:],
                "--query-gpu=name,memory.total",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.rpartition(",") for line in ended.stdout.splitlines()]
    return [Gpu(name.strip(), int(memory)) for name, _, memory in lines if memory.strip().isdigit()]
