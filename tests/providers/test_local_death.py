"""A worker that dies in the middle: what it had sent is heard, and then that it is gone."""

import asyncio
import json
import select
import socket
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from tollway.providers.errors import UpstreamBroke
from tollway.providers.llamacpp.answer import LocalAnswer
from tollway.providers.llamacpp.frames import Prompt, Submit
from tollway.providers.llamacpp.link import Link
from tollway.providers.llamacpp.openai import Asked
from tollway.providers.llamacpp.shares import Shares
from tollway.providers.llamacpp.worker import Call, Log, Worker
from tollway.providers.llamacpp.writing import writer

WORDS = b"one two three"
# Once it is asked for something it says all it has to say, and ends as a crash would.
LAST_WORDS = """
import os, signal, socket, sys
from tollway.providers.llamacpp.frames import Broken, Token, frame_length, pack
link = socket.socket(fileno=int(sys.argv[1]))
with link.makefile("rb") as file:
    file.read(frame_length(file.read(4)))
link.sendall(pack([Token(1, 0, word) for word in ("one ", "two ", "three")]))
if sys.argv[2] == "breaks":
    link.sendall(pack([Broken(1, "no memory")]))
    link.recv(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


async def worker_of(how: str, folder: Path) -> tuple[Worker, socket.socket]:
    """Return a worker whose process runs the script, and our end of its link."""
    ours, its = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LAST_WORDS, str(its.fileno()), how,
        pass_fds=(its.fileno(),), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    its.close()
    link = await Link.over(ours)
    return Worker(process, link, Log(folder / "worker.log"), time.monotonic), ours


def asks(worker: Worker) -> tuple[Call, LocalAnswer]:
    """Return a streamed completion, and its answer."""
    job = Submit(0, "completions", [Prompt(text="a")])
    call = worker.submit(job, lambda _: None)
    asked = Asked("completions", "tiny", job, stream=True)
    share = Shares(time.monotonic).enter()
    return call, LocalAnswer("tiny", worker, call, writer(asked), share)


async def read(answer: LocalAnswer, why: str) -> bytes:
    """Return the text of an answer that ends with an error, and check that."""
    said = b""
    with pytest.raises(UpstreamBroke, match=why):
        async for piece in answer.chunks():
            said += piece
    events = [one.removeprefix(b"data: ") for one in said.split(b"\n\n") if one]
    return b"".join(json.loads(one)["choices"][0]["text"].encode() for one in events)


@pytest.mark.parametrize(
    ("how", "why"), [("dies", "was killed by SIGKILL in the middle"), ("breaks", "no memory")]
)
async def test_what_came_before_the_end_is_read_before_it(
    tmp_path: Path, how: str, why: str
) -> None:
    """Its reader may be slow, and find the tokens and the end at once."""
    worker, _ = await worker_of(how, tmp_path)
    call, answer = asks(worker)
    await call.ended.wait()
    assert await read(answer, why) == WORDS
    worker.kill()
    await worker.gone.wait()


async def test_what_was_sent_to_a_dead_worker_hides_nothing_that_it_said(tmp_path: Path) -> None:
    """Writing to a link whose other end is closed fails; what stands in it can be read still."""
    worker, ours = await worker_of("dies", tmp_path)
    _, answer = asks(worker)
    # Nothing else runs here until it is gone.
    gone = select.poll()
    gone.register(ours, 0)
    assert gone.poll() == [(ours.fileno(), select.POLLHUP)]
    answer.cancel()
    assert await read(answer, "was killed by SIGKILL") == WORDS
