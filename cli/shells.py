"""`completion`: what makes Tab complete in a shell; each shell gets its own script."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tollway.cli.boundary import UsageProblem

_PROGRAM, _VARIABLE = "tollway", "_TOLLWAY_COMPLETE"
_HOW = {
    "bash": 'eval "$(tollway completion bash)"',
    "zsh": 'eval "$(tollway completion zsh)"',
    "fish": "tollway completion fish | source",
    "powershell": "tollway completion powershell | Out-String | Invoke-Expression",
    "pwsh": "tollway completion pwsh | Out-String | Invoke-Expression",
}
_FILES = {  # where each looks at its start, below the home folder
    "bash": ".bash_completions/tollway.sh",
    "zsh": ".zfunc/_tollway",
    "fish": ".config/fish/completions/tollway.fish",
}
# Typer's own passes on the words as bash has them, which parts `team=ml` at the "=".
_BASH = """\
_tollway_completion() {
    local IFS=$'\\n'
    local words="${COMP_WORDS[*]:0:COMP_CWORD+1}" last="${COMP_WORDS[COMP_CWORD]#=}"
    words="${words//$'\\n'=/=}"
    words="${words//=$'\\n'/=}"
    local ends="${words//[!$'\\n']/}" whole="${words##*$'\\n'}"
    COMPREPLY=( $( env COMP_WORDS="$words" \\
                   COMP_CWORD=${#ends} \\
                   _TOLLWAY_COMPLETE=complete_bash $1 ) )
    COMPREPLY=( "${COMPREPLY[@]#"${whole%"$last"}"}" )
    if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}

complete -o default -F _tollway_completion tollway"""


class Shell(StrEnum):
    """A shell that can complete our words."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"
    PWSH = "pwsh"


def completion(
    shell: Annotated[
        Shell | None,
        typer.Argument(metavar="SHELL", help="Else the one that this runs in.", show_default=False),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Write it where the shell looks at its start.")
    ] = False,
) -> None:
    """Print what makes Tab complete words in a shell.

    Commands, options and names of gateway.toml, in bash, zsh, fish and PowerShell. With --install
    it is written where bash, zsh or fish finds it by itself.

    Examples:
        eval "$(tollway completion bash)"
        tollway completion fish | source
        tollway completion zsh --install
    """
    (_write if install else _print)(shell.value if shell else _this())


def _script(shell: str) -> str:
    if shell == Shell.BASH:
        return _BASH
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 - only here

    script = get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell)
    if shell == "zsh":
        # Its own command is there only once its completions are; a bare start-up file has none.
        script = script.replace(
            "\n\n", "\n\n(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n\n", 1
        )
    return script


def _print(shell: str) -> None:
    print(_script(shell))
    if sys.stdout.isatty():
        from tollway.cli import show  # noqa: PLC0415 - msgspec, for terminals alone

        show.note(f"hint: `{_HOW[shell]}` puts it in use")


def _write(shell: str) -> None:
    if shell in (Shell.POWERSHELL, Shell.PWSH):
        # Typer's way would let every script run unsigned from then on.
        raise UsageProblem(
            f"{shell} has no folder for completions", hint=f"Add `{_HOW[shell]}` to its $PROFILE"
        )
    from tollway.cli.placed import place  # noqa: PLC0415 - msgspec; --install alone needs it
    from tollway.daemon.config.paths import home  # noqa: PLC0415 - the same

    path, rc = home() / _FILES[shell], home() / f".{shell}rc"
    before = rc.read_bytes() if rc.exists() else b""
    after = before if shell == Shell.FISH else _loading(before, shell, path)
    place(path, f"{_script(shell)}\n".encode())
    if after != before:
        place(rc, after)
    print(f"Wrote {path}; {shell} completes `tollway` from its next start on", file=sys.stderr)


def _loading(rc: bytes, shell: str, path: Path) -> bytes:
    """Return a start-up file, whatever encoding it is in, with the lines that it lacks."""
    quoted = str(path).replace("'", "'\\''")
    wanted = [os.fsencode(f"source '{quoted}'")]
    if shell == Shell.ZSH:
        wanted = [b"fpath+=~/.zfunc; autoload -Uz compinit; compinit"]
        if b"zstyle" not in rc:
            wanted.append(b"zstyle ':completion:*' menu select")
    missing = b"".join(line + b"\n" for line in wanted if line not in rc)
    return rc + b"\n" * bool(missing and rc and not rc.endswith(b"\n")) + missing


def _this() -> str:
    """Return the shell that this runs in.

    Raises:
        UsageProblem: It is none that can complete.
    """
    from typer._completion_shared import _get_shell_name  # noqa: PLC0415 - only here

    name = _get_shell_name() or ""
    if name not in set(Shell):
        raise UsageProblem(
            f"This runs in no shell that can complete{f': {name}' if name else ''}",
            hint=f"Name one: {', '.join(Shell)}",
        )
    return name
