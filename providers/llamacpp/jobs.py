"""What a submitted call comes to: its prompts as tokens, its grammar, or why it is refused.

Nothing reaches llama.cpp unchecked, for most misuses of it end the process.
"""

import contextlib

import msgspec

from tollway.providers.llamacpp.frames import Broken, Prompt, Refused, Shape, Submit
from tollway.providers.llamacpp.manner import Manner
from tollway.providers.llamacpp.native import GrammarFailed, GrammarTooSlow, Native, NativeFailed
from tollway.providers.llamacpp.schema import grammar_of
from tollway.providers.llamacpp.schema_parts import SchemaRefused
from tollway.providers.llamacpp.template import ChatTemplate, TemplateRefused
from tollway.providers.llamacpp.tokens import Tokenizer
from tollway.providers.words import counted

MAX_GRAMMAR_BYTES = 256 * 1024  # of a caller's own
_GRAMMARS_KEPT = 100  # those that have been tried


class Refusal(Exception):
    """The call asks for what this model cannot do."""

    def __init__(self, message: str, param: str, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class Read(msgspec.Struct, frozen=True):
    """A call, ready to run. `thinks`: its prompt ends where the model's thoughts begin.

    `grammar` is of all that is no thought, `calls` of what follows the mark of a tool call.
    """

    prompts: list[list[int]]
    grammar: str = ""
    thinks: bool = False
    calls: str = ""


class Arrived(msgspec.Struct, frozen=True):
    """A submitted call and what it comes to."""

    job: Submit
    read: Read | Refused | Broken


class Jobs:
    """Reads submitted calls for one model."""

    def __init__(self, native: Native, template: ChatTemplate | None) -> None:
        self._native = native
        self._template = template
        self._tokenizer = Tokenizer(native)
        self.manner = template.manner if template else Manner()
        self._longest = 0  # bytes of a token; 0: not looked for yet
        # Of the last tools: an agent's turns all have the same.
        self._calls: tuple[bytes, str] = (b"", "")
        self._tried: dict[str, bool] = {}  # grammars that were tried, and whether they may be used

    def read(self, job: Submit) -> Read:
        """Return a call, ready to run.

        Raises:
            Refusal: It asks for what the model cannot do.
        """
        native = self._native
        if (job.kind == "embeddings") != native.embeds:
            raise Refusal(
                "This model makes embeddings and answers nothing else"
                if native.embeds
                else "This model has no pooling type, so it is not made for embeddings",
                "model",
            )
        thinks = False
        prompts: list[list[int]] = []
        for prompt in job.prompts:
            text = self._text(prompt)
            thinks = thinks or (text is not None and self.manner.opens(text))
            prompts.append(self._tokens(job.kind, prompt, text, private=job.private))
        self._check_lengths(job.kind, prompts)
        beyond = [token for token in job.sampling.bias if token >= native.vocabulary]
        if beyond:
            raise Refusal(
                f"There is no token {beyond[0]}; the model has {native.vocabulary}",
                "logit_bias",
            )
        if job.dimensions not in {None, native.width}:
            raise Refusal(f"The model's embeddings have {native.width} numbers", "dimensions")
        shape = job.shape
        if shape is None:
            return Read(prompts, thinks=thinks)
        if shape.auto:
            return Read(prompts, thinks=thinks, calls=self._later_calls(job))
        if not self.manner.style.channels:
            return Read(prompts, self._grammar(job), thinks)
        # Headers tell calls and answers apart, so that each has a grammar of its own.
        if shape.schema is not None and shape.calls is not None:
            alone = msgspec.structs.replace(job, shape=Shape(schema=shape.schema))
            return Read(prompts, self._grammar(alone), thinks, self._later_calls(job))
        return Read(prompts, self._grammar(job), thinks and not shape.forces_calls)

    def tokens(self, kind: str, prompt: Prompt, *, private: bool) -> list[int]:
        """Return a prompt's tokens; of a `private` one nothing is kept, and nothing is used.

        How soon it is cut would tell others that it was here before.

        Raises:
            Refusal: It cannot be read.
        """
        return self._tokens(kind, prompt, self._text(prompt), private=private)

    def _check_lengths(self, kind: str, prompts: list[list[int]]) -> None:
        native = self._native
        room = native.context if native.embeds else native.context - 1
        param = param_of(kind)
        for at, tokens in enumerate(prompts):
            which = f"`{param}[{at}]`" if len(prompts) > 1 else ""
            if not tokens:
                raise Refusal(f"There is no token to read in {which or 'it'}", param)
            if len(tokens) > room:
                many = counted(len(tokens), "token")
                raise Refusal(
                    f"{which or 'The prompt'} has {many} and the model's context holds"
                    f" {native.context}"
                    if not native.embeds
                    else f"{which or 'The text'} has {many} and the model takes {room}",
                    param,
                    "context_length_exceeded",
                )

    def _check_size(self, kind: str, text: str) -> None:
        """Refuse what no context holds, before minutes are spent on cutting it into tokens."""
        native = self._native
        if native.embeds or len(text) <= 4 * native.context:  # where a word may be one token
            return
        if not self._longest:
            tokens = range(native.vocabulary)
            self._longest = max(len(native.piece(token, special=True)) for token in tokens)
        size = len(text.encode("utf-8", "replace"))
        if size > native.context * self._longest:
            raise Refusal(
                f"The prompt has {counted(size, 'byte')}, more than"
                f" {counted(native.context, 'token')} can say, which the model's context holds",
                param_of(kind),
                "context_length_exceeded",
            )

    def _text(self, prompt: Prompt) -> str | None:
        if prompt.tokens is not None:
            return None
        if prompt.messages is None:
            return prompt.text or ""
        if self._template is None:
            raise Refusal("The model has no chat template; ask for a completion instead", "model")
        try:
            return self._template.render(prompt.messages, prompt.tools, prompt.variables)
        except TemplateRefused as no:
            raise Refusal(str(no), "messages") from no

    def _tokens(self, kind: str, prompt: Prompt, text: str | None, *, private: bool) -> list[int]:
        if text is None:
            tokens = prompt.tokens or []
            for token in tokens:
                if not 0 <= token < self._native.vocabulary:
                    raise Refusal(
                        f"There is no token {token}; the model has {self._native.vocabulary}",
                        param_of(kind),
                    )
            return tokens
        self._check_size(kind, text)
        if kind == "embeddings":
            return self._native.tokenize(text, ends=True)
        if private:
            tokens = self._native.tokenize(text, ends=False)
        else:
            tokens = self._tokenizer.tokenize(text)
        first = self._native.begin()
        # Many templates write the begin mark themselves; twice, it makes answers worse.
        return tokens if first is None or tokens[:1] == [first] else [first, *tokens]

    def _later_calls(self, job: Submit) -> str:
        """Return the grammar of calls that nobody forced, "" where none can be had."""
        tools = job.prompts[0].tools
        known = msgspec.msgpack.encode((tools, job.parallel))
        if known == self._calls[0]:
            return self._calls[1]
        try:
            grammar = self.manner.later_calls(tools, parallel=job.parallel)
            if grammar and not self._native.compiles(grammar):
                raise SchemaRefused("llama.cpp does not understand the grammar of the tools")
            if self._tried.get(grammar) is False:
                raise SchemaRefused("The grammar of the tools is too much for llama.cpp")
        except (SchemaRefused, NativeFailed) as no:
            if any(tool.strict for tool in tools):
                raise Refusal(str(no), "tools") from no
            grammar = ""  # nobody was promised anything
        self._calls = known, grammar
        return grammar

    def doubts(self, job: Submit) -> bool:
        """Return whether `read` would take long, for a grammar that `try_out` has not seen yet."""
        grammar = job.grammar
        return grammar is not None and grammar not in self._tried and not _is_large(grammar)

    def try_out(self, job: Submit) -> None:
        """Find out whether a job's grammar may be used; another thread may, while this one reads.

        Those that may not are remembered too: whoever asks again is told at once.
        """
        if job.grammar is not None and self.doubts(job):
            with contextlib.suppress(NativeFailed):  # whoever reads it is told
                self._try(job.grammar)

    def refuse(self, grammar: str) -> None:
        """Take note that a grammar was too much: it would be again."""
        self._remember(grammar, borne=False)
        self._calls = b"", ""

    def _try(self, grammar: str) -> bool:
        borne = self._native.bears(grammar)
        self._remember(grammar, borne=borne)
        return borne

    def _remember(self, grammar: str, *, borne: bool) -> None:
        for oldest in list(self._tried)[: max(0, len(self._tried) + 1 - _GRAMMARS_KEPT)]:
            self._tried.pop(oldest, None)
        self._tried[grammar] = borne

    def _check_own(self, grammar: str) -> None:
        """Refuse a caller's grammar that would hold up all others, or end the process."""
        if _is_large(grammar):
            raise Refusal(f"The grammar has over {MAX_GRAMMAR_BYTES // 1024} KiB", "grammar")
        borne = self._tried.get(grammar)
        if borne is None:
            borne = self._try(grammar)
        if not borne:
            raise Refusal("The grammar is too much for llama.cpp: it needs too long", "grammar")

    def _grammar(self, job: Submit) -> str:
        shape = job.shape or Shape()
        param = "response_format"
        try:
            if shape.grammar is not None:
                param, grammar = "grammar", shape.grammar
                self._check_own(grammar)
            elif shape.schema is not None and shape.calls is not None:
                tools, parallel = job.prompts[0].tools, job.parallel
                grammar = self.manner.answer_or_calls(shape.schema, tools, parallel=parallel)
            elif shape.calls is not None:
                param = "tool_choice"
                tools = [
                    tool
                    for tool in job.prompts[0].tools
                    if not shape.calls or tool.name == shape.calls
                ]
                grammar = self.manner.calls_grammar(tools, parallel=job.parallel)
            else:
                grammar = grammar_of({} if shape.schema is None else shape.schema)
        except SchemaRefused as no:
            raise Refusal(str(no), "tools" if param == "tool_choice" else param) from no
        try:
            compiles = self._native.compiles(grammar)
        except NativeFailed as no:
            raise Refusal(str(no), param) from no
        if not compiles:
            raise Refusal("llama.cpp does not understand the grammar", param)
        if self._tried.get(grammar) is False:
            raise Refusal(
                "Made into a grammar, it is too much for llama.cpp: it needs too long", param
            )
        return grammar


def _is_large(grammar: str) -> bool:
    return len(grammar.encode("utf-8", "replace")) > MAX_GRAMMAR_BYTES


def param_of(kind: str) -> str:
    """Return the field that holds the prompts of a call."""
    return {"chat": "messages", "completions": "prompt"}.get(kind, "input")


def bound_param(job: Submit, fault: NativeFailed, *, called: bool) -> str:
    """Return the field of a call that a token failed at, "" for a fault that is ours.

    `called`: not before a call that has a grammar of its own.
    """
    shape = job.shape
    if shape is None or not isinstance(fault, GrammarFailed):
        return ""
    if shape.grammar is not None:
        return "grammar"
    if not isinstance(fault, GrammarTooSlow):  # what we make of a schema always allows something
        return ""
    return "response_format" if shape.calls is None or not called else "tools"
