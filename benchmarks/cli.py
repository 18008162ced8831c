"""How long the command line takes: `python benchmarks/cli.py [--runs N]`.

Each command is a fresh process, its modules compiled as an installed program's are, with a daemon
and the ledger of a year. The processor's time is the figure: the wall's is with whatever else the
machine does. Printed as a Markdown table; the best of the runs stands for the command.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import spend_year  # noqa: E402 - the tests' own generator of calls

HELP = 0.25  # seconds: what help may take, and what any reading command may
READING = 0.5
CALLS = 4_000
YEAR_S = 365 * 86_400
GATEWAY = """[server]
listen = "127.0.0.1:0"
watch = false
budget = ["1000/month"]
[providers.openai]
kind = "openai"
api_key = "env:OPENAI_API_KEY"
[routes.fast]
to = ["openai/gpt-4o-mini"]
[teams.ml]
budget = ["500/month"]
[users.ada]
team = "ml"
"""
COMMANDS = (
    "--help", "--version", "spend --help", "keys --help",
    "status", "status --json", "config check", "config show", "config show --effective",
    "config diff", "config history", "keys list", "teams list", "users show ada",
    "budgets list", "groups list", "providers list", "providers kinds", "models list",
    "routes list", "routes explain --model fast", "prices list gpt-5*", "prices check",
    "spend", "spend --by team,model --since 30d --json", "logs", "secrets list",
    "top --once", "doctor --offline",
)  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    """Return a home's own environment, in which modules are compiled once."""
    return {
        "PATH": os.environ["PATH"], "HOME": str(home), "OPENAI_API_KEY": "sk-none",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        "PYTHONPYCACHEPREFIX": str(home / "compiled"),
    }  # fmt: skip


def run(line: str, env: dict[str, str]) -> tuple[float, float, int]:
    """Return a command's seconds of processor and of wall, and its exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "tollway.cli", *line.split()],
        env=env, cwd=env["HOME"], capture_output=True, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent, wall, ended.returncode


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each command")
    runs = max(1, parser.parse_args().runs)
    home = Path(tempfile.mkdtemp(prefix="tollway-cli-"))
    env = environment(home)
    config = home / ".config/tollway/gateway.toml"
    config.parent.mkdir(parents=True)
    config.write_text(GATEWAY)
    config.chmod(0o600)
    data = home / ".local/share/tollway"
    data.mkdir(parents=True, mode=0o700)
    try:
        spend_year.write(data / "ledger.db", CALLS, begin_ms=int((time.time() - YEAR_S) * 1000))
        if run("up", env)[2]:
            raise SystemExit("The daemon does not start")
        print("| command | processor, s | wall, s | goal, s | exit |\n|---|---:|---:|---:|---:|")
        for line in COMMANDS:
            run(line, env)
            seen = [run(line, env) for _ in range(runs)]
            goal = HELP if "--help" in line or line == "--version" else READING
            spent, wall = min(one[0] for one in seen), min(one[1] for one in seen)
            mark = "" if spent <= goal else " (over)"
            print(f"| `{line}` | {spent:.2f}{mark} | {wall:.2f} | {goal} | {seen[0][2]} |")
    finally:
        run("down --now", env)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
