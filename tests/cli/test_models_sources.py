"""`models add` from where people have models: folders, Ollama's store, LM Studio's; and `pull`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_files import llama_gguf, needs_llama_cpp
from gguf_shapes import LLAMA_8B, shaped
from hub_server import Hub, serving_hub
from ollama_files import ollama_store
from program import Home

from tollway.cli.boundary import UsageProblem
from tollway.cli.model_sources import NoModels, Source, named, sources, stores
from tollway.cli.models_add import _picked
from tollway.daemon.config.load import load

SERVER = '[server]\nlisten = "127.0.0.1:0"\nwatch = false\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with an empty gateway.toml and no daemon."""
    made = Home(tmp_path)
    made.write(SERVER)
    return made


def test_ollamas_models_are_found_by_their_manifests(tmp_path: Path) -> None:
    """Called as `ollama list` calls them; what has no weights here is left out."""
    store = ollama_store(
        tmp_path / "models",
        library__llama3__8b=llama_gguf(),
        library__qwen3__latest=llama_gguf(general__name="Qwen"),
        someone__special__latest=llama_gguf(general__name="Special"),
        library__cloud__latest=None,
        library__broken__latest=b"half a pull",
    )
    found = sources(store)
    assert [(one.called, one.name) for one in found] == [
        ("llama3:8b", "llama3-8b"),
        ("qwen3:latest", "qwen3"),
        ("someone/special:latest", "special"),
    ]
    assert all(one.path.read_bytes()[:4] == b"GGUF" for one in found)


def test_a_manifest_cannot_lead_out_of_the_store(tmp_path: Path) -> None:
    """A digest that is none is not made a path."""
    store = ollama_store(tmp_path / "models", library__m__latest=llama_gguf())
    (tmp_path / "outside").write_bytes(llama_gguf())
    (manifest,) = (store / "manifests").rglob("latest")
    manifest.write_text(manifest.read_text().replace("sha256:", "sha256:../../../outside"))
    with pytest.raises(NoModels, match="no models of Ollama"):
        sources(store)


def test_a_folder_gives_each_model_a_name_of_its_own(tmp_path: Path) -> None:
    """LM Studio's folders have an owner and a repository; parts and projectors are no models."""
    for name in (
        "a/Tiny-GGUF/Tiny-Q4_K_M.gguf",
        "b/Tiny-GGUF/Tiny-Q8_0.gguf",
        "b/Tiny-GGUF/mmproj-Tiny.gguf",
        "c/Big/Big-Q4_0-00001-of-00002.gguf",
        "c/Big/Big-Q4_0-00002-of-00002.gguf",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(llama_gguf())
    (tmp_path / "._Tiny-Q8_0.gguf").write_text("of macOS's")
    assert [one.name for one in named(sources(tmp_path), {})] == ["tiny", "tiny-q8-0", "big"]
    (tmp_path / "none").mkdir()
    with pytest.raises(NoModels, match="no GGUF files"):
        sources(tmp_path / "none")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"a/M-GGUF/M-Q4_K_M.gguf": "m", "a/M-GGUF/M-Q6_K.gguf": "m-q6-k"}, {}),
        ({"a/M/M-Q4_0.gguf": "m", "b/M/M-Q4_0.gguf": "b-m"}, {}),
        ({"a/M/M-Q4_0.gguf": "m", "b/M/M-Q4_0.gguf": "b-m-q4-0", "b/M/M-Q8_0.gguf": "m-q8-0"}, {}),
        ({"a/M/M-UD-Q4_K_XL.gguf": "m", "a/M/M-UD-Q8_K_XL.gguf": "m-ud-q8-k-xl"}, {}),
        ({"a/M/M-Q4_0.gguf": "m-q4-0"}, {"m": Path("/other.gguf")}),
        ({"a/M/M-Q4_0.gguf": "m-q4-0-2"}, {"m": None, "m-q4-0": None, "a-m": None, "a-m-q4-0": None,
                                           "a-m-m-q4-0": None}),
    ],
)  # fmt: skip
def test_a_name_says_as_much_as_tells_models_apart(
    tmp_path: Path, files: dict[str, str], names: dict[str, Path | None]
) -> None:
    """The quantisation, or else the owner; names in use are left to whom they belong."""
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(llama_gguf())
    found = named(sources(tmp_path), names)
    assert {one.called: one.name for one in found} == files
    again = named(sources(tmp_path), {"mine": found[0].path})
    assert again[0].name == "mine"  # a file keeps the name that it has


def test_tags_of_the_same_weights_are_one_model(tmp_path: Path) -> None:
    """`ollama pull llama3.2` and `llama3.2:3b` are one file: two would be loaded twice."""
    data = llama_gguf()
    store = ollama_store(
        tmp_path / "models",
        **{"library__llama3.2__3b": data, "library__llama3.2__latest": data, "me__own__v1": data},
    )
    (found,) = sources(store)
    assert (found.name, found.called) == ("llama3-2", "llama3.2:latest, llama3.2:3b, me/own:v1")
    assert all(map(found.is_called, ("llama3.2", "llama3.2:3b", "me/own:v1", "llama3-2")))
    assert not found.is_called("own")


def test_stores_are_looked_for_where_they_usually_are(tmp_path: Path) -> None:
    """OLLAMA_MODELS moves Ollama's; a folder that is not there is none."""
    (tmp_path / ".ollama/models").mkdir(parents=True)
    (tmp_path / ".lmstudio/models").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    assert stores("ollama", tmp_path, {})[0] == tmp_path / ".ollama/models"
    moved = {"OLLAMA_MODELS": str(tmp_path / "elsewhere")}
    assert stores("ollama", tmp_path, moved) == [tmp_path / "elsewhere"]
    assert stores("lm-studio", tmp_path, {}) == [tmp_path / ".lmstudio/models"]


def test_a_person_picks_by_number() -> None:
    """One, several, or all; anything else is asked again by the shell's arrow key."""
    found = [Source(Path(name), name) for name in "abc"]
    assert _picked(found, "2\n") == [found[1]]
    assert _picked(found, "3, 1 3\n") == [found[2], found[0]]
    assert _picked(found, "all\n") == found
    for said in ("", "0", "4", "1 x", "-1"):
        with pytest.raises(UsageProblem, match="from 1 to 3"):
            _picked(found, said)


@pytest.mark.whole
def test_all_of_a_folder_are_registered_and_the_bad_ones_told(home: Home) -> None:
    """One command, one change of the file; with nobody to ask, all must be said."""
    folder = home.path / "models"
    folder.mkdir()
    shaped(folder / "One-Q8_0.gguf")
    shaped(folder / "Two-Q8_0.gguf")
    (folder / "Cut-Q8_0.gguf").write_bytes(llama_gguf()[:-100])
    (folder / "Far-Q8_0.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    unasked = home.tollway("models", "add", "models")
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "There are 4 models, and nobody to ask which" in unasked.stderr
    ended = home.tollway("models", "add", "models", "--all", "--free", "--json")
    assert ended.returncode == 1, ended.stderr
    said = json.loads(ended.stdout)
    assert [one["name"] for one in said["models"]] == ["one", "two"]
    assert [one["problem"] for one in said["skipped"]] == [
        "`Cut-Q8_0.gguf` is cut short: 100 of 2,688 bytes are missing",
        "`Far-Q8_0.gguf`: This is what Git LFS leaves in a model's place",
    ]
    assert "warning: Left out: `Cut-Q8_0.gguf` is cut short" in ended.stderr
    models = load(home.config).models
    assert {name: one.price for name, one in models.items()} == {"one": "free", "two": "free"}


def test_a_split_model_is_listed_with_the_size_of_all_its_files(home: Home) -> None:
    """As `info` tells it, and as it takes room on the disk."""
    parts = [home.path / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(llama_gguf(split__count=2))
    home.write(f'{SERVER}[models.big]\ngguf = "{parts[0]}"\n')
    (row,) = json.loads(home.tollway("models", "list", "--json").stdout)
    assert row["bytes"] == 2 * parts[0].stat().st_size


@pytest.mark.whole
def test_a_model_of_embeddings_is_not_said_to_chat(home: Home) -> None:
    """What comes next is what it can do."""
    shaped(home.path / "e.gguf", more={"pooling_type": 1})
    ended = home.tollway("models", "add", "e.gguf", "--name", "words")
    assert ended.returncode == 0, ended.stderr
    assert "Next: ask `/v1/embeddings` for `local/words`" in ended.stderr
    assert "tollway chat" not in ended.stderr


@pytest.mark.whole
def test_ollamas_models_are_registered_where_they_are(home: Home) -> None:
    """Nothing is copied: the table names Ollama's own file."""
    made = shaped(home.path / "x.gguf")
    tags = {"library__tiny__1b": made.read_bytes(), "library__far__latest": None}
    store = ollama_store(home.path / "store", **tags)
    ended = home.tollway("models", "add", "--from", "ollama", "--all", OLLAMA_MODELS=str(store))
    assert ended.returncode == 0, ended.stderr
    gguf = load(home.config).models["tiny-1b"].gguf
    assert gguf
    assert gguf.parent == store / "blobs"
    assert "Registered as `local/tiny-1b`" in ended.stderr
    assert "Next: `tollway chat local/tiny-1b hello`" in ended.stderr
    unknown = home.tollway("models", "add", "tiny", "--from", "ollama", OLLAMA_MODELS=str(store))
    assert unknown.returncode == 1
    assert "error: Ollama has no model `tiny`\nhint: It has `tiny:1b`" in unknown.stderr
    far = home.tollway("models", "add", "far", "--from", "ollama", OLLAMA_MODELS=str(store))
    assert far.returncode == 1
    assert "error: Ollama's `far` is no GGUF file: it is in the cloud" in far.stderr
    one = ("tiny:1b", "--from", "ollama", "--free", "--slots", "2", "--json")
    ended = home.tollway("models", "add", *one, OLLAMA_MODELS=str(store))
    assert json.loads(ended.stdout)["name"] == "tiny-1b"
    assert [one.slots for one in load(home.config).models.values()] == [2]
    ollama_store(store, me__bad__q4=made.read_bytes()[:-100])
    ended = home.tollway("models", "add", "--from", "ollama", "--all", OLLAMA_MODELS=str(store))
    assert ended.returncode == 1
    assert "warning: Left out `me/bad:q4`: `sha256-" in ended.stderr
    none = home.tollway("models", "add", "--from", "lm-studio")
    assert none.returncode == 1
    assert "no models of LM Studio in the usual places" in none.stderr


@pytest.mark.whole
@pytest.mark.local
def test_what_llama_cpp_does_not_know_is_refused_by_name(home: Home) -> None:
    """Before it is registered, and not at its first call."""
    needs_llama_cpp()
    shaped(home.path / "new.gguf", "llamapus")
    ended = home.tollway("models", "add", "new.gguf")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "`new.gguf`: The llama.cpp of llama-cpp-python" in ended.stderr
    assert "does not know the architecture `llamapus`" in ended.stderr
    assert home.config.read_text() == SERVER


@pytest.mark.whole
def test_info_answers_what_if(home: Home) -> None:
    """Other contexts, slots and kinds of cache, of a file that need not be registered."""
    shaped(home.path / "big.gguf", **LLAMA_8B)
    plain = json.loads(home.tollway("models", "info", "big.gguf", "--json").stdout)["memory"]
    words = ("--slots", "4", "--context", "16384", "--kv-type", "q8_0")
    ended = home.tollway("models", "info", "big.gguf", "--json", *words)
    other = json.loads(ended.stdout)["memory"]
    assert plain["cache"] == pytest.approx(4 * 8192 * 131072, rel=0.001)
    assert other["cache"] == pytest.approx(4 * 16384 * 131072 * 34 // 64, rel=0.001)
    assert (other["slots"], other["kv_type"], other["gpu_layers"]) == (4, "q8_0", 0)
    text = home.tollway("models", "info", "big.gguf", *words).stdout
    assert "context of 16384 tokens for each of 4 slots in q8_0 4.25 GiB" in text
    assert "runs on       the CPU: " in text


@pytest.mark.whole
def test_a_gpu_is_filled_as_far_as_it_goes(home: Home) -> None:
    """What goes there, what stays in RAM, and who else is on it, before anything is loaded."""
    shaped(home.path / "big.gguf", **LLAMA_8B)
    (home.path / "pynvml.py").write_text(
        "from types import SimpleNamespace as Told\n"
        "class NVMLError(Exception): pass\n"
        "nvmlInit = nvmlShutdown = lambda: None\n"
        "nvmlDeviceGetCount = lambda: 1\n"
        "nvmlDeviceGetHandleByIndex = lambda at: at\n"
        "nvmlDeviceGetName = lambda card: 'RTX 3060'\n"
        "nvmlDeviceGetMemoryInfo = lambda card: Told(total=12 * 2**30, free=4 * 2**30)\n"
        "nvmlDeviceGetComputeRunningProcesses = lambda card: "
        "[Told(pid=99, usedGpuMemory=8 * 2**30)]\n"
    )
    # Without llama-cpp-python, which would say that it is built for the CPU.
    (home.path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfound = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'llama_cpp' "
        "else found(name, package)\n"
    )
    at: Any = {"PYTHONPATH": str(home.path)}
    memory = json.loads(home.tollway("models", "info", "big.gguf", "--json", **at).stdout)["memory"]
    assert 0 < memory["gpu_layers"] < memory["layers"] == 33
    assert memory["gpu"] <= 4 * 2**30
    assert memory["gpu"] + memory["ram"] == memory["total"]
    text = home.tollway("models", "info", "big.gguf", **at).stdout
    assert f"the GPU: {memory['gpu_layers']} of 33 layers, " in text
    assert "RTX 3060: 4 GiB of 12 GiB free, 8 GiB held by other processes" in text
    ended = home.tollway("models", "info", "big.gguf", "--gpu-layers", "all", **at)
    assert "does not fit" in ended.stdout
    assert 'gpu_layers = "auto"` takes as many as fit' in ended.stderr
    none = json.loads(
        home.tollway("models", "info", "big.gguf", "--gpu-layers", "0", "--json", **at).stdout
    )
    assert (none["memory"]["gpu"], none["memory"]["gpu_layers"]) == (0, 0)


@pytest.fixture
def server() -> Iterator[Hub]:
    """Serve a repository with two quantisations on loopback."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with the `pull` extra")
    with serving_hub({"org/Tiny-GGUF": {}}) as made:
        yield made


@pytest.mark.whole
def test_a_model_is_pulled_registered_and_described(home: Home, server: Hub) -> None:
    """One command from a repository's name to a model that can be called."""
    small = shaped(home.path / "x.gguf").read_bytes()
    large = shaped(home.path / "y.gguf", layers=4).read_bytes()
    files = {"Tiny-Q4_K_M.gguf": small, "Tiny-Q8_0.gguf": large, "README.md": b"#"}
    server.repos["org/Tiny-GGUF"] = files
    at: Any = {"HF_ENDPOINT": server.url, "HF_HOME": str(home.path / "hf")}
    listed = home.tollway("models", "pull", "org/Tiny-GGUF", "--list", **at)
    assert [line.split()[0] for line in listed.stdout.splitlines()[-2:]] == ["Q4_K_M", "Q8_0"]
    ended = home.tollway("models", "pull", "org/Tiny-GGUF", "--to", "m", "--free", "--json", **at)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["name"] == "tiny"
    model = load(home.config).models["tiny"]
    assert model.gguf == home.path / "m/org/Tiny-GGUF/Tiny-Q4_K_M.gguf"
    assert (model.gguf.read_bytes(), model.price) == (small, "free")
    other = ("models", "pull", "org/Tiny-GGUF:Q8_0", "--to", "m", "--only-fetch", "--json")
    said = json.loads(home.tollway(*other, **at).stdout)
    assert said["quantisation"] == "Q8_0"
    assert Path(said["files"][0]).read_bytes() == large
    assert list(load(home.config).models) == ["tiny"]
    second = ("models", "pull", "org/Tiny-GGUF:Q8_0", "--to", "m")
    taken = home.tollway(*second, "--name", "tiny", "--to", "elsewhere", **at)
    assert (taken.returncode, (home.path / "elsewhere").exists()) == (1, False)
    assert json.loads(home.tollway(*second, "--json", **at).stdout)["name"] == "tiny-q8-0"
    wrong = home.tollway("models", "pull", "org/Tiny-GGUF:Q2_K", **at)
    assert wrong.returncode == 1
    assert "`org/Tiny-GGUF` has no `Q2_K`" in wrong.stderr
    assert "hint: It has Q4_K_M (" in wrong.stderr


def test_info_of_a_folder_lists_what_is_inside(home: Home) -> None:
    """With what each needs; by the names that they would have here, and the faults of others."""
    (home.path / "models/a").mkdir(parents=True)
    shaped(home.path / "models/a/Tiny-Chat.Q8_0.gguf")
    (home.path / "models/half.gguf").write_bytes(llama_gguf()[:200])
    told = home.tollway("models", "info", "models", "--context", "512")
    assert told.returncode == 0, told.stderr
    assert "tiny-chat  llama" in told.stdout
    found = json.loads(home.tollway("models", "info", "models", "--json").stdout)
    assert [one["name"] for one in found] == ["tiny-chat", "half"]
    assert found[0]["needs"] > found[0]["bytes"] > 0
    assert (found[1]["needs"], "inside its header" in found[1]["problem"]) == (None, True)
    ollama_store(home.path / "store", library__llama3__8b=llama_gguf())
    (one,) = json.loads(home.tollway("models", "info", "store", "--json").stdout)
    assert one["name"] == "llama3-8b"
    none = home.tollway("models", "info", str(home.path / "models/a/.."), "--slots", "2")
    assert none.returncode == 0
    (home.path / "empty").mkdir()
    assert "There are no GGUF files in `empty`" in home.tollway("models", "info", "empty").stderr
