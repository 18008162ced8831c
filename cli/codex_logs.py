"""The logs of Codex: what each of its calls used.

A thread is a file of JSON lines below `sessions/YYYY/MM/DD/`. Newer versions (seen in 0.169) write
a `token_usage_record` for each answer, with its id; all of them a `token_count`, with the usage of
the last call and the sum of the thread, which is written again where nothing was added. So a call
is an answer's id, or, where there is none, its thread with the sum that it led to. A thread that
was forked off begins with its parent's records, with new times: those that are the parent's own
are left out.

Not in the logs: the service tier, whose bill it was, and calls that failed.
"""

import os
from pathlib import Path

import msgspec

from tollway.cli.agent_calls import AgentCall, Logs, Progress, files, lines, moment_ms
from tollway.providers.canon import Usage

_WORDS = (b'"session_meta"', b'"turn_context"', b'"token_count"', b'"token_usage_record"')
_Sum = tuple[int, int, int, int, int]


class _Tokens(msgspec.Struct, frozen=True):
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0

    @property
    def sum(self) -> _Sum:
        return msgspec.structs.astuple(self)


class _Info(msgspec.Struct):
    total_token_usage: _Tokens | None = None
    last_token_usage: _Tokens | None = None


class _Git(msgspec.Struct):
    branch: str | None = None


class _Payload(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    session_id: str | None = None
    forked_from_id: str | None = None
    cwd: str | None = None
    git: _Git | None = None
    model_provider: str | None = None
    model: str | None = None
    info: _Info | None = None
    response_id: str | None = None
    usage: _Tokens | None = None
    thread_token_usage: _Tokens | None = None


class _Line(msgspec.Struct):
    timestamp: str = ""
    type: str = ""
    payload: _Payload = msgspec.field(default_factory=_Payload)


class _Thread(msgspec.Struct):
    """One file: whose it is, whom it was forked from, and its calls by the sum they led to."""

    id: str = ""
    session: str = ""
    parents: set[str] = set()
    folder: str = ""
    branch: str = ""
    provider: str = "openai"
    model: str = ""
    reached: _Sum = (0, 0, 0, 0, 0)
    calls: dict[_Sum, AgentCall] = {}


def folders(env: dict[str, str] | None = None) -> list[Path]:
    """Return where the logs are: below `$CODEX_HOME`, else `~/.codex`; archived ones too."""
    said = (os.environ if env is None else env).get("CODEX_HOME", "")
    home = Path(said).expanduser() if said else Path.home() / ".codex"
    return [home / "sessions", home / "archived_sessions"]


def read(where: list[Path], since_ms: int, progress: Progress) -> Logs:
    """Return the calls that logs below folders tell of, each once, in the order of time.

    Files that were not written to since then are read where a fork needs its parent's.
    """
    logs = Logs()
    paths = files(where, 0)
    threads: dict[str, list[_Thread]] = {}
    for number, path in enumerate(paths, 1):
        thread = _thread(path, logs)
        threads.setdefault(thread.id, []).append(thread)
        progress(number, len(paths))
    logs.files = len(paths)
    found: dict[str, AgentCall] = {}
    for thread in (one for many in threads.values() for one in many):
        parents = [one for name in thread.parents for one in threads.get(name, ())]
        theirs = {sum_ for parent in parents for sum_ in parent.calls}
        for sum_, call in thread.calls.items():
            # Of a parent whose log is gone the sums stand for it: its forks share them.
            alone = thread.parents and not parents and not call.response_id
            owner = min(thread.parents) if alone else thread.id
            key = call.key or f"{owner}:{':'.join(map(str, sum_))}"
            if key in found or (sum_ in theirs and not call.response_id):
                logs.repeated += 1
            else:
                found[key] = msgspec.structs.replace(call, key=key)
    logs.calls = [call for call in found.values() if call.at_ms >= since_ms]
    logs.calls.sort(key=lambda call: (call.at_ms, call.key))
    return logs


def _thread(path: Path, logs: Logs) -> _Thread:
    thread = _Thread(id=str(path))
    for line in lines(path, _WORDS):
        try:
            said = msgspec.json.decode(line, type=_Line)
            _take(said, thread)
        except (msgspec.MsgspecError, ValueError):
            logs.unreadable += 1
    return thread


def _take(said: _Line, thread: _Thread) -> None:
    payload = said.payload
    match said.type:
        case "session_meta":
            _meta(payload, thread)
        case "turn_context":
            thread.model = payload.model or thread.model
            thread.folder = payload.cwd or thread.folder
        case "token_usage_record" if payload.usage and payload.thread_token_usage:
            _count(said, thread, payload.usage, payload.thread_token_usage)
        case "event_msg" if payload.type == "token_count" and payload.info:
            total = payload.info.total_token_usage
            last = payload.info.last_token_usage
            if total is not None:
                _count(said, thread, last or _less(total, thread.reached), total)


def _meta(payload: _Payload, thread: _Thread) -> None:
    if not thread.session:
        thread.id = payload.id or thread.id
        thread.session = payload.session_id or thread.id
        thread.folder = payload.cwd or ""
        thread.branch = (payload.git and payload.git.branch) or ""
        thread.provider = payload.model_provider or "openai"
    elif payload.id and payload.id != thread.id:
        thread.parents.add(payload.id)
    if payload.forked_from_id:
        thread.parents.add(payload.forked_from_id)


def _less(total: _Tokens, before: _Sum) -> _Tokens:
    return _Tokens(*(max(0, now - then) for now, then in zip(total.sum, before, strict=True)))


def _count(said: _Line, thread: _Thread, used: _Tokens, total: _Tokens) -> None:
    """Note a call, unless the thread's sum says that nothing was added."""
    if total.sum == thread.reached:
        return
    thread.reached = total.sum
    fresh = used.input_tokens - used.cached_input_tokens - used.cache_write_input_tokens
    plain = used.output_tokens - used.reasoning_output_tokens
    response_id = said.payload.response_id or ""
    thread.calls[total.sum] = AgentCall(
        source="codex",
        key=response_id,
        at_ms=moment_ms(said.timestamp),
        provider=thread.provider,
        model=thread.model or "unknown",
        session=thread.session or thread.id,
        folder=thread.folder,
        branch=thread.branch,
        usage=Usage(
            input=max(0, fresh),
            cache_read=used.cached_input_tokens,
            cache_write=used.cache_write_input_tokens,
            output=max(0, plain),
            reasoning=used.reasoning_output_tokens,
        ),
        response_id=response_id,
    )
