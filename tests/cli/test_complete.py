"""What Tab offers for values: names of gateway.toml, whatever state that is in."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_disks import fill, small_disk
from needed import needed
from program import Home

GATEWAY = """[server]
listen = "127.0.0.1:0"
[providers.openai]
kind = "openai"
api_key = "keyring:first"
[routes.smart]
to = ["openai/gpt-5", "local/tiny"]
aliases = ["clever"]
[groups.builders]
models = ["*"]
[teams.ml]
[users.ada]
[users.alan]
[projects.bot]
[keys.ci]
user = "ada"
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[models.tiny]
gguf = "tiny.gguf"
price = "free"
[models.bare]
gguf = "bare.gguf"
[prices]
"openai/gpt-4o" = { input = 1, output = 2 }
"""
OFFERED = [
    ("users show a", {"ada", "alan"}),
    ("keys show ", {"ci"}),
    ("keys create new --user ad", {"ada"}),
    ("keys set ci --project ", {"bot"}),
    ("users set ada --team ", {"ml"}),
    ("users set ada --group bu", {"builders"}),
    ("providers test o", {"openai"}),
    ("providers add mine --kind openai-c", {"openai-compatible"}),
    ("models load ", {"tiny", "bare"}),
    ("routes explain --model ", {"smart", "clever", "openai/gpt-5", "local/tiny", "local/bare"}),
    ("routes explain sm", {"smart"}),
    ("routes explain --as ", {"ci"}),
    ("routes add new --to op", {"openai/gpt-5"}),
    ("chat sm", {"smart"}),
    ("logs --user al", {"alan"}),
    ("logs --state op", {"open"}),
    ("spend --by te", {"team"}),
    ("spend --by team,mo", {"team,model", "team,month"}),
    ("spend --since y", {"yesterday"}),
    ("spend --only te", {"team="}),
    ("spend --only team=", {"team=ml"}),
    ("spend --only key=ci,team=", {"key=ci,team=ml"}),
    ("spend --tz Europe/Berl", {"Europe/Berlin"}),
    ("spend --format ma", {"markdown"}),
    ("secrets remove ", {"first"}),
    ("budgets set te", {"team"}),
    ("budgets set team ", {"ml"}),
    ("prices set op", {"openai/gpt-5"}),
    ("prices unset ", {"openai/gpt-4o", "local/tiny"}),
    ("budgets raise team ml +1 --until to", {"tomorrow"}),
    ("config rollback ", {"2", "1"}),
    ("config diff ", {"2", "1"}),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Yield a home with one of each, and a version in its history."""
    made = Home(tmp_path_factory.mktemp("complete"))
    made.write(GATEWAY)
    assert made.tollway("groups", "set", "builders", "--except", "x/*").returncode == 0
    yield made


def offered(home: Home, line: str, shell: str = "bash") -> set[str]:
    """Return what a shell is offered for a line's last word."""
    words = f"tollway {line}"
    said = home.tollway(
        _TOLLWAY_COMPLETE=f"complete_{shell}",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - (not words.endswith(" "))),
        _TYPER_COMPLETE_ARGS=words,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert said.stderr == ""
    return {one for one in said.stdout.splitlines() if one}


@pytest.mark.parametrize(("line", "wanted"), OFFERED, ids=[line for line, _ in OFFERED])
def test_values_are_offered(home: Home, line: str, wanted: set[str]) -> None:
    """Keys, users, teams, routes, models, providers, versions, and words that are fixed."""
    assert offered(home, line) == wanted


@pytest.mark.parametrize("line", ["chat openai/gpt-4", "routes add new --to openai/gpt-4"])
def test_a_providers_models_are_offered_behind_its_name(home: Home, line: str) -> None:
    """Those that have a price: gateway.toml names few of them before there are routes."""
    found = offered(home, line)
    assert {"openai/gpt-4o", "openai/gpt-4o-mini"} <= found
    assert all(one.startswith("openai/gpt-4") for one in found)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_each_shell_is_offered_the_same(home: Home, shell: str) -> None:
    """In its own way of writing them."""
    said = "".join(offered(home, "users show a", shell))
    assert "ada" in said
    assert "alan" in said


def test_a_file_that_is_being_edited_still_has_its_headings(home: Home) -> None:
    """A broken line ends no completion; no file at all ends it without a word."""
    broken = Home(home.path / "broken")
    broken.path.mkdir()
    broken.write(GATEWAY + "[users.adele\n")
    assert offered(broken, "users show ad") == {"ada"}
    empty = Home(home.path / "empty")
    empty.path.mkdir()
    assert offered(empty, "users show ad") == set()
    assert offered(empty, "config rollback ") == set()


# What a person does in each shell, and has Tab answer: `tollway users show a`.
BASH = """{load}
COMP_WORDS=(tollway users show a) COMP_CWORD=3
_tollway_completion tollway
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = """{load}
complete --do-complete 'tollway users show a'
"""
ZSH = """{load}
_arguments() {{ : }}
_describe() {{ : }}
compadd() {{ : }}
print -- $_comps[tollway]
words=(tollway users show a) CURRENT=4
functions _tollway_completion
env _TYPER_COMPLETE_ARGS="${{words[1,$CURRENT]}}" _TOLLWAY_COMPLETE=complete_zsh tollway
"""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
LOADS = {
    "bash": 'eval "$(tollway completion bash)"',
    "zsh": 'eval "$(tollway completion zsh)"',
    "fish": "tollway completion fish | source",
}
ALONE = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}


def in_shell(home: Home, shell: str, script: str, *, rc: bool = False) -> str:
    """Run lines in a shell that has a `tollway`; return what it wrote. `rc`: as it starts."""
    program = needed(shell)
    own = home.path / "bin/tollway"
    own.parent.mkdir(exist_ok=True)
    own.write_text(f'#!/bin/sh\nexec {sys.executable} -m tollway.cli "$@"\n')
    own.chmod(0o755)
    words = (["-i"] if rc else ALONE[shell]) + ["-c", script]
    done = subprocess.run(
        [program, *words],
        env={**home.env, "PATH": f"{own.parent}:{os.environ['PATH']}", "TERM": "dumb"},
        cwd=home.path,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash_is_offered_what_follows_its_last_word(home: Home) -> None:
    """It parts `--only team=m` at the "=", and replaces what stands behind that alone."""
    lines = (
        ("spend --only team = ''", "ml"),
        ("spend --only team =", "ml"),
        ("spend --only key = ci,team = m", "ml"),
        ("spend --only key = ci,te", "ci,team="),
        ("spend --format = js", "json"),
        ("spend --only te", "team="),
    )
    script = LOADS["bash"] + "".join(
        f"\nCOMP_WORDS=(tollway {line}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
        "\n_tollway_completion tollway; echo ${COMPREPLY[*]}"
        for line, _ in lines
    )
    assert in_shell(home, "bash", script).splitlines() == [wanted for _, wanted in lines]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_completes_once_it_has_read_its_script(home: Home, shell: str) -> None:
    """As the hint says to: in a shell without any start-up file of its own."""
    said = in_shell(home, shell, SHELLS[shell].format(load=LOADS[shell]))
    assert "ada" in said
    assert "alan" in said
    assert shell != "zsh" or said.startswith("_tollway_completion\n")  # what zsh asks at Tab


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_finds_what_was_installed(tmp_path: Path, shell: str) -> None:
    """At its next start, and only the named shell's files are written."""
    home = Home(tmp_path)
    home.write(GATEWAY)
    for words in (["completion", shell, "--install"], ["--install-completion", shell]):
        done = home.tollway(*words)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert shell in done.stderr
    others = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish"}
    there = {one for one, name in others.items() if (tmp_path / name).exists()}
    assert there == {shell}
    if shell == "bash":  # a shell that is not at a terminal complains of that
        said = in_shell(home, shell, BASH.format(load=". ~/.bashrc"))
    elif shell == "zsh":
        said = in_shell(home, shell, ZSH.format(load=". ~/.zshrc; autoload +X _tollway; _tollway"))
    else:
        said = in_shell(home, shell, FISH.format(load=""), rc=True)
    assert "ada" in said


def test_nothing_is_installed_in_a_home_that_is_no_whole_path(tmp_path: Path) -> None:
    """An empty one is `/` to us, and any other a folder of wherever the shell is."""
    done = Home(tmp_path).tollway("completion", "bash", "--install", HOME="elsewhere")
    assert done.returncode == 2
    assert "$HOME is `elsewhere`" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_plain_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """A link may lead to a device: `/dev/null` became a file with our lines for all who use it."""
    place, pipe = tmp_path / ".bash_completions/tollway.sh", tmp_path / "pipe"
    os.mkfifo(pipe)
    place.parent.mkdir()
    place.symlink_to(pipe)
    done = Home(tmp_path).tollway("completion", "bash", "--install")
    assert done.returncode == 1
    assert f"`{place}` leads to `{pipe}`" in done.stderr
    assert pipe.is_fifo()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_full_disk_leaves_the_shells_start_as_it_was(tmp_path: Path, shell: str) -> None:
    """What a person wrote there in years is not ours to lose, in whatever encoding it is."""
    own = b"# caf\xe9\n" + b"alias ll='ls -l'\n" * 1000 + b"last"
    with small_disk(tmp_path / "disk", "256k") as disk:
        home, rc = Home(disk), disk / f".{shell}rc"
        rc.write_bytes(own)
        filler = fill(disk)
        there = set(disk.rglob("*"))
        done = home.tollway("completion", shell, "--install")
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert "whether the disk is full" in done.stderr.partition("hint: See who may write to")[2]
        assert rc.read_bytes() == own
        assert {one for one in disk.rglob("*") if one.is_file()} <= there
        filler.unlink()
        assert home.tollway("completion", shell, "--install").returncode == 0
        once = rc.read_bytes()
        assert once.startswith(own + b"\n")
        assert home.tollway("completion", shell, "--install").returncode == 0
        assert rc.read_bytes() == once


@pytest.mark.parametrize(
    ("shell", "own"),
    [
        ("bash", "complete -o default -F"),
        ("zsh", "#compdef tollway"),
        ("fish", "complete --command tollway"),
        ("powershell", "Register-ArgumentCompleter"),
        ("pwsh", "Register-ArgumentCompleter"),
    ],
)
@pytest.mark.parametrize("words", [["completion"], ["--show-completion"]])
def test_each_shell_gets_its_own_script(home: Home, words: list[str], shell: str, own: str) -> None:
    """Whatever shell it is asked from."""
    done = home.tollway(*words, shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert own in done.stdout


def test_a_shell_that_is_none_is_a_usage_error(home: Home) -> None:
    """With what was meant; PowerShell's own file is a person's to edit."""
    done = home.tollway("completion", "fsh")
    assert done.returncode == 2
    assert "Did you mean `fish` or" in done.stderr
    done = home.tollway("completion", "pwsh", "--install")
    assert done.returncode == 2
    assert "$PROFILE" in done.stderr
