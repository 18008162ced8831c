"""`tollway run`: a key for as long as a program lives, its tags, its budget, its end, its cost."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from gateway import KEY, gateway
from program import Home
from run_program import ANSWERS, python, start
from shell import Running, until

from tollway.cli import show
from tollway.cli.run_agents import agent_of
from tollway.cli.run_env import HEADER, launch
from tollway.cli.run_env import Gateway as Goal
from tollway.cli.run_place import place
from tollway.daemon.ledger.calls import CallRow, recent

WITH_LIBRARY = """
from openai import OpenAI
for _ in range(3):
    asked = {"model": "up/m", "messages": [{"role": "user", "content": "Hi"}]}
    print(OpenAI().chat.completions.create(**asked).choices[0].message.content)
"""
CALLS = """
import json, os, sys, urllib.error, urllib.request
asked = {"model": "up/m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1000}
for number in range(int(sys.argv[1])):
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    headers["content-type"] = "application/json"
    request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
    try:
        said = json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        print("refused", error.code)
        sys.exit(9)
    print(said["choices"][0]["message"]["content"])
print(os.environ["TOLLWAY_KEY"])
"""


def calls(daemon: Running) -> list[CallRow]:
    """Return the ledger's calls, newest first."""
    return recent(daemon.server.daemon.ledger.path, limit=50)


async def test_a_script_is_led_here_and_its_cost_is_told(tmp_path: Path) -> None:
    """The OpenAI library needs no word in the script: two variables do it."""
    async with gateway(ANSWERS * 3) as gate:
        run = await start(gate.daemon, tmp_path / "shop", *python(WITH_LIBRARY))
        code, out, err = await run.end()
        assert (code, out.split()) == (0, ["Hello"] * 3), err
        rows = calls(gate.daemon)
        assert [row.cost_nanousd for row in rows] == [7 * 1000 + 3 * 2000] * 3
        assert "$0.000039 · 3 calls · 21 tokens in, 9 out" in err
        assert "up/m" in err
        assert all('"project":"shop"' in row.tags and '"run":"' in row.tags for row in rows)


async def test_the_owner_runs_as_the_owner_and_a_key_as_its_user(tmp_path: Path) -> None:
    """`--as` bills the run to whom a key bills; without it whoever owns the daemon pays."""
    async with gateway(ANSWERS * 2) as gate:
        for words in ((), ("--as", "laptop")):
            run = await start(gate.daemon, tmp_path, *words, *python(CALLS, "1"))
            assert (await run.end())[0] == 0
        by_key, by_owner = calls(gate.daemon)
        assert (by_key.key, by_key.user, by_key.team) == ("laptop", "ann", "ml")
        assert (by_owner.key, by_owner.user) == ("", "local")


async def test_the_key_ends_with_the_program_and_is_never_on_disk(tmp_path: Path) -> None:
    """What is left behind by a run opens nothing."""
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, *python(CALLS, "1"))
        _, out, _ = await run.end()
        secret = out.split()[-1]
        assert secret.startswith("tw-") and secret != KEY
        reply = await gate.ask(authorization=f"Bearer {secret}")
        assert reply.status == 401
        for file in gate.daemon.folder.rglob("*"):
            if file.is_file():
                assert secret.encode() not in file.read_bytes(), file


async def test_an_unknown_key_is_refused_before_the_program_starts(tmp_path: Path) -> None:
    """Nobody should wait for a program to fail for it."""
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, "--as", "nobody", *python("print('ran')"))
        code, out, err = await run.end()
        assert (code, out) == (1, "")
        assert "error: There is no key `nobody` that works" in err


async def test_a_spent_budget_is_a_clear_end(tmp_path: Path) -> None:
    """The run's own budget refuses with 402, is told at the end, and leaves the key's alone."""
    async with gateway(ANSWERS * 5) as gate:
        # Not much more than what a call may cost before it is sent, so a few settled ones fill it.
        run = await start(gate.daemon, tmp_path, "--budget", "0.0012", *python(CALLS, "50"))
        code, out, err = await run.end()
        assert (code, out.split()[-2:]) == (9, ["refused", "402"]), out
        made = out.split().count("Hello")
        assert 1 <= made < 10
        cost = made * 13_000
        assert len([row for row in calls(gate.daemon) if row.state == "settled"]) == made
        assert f" · budget reached: {show.money(cost)} of $0.0012\n" in err
        assert "1 call was refused or failed; the last one: The budget 0.0012/total of" in err
        assert "has no room for this call" in err
        assert gate.held() == 0


async def test_a_budget_with_room_left_is_not_called_reached(tmp_path: Path) -> None:
    """Also where calls were refused: for a model that there is not, say."""
    async with gateway(ANSWERS) as gate:
        asks = CALLS.replace("up/m", "nobody/m")
        run = await start(gate.daemon, tmp_path, "--budget", "2", *python(asks, "1"))
        code, out, err = await run.end()
        assert (code, out.split()) == (9, ["refused", "404"])
        assert " · $2.00 of $2.00 left\n" in err
        assert "budget reached" not in err


NOT_USED = {
    "a key's": (("tw-" + "0" * 64,), "is not used: this run is the owner's; `--as NAME` bills it"),
    "a key's, and one named": (("tw-" + "0" * 64, "--as", "laptop"), ""),
    "a run's": (("tw-run-" + "0" * 64,), "is of the run around this one, whose budget does not"),
    "a run's, and a key named": (
        ("tw-run-" + "0" * 64, "--as", "laptop"),
        "is of the run around this one, whose budget does not",
    ),
    "none": (("",), ""),
}


@pytest.mark.parametrize(("words", "said"), NOT_USED.values(), ids=NOT_USED)
async def test_a_key_in_the_environment_is_told_to_be_none_of_the_run_s(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """Who set it may think that the run goes by it; `--as` is how one says so."""
    secret, *more = words
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, *more, *python(CALLS, "1"), TOLLWAY_KEY=secret)
        code, out, err = await run.end()
        assert code == 0
        assert out.split()[-1].startswith("tw-run-")
        assert ("$TOLLWAY_KEY" in err) == bool(said)
        assert said in err
        assert not secret or secret not in err


async def test_a_run_that_ends_while_no_daemon_answers_asks_again(tmp_path: Path) -> None:
    """A restart takes a moment, and what the run cost is known after it."""
    async with gateway(ANSWERS) as gate:
        admin, aside = gate.daemon.socket, gate.daemon.folder / "aside"
        program = CALLS + "\nimport signal\nprint(os.getpid(), flush=True)\nsignal.pause()"
        run = await start(gate.daemon, tmp_path, *python(program, "1"))
        for _ in range(2):
            await run.line()
        pid = int(await run.line())
        admin.rename(aside)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{pid}").exists())
        aside.rename(admin)
        code, _, err = await run.end()
        assert code == 128 + 9
        assert "$0.000013 · 1 call · " in err, err


async def test_two_runs_have_budgets_of_their_own(tmp_path: Path) -> None:
    """A budget is of one run, not of all."""
    async with gateway(ANSWERS * 2) as gate:
        made = []
        for _ in range(2):
            run = await start(gate.daemon, tmp_path, "--budget", "0.0012", *python(CALLS, "50"))
            _, out, _ = await run.end()
            made.append(out.split().count("Hello"))
        assert made[0] == made[1] > 0


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("import sys; sys.exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9),
        ("import signal; assert signal.getsignal(signal.SIGPIPE) is not None", 0),
    ],
)
async def test_the_exit_code_is_the_program_s(tmp_path: Path, program: str, wanted: int) -> None:
    """A signal's is 128 and its number, as shells say it."""
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, *python(program))
        code, _, err = await run.end()
        assert code == wanted
        assert "tollway: no calls" in err


async def test_no_program_no_run(tmp_path: Path) -> None:
    """A word typed wrong is told in our own voice."""
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, "--", "no-such-program")
        code, _, err = await run.end()
        assert code == 2
        assert "error: There is no program `no-such-program`" in err


def test_a_models_name_in_a_programs_place_is_told_who_talks_with_it(tmp_path: Path) -> None:
    """`ollama run MODEL` is a conversation."""
    home = Home(tmp_path)
    route = '[providers.up]\nkind = "vllm"\n[routes.fast]\nto = ["up/m"]\n'
    home.write(f"[server]\nsingle_user = true\n{route}[models.tiny]\ngguf = 'tiny.gguf'\n")
    for word, asked in (("fast", "fast"), ("tiny", "local/tiny"), ("local/tiny", "local/tiny")):
        done = home.tollway("run", word)
        assert (done.returncode, f"`tollway chat {asked}`" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("claude", "There is no program `claude`\nhint: Install it"),
        ("cluade", "There is no program `cluade`; did you mean claude?\n"),
    ],
)
def test_an_agent_that_is_not_here_is_not_what_was_meant(
    tmp_path: Path, word: str, told: str
) -> None:
    """Who typed it right is told to install it, and not asked whether it was meant."""
    home = Home(tmp_path)
    home.write("[server]\nsingle_user = true\n")
    done = home.tollway("run", "--", word, PATH=str(tmp_path))
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--budget", "two"),
        ("--budget", "0"),
        ("--budget", "-1"),
        ("--tag", "a b=c"),
        ("--tag", "x"),
        ("--tag", "run=42"),
    ],
)
async def test_options_that_cannot_be_are_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    """Before anything is started."""
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, *words, *python("print('ran')"))
        code, out, err = await run.end()
        assert (code, out) == (2, "")
        assert f"`{words[0]}" in err


def test_a_single_user_s_run_starts_the_daemon_and_is_counted(tmp_path: Path) -> None:
    """No key is asked for there, and the run's calls are told from others all the same."""
    home = Home(tmp_path)
    home.write('[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\n')
    try:
        ended = home.tollway(*("run", "--budget", "1", *python(CALLS, "1")))
        assert "Started the daemon" in ended.stderr
        # There is no provider: the call is refused, and the script says so.
        assert (ended.returncode, ended.stdout.split()) == (9, ["refused", "404"]), ended.stderr
        assert "1 call was refused or failed; the last one: The model `up/m`" in ended.stderr
    finally:
        home.tollway("down", "--now")


# --- what each program needs --------------------------------------------------------------------

GOAL = Goal("http://127.0.0.1:4141", "tw-x", "smart")
ENV = {"PATH": "/bin", "ANTHROPIC_API_KEY": "sk-ant-own", "OPENAI_API_KEY": "sk-own",
       "GOOGLE_API_KEY": "own", "ANTHROPIC_CUSTOM_HEADERS": "x-team: ml"}  # fmt: skip


def test_a_script_gets_the_variables_of_every_library() -> None:
    """And none of the person's own keys, which would be charged elsewhere."""
    made = launch(("python", "s.py"), ENV, GOAL)
    assert made.words == ("python", "s.py")
    assert {name: made.env[name] for name in made.env if name.endswith(("_URL", "_BASE"))} == {
        "OPENAI_BASE_URL": "http://127.0.0.1:4141/v1",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:4141",
        "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:4141",
        "GEMINI_API_BASE": "http://127.0.0.1:4141/v1beta",
        "COPILOT_PROVIDER_BASE_URL": "http://127.0.0.1:4141/v1",
        "TOLLWAY_URL": "http://127.0.0.1:4141",
    }
    keys = {name for name in made.env if name.endswith(("_KEY", "_TOKEN"))}
    assert {made.env[name] for name in keys} == {"tw-x"}
    libraries = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"}
    assert keys == libraries | {"COPILOT_PROVIDER_API_KEY", "TOLLWAY_KEY"}


def test_claude_code_gets_a_token_and_the_model_under_all_its_names() -> None:
    """An ANTHROPIC_API_KEY would make it ask whether to use that."""
    made = launch(("/opt/claude", "-p", "hi"), ENV, GOAL)
    assert made.words == ("/opt/claude", "-p", "hi")
    assert made.env["ANTHROPIC_AUTH_TOKEN"] == "tw-x"
    assert "ANTHROPIC_API_KEY" not in made.env
    models = {name for name, value in made.env.items() if value == "smart"}
    assert {"ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"} < models


def test_without_a_model_the_agent_asks_for_its_own() -> None:
    """Bare names such as `claude-sonnet-4-5` go where a provider serves them."""
    made = launch(("claude",), ENV, Goal("http://h", "tw-x"))
    assert not [name for name in made.env if "MODEL" in name]
    assert not [word for word in launch(("codex",), ENV, Goal("http://h", "tw-x")).words
                if word.startswith("model=")]  # fmt: skip


def test_codex_gets_words_before_its_own_and_no_key_in_them() -> None:
    """Words can be read by everyone on the machine."""
    made = launch(("codex", "exec", "hi"), ENV, GOAL)
    assert made.words[0] == "codex" and made.words[-2:] == ("exec", "hi")
    assert 'model_provider="tollway"' in made.words
    assert 'model_providers.tollway.env_key="TOLLWAY_KEY"' in made.words
    assert not [word for word in made.words if "tw-x" in word]


@pytest.mark.parametrize(
    ("words", "agent", "behind"),
    [
        (("npx", "@openai/codex", "exec", "hi"), "codex", 2),
        (("/usr/bin/npx", "-y", "@openai/codex@0.171.0", "exec"), "codex", 3),
        (("npx", "-p", "@openai/codex", "codex", "exec"), "codex", 4),
        (("pnpm", "dlx", "@openai/codex@latest"), "codex", 3),
        (("bunx", "codex"), "codex", 2),
        (("npx", "@anthropic-ai/claude-code", "-p", "hi"), "claude", 2),
        (("npx", "opencode-ai@1.18.34", "run"), "opencode", 2),
        (("uvx", "--from", "aider-chat", "aider"), "aider", 4),
        (("uv", "tool", "run", "aider-chat"), "aider", 4),
        (("npx", "prettier", "codex"), "", 1),
        (("npx", "-y"), "", 1),
        (("npm", "exec", "@openai/codex"), "", 1),  # takes options behind it for its own
        (("echo", "codex"), "", 1),
    ],
)
def test_an_agent_that_a_runner_of_packages_starts_is_one(
    words: tuple[str, ...], agent: str, behind: int
) -> None:
    """Codex, which is told by words, asked OpenAI itself, with the run's key."""
    assert agent_of(words) == agent
    made = launch(words, ENV, GOAL).words
    assert made[:behind] == words[:behind]
    assert (made != words) == (agent == "codex")
    assert made[len(made) - len(words) + behind :] == words[behind:]


def test_codex_offers_no_search_where_the_run_has_a_budget() -> None:
    """OpenAI bills its searches by itself: under a hard budget each of its calls was refused."""
    off = 'web_search="disabled"'
    capped = Goal("http://h", "tw-x", capped=True)
    words = launch(("codex", "-c", 'web_search="live"'), ENV, capped).words
    assert words.index(off) < words.index('web_search="live"')  # a person's own word comes last
    assert off not in launch(("codex",), ENV, Goal("http://h", "tw-x")).words
    own = Goal("http://h", "tw-x", own_login=True, capped=True)  # no budget holds these back
    assert off not in launch(("codex",), ENV, own).words


def test_agents_are_told_how_much_their_model_takes() -> None:
    """They sum a conversation up in time; the windows that they take for granted are others."""
    goal = Goal("http://h", "tw-x", "smart", window=128_000)
    assert "model_context_window=128000" in launch(("codex",), ENV, goal).words
    made = launch(("claude",), ENV, goal).env
    assert made["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "128000"
    assert made["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == "128000"
    own = launch(("claude",), ENV | {"CLAUDE_CODE_AUTO_COMPACT_WINDOW": "110000"}, goal).env
    assert own["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == "110000"
    # Claude Code keeps 33,000 tokens free, Codex's own words are 10,000: in little room they would
    # sum up at every turn.
    small = launch(("claude",), ENV, Goal("http://h", "tw-x", "smart", window=32_768)).env
    assert not [name for name in small if "COMPACT" in name or "CONTEXT" in name]
    tiny = launch(("codex",), ENV, Goal("http://h", "tw-x", "smart", window=8192)).words
    assert not [word for word in tiny if "window" in word]


def test_aider_gets_its_model_by_a_variable() -> None:
    """With the API that it is asked by; the address is that of OpenAI's libraries."""
    made = launch(("aider",), ENV, GOAL).env
    assert made["AIDER_MODEL"] == "openai/smart"
    assert made["OPENAI_BASE_URL"] == "http://127.0.0.1:4141/v1"


def test_opencode_gets_a_provider_of_its_own() -> None:
    """By a variable that it reads above its files; what a person has said in it stays."""
    said = '{"autoupdate": false, "provider": {"mine": {}}}'
    goal = Goal("http://h", "tw-x", "smart", window=100_000)
    env = launch(("opencode",), ENV | {"OPENCODE_CONFIG_CONTENT": said}, goal).env
    made = json.loads(env["OPENCODE_CONFIG_CONTENT"])
    assert (made["model"], made["small_model"]) == ("tollway/smart", "tollway/smart")
    assert made["autoupdate"] is False and made["provider"]["mine"] == {}
    ours = made["provider"]["tollway"]
    assert ours["options"] == {"baseURL": "http://h/v1", "apiKey": "{env:TOLLWAY_KEY}"}
    limit = {"context": 100_000, "output": 25_000}
    assert ours["models"] == {"smart": {"name": "smart", "limit": limit}}
    assert "tw-x" not in env["OPENCODE_CONFIG_CONTENT"]


def test_opencode_asks_here_for_the_models_that_it_knows_too() -> None:
    """Its addresses have a path, which the libraries' variables lack: each call was a 404."""
    own = {"anthropic": {"options": {"timeout": 5}, "models": {"x": {}}}}
    said = {"OPENCODE_CONFIG_CONTENT": json.dumps({"provider": own})}
    env = launch(("opencode",), ENV | said, Goal("http://h", "tw-x")).env
    made = json.loads(env["OPENCODE_CONFIG_CONTENT"])
    assert set(made) == {"provider"}  # the model is its own choice
    key = "{env:TOLLWAY_KEY}"
    assert made["provider"] == {
        "anthropic": {
            "options": {"timeout": 5, "baseURL": "http://h/v1", "apiKey": key},
            "models": {"x": {}},
        },
        "openai": {"options": {"baseURL": "http://h/v1", "apiKey": key}},
        "google": {"options": {"baseURL": "http://h/v1beta", "apiKey": key}},
    }


def test_copilot_gets_its_provider_by_variables() -> None:
    """Also where a person has led it elsewhere, or with a token that would go first."""
    own = {"COPILOT_PROVIDER_BEARER_TOKEN": "own", "COPILOT_PROVIDER_TYPE": "anthropic"}
    goal = Goal("http://h", "tw-x", "smart", window=100_000)
    env = launch(("copilot",), ENV | own, goal).env
    assert {name.removeprefix("COPILOT_"): env[name] for name in env if "COPILOT" in name} == {
        "PROVIDER_BASE_URL": "http://h/v1",
        "PROVIDER_API_KEY": "tw-x",
        "PROVIDER_TYPE": "openai",
        "PROVIDER_WIRE_API": "responses",
        "PROVIDER_MAX_PROMPT_TOKENS": "75000",
        "PROVIDER_MAX_OUTPUT_TOKENS": "25000",
        "MODEL": "smart",
    }


def test_every_program_is_told_of_the_model() -> None:
    """`npx`, a shell and a library start agents as well, which read its variables."""
    env = launch(("npx", "claude"), ENV, GOAL).env
    assert env["OPENAI_MODEL"] == env["ANTHROPIC_MODEL"] == env["GEMINI_MODEL"] == "smart"
    assert env["AIDER_MODEL"] == "openai/smart"
    for name in ("OPENCODE_CONFIG_CONTENT", "KILO_CONFIG_CONTENT"):
        assert json.loads(env[name])["model"] == "tollway/smart"


def test_gemini_cli_gets_its_model_by_a_variable() -> None:
    """Where Vertex or a login of Google's would go first, they do not."""
    made = launch(("gemini",), ENV | {"GOOGLE_GENAI_USE_VERTEXAI": "true"}, GOAL)
    assert made.env["GEMINI_MODEL"] == "smart"
    assert made.env["GEMINI_API_KEY"] == "tw-x"
    assert "GOOGLE_GENAI_USE_VERTEXAI" not in made.env and "GOOGLE_API_KEY" not in made.env


def test_an_agent_that_keeps_its_login_gets_our_key_in_a_header() -> None:
    """Its own credential stays where it was, and its own headers too."""
    own = Goal("http://h", "tw-x", own_login=True)
    made = launch(("claude",), ENV, own)
    assert made.env["ANTHROPIC_CUSTOM_HEADERS"] == f"x-team: ml\n{HEADER}: tw-x"
    assert made.env["ANTHROPIC_API_KEY"] == "sk-ant-own"
    assert "ANTHROPIC_AUTH_TOKEN" not in made.env
    words = launch(("codex",), ENV, own).words
    assert "model_providers.tollway.requires_openai_auth=true" in words
    assert f'model_providers.tollway.env_http_headers={{"{HEADER}"="TOLLWAY_KEY"}}' in words
    assert not [word for word in words if "env_key" in word]


def test_a_proxy_is_not_asked_for_this_box() -> None:
    """A company's proxy cannot reach a loopback address."""
    made = launch(("python",), ENV | {"HTTPS_PROXY": "http://p", "http_proxy": "http://p"}, GOAL)
    assert "127.0.0.1" in made.env["no_proxy"] == made.env["NO_PROXY"]
    assert "no_proxy" not in launch(("python",), ENV, GOAL).env


# --- where it is started ------------------------------------------------------------------------


def test_the_project_is_the_remote_s_name_and_the_branch_git_s(tmp_path: Path) -> None:
    """A password in the remote's address is in no tag."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    assert place(folder) == {"project": "checkout"}
    _git(folder, "init", "-q", "-b", "fix/tolls")
    assert place(folder) == {"project": "checkout", "branch": "fix/tolls"}
    _git(folder, "remote", "add", "origin", "https://ann:secret@git.example/team/toll booth.git")
    assert place(folder) == {"project": "toll_booth", "branch": "fix/tolls"}
    (folder / "deep").mkdir()
    assert place(folder / "deep")["project"] == "toll_booth"


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
