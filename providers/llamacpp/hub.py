"""GGUF files from Hugging Face, or a server that speaks its API: what there is, and fetching it.

Through huggingface_hub, which is imported only here and only when asked for: its logins, tokens,
mirrors (`HF_ENDPOINT`), proxies and retries are those that people know. Its own downloads begin
anew after they broke off, and are not compared with the checksum: so ours are, and don't.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import msgspec

from tollway.providers import extras
from tollway.providers.errors import GatewayError

FAVOURITE = "Q4_K_M"  # what most people take: a quarter of the size, next to no loss
_PIECE = 2**20
_SPARE_BYTES = 256 * 2**20  # a full disk stops more than a download
_QUANTISATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|BF16|F16|F32|FP16|MXFP4\w*|NVFP4\w*))(?=$|[-./])",
    re.IGNORECASE,
)
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})$")

Progress = Callable[[int, int], None]  # bytes that are there, of how many


class HubProblem(GatewayError):
    """Hugging Face has no such thing, does not give it, or cannot be reached."""

    status = 502
    code = "hub_failed"


class HubFile(msgspec.Struct, frozen=True):
    """A file of a repository; bytes. `sha256` is "" where the hub has none."""

    path: str
    size: int
    sha256: str = ""


class Choice(msgspec.Struct, frozen=True):
    """A model in a repository: one file, or the parts of a split one in their order."""

    name: str
    quantisation: str  # "" where its name does not say
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def installed() -> bool:
    """Return whether this Python has huggingface_hub, without importing it."""
    return importlib.util.find_spec("huggingface_hub") is not None


def endpoint() -> str:
    """Return the address of the hub that is asked."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def parse(said: str) -> tuple[str, str]:
    """Return the repository and the quantisation, "" for none, of ORG/REPO[:QUANT].

    A page's address and the `hf.co/` of other tools are taken too.

    Raises:
        HubProblem: It is none of these.
    """
    short = re.sub(r"^(https?://)?(huggingface\.co|hf\.co)/", "", said.strip())
    found = re.fullmatch(r"([\w.-]+/[\w.-]+?)/?(?::([\w.-]+))?", short)
    if not found or ".." in short:
        raise HubProblem(
            f"`{said}` names no repository", hint="Expected ORG/REPO or ORG/REPO:QUANTISATION"
        )
    return found[1], found[2] or ""


def choices(repo: str, revision: str | None = None) -> list[Choice]:
    """Return the models that a repository has, smallest first.

    Raises:
        HubProblem: There is no such repository, it is closed, or the hub does not answer.
    """
    with _told(repo):
        import huggingface_hub  # noqa: PLC0415 - 0.3 s that only this needs

        api = huggingface_hub.HfApi(endpoint=endpoint())
        files = [
            HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "")
            for entry in api.list_repo_tree(repo, recursive=True, revision=revision)
            if isinstance(entry, huggingface_hub.hf_api.RepoFile)
        ]
    return grouped(files)


def grouped(files: Sequence[HubFile]) -> list[Choice]:
    """Return the models among files, smallest first; a split one that lacks a part is none."""
    found: list[Choice] = []
    parts: dict[tuple[str, int], dict[int, HubFile]] = {}
    for file in files:
        stem = file.path.removesuffix(".gguf")
        name = stem.rpartition("/")[2].lower()
        if stem == file.path or name.startswith(("mmproj", "imatrix")):
            continue
        if part := _PART.fullmatch(stem):
            parts.setdefault((part[1], int(part[3])), {})[int(part[2])] = file
        else:
            found.append(Choice(stem, quantisation(stem), (file,)))
    for (stem, count), held in parts.items():
        if sorted(held) == list(range(1, count + 1)):
            found.append(Choice(stem, quantisation(stem), tuple(held[at] for at in sorted(held))))
    return sorted(found, key=lambda one: (one.size, one.name))


def quantisation(stem: str) -> str:
    """Return what a file's name says of its quantisation, "" for nothing."""
    found = _QUANTISATION.findall(stem)
    return found[-1].upper() if found else ""


def pick(found: Sequence[Choice], wanted: str) -> Choice | None:
    """Return the model that is meant: `wanted` by quantisation or name, else the usual one.

    None where that leaves several, or none of this name.
    """
    said = wanted.lower()
    if said:
        fitting = [one for one in found if one.quantisation.lower() == said]
        fitting = fitting or [one for one in found if one.name.rpartition("/")[2].lower() == said]
    elif len(found) == 1:
        fitting = list(found)
    else:
        fitting = [one for one in found if one.quantisation == FAVOURITE]
    return fitting[0] if len(fitting) == 1 else None


def fetch(
    repo: str, choice: Choice, folder: Path, progress: Progress, *, revision: str | None = None
) -> list[Path]:
    """Bring a model's files into a folder and return their paths, in their order.

    What is there already and whole is not fetched again, and what broke off goes on from where
    it did. Each file has its own name only once its checksum is right.

    Raises:
        HubProblem: It could not be fetched; what came so far stays for the next try.
    """
    targets = [folder / file.path.rpartition("/")[2] for file in choice.files]
    folder.mkdir(parents=True, exist_ok=True)
    before = 0
    _require_room(folder, choice, targets)
    for file, target in zip(choice.files, targets, strict=True):
        start = before

        def told(done: int, start: int = start) -> None:
            progress(start + done, choice.size)

        if not _is_whole(file, target, told):
            _fetch_one(repo, file, target, told, revision)
        before += file.size
        progress(before, choice.size)
    return targets


def _require_room(folder: Path, choice: Choice, targets: list[Path]) -> None:
    held = 0
    for target in targets:
        for path in (target, _partial(target)):
            held += path.stat().st_size if path.exists() else 0
    free, need = shutil.disk_usage(folder).free, choice.size - held
    if need + _SPARE_BYTES > free:
        raise HubProblem(
            f"`{folder}` has {free >> 20} MiB free, and {need >> 20} MiB are to come,"
            f" with {_SPARE_BYTES >> 20} MiB to be left",
            hint="Make room, or name another folder",
        )


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _is_whole(file: HubFile, target: Path, told: Callable[[int], None]) -> bool:
    if not target.is_file() or target.stat().st_size != file.size:
        return False
    return not file.sha256 or _sha256(target, told) == file.sha256


def _fetch_one(
    repo: str, file: HubFile, target: Path, told: Callable[[int], None], revision: str | None
) -> None:
    partial = _partial(target)
    with _told(repo), partial.open("ab") as out:
        _lock(partial, out)
        if out.tell() > file.size:  # of another version of the file
            out.truncate(0)
        _download(repo, file, out, told, revision)
        out.flush()
        size = partial.stat().st_size
        if size != file.size or (file.sha256 and _sha256(partial, told) != file.sha256):
            partial.unlink()
            raise HubProblem(
                f"`{file.path}` came with another checksum than the hub says, and was thrown away",
                hint="Try again; a proxy or the disk may have damaged it",
            )
        partial.replace(target)


def _lock(partial: Path, out: BinaryIO) -> None:
    """Keep a file to ourselves until it is closed: two that write to it would damage it.

    Raises:
        HubProblem: Another process fetches it.
    """
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been done in this very moment, and the file have its own name by now.
        ours = partial.stat().st_ino == os.fstat(out.fileno()).st_ino
    except (BlockingIOError, FileNotFoundError):
        ours = False
    except OSError:
        ours = True  # a file system without locks
    if not ours:
        raise HubProblem(
            f"`{partial.name}` is being fetched by another command",
            hint="Once that is done, this one finds the file there",
        )


def _download(
    repo: str, file: HubFile, out: BinaryIO, told: Callable[[int], None], revision: str | None
) -> None:
    """Append what is missing of a file; the library tries again when a connection breaks."""
    import huggingface_hub  # noqa: PLC0415 - as above
    from huggingface_hub import file_download  # noqa: PLC0415
    from huggingface_hub.utils._headers import build_hf_headers  # noqa: PLC0415 - not exported

    url = huggingface_hub.hf_hub_url(repo, file.path, revision=revision, endpoint=endpoint())
    headers = build_hf_headers(library_name="tollway")
    found = huggingface_hub.get_hf_file_metadata(url, headers=headers, endpoint=endpoint())
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the hub's token is not for its storage's host
    held = out.tell()

    file_download.http_get(
        found.location,
        out,
        resume_size=held,
        headers=headers,
        expected_size=file.size,
        tqdm_class=_bar(told),
    )


def _bar(told: Callable[[int], None]) -> type:
    """Return what the library takes for a progress bar."""

    class Counting:
        def __init__(self, *, initial: int = 0, **_: object) -> None:
            self.n = initial

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            self.n += count
            told(self.n)

    return Counting


def _sha256(path: Path, told: Callable[[int], None]) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            told(done)
    return digest.hexdigest()


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Say in our words what the library raises.

    Raises:
        HubProblem: Whatever it was.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from httpx2 import HTTPError  # noqa: PLC0415 - comes with huggingface_hub
        from huggingface_hub import errors  # noqa: PLC0415
        from huggingface_hub.utils import logging as its_log  # noqa: PLC0415
    except ImportError as fault:
        raise HubProblem(
            "Fetching models needs huggingface_hub, which is not installed",
            hint=f"`{extras.install('pull')}` installs it",
        ) from fault
    # It tells of each new try in its own words, which nobody asked for; the last one is an error.
    its_log.set_verbosity(logging.ERROR)
    page, again = f"{endpoint()}/{repo}", "The same command goes on where it stopped"
    try:
        yield
    except errors.GatedRepoError as fault:
        raise HubProblem(
            f"`{repo}` is gated: its owner gives it to those who accept the terms",
            hint=f"Accept them at {page}, make a token at {endpoint()}/settings/tokens and set"
            " HF_TOKEN to it",
        ) from fault
    except errors.RepositoryNotFoundError as fault:
        raise HubProblem(
            f"There is no repository `{repo}` at {endpoint()}, or it is private",
            hint="A private one needs HF_TOKEN, a token of somebody who may read it",
        ) from fault
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as fault:
        raise HubProblem(
            f"`{repo}` has no such revision or file", hint=f"{page}/tree/main shows what it has"
        ) from fault
    except errors.HfHubHTTPError as fault:
        status = fault.response.status_code
        hint = "HF_TOKEN may be wrong or expired" if status == 401 else again
        raise HubProblem(f"{endpoint()} answered {status} for `{repo}`", hint=hint) from fault
    except (HTTPError, OSError, ValueError) as fault:
        why = re.sub(r"\s+", " ", str(fault)).strip()[:200] or type(fault).__name__
        raise HubProblem(f"`{repo}` could not be fetched: {why}", hint=again) from fault
