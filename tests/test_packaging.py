"""The shape of the code: its packages, its layers, and limits on the tail of its sizes."""

import ast
import functools
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = ["cli", "daemon", "providers"]  # each may import itself and what stands to its right
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))
# One home for each heavy import, by its top-level name; `tollway --help` imports none of them.
HOMES = {
    "llama_cpp": {"providers/llamacpp/child.py", "providers/llamacpp/probe.py"},
    "huggingface_hub": {"providers/llamacpp/hub.py"},
    "keyring": {"daemon/secrets.py"},
    "genai_prices": {"providers/price_distil.py"},
    "prometheus_client": {"daemon/metrics.py"},
    "opentelemetry": {"daemon/telemetry.py"},
    "google": {"providers/google_tokens.py"},
    "requests": {"providers/google_tokens.py"},
    "botocore": {"providers/aws_signing.py"},
}
FOLDERS = {"sqlite_utils": "daemon/ledger/", "aiohttp": "daemon/", "jinja2": "providers/llamacpp/"}
MOST_LINES = 500
MOST_FUNCTION_LINES = 60


def test_every_package_is_listed() -> None:
    """A folder left out of the list works in a checkout and is missing from the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {path.parent.relative_to(ROOT) for path in FILES}
    assert sorted(listed) == sorted("tollway." + ".".join(folder.parts) for folder in found)


@functools.cache
def _imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


def _every_import() -> list[tuple[str, int, str]]:
    """Return the file, line and module of each."""
    return [
        (str(path.relative_to(ROOT)), line, module)
        for path in FILES
        for line, module in _imports(path)
    ]


def test_imports_point_down() -> None:
    """No module imports a layer above its own."""
    upwards = []
    for name, line, module in _every_import():
        top, layer, *_ = *module.split("."), ""
        own = LAYERS.index(name.partition("/")[0])
        if top == "tollway" and layer in LAYERS[:own]:
            upwards.append(f"{name}:{line} imports {module}")
    assert not upwards


def test_the_cli_asks_the_daemon_and_is_not_it() -> None:
    """The command line may read the ledger and the file; the gate belongs to the daemon."""
    closed = ("tollway.daemon.gate", "tollway.daemon.app")
    for path in sorted((ROOT / "cli").rglob("*.py")):
        for line, module in _imports(path):
            assert not module.startswith(closed), f"{path}:{line} imports {module}"


def test_heavy_imports_have_one_home() -> None:
    """A library that costs time or can kill the process is imported in one place."""
    strays = []
    for name, line, module in _every_import():
        top = module.split(".")[0]
        at_home = name in HOMES.get(top, {name}) and name.startswith(FOLDERS.get(top, ""))
        if not at_home:
            strays.append(f"{name}:{line} imports {module}")
    assert not strays


def test_sizes_stay_in_bounds() -> None:
    """Medians do not protect a codebase; limits on the tail do."""
    large = []
    for path in FILES + TESTS:
        text = path.read_text()
        name = path.relative_to(ROOT)
        if (lines := len(text.splitlines())) > MOST_LINES:
            large.append(f"{name} has {lines}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    large.append(f"{name}:{node.lineno}: {node.name} has {lines}")
    assert not large


def test_every_broad_except_says_why() -> None:
    """Catching everything hides bugs: each place that does gives its reason, and they are few.

    One that gives back what was taken and raises on hides nothing, and is not counted.
    """
    found = []
    kept = 0
    for path in FILES:
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                if caught in {"", "Exception", "BaseException"}:
                    near = lines[node.lineno - 2 : node.lineno + 2]
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", near))
                    last = node.body[-1]
                    kept += not (isinstance(last, ast.Raise) and last.exc is None)
    silent = [where for where, near in found if not any("#" in line for line in near)]
    assert not silent
    assert kept <= 16, [where for where, _ in found]
