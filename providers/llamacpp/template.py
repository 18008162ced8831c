"""Renders a model's own chat template. Used in the worker only: jinja2 is imported here."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tollway.providers.llamacpp.frames import Message

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TemplateRefused(Exception):
    """The template cannot be rendered with these messages; the text says why."""


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the assistant said; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One template, compiled. Templates come with the model, so they run in a sandbox."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_refuse, strftime_now=_now)
        self._names = {"bos_token": bos, "eos_token": eos}
        self._fault = ""
        try:
            self._template: jinja2.Template | None = environment.from_string(source)
        except jinja2.TemplateError as fault:
            # The model still completes and embeds; only chat has to be refused.
            self._template, self._fault = None, str(fault)

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text that the model reads, up to where its answer begins.

        Raises:
            TemplateRefused: The template is broken, or does not take these messages.
        """
        if self._template is None:
            raise TemplateRefused(f"The model's chat template is broken: {self._fault}")
        said = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=said, add_generation_prompt=True, tools=None, **self._names
            )
        except TemplateRefused:
            raise
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as fault:
            raise TemplateRefused(
                f"The model's chat template does not take these messages: {fault}"
            ) from fault
        except (AttributeError, RecursionError) as fault:
            raise TemplateRefused("The model's chat template fails on these messages") from fault


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(f"The model's chat template refuses these messages: {message}")


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # Not jinja2's own filter: that escapes for HTML, and models were trained without.
    return json.dumps(value, ensure_ascii=False, indent=indent)
