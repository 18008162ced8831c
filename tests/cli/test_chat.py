"""`chat`: a question from anywhere, an answer as it comes, and what it cost."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_upstream import ChatUpstream
from program import Home
from terminals import terminal

pytestmark = pytest.mark.whole

CONFIG = """[server]
listen = "127.0.0.1:0"
watch = false
budget = ["5/day"]
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
slots = 4
[prices."up/*"]
input = 1
output = 2
[routes.fast]
to = ["up/small"]
[routes.smart]
to = ["up/large"]
"""


class Chatting:
    """A running daemon before an upstream that repeats what it is told."""

    def __init__(self, home: Home, upstream: ChatUpstream) -> None:
        self.home = home
        self.upstream = upstream

    def say(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `tollway chat`."""
        return self.home.tollway("chat", *words, stdin=stdin)

    @property
    def last(self) -> dict[str, Any]:
        """The last request that the provider saw."""
        return self.upstream.asked[-1]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chatting]:
    """Yield a daemon that is up."""
    upstream = ChatUpstream()
    home = Home(tmp_path_factory.mktemp("chat"))
    home.write(CONFIG.format(port=upstream.port))
    try:
        started = home.tollway("up")
        assert started.returncode == 0, started.stderr
        yield Chatting(home, upstream)
    finally:
        home.tollway("down", "--now")
        upstream.close()


def test_words_are_data_and_the_rest_is_talk(chatting: Chatting) -> None:
    """A question alone goes to the first route; stdout has the answer and nothing else."""
    done = chatting.say("hello")
    assert (done.returncode, done.stdout) == (0, "You said: hello\n")
    first, summary = done.stderr.splitlines()
    assert first == "Asking fast"
    facts = summary.split(" · ")
    assert facts[:2] == ["up/small", "7 in + 3 out tokens"]
    assert facts[2].endswith(" tokens/s")
    assert facts[3].startswith("first after ")
    assert facts[4] == "$0.000013"  # $1 and $2 a million tokens
    assert facts[5].endswith(" left of 5/day (box)")


@pytest.mark.parametrize(
    ("words", "stdin", "model", "question"),
    [
        (["smart", "hello"], "", "large", "hello"),
        (["-m", "smart", "hello"], "", "large", "hello"),
        (["-m", "up/any", "smart"], "", "any", "smart"),
        (["smart"], "from a pipe\n", "large", "from a pipe"),
        (["review this"], "a diff\n", "small", "review this\n\na diff"),
        ([], "only a pipe", "small", "only a pipe"),
    ],
)
def test_a_question_comes_from_words_or_a_pipe(
    chatting: Chatting, words: list[str], stdin: str, model: str, question: str
) -> None:
    """Two words are a route and a question; one is a question, or a route by its name."""
    done = chatting.say(*words, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"You said: {question}\n"
    assert chatting.last["model"] == model


def test_settings_reach_the_provider(chatting: Chatting) -> None:
    """The system prompt comes first; the limit and the temperature are the call's."""
    chatting.say(
        "--system", "Be brief", "--max-tokens", "9", "--temperature", "0.5", "fast", "hello"
    )
    assert chatting.last["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "hello"},
    ]
    assert chatting.last.get("max_completion_tokens", chatting.last.get("max_tokens")) == 9
    assert chatting.last["temperature"] == 0.5


def test_a_key_in_the_environment_is_told_not_to_be_used(chatting: Chatting) -> None:
    """Who asks over the daemon's own socket is its owner, whatever key a shell has."""
    told = chatting.home.tollway("chat", "fast", "Hi", TOLLWAY_KEY="tw-mine")
    assert "$TOLLWAY_KEY is not used: `chat` asks as the gateway's owner\n" in told.stderr
    assert "TOLLWAY_KEY" not in chatting.home.tollway("chat", "fast", "Hi").stderr


def test_json_is_one_object(chatting: Chatting) -> None:
    """With the exact cost, and the call's id to find it in the ledger."""
    data = json.loads(chatting.say("--json", "fast", "hello").stdout)
    assert data["text"] == "You said: hello"
    assert (data["target"], data["finish_reason"]) == ("up/small", "stop")
    assert (data["input_tokens"], data["output_tokens"]) == (7, 3)
    assert (data["cost_nanousd"], data["cost_usd"]) == (13_000, "0.000013")
    assert 0 < data["budget_left_nanousd"] < 5 * 10**9
    story = json.loads(chatting.home.tollway("logs", data["call"], "--json").stdout)
    assert story["call"]["cost_nanousd"] == 13_000


def test_an_answer_without_a_price_is_said_to_be_unpriced(tmp_path: Path) -> None:
    """A cost of nothing would be a claim; nobody knows what it cost."""
    upstream = ChatUpstream()
    home = Home(tmp_path)
    config = CONFIG.format(port=upstream.port).replace('budget = ["5/day"]\n', "")
    home.write(config.replace('[prices."up/*"]\ninput = 1\noutput = 2\n', ""))
    try:
        assert home.tollway("up").returncode == 0
        done = home.tollway("chat", "hello")
        assert done.returncode == 0
        assert done.stderr.splitlines()[-1].endswith(" · unpriced")
        assert json.loads(home.tollway("chat", "--json", "hello").stdout)["unpriced"] is True
    finally:
        home.tollway("down", "--now")
        upstream.close()


def test_what_a_terminal_would_obey_passes_through_a_pipe(chatting: Chatting) -> None:
    """A file gets what the model said, tabs and escapes included."""
    assert chatting.say("fast", stdin="a\tb\x1b[31m").stdout == "You said: a\tb\x1b[31m\n"


def test_an_answer_cut_at_its_limit_says_so(chatting: Chatting) -> None:
    """It is an answer all the same."""
    done = chatting.say("fast", "long")
    assert done.returncode == 0
    assert "cut at its longest" in done.stderr


@pytest.mark.parametrize(
    ("words", "out", "message"),
    [
        (["fast", "refuse"], "", "No such thing"),
        (["fast", "break"], "You said: break\n", "in the middle of the answer"),
        (["fast", "fail"], "You said: fail\n", "The model is ill"),
        (["nobody", "hello"], "", "There is no model `nobody`"),
    ],
)
def test_a_call_that_fails_exits_with_one_and_its_words(
    chatting: Chatting, words: list[str], out: str, message: str
) -> None:
    """Whether it was refused at once or broke off in the middle; what came is kept."""
    done = chatting.say(*words)
    assert (done.returncode, done.stdout) == (1, out)
    assert message in done.stderr
    assert "error: " in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "There is nothing to ask"),
        (["--json"], "There is nothing to ask"),
        (["-m", "smart", "fast", "hello"], "Two models are named: `fast` and `smart`"),
        (["--temperature", "7", "hello"], "temperature"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(
    chatting: Chatting, words: list[str], message: str
) -> None:
    """Exit code 2, and nobody was asked."""
    before = len(chatting.upstream.asked)
    done = chatting.say(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(chatting.upstream.asked) == before


def test_without_a_daemon_it_exits_with_three(tmp_path: Path) -> None:
    """And says what starts one."""
    home = Home(tmp_path)
    home.write(CONFIG.format(port=1))
    done = home.tollway("chat", "hello")
    assert (done.returncode, done.stdout) == (3, "")
    assert "`tollway up` starts it" in done.stderr


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["fst", "hello"], "There is no model `fst`", "Did you mean fast? `tollway routes list`"),
        (["--model", "smrt", "hello"], "There is no model `smrt`", "Did you mean smart?"),
        (["--json", "smrt", "hello"], "There is no model `smrt`", "Did you mean smart?"),
        (["opnai/gpt-4o", "hello"], "There is no model `opnai/gpt-4o`", "openai/gpt-4o?"),
        (["xai/grok", "hi"], "There is no model `xai/grok`", "`tollway providers add xai --kind"),
        (["zzzzzz", "hello"], "There is no model `zzzzzz`", "`tollway chat openai/gpt-"),
    ],
)
def test_a_model_that_is_typed_wrong_names_what_was_meant(
    tmp_path: Path, words: list[str], error: str, hint: str
) -> None:
    """Routes, and the models that prices are known for; else one that could be asked."""
    home = Home(tmp_path)
    more = '[providers.openai]\nkind = "openai"\napi_key = "env:KEY"\n'
    home.write(CONFIG.format(port=1) + more)
    assert home.tollway("up", KEY="sk-any").returncode == 0
    try:
        done = home.tollway("chat", *words)
    finally:
        home.tollway("down", "--now")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: {error}\n" in done.stderr
    assert hint in done.stderr.partition("hint: ")[2]


def test_a_word_that_is_nearly_a_model_is_a_question_and_told(chatting: Chatting) -> None:
    """It may be either; whoever meant the model sees why another one answered."""
    done = chatting.say("smrt")
    assert done.stdout == "You said: smrt\n"
    assert "Asking fast; `smrt` is the question: did you mean smart?" in done.stderr


def test_a_providers_model_may_stand_alone(chatting: Chatting) -> None:
    """As a route does: the question comes behind it, from a pipe or in a conversation."""
    done = chatting.say("up/any", stdin="hello")
    assert done.stdout == "You said: hello\n"
    assert chatting.last["model"] == "any"


OPENAI = '[providers.openai]\nkind = "openai"\napi_key = "env:KEY"\n'
OLLAMA = '[providers.box]\nkind = "ollama"\n'


@pytest.mark.parametrize(
    ("providers", "hints"),
    [
        ("", ["`tollway providers add openai --kind openai`", "`tollway models add`"]),
        (OLLAMA, ["`tollway chat box/MODEL", "`tollway routes add fast --to box/MODEL`"]),
        (
            OPENAI,
            ["`tollway chat openai/gpt-", "`tollway routes add fast --to openai/gpt-",
             "`tollway prices list --provider openai`"],
        ),
    ],
    ids=["nobody", "unpriced", "priced"],
)  # fmt: skip
def test_without_any_model_it_says_how_to_get_one(
    tmp_path: Path, providers: str, hints: list[str]
) -> None:
    """A fresh gateway with a key can be asked; with nothing, a provider or a file comes first."""
    home = Home(tmp_path)
    home.write(f'[server]\nlisten = "127.0.0.1:0"\nwatch = false\n{providers}')
    assert home.tollway("up", KEY="sk-any").returncode == 0
    try:
        done = home.tollway("chat", "hello")
    finally:
        home.tollway("down", "--now")
    assert done.returncode == 1
    assert all(f"hint: {hint}" in done.stderr for hint in hints), done.stderr


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Ctrl-C is a signal only from the terminal that controls the process.
OWN_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from tollway.cli.app import main
main()
"""


class Terminal:
    """A person at a terminal, talking with `tollway chat`."""

    def __init__(self, home: Home, *words: str, **env: str) -> None:
        self.leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, "chat", *words],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**home.env, "TERM": "xterm", "NO_COLOR": "1", **env},
            cwd=home.path,
            start_new_session=True,
        )
        os.close(follower)
        self._seen = ""

    def see(self, text: str) -> None:
        """Return once it has shown some text, counted from what was seen before."""
        while text not in self._seen:
            self._seen += os.read(self.leader, 65536).decode()
            self._seen = ESCAPES.sub("", self._seen)  # one that is cut is whole the next time
        self._seen = self._seen.partition(text)[2]

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.leader, text.encode())


def test_a_conversation_keeps_what_was_said(chatting: Chatting) -> None:
    """History, commands, a failure in between; Ctrl-C stops an answer, Ctrl-D ends it all."""
    at = Terminal(chatting.home, "smart")
    at.see("Talking with smart")
    at.see("> ")
    at.type("one\n")
    at.see("You said: one")
    at.see("> ")
    at.type("two\n")
    at.see("You said: two")
    assert [turn["content"] for turn in chatting.last["messages"]] == [
        "one",
        "You said: one",
        "two",
    ]
    at.see("> ")
    at.type("refuse\n")
    at.see("error: ")
    at.see("> ")
    at.type("/clear\n")
    at.see("Forgotten")
    at.see("> ")
    at.type("/model fast\n")
    at.see("Asking fast")
    at.see("> ")
    at.type("wait\n")
    at.see("You ")
    at.type("\x03")
    at.see("Stopped · ")
    at.see(" out tokens · ~$0.0")  # what the ledger booked for it, an upper bound
    at.see("> ")
    assert chatting.upstream.left.wait(30)
    at.type("three\n")
    at.see("You said: three")
    assert [turn["content"] for turn in chatting.last["messages"]] == ["wait", "You ", "three"]
    assert chatting.last["model"] == "small"
    at.see("> ")
    at.type("/dance\n")
    at.see("There is no command `/dance`; /help lists them")
    at.see("> ")
    at.type("/hlep\n")
    at.see("There is no command `/hlep`; did you mean /help?")
    at.see("> ")
    at.type("/model fsat\n")
    at.see("There is no model `fsat`")
    at.see("Did you mean fast?")
    at.see("> ")
    at.type("/model\n")
    at.see("* fast")  # as before
    at.see("> ")
    at.type("\x04")
    at.see("4 answers")  # the refused one is none
    at.see(" out tokens · ~$0.0")  # the one that was stopped is in it
    assert at.process.wait(30) == 0
    os.close(at.leader)


def test_a_question_alone_that_is_stopped_says_what_it_cost(chatting: Chatting) -> None:
    """Ctrl-C ends it with the shell's code; what came is billed, and told."""
    at = Terminal(chatting.home, "fast", "wait")
    at.see("You ")
    at.type("\x03")
    at.see("Stopped · ")
    at.see(" out tokens · ~$0.0")
    assert at.process.wait(30) == 130
    os.close(at.leader)


def test_an_answer_that_is_stopped_stands_there_once(chatting: Chatting) -> None:
    """What a terminal shows of the keys, `^C` too, would shift the drawing by a line."""
    command = [sys.executable, "-c", OWN_TERMINAL, "chat", "fast", "wait"]
    env = {**chatting.home.env, "NO_COLOR": ""}
    with terminal(command, chatting.home.path, env, columns=60, rows=12) as seen:
        seen.until(lambda text: "You" in text)
        seen.press("abc\x03")
        assert seen.ends() == 130
        assert "Stopped" in seen.text
        assert seen.text.count("You") == 1
        assert "abc" not in seen.text
        assert not seen.is_raw()


def test_what_came_last_is_drawn_though_nothing_follows(chatting: Chatting) -> None:
    """A model that falls silent in the middle of a line has said all of it so far."""
    command = [sys.executable, "-c", OWN_TERMINAL, "chat", "fast", "burst"]
    env = {**chatting.home.env, "NO_COLOR": ""}
    with terminal(command, chatting.home.path, env, columns=60, rows=12) as seen:
        seen.until(lambda text: "You said: burst" in text)
        seen.press("\x03")
        assert seen.ends() == 130
        assert seen.text.count("You said: burst") == 1


def test_several_lines_are_one_question(chatting: Chatting) -> None:
    """By a backslash, between fences, or pasted whole; commands that begin anew are obeyed."""
    at = Terminal(chatting.home, "fast", "--plain")
    at.see("> ")
    at.type("one \\\n")
    at.see(". ")
    at.type("two\n")
    at.see("You said: one")
    assert chatting.last["messages"][-1]["content"] == "one \ntwo"
    at.see("> ")
    at.type('"""first\n')
    at.see(". ")
    at.type("/not a command\n")
    at.see(". ")
    at.type('last"""\n')
    at.see("You said: first")
    assert chatting.last["messages"][-1]["content"] == "first\n/not a command\nlast"
    at.see("> ")
    at.type("\x1b[200~a\nb\x1b[201~\n")
    at.see("You said: a")
    assert chatting.last["messages"][-1]["content"] == "a\nb"
    at.see("> ")
    at.type("\x04")
    assert at.process.wait(30) == 0
    os.close(at.leader)


def test_a_conversation_has_commands(chatting: Chatting, tmp_path: Path) -> None:
    """Models listed and completed, the cost, a question again or undone, the whole saved."""
    at = Terminal(chatting.home, "fast", "--plain")
    at.see("> ")
    at.type("/mod\tsm\t\n")  # "/model smart"
    at.see("Asking smart from here on")
    at.see("> ")
    at.type("/model\n")
    at.see("  fast")
    at.see("* smart")
    at.see("> ")
    at.type("/system Be brief\n")
    at.see("> ")
    at.type("one\n")
    at.see("You said: one")
    at.see("> ")
    at.type("/retry\n")
    at.see("You said: one")
    assert [turn["content"] for turn in chatting.last["messages"]] == ["Be brief", "one"]
    at.see("> ")
    at.type("/cost\n")
    at.see("2 answers · 14 in + 6 out tokens · $0.000026")
    at.see("> ")
    for file, said in (("no/talk.md", "Make that folder first"), ("talk.md", "Wrote")):
        at.type(f"/save {tmp_path}/{file}\n")
        at.see(said)
        at.see("> ")
    assert (tmp_path / file).read_text() == "## You\n\none\n\n## smart\n\nYou said: one\n\n"
    at.type("/undo\n")
    at.see("Forgotten")
    at.see("> ")
    at.type("two\n")
    at.see("You said: two")
    assert [turn["content"] for turn in chatting.last["messages"]] == ["Be brief", "two"]
    at.see("> ")
    at.type("/quit\n")
    at.see("3 answers")
    assert at.process.wait(30) == 0
    os.close(at.leader)


def test_a_terminal_gets_markdown_drawn(chatting: Chatting) -> None:
    """What it means, not its signs; with --plain, and where no colour is wanted, the signs."""
    asked = "**loud** and [here](http://x.test)"
    at = Terminal(chatting.home, "fast", asked, NO_COLOR="")
    at.see("You said: loud and here (http://x.test)")
    at.see("7 in + 3 out tokens")
    assert at.process.wait(30) == 0
    os.close(at.leader)
    for words, env in ((["--plain", asked], {"NO_COLOR": ""}), ([asked], {})):
        at = Terminal(chatting.home, "fast", *words, **env)
        at.see(f"You said: {asked}")
        assert at.process.wait(30) == 0
        os.close(at.leader)
