"""Whom `chat` can ask: names for what was mistyped, and a first model for who has no route."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from tollway.cli.control import load_config
from tollway.daemon.config import shown
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import ConfigError, ModelNotFound, NotFound
from tollway.providers.catalog import KINDS
from tollway.providers.errors import GatewayError
from tollway.providers.prices import PriceSource

_LOCAL = "local"
# Models that answer no conversation, or only some.
_OTHERS = re.compile(
    "audio|image|embed|tts|realtime|transcri|whisper|moderation|guard|ocr|live|preview|search"
    "|vision|rerank|speech|video|:"
)
_NEWEST = 20  # a larger number in a name counts parameters, or days
_TOLD = 2


def is_target(name: str, config: Path | None) -> bool:
    """Whether a word is a provider of gateway.toml and a model there: "openai/gpt-5"."""
    provider, slash, model = name.partition("/")
    found = _config(config)
    known = {_LOCAL, *(found.providers if found else ())}
    return bool(slash and model) and provider in known and not re.search(r"\s", name)


def near(word: str, names: Sequence[str]) -> str:
    """Return the name that a word alone may have meant, "" where it is no name by its looks."""
    if re.search(r"\s", word):
        return ""
    return next(iter(get_close_matches(word, names, n=1, cutoff=0.75)), "")


@contextmanager
def told(name: str, names: Sequence[str], config: Path | None) -> Iterator[None]:
    """Have the refusal of a name say what was meant, or what there is.

    Raises:
        ModelNotFound: The daemon knows no such model.
    """
    try:
        yield
    except GatewayError as error:
        if error.code != ModelNotFound.code:
            raise
        found = _config(config)
        if hint := _no_provider(name, found):
            raise ModelNotFound(f"There is no model {shown.value(name)}", hint=hint) from error
        known = [*names, *_targets(found)]
        meant = shown.meant(name, known).removeprefix("; d")
        first = f"D{meant} " if meant else _such_as(found)
        raise ModelNotFound(
            f"There is no model {shown.value(name)}",
            hint=f"{first}`tollway routes list` shows the names there are",
        ) from error


def nobody(config: Path | None) -> NotFound:
    """Return the error for a gateway without a route and without a model of its own."""
    found = _config(config)
    if not found or not found.providers:
        hints = ["`tollway providers add openai --kind openai` adds a provider, and asks its key"]
    else:
        provider = next(iter(found.providers))
        targets = _newest(found)
        first = next(iter(targets), f"{provider}/MODEL")
        others = f"; also {', '.join(targets[1:])}" if targets[1:] else ""
        hints = [
            f'`tollway chat {first} "hello"` asks a model of a provider{others}',
            f"`tollway routes add fast --to {first}` gives one a name",
        ]
        if KINDS[found.providers[provider].kind].prices:
            hints.append(f"`tollway prices list --provider {provider}` lists models")
    hints.append("`tollway models add` registers a GGUF file")
    return NotFound(
        "No model has a name yet: gateway.toml has no route and no local model",
        hint="\n".join(hints),
    )


def _no_provider(name: str, found: Config | None) -> str:
    """Return what adds the provider that a target names, "" where it is there or no kind's."""
    provider, slash, _model = name.partition("/")
    if not slash or found is None or provider in found.providers or provider not in KINDS:
        return ""
    return f"`tollway providers add {provider} --kind {provider}` adds its provider"


def _such_as(found: Config | None) -> str:
    targets = _newest(found) if found else []
    return f"`tollway chat {targets[0]}` asks a provider's model; " if targets else ""


def _config(explicit: Path | None) -> Config | None:
    try:
        return load_config(explicit)
    except ConfigError:
        return None  # the daemon runs with an older one: names are a courtesy


def _targets(found: Config | None) -> Iterator[str]:
    """Yield the models that prices are known for, of each provider, and those of this box."""
    if found is None:
        return
    source = PriceSource()
    for name, provider in found.providers.items():
        for model in source.models(KINDS[provider.kind].prices or ""):
            yield f"{name}/{model.id}"
    for model_name in found.models:
        yield f"{_LOCAL}/{model_name}"


def _newest(found: Config) -> list[str]:
    """Return a few models of the first provider that has any, by their numbers the newest."""
    source, now = PriceSource(), datetime.now(UTC)
    for name, provider in found.providers.items():
        kind = KINDS[provider.kind]
        models = [
            one.id
            for one in source.models(kind.prices or "")
            if any(fnmatchcase(one.id, glob) for glob in kind.serves[:1])
            and not _OTHERS.search(one.id)
            and (price := source.find(kind.prices or "", one.id, now))
            and price.output
        ]
        if models:
            return [f"{name}/{one}" for one in sorted(models, key=_age)[:_TOLD]]
    return []


def _age(model: str) -> tuple[list[int], int]:
    numbers = [int(one) for one in re.findall(r"\d+", model) if int(one) < _NEWEST][:2]
    return [-one for one in [*numbers, 0, 0][:2]], len(model)
