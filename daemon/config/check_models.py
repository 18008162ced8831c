"""What the keys of a local model ask of one another."""

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from tollway.daemon.config import shown
from tollway.daemon.config.lines import At
from tollway.daemon.config.schema import Config, Model
from tollway.daemon.config.values import is_secret_ref

_OF_COMMANDS = ("base_url", "health", "start_within", "env", "served_as", "memory")
_OF_FILES = ("gpu_layers", "kv", "kv_type")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_PORT = re.compile(r"\$\{(PORT|port)\}")


def check_model(
    name: str,
    model: Model,
    config: Config,
    names: Mapping[str, Collection[str]],
    wrong: Callable[[At, str], None],
) -> None:
    """Note everything in a model's table that does not fit together."""
    at = ("models", name)
    if model.gguf is not None and model.command is not None:
        wrong((*at, "command"), "beside gguf, which has a server of its own; leave one of them out")
    plain = Model()
    for key in _OF_COMMANDS if model.command is None else _OF_FILES:
        if getattr(model, key) != getattr(plain, key):
            whose = "a command" if model.command is None else "a file"
            wrong((*at, key), f"is for a model that is served from {whose}")
    if model.command is not None:
        _command(model, model.command, at, wrong)
    for number, other in enumerate(model.apart_from):
        here = (*at, "apart_from", number)
        if other == name:
            wrong(here, "is the model itself")
        elif other not in names["models"]:
            near = shown.meant(other, names["models"])
            wrong(here, f"no model {shown.value(other)} in [models]{near}")
        elif other in config.models and config.models[other].pinned:
            wrong(here, f"{shown.value(other)} is pinned, so this one could never be loaded")
    if model.deadline is not None and model.deadline < 1:
        wrong((*at, "deadline"), 'less than "1s", the least in which an answer can be made')


def _command(model: Model, command: str, at: At, wrong: Callable[[At, str], None]) -> None:
    try:
        words = shlex.split(command)
    except ValueError:
        wrong((*at, "command"), "has a quotation mark without its other half")
        return
    if not words:
        wrong((*at, "command"), "names no program that could be run")
    if why := _address_wrong(_PORT.sub("1", model.base_url)):
        wrong((*at, "base_url"), why)
    elif _PORT.search(model.base_url) and not _says_port(model, command):
        wrong(
            (*at, "command"),
            "does not tell the server its port: write ${PORT} where that belongs,"
            " or a base_url with the port that it has",
        )
    if model.health and not model.health.startswith("/"):
        wrong((*at, "health"), 'expected a path such as "/health", or "" for none')
    for name, value in model.env.items():
        if not _NAME.fullmatch(name):
            wrong((*at, "env", name), "no name that a variable can have")
        elif _is_bare_secret(name, value):
            wrong(
                (*at, "env", name),
                "expected keyring:NAME, env:NAME or file:PATH, never the secret itself; run"
                f' `tollway secrets set {name}`, then write {name} = "keyring:{name}"',
            )


def _is_bare_secret(name: str, value: str) -> bool:
    if is_secret_ref(value):
        return False
    # A path may hold a hash that looks like a secret; what is called a token and looks so is one.
    named = bool(_SECRET_NAME.search(name)) and shown.looks_secret(value)
    return named or shown.holds_secret(value)


def _address_wrong(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if fine and not (parts.username or parts.query or parts.fragment or " " in url):
        return None
    return 'expected a URL such as "http://127.0.0.1:${PORT}/v1"'


def _says_port(model: Model, command: str) -> bool:
    return any(_PORT.search(text) for text in (command, *model.env.values()))
