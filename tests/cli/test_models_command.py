"""`models` and `routes`: files described and registered, and calls explained."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_files import llama_gguf, real_model
from gguf_shapes import shaped
from program import Home

from tollway.daemon.config.load import load
from tollway.daemon.config.schema import PriceOverride
from tollway.providers.llamacpp.fit import estimate, layout, total_memory
from tollway.providers.llamacpp.gguf import describe

pytestmark = pytest.mark.whole

SERVER = '[server]\nlisten = "127.0.0.1:0"\nwatch = false\ndrain = "5s"\n'
# A mebibyte of context for each token, and next to no weights.
HUGE: dict[str, Any] = {"layers": 64, "heads": 32, "kv_heads": 32, "head": 128, "context": 2**24}
BUDGET = 'budget = ["5/day"]\n'


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a small GGUF file; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.write(SERVER)
    shaped(tmp_path / "Tiny-Chat.Q8_0.gguf", context=4096)
    yield made
    made.write(SERVER)
    made.tollway("down", "--now")


def test_add_describes_the_file_and_registers_it(home: Home) -> None:
    """Its name from the file's; what it needs and whether it fits, before it is ever loaded."""
    ended = home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", "--context", "2048", "--json")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["name"] == "tiny-chat"
    assert said["info"]["architecture"] == "llama"
    assert (said["memory"]["context"], said["memory"]["fits"]) == (2048, True)
    parts = ("weights", "cache", "work", "process")
    assert said["memory"]["total"] == sum(said["memory"][part] for part in parts)
    model = load(home.config).models["tiny-chat"]
    assert (model.gguf, model.context) == (home.path / "Tiny-Chat.Q8_0.gguf", 2048)
    text = home.tollway("models", "info", "tiny-chat").stdout
    assert "trained on    4096 tokens" in text
    assert "fits: " in text
    as_called = home.tollway("models", "info", "local/tiny-chat").stdout
    assert as_called.partition("fits: ")[0] == text.partition("fits: ")[0]
    by_path = json.loads(home.tollway("models", "info", "Tiny-Chat.Q8_0.gguf", "--json").stdout)
    assert by_path["info"] == said["info"]


def test_the_same_file_added_again_is_changed_and_another_refused(home: Home) -> None:
    """A script may run twice; a name never moves to another file by accident."""
    home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", "--context", "2048")
    words = ("--price-input", "0.10", "--price-output", "0.4", "--gpu-layers", "all")
    home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", *words)
    model = load(home.config).models["tiny-chat"]
    assert (model.context, model.gpu_layers) == (2048, "all")
    assert isinstance(model.price, PriceOverride)
    assert (str(model.price.input), str(model.price.output)) == ("0.10", "0.4")
    shaped(home.path / "tiny-chat.gguf")
    ended = home.tollway("models", "add", "tiny-chat.gguf")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "There is a model `tiny-chat` already" in ended.stderr


def test_a_file_that_is_no_whole_model_is_refused(home: Home) -> None:
    """With the reason, and nothing is registered."""
    whole = llama_gguf()
    (home.path / "cut.gguf").write_bytes(whole[:-100])
    (home.path / "text.gguf").write_bytes(b"hello, I am a text file, not a model")
    for file, why in (("cut", "is cut short: 100 of"), ("text", "no GGUF file"), ("no", "no file")):
        ended = home.tollway("models", "add", f"{file}.gguf")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert why in ended.stderr
    assert home.config.read_text() == SERVER


def test_a_context_longer_than_the_model_was_trained_on_is_refused(home: Home) -> None:
    """It would be cut at every load; the error says what the most is, and the file is as it was."""
    ended = home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", "--context", "100000000")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "`tiny-chat` was trained on 4096 tokens" in ended.stderr
    assert "hint: `--context 4096` is the most" in ended.stderr
    assert home.config.read_text() == SERVER
    assert home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", "--context", "4096").returncode == 0


def test_a_model_larger_than_the_whole_memory_is_refused_with_the_way_out(home: Home) -> None:
    """No call could ever load it here, whatever else ends."""
    shaped(home.path / "huge.gguf", **HUGE)
    words = ("models", "add", "huge.gguf", "--gpu-layers", "0", "--context")
    ended = home.tollway(*words, str(2**24))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "error: `huge` needs " in ended.stderr
    assert " in all" in ended.stderr
    assert home.config.read_text() == SERVER
    fitting = ended.stderr.partition("hint: `--context ")[2].partition("`")[0]
    assert home.tollway(*words, fitting).returncode == 0


def test_a_model_gets_as_many_slots_as_leave_room(home: Home) -> None:
    """Four, or two, or one; who says a number gets it, and an old table keeps what it has."""
    shaped(home.path / "huge.gguf", **HUGE)
    info, total = describe(home.path / "huge.gguf"), total_memory()
    assert total is not None
    room = layout(2, "split", "f16", on_gpu=False)
    least = estimate(info, 256, room).total
    steps = (3 * total // 4 - least) // (estimate(info, 512, room).total - least)
    words = ("models", "add", "huge.gguf", "--context", str(256 * (steps + 1)))
    ended = home.tollway(*words)
    assert ended.returncode == 0, ended.stderr
    assert "warning: It answers 2 calls at once: more would take too much memory" in ended.stderr
    assert "slots = 2" in home.config.read_text()
    assert home.tollway("models", "add", "huge.gguf", "--context", "256").returncode == 0
    assert load(home.config).models["huge"].slots == 2
    assert home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf").returncode == 0
    assert load(home.config).models["tiny-chat"].slots == 4
    assert home.config.read_text().count("slots") == 1


def test_a_model_too_large_for_now_is_told_of_with_the_way_out(home: Home) -> None:
    """It is registered all the same: memory may be free later."""
    shaped(home.path / "huge.gguf", **HUGE)
    info, total = describe(home.path / "huge.gguf"), total_memory()
    assert total is not None
    room = layout(1, "split", "f16", on_gpu=False)
    least = estimate(info, 256, room).total
    steps = (total - least) // (estimate(info, 512, room).total - least)
    ended = home.tollway("models", "add", "huge.gguf", "--context", str(256 * (steps + 1)))
    assert ended.returncode == 0, ended.stderr
    assert "does not fit" in ended.stdout
    assert "warning: It does not fit now: `huge` needs" in ended.stderr
    assert "hint: `models.huge.context = " in ended.stderr


def test_an_unpriced_model_under_a_budget_is_warned_of(home: Home) -> None:
    """Its calls would be refused; --free or a price ends the warning."""
    plain = home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf")
    assert "no price" not in plain.stderr
    home.write(SERVER + BUDGET)
    ended = home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf")
    assert "warning: `tiny-chat` has no price: calls that a budget applies to" in ended.stderr
    ended = home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", "--free")
    assert "no price" not in ended.stderr
    assert load(home.config).models["tiny-chat"].price == "free"


@pytest.mark.parametrize(
    "words",
    [
        ["--price-input", "0.1"],
        ["--price-input", "x", "--price-output", "1"],
        ["--free", "--price-input", "1", "--price-output", "1"],
        ["--gpu-layers", "some"],
        ["--context", "0"],
        ["--name", "a/b"],
    ],
)
def test_wrong_options_change_nothing(home: Home, words: list[str]) -> None:
    """Exit code 2, stdout empty."""
    ended = home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", *words)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert home.config.read_text() == SERVER


def test_without_the_engine_a_model_is_registered_and_the_install_line_shown(home: Home) -> None:
    """Missing at once, and not at the first call."""
    (home.path / "sitecustomize.py").write_text(
        "import sys\nfrom importlib.abc import MetaPathFinder\n"
        "import importlib.util as util\nfound = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'llama_cpp' "
        "else found(name, package)\n"
    )
    ended = home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", PYTHONPATH=str(home.path))
    assert ended.returncode == 0
    assert "llama-cpp-python is not installed" in ended.stderr
    assert "pip install --no-cache-dir llama-cpp-python==" in ended.stderr
    assert "tiny-chat" in load(home.config).models


def test_a_model_that_a_route_needs_stays(home: Home) -> None:
    """The route is named; without it the model goes and its file stays."""
    home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", "--name", "tiny")
    home.tollway("routes", "add", "fast", "--to", "local/tiny")
    assert "is needed by route fast" in home.tollway("models", "remove", "tiny").stderr
    home.tollway("routes", "remove", "fast")
    assert home.tollway("models", "remove", "tiny").returncode == 0
    assert home.config.read_text() == SERVER
    assert (home.path / "Tiny-Chat.Q8_0.gguf").exists()


def test_a_real_model_is_loaded_and_unloaded_on_demand(home: Home) -> None:
    """`load` returns when it is ready, `unload` when its process is gone."""
    path = str(real_model())
    home.tollway("models", "add", path, "--name", "smol", "--context", "512", "--gpu-layers", "0")
    without = home.tollway("models", "load", "smol")
    assert (without.returncode, without.stdout) == (3, "")
    assert home.tollway("models", "ps").returncode == 3
    assert "There is no model `smoll`" in home.tollway("models", "load", "smoll").stderr
    home.tollway("up")
    assert "smol   registered" in home.tollway("models", "ps").stdout
    ended = home.tollway("models", "load", "smol", "--json")
    assert ended.returncode == 0, ended.stderr
    loaded = json.loads(ended.stdout)
    assert (loaded["state"], loaded["context"], loaded["running"]) == ("ready", 512, 0)
    assert Path(f"/proc/{loaded['pid']}").exists()
    assert str(loaded["pid"]) in home.tollway("models", "ps").stdout
    assert json.loads(home.tollway("models", "list", "--json").stdout)[0]["state"] == "ready"
    assert json.loads(home.tollway("models", "unload", "smol", "--json").stdout)["pid"] is None
    assert not Path(f"/proc/{loaded['pid']}").exists()


def served(home: Home, **models: str) -> None:
    """Start a daemon with models of these names, each with a command that is no server."""
    tables = (
        f'[models.{name}]\ncommand = "{command}"\nhealth = "/"\nprice = "free"\n'
        for name, command in models.items()
    )
    home.write(SERVER + "".join(tables))
    assert home.tollway("up").returncode == 0


HEALTHY = f"{sys.executable} -m http.server ${{PORT}} --bind 127.0.0.1"


def test_several_models_are_loaded_and_all_of_them_unloaded(home: Home) -> None:
    """One that cannot be loaded is told, and does not keep the others from it."""
    served(home, one=HEALTHY, broken="false ${PORT}", two=HEALTHY, other=HEALTHY)
    assert home.tollway("models", "unload", "--all").stderr == "No model is in memory\n"
    assert json.loads(home.tollway("models", "unload", "--all", "--json").stdout) == []
    unknown = home.tollway("models", "load", "one", "tow")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    ended = home.tollway("models", "load", "one", "broken", "local/two", "one")
    assert ended.returncode == 1
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["model", "one", "two"]
    assert "warning: The command of `broken` ended with exit code 1" in ended.stderr
    gone = json.loads(home.tollway("models", "unload", "--all", "--json").stdout)
    assert [(one["name"], one["state"]) for one in gone] == [("one", "stopped"), ("two", "stopped")]
    assert home.tollway("models", "unload").returncode == 2
    assert home.tollway("models", "unload", "one", "--all").returncode == 2


def test_what_failed_says_its_last_words(home: Home) -> None:
    """`ps` shows them, as errors promise; what a command serves has no context that we know."""
    command = (
        '[models.broken]\ncommand = \'sh -c "echo no card >&2; exit 3" ${PORT}\'\nprice = "free"\n'
    )
    home.write(SERVER + command)
    home.tollway("up")
    ended = home.tollway("models", "load", "broken")
    assert ended.returncode == 1
    assert "`tollway models ps` shows its last words" in ended.stderr
    shown = home.tollway("models", "ps").stdout
    assert "last words of broken:\n  no card\n" in shown
    assert json.loads(home.tollway("models", "ps", "--json").stdout)[0]["context"] == 0
    assert json.loads(home.tollway("models", "list", "--json").stdout)[0]["context"] is None
    assert "8192" not in shown + home.tollway("models", "list").stdout


def test_routes_are_added_listed_and_refused_with_the_nearest_name(home: Home) -> None:
    """Targets and fallbacks must exist; a route in use stays."""
    home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", "--name", "tiny")
    assert home.tollway("routes", "add", "slow", "--to", "local/tiny").returncode == 0
    wrong = home.tollway("routes", "add", "fast", "--to", "local/tinny")
    assert wrong.returncode == 2
    assert "routes.fast.to[0]: no model `tinny` in [models]; did you mean tiny?" in wrong.stderr
    words = ("--to", "local/tiny", "--fallback", "slow", "--json")
    assert json.loads(home.tollway("routes", "add", "fast", *words).stdout)["changed"]
    rows = json.loads(home.tollway("routes", "list", "--json").stdout)
    assert rows[1] == {
        "name": "fast",
        "to": ["local/tiny"],
        "strategy": "ordered",
        "fallback": ["slow"],
        "aliases": [],
        "cases": 0,
        "weights": [None],
    }
    assert "is needed by route fast" in home.tollway("routes", "remove", "slow").stderr
    assert home.tollway("routes", "list").stdout.splitlines()[2].split() == [
        "fast", "local/tiny", "ordered", "-", "slow", "-",
    ]  # fmt: skip


def test_explain_says_what_would_become_of_a_call(home: Home) -> None:
    """As whom, where to, what would be held; exit code 1 where it would be refused."""
    assert home.tollway("routes", "explain", "--model", "x").returncode == 3
    words = ("--name", "tiny", "--price-input", "1", "--price-output", "2")
    home.tollway("models", "add", "Tiny-Chat.Q8_0.gguf", *words)
    home.tollway("routes", "add", "fast", "--to", "local/tiny")
    home.tollway("groups", "create", "few", "--models", "fast")
    home.tollway("users", "create", "ada", "--group", "few", "--budget", "0.005/day")
    home.tollway("keys", "create", "ci", "--user", "ada")
    home.tollway("up")
    ask = ("routes", "explain", "--as", "ci", "--model")
    ended = home.tollway(*ask, "fast", "--tokens", "1000", "--output", "100", "--json")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["key"], said["user"], said["levels"]) == ("ci", "ada", ["user ada"])
    assert said["targets"][0]["hold_nanousd"] == 1000 * 1000 + 100 * 2000
    assert said["budgets"][0]["left_nanousd"] == 5 * 10**6
    text = home.tollway(*ask, "fast", "--output", "100").stdout
    assert "would be sent" in text
    assert "user ada   0.005/day" in text

    closed = home.tollway(*ask, "local/tiny")
    assert closed.returncode == 1
    assert "refused: " in closed.stdout
    full = home.tollway(*ask, "fast", "--tokens", "100000", "--output", "100")
    assert full.returncode == 1
    assert "refused: " in full.stdout
    unknown = home.tollway("routes", "explain", "--as", "cii", "--model", "fast")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "There is no key `cii`" in unknown.stderr


@pytest.mark.local
def test_layers_for_a_gpu_that_this_build_has_not_are_told(home: Home) -> None:
    """Wherever it is known: no error, for the same file may be that of a machine with a GPU."""
    path, told = str(real_model()), "`gpu_layers = 3` does nothing: llama-cpp-python is built for"
    ended = home.tollway("models", "add", path, "--name", "smol", "--context", "512",
                         "--gpu-layers", "3", "--free")  # fmt: skip
    assert ended.returncode == 0
    assert told in ended.stderr
    assert "CMAKE_ARGS=" in ended.stderr
    assert told in home.tollway("models", "info", "smol").stderr
    memory = json.loads(home.tollway("models", "info", "smol", "--json").stdout)["memory"]
    assert memory["warning"].startswith(told)
    assert "CMAKE_ARGS=" in memory["fix"]
    assert told not in home.tollway("models", "info", "smol", "--gpu-layers", "auto").stderr
    home.tollway("up")
    assert home.tollway("models", "ps").stderr == ""
    loaded = home.tollway("models", "load", "smol")
    assert loaded.returncode == 0
    assert f"smol: {told}" in loaded.stderr
    assert f"smol: {told}" in home.tollway("models", "ps").stderr
    (state,) = json.loads(home.tollway("models", "ps", "--json").stdout)
    assert (state["problem"], state["warning"][: len(told)]) == ("", told)
    doctor = json.loads(home.tollway("doctor", "--offline", "--json").stdout)
    (check,) = [one for one in doctor["checks"] if one["name"] == "model smol"]
    assert (check["state"], check["detail"][: len(told)]) == ("warn", told)
    assert "CMAKE_ARGS=" in check["fix"]
