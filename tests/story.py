"""A home and a folder in which lines are run as a shell would: of helps, and of the documents."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

from chat_upstream import ChatUpstream
from gguf_shapes import shaped
from hub_server import Hub
from needed import needed
from program import PATIENCE_S, Home


def small(folder: Path) -> bytes:
    """Return a GGUF file that llama.cpp finds nothing wrong with."""
    shaped(folder / "small.gguf")
    return (folder / "small.gguf").read_bytes()


class Story:
    """A home and a folder in it, in which lines are run as a shell would."""

    def __init__(self, path: Path, upstream: ChatUpstream, hub: Hub) -> None:
        self.home = Home(path)
        self.folder = path / "project"
        self.folder.mkdir()
        self.upstream = upstream
        self.ran: list[str] = []
        self.page = ""
        self.env = {
            "HF_ENDPOINT": hub.url, "OPENAI_API_KEY": "sk-openai", "EDITOR": "true",
            "ONE": "sk-one", "TWO": "sk-two",
            "PATH": f"{path}/bin:{os.environ['PATH']}",
        }  # fmt: skip
        self.key = ""

    def put(self, name: str, text: str | bytes) -> Path:
        """Write a file in the folder, or in the home for "~/..."."""
        path = self.home.path / name[2:] if name.startswith("~/") else self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def run(self, line: str, *, more: str = "", stdin: str = "", code: int = 0, **env: str) -> str:
        """Run an example and return what it wrote on stdout.

        `more` is what only this story needs: an answer to a question that a person is asked.
        """
        self.ran.append(line)
        return self.quietly(f"{line} {more}".strip(), stdin=stdin, code=code, **env)

    def quietly(self, line: str, *, stdin: str = "", code: int | None = 0, **env: str) -> str:
        """Run a line that is no example; `code` None takes any."""
        before, pipe, after = line.partition(" | ")
        if pipe:
            line, stdin = after, f"what `{before}` said"
        if said := re.fullmatch(r"KEY=\$\((.*)\)", line):
            self.key = self.quietly(said[1]).strip()
            assert self.key.startswith("tw-")
            return self.key
        words = shlex.split(
            line.replace("~", str(self.home.path)).replace("/backup/", f"{self.folder}/")
        )
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            env[name] = value
        out = words.pop() if len(words) > 1 and words[-2] == ">" else None
        if out:
            words.pop()
        if len(words) > 1 and words[-2] == "<":
            stdin = (self.folder / words.pop()).read_text()
            words.pop()
        assert words.pop(0) == "tollway"
        home = Home(self.home.path)
        home.path = self.folder
        home.env |= {**self.env, **env}
        if stdin and words[0] == "init":  # it asks at a terminal alone
            done = home.on_terminal(*words, typed=stdin)
        else:
            done = home.tollway(*words, stdin=stdin)
        assert code in {done.returncode, None}, (
            f"`{line}` exited with {done.returncode}:\n{done.stderr or done.stdout}"
        )
        if out:
            assert done.stdout
            (self.folder / out).write_text(done.stdout)
        return done.stdout


_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OWN_ADDRESS = "127.0.0.1:4141"
# The address that documents give a gateway that others reach.
_ABROAD = re.compile(r"https?://gateway\.example\.com")
_OPENAI = re.compile(r'(kind = "openai"\n)(?!base_url)')


def blocks(page: str, language: str) -> list[str]:
    """Return a document's blocks of code in a language."""
    return [text for found, text in _FENCE.findall(page) if found == language]


def lines(page: str) -> list[str]:
    """Return the lines of a document's shell blocks, those that go on joined, without comments."""
    joined = "".join(blocks(page, "sh")).replace("\\\n", "")
    return [line.partition("  #")[0].strip() for line in joined.splitlines() if line.strip()]


class Reader(Story):
    """Somebody who types what a document says, from its top to its end.

    What differs from their own machine: the gateway is at a free port, OpenAI is a scripted
    server, and `tw-...` is the key that was made last.
    """

    def type(self, line: str, *, more: str = "", stdin: str = "", code: int = 0) -> str:
        """Run one line, with words that only this story needs, and return its stdout."""
        self.ran.append(line)
        meant = self._meant(line)
        if meant.startswith("export "):
            name, _, value = shlex.split(meant)[1].partition("=")
            self.env[name] = value
            return ""
        if meant.startswith("tollway") or re.match(r"[A-Z]+=\$\(tollway", meant):
            said = self.quietly(f"{meant} {more}".strip(), stdin=stdin, code=code)
            if made := re.match(r"tw-\w+", said):
                self.key = made[0]
            self._adjust()
            return said
        if meant.startswith("curl "):
            needed("curl")
        return self._by_a_shell(meant)

    def _meant(self, line: str) -> str:
        if _OWN_ADDRESS in line or _ABROAD.search(line):
            listen = json.loads(self.quietly("tollway status --json"))["listen"]
            line = _ABROAD.sub(f"http://{listen}", line.replace(_OWN_ADDRESS, listen))
        if line.startswith("curl "):
            line = line.replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
        return line.replace("tw-...", self.key)

    def _by_a_shell(self, line: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.folder,
            env={**self.home.env, **self.env},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"`{line}`: {done.stdout}{done.stderr}"
        return done.stdout

    def _adjust(self) -> None:
        for path in (self.home.config, self.folder / "gateway.toml"):
            if not path.exists():
                continue
            text = path.read_text()
            new = text.replace(f'"{_OWN_ADDRESS}"', '"127.0.0.1:0"')
            new = _OPENAI.sub(rf'\1base_url = "http://127.0.0.1:{self.upstream.port}/v1"\n', new)
            if new != text:
                path.write_text(new)
                if self.home.tollway("status").returncode == 0:
                    self.quietly("tollway reload")
