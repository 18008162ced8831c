"""The logs of Claude Code: what each of its calls used.

A session is a file of JSON lines below `projects/`, subagents' in folders below it. An answer has
a line for each of its parts, all with the answer's usage, and one or more before it was done with
less; a session that was resumed or branched off begins with the lines of the old one. So a call
is an answer's id with its request's id, and its usage is that with the most output. Seen in
version 2.1; `requestId` is there where the provider's answer had one.

Not in the logs: calls that failed or were broken off, and calls beside the conversation, such as
those that name it.
"""

import os
from collections import defaultdict
from pathlib import Path

import msgspec

from tollway.cli.agent_calls import AgentCall, Logs, Progress, files, lines, moment_ms
from tollway.providers.dialects.replay import usage_of

_NOBODY = "<synthetic>"  # what Claude Code itself says, such as an error
_PROVIDERS = {"msg_bdrk_": "bedrock", "msg_vrtx_": "vertex"}


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    usage: msgspec.Raw = msgspec.Raw()


class _Line(msgspec.Struct):
    type: str = ""
    timestamp: str = ""
    message: _Message | None = None
    sessionId: str = ""  # noqa: N815 - as the log has it
    requestId: str = ""  # noqa: N815
    cwd: str = ""
    gitBranch: str = ""  # noqa: N815
    isApiErrorMessage: bool = False  # noqa: N815


class _Kind(msgspec.Struct):
    type: str = ""


def folders(env: dict[str, str] | None = None) -> list[Path]:
    """Return where the logs are: `$CLAUDE_CONFIG_DIR`, else the two usual places."""
    said = (os.environ if env is None else env).get("CLAUDE_CONFIG_DIR", "")
    homes = [Path(one).expanduser() for one in said.split(",") if one.strip()]
    if not homes:
        homes = [Path.home() / ".claude", Path.home() / ".config/claude"]
    return [home / "projects" for home in homes]


def read(where: list[Path], since_ms: int, progress: Progress) -> Logs:
    """Return the calls that logs below folders tell of, each once, in the order of time."""
    logs = Logs()
    found: defaultdict[str, dict[str, AgentCall]] = defaultdict(dict)
    paths = files(where, since_ms)
    for number, path in enumerate(paths, 1):
        logs.files += 1
        for line in lines(path, (b'"usage"',)):
            _add(line, logs, found)
        progress(number, len(paths))
    for by_request in found.values():
        # The same answer with and without its request's id is one.
        if "" in by_request and len(by_request) == 2:
            known = next(request for request in by_request if request)
            by_request[known] = _fuller(by_request[known], by_request.pop(""))
            logs.repeated += 1
        logs.calls += by_request.values()
    logs.calls = [call for call in logs.calls if call.at_ms >= since_ms]
    logs.calls.sort(key=lambda call: (call.at_ms, call.key))
    return logs


def _add(line: bytes, logs: Logs, found: dict[str, dict[str, AgentCall]]) -> None:
    try:
        if msgspec.json.decode(line, type=_Kind).type != "assistant":
            return
        said = msgspec.json.decode(line, type=_Line)
        call = _call(said)
    except (msgspec.MsgspecError, ValueError):
        logs.unreadable += 1
        return
    if call is None:
        return
    of_answer = found.setdefault(call.response_id, {})
    known = of_answer.get(said.requestId)
    if known:
        logs.repeated += 1
    of_answer[said.requestId] = _fuller(known, call) if known else call


def _call(said: _Line) -> AgentCall | None:
    """Return what a line tells, None where it tells of no call.

    Raises:
        ValueError: It should tell of one, and has no usage, id or time.
    """
    message = said.message
    if message is None or message.model == _NOBODY or said.isApiErrorMessage:
        return None
    raw = bytes(message.usage).decode()
    usage = usage_of("anthropic_messages", "chat", raw, frozenset())
    if usage is None or not message.id:
        raise ValueError("no usage or no id")
    return AgentCall(
        source="claude-code",
        key=f"{message.id}:{said.requestId}" if said.requestId else message.id,
        at_ms=moment_ms(said.timestamp),
        provider=_provider(message),
        model=message.model,
        session=said.sessionId,
        folder=said.cwd,
        # Outside of git, and away from every branch, it says HEAD.
        branch="" if said.gitBranch == "HEAD" else said.gitBranch,
        usage=usage,
        response_id=message.id,
        tier=_tier(raw),
    )


def _provider(message: _Message) -> str:
    by_id = next((name for head, name in _PROVIDERS.items() if message.id.startswith(head)), "")
    return by_id or ("anthropic" if message.model.startswith("claude") else "unknown")


class _Tier(msgspec.Struct):
    service_tier: str | None = None


def _tier(raw: str) -> str:
    return msgspec.json.decode(raw, type=_Tier).service_tier or ""


def _fuller(one: AgentCall, other: AgentCall) -> AgentCall:
    """Return a call told twice: the later and fuller usage, where and when it was told first."""
    first, second = (one, other) if one.at_ms <= other.at_ms else (other, one)
    more = first.usage.output_total > second.usage.output_total
    usage = first.usage if more else second.usage
    key = max((first.key, second.key), key=len)  # the one with the request's id
    return msgspec.structs.replace(first, usage=usage, key=key)
