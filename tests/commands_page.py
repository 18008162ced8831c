"""The page of all commands, made from the program: helps, and what `--json` really prints.

`python tests/commands_page.py` writes docs/commands.md.
"""

import json
import re
import sys
import tempfile
import textwrap
from pathlib import Path

from chat_upstream import ChatUpstream
from gguf_shapes import shaped
from hub_server import serving_hub
from story import Story, small

from tollway.cli.app import COMMANDS

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
_WIDTH = 118
_LARGE = 150
_HEAD = """# Every command

Made from the program by `tests/commands_page.py`; don't edit it by hand. `--help`, or `-h`, behind
a command has its options and examples. `tollway completion SHELL --install` has Tab complete words.

## Exit codes

| Code | Means |
| --- | --- |
| 0 | it is done, or the answer is yes |
| 1 | the answer is no: a check found something, a call was refused, a thing is not there |
| 2 | the command, or `gateway.toml`, is wrong: which word or line, and what to write instead |
| 3 | no daemon answers |
| 130 | Ctrl-C |

`tollway run` exits with what its program exited with. stdout is for data and stderr for talk. In
a pipe tables are plain columns, a line a row, `-` for nothing; `NO_COLOR` and `TERM=dumb` are
heeded.

"""
_FIELDS = """## Fields of `--json`

Where a command prints data, `--json` prints it as one document (`logs -f`: one a line). These
fields are what a test sees, and are kept; there may come more. `?` marks what may be null or
missing, `null` and `[...]` what the home of the test has nothing for; `NAME` stands for names of
yours. Money is in whole nano-dollars (`_nanousd`) and in exact dollars as text (`_usd`); moments
are unix milliseconds (`_ms`), unix seconds, or text with their zone. `config show`, `diff` and
`export` print the tables of `gateway.toml`. Commands that change something print it, and whether
the daemon has taken it up.

"""
# Objects whose keys are names: of teams, tags, environment variables, dimensions.
_NAMED = {
    "group", "limits", "tags", "headers", "providers", "models", "routes", "groups", "teams",
    "users", "projects", "keys", "prices", "classes", "rates", "service_tiers", "env", "slots",
}  # fmt: skip
GATEWAY = """[server]
listen = "127.0.0.1:0"
watch = false
drain = "1s"
budget = ["100/month"]
[ledger]
bodies = "all"
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:OPENAI_API_KEY"
discount = 0.9
commit = {{ usd = 500, per = "month" }}
limits = {{ rpm = 600 }}
[models.tiny]
gguf = "small.gguf"
price = "free"
[routes.smart]
to = ["up/large"]
[groups.everyone]
models = ["*"]
[teams.ml]
groups = ["everyone"]
budget = ["50/month"]
limits = {{ rpm = 600 }}
[users.ada]
team = "ml"
groups = ["everyone"]
budget = ["5/day"]
limits = {{ rpm = 60 }}
[projects.chatbot]
team = "ml"
groups = ["everyone"]
budget = ["5/day"]
limits = {{ rpm = 60 }}
[prices."up/*"]
input = 1
output = 2
"""
READING = (
    "status", "top --once", "doctor --offline",
    "config check", "config history", "config audit",
    "secrets list", "secrets backend",
    "keys list", "keys show ci", "teams list", "teams show ml", "users list", "users show ada",
    "projects list", "projects show chatbot", "budgets list", "groups list",
    "groups show everyone", "providers list", "providers test up", "providers kinds",
    "models list", "models info tiny", "models ps", "routes list",
    "routes explain smart --as ci", "routes test smart --yes",
    "prices list --provider up", "prices show up/large", "prices check", "usage --url URL",
    "spend --by team,model", "logs", "logs ID", "ledger verify",
    'chat smart "Hi"',
)  # fmt: skip
_HARDWARE = {"gpus"}  # which not every machine has that makes the page
_CODES = {"prices check": None, "doctor --offline": None}


_WORDS = {type(None): "null", bool: "bool", int: "number", float: "number", str: "text"}


def shape(value: object, name: str = "") -> object:
    """Return what a JSON value is made of: a word, a list of one shape, or shapes by field."""
    match value:
        case list():
            if name in _HARDWARE or not value:
                return []
            return [merged([shape(one) for one in value])]
        case dict():
            shapes = {key: shape(one, key) for key, one in value.items()}
            if name in _NAMED and shapes:
                return {"NAME": merged(list(shapes.values()))}
            return shapes
    return _WORDS[type(value)]


def merged(shapes: list[object]) -> object:
    """Return one shape for values that are alike; fields that some lack are marked."""
    real = [one for one in shapes if one not in ("null", [], {})]
    if not real:
        return shapes[0]
    mark = "?" if "null" in shapes else ""
    if all(isinstance(one, dict) for one in real):
        tables = [one for one in real if isinstance(one, dict)]
        names = dict.fromkeys(name.removesuffix("?") for one in tables for name in one)
        made: dict[str, object] = {}
        for name in names:
            some = [one[key] for one in tables for key in (name, f"{name}?") if key in one]
            missing = len(some) < len(tables) or any(f"{name}?" in one for one in tables)
            made[f"{name}?" if missing else name] = merged(some)
        return made if not mark else {**made}
    if all(isinstance(one, list) for one in real):
        inner = [part for one in real if isinstance(one, list) for part in one]
        return [merged(inner)] if inner else []
    words = dict.fromkeys(str(one).removesuffix("?") for one in real)
    optional = mark or ("?" if any(str(one).endswith("?") for one in real) else "")
    return " or ".join(words) + optional


def written(one: object, name: str = "", seen: dict[str, str] | None = None) -> str:
    """Return a shape in a line; a large one that was told before in it is named."""
    seen = {} if seen is None else seen
    match one:
        case list():
            return f"[{written(one[0], name, seen)}, ...]" if one else "[...]"
        case dict():
            parts = (f"{key}: {written(value, key, seen)}" for key, value in one.items())
            text = "{ " + ", ".join(parts) + " }" if one else "{}"
            if len(text) > _LARGE and text in seen:
                return f"as `{seen[text]}`"
            seen[text] = name
            return text
    return str(one)


def fields(told: Story) -> dict[str, str]:
    """Return what each reading command prints, by the line that was run."""
    told.put("gateway.toml", GATEWAY.format(port=told.upstream.port)).chmod(0o600)
    shaped(told.folder / "small.gguf")
    told.quietly("tollway secrets backend vault")
    told.quietly("tollway secrets set spare", stdin="sk-one")
    told.quietly("tollway up")
    key = told.quietly(
        "tollway keys create ci --user ada --project chatbot --rpm 60 --budget 1/day"
        " --expires 2099-01-31 --models smart"
    ).strip()
    told.quietly("tollway keys create old --user ada")
    told.quietly("tollway keys rotate old --grace 24h")
    told.quietly("tollway budgets raise team ml +1 --until 2h")
    for word in ("Hi", "break"):
        told.quietly(f"tollway chat smart {word}", code=int(word == "break"))
    listen = json.loads(told.quietly("tollway status --json"))["listen"]
    call = json.loads(told.quietly("tollway logs --json"))[0]["id"]
    found = {}
    for line in READING:
        meant = line.replace("URL", f"http://{listen}").replace("ID", call)
        code = _CODES.get(line, 0)
        said = told.quietly(f"tollway {meant} --json", code=code, TOLLWAY_KEY=key)
        found[line] = written(shape(json.loads(said)))
    return found


def page(found: dict[str, str]) -> str:
    """Return the page."""
    parts = [_HEAD]
    for panel in dict.fromkeys(row.panel for row in COMMANDS if row.panel):
        parts.append(f"## {panel}\n\n| | |\n| --- | --- |\n")
        groups = [row.name for row in COMMANDS if row.panel == panel]
        parts += [
            f"| `tollway {row.name}` | {row.help} |\n"
            for name in groups
            for row in COMMANDS
            if row.home and row.name.split()[0] == name
        ]
        parts.append("\n")
    parts.append(_FIELDS)
    for line, text in found.items():
        group, _, rest = line.partition(" ")
        parts.append(f"### `tollway {line} --json`\n\n")
        if rest.startswith("show ") and found.get(f"{group} list") == f"[{text}, ...]":
            parts.append(f"One of `tollway {group} list`.\n\n")
            continue
        rows = textwrap.wrap(
            text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        parts.append("```text\n" + "\n".join(rows) + "\n```\n\n")
    return "".join(parts).rstrip() + "\n"


_WORD = r"(?:null|number|text|bool)"


def bones(text: str) -> list[str]:
    """Return a page's words without what a value happened to be: its type, or nothing yet."""
    text = re.sub(rf": {_WORD}(?: or {_WORD})*\??", ":", " ".join(text.split()))
    return re.sub(rf"\[(?:{_WORD}\??, )?\.\.\.\]", "[]", text).split()


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hub = serving_hub({"a/b": {"small.gguf": small(folder)}})
        upstream = ChatUpstream()
        try:
            with hub as served:
                told = Story(folder, upstream, served)
                try:
                    PAGE.write_text(page(fields(told)))
                finally:
                    told.quietly("tollway down --now")
        finally:
            upstream.close()
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
