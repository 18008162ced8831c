"""The words in `catalog.toml` for providers that almost speak OpenAI's dialect.

Each word is asked for by one small function here; why a kind has it stands in its row.
"""

from tollway.providers.canon import Endpoint

# Where the output limit goes in a chat completion.
TAKES_NEW_LIMIT = "max_completion_tokens"
ONLY_OLD_LIMIT = "max_tokens_only"
# A completion without a limit ends after 16 tokens, so that none need be written.
STOPS_AT_16 = "completions_stop_at_16"
# Of vectors: how long they are to be is called so, and no field is taken that is unknown.
OUTPUT_DIMENSION = "output_dimension"
# Usage comes unasked, and `stream_options` is not written.
UNASKED_USAGE = "usage_unasked"
# `stream_options` fails the whole call: a client's own is taken out.
NO_STREAM_OPTIONS = "no_stream_options"
# In a stream of several choices, each has a usage report of its own.
USAGE_PER_CHOICE = "usage_per_choice"
# Reasoning is always within `completion_tokens`, also where its count, made with another
# tokenizer, is larger.
REASONING_WITHIN = "reasoning_within"
# The usage says what the answer cost: `cost` in dollars, `cost_in_usd_ticks`, `cost.total_cost`.
COST_IN_DOLLARS = "reports_cost"
COST_IN_TICKS = "reports_cost_in_ticks"
COST_IN_TOTAL = "reports_cost_in_total"
# A recording of less than ten seconds is billed as ten.
TEN_SECONDS = "ten_seconds_at_least"
# What a translated request may hold, beside what all take.
# Every field of OpenAI's reference: the developer role, plain-text tools, `user`, `metadata`,
# service tiers, cache keys, sets of allowed tools.
ALL_OF_OPENAI = "all_of_openai"
# Of these only some: whom the call is for, its labels, and what it shares a prompt with.
USER = "user"
METADATA = "metadata"
CACHE_KEY = "prompt_cache_key"
# Service tiers that it has beside the usual one, by OpenAI's names.
FLEX_TIER = "flex_tier"
PRIORITY_TIER = "priority_tier"
# What says nothing may be served in a better tier, and the usual one is called so.
STANDARD_ONLY = "standard_only"
# `top_k` and `min_p`, which OpenAI does not have.
MORE_SAMPLING = "top_k"
# `cache_control` on parts of content, as at Anthropic.
CACHE_CONTROL = "cache_control"
# Files stand as `document_url`, sounds as their base64 alone, and an earlier turn's thoughts as
# parts of its content, where the model thinks (Mistral's own library; vercel/ai).
MISTRALS_PARTS = "parts_of_mistral"
# Ids of tool calls must be nine letters or digits; `seed` is called `random_seed`.
SHORT_IDS = "nine_letter_tool_ids"
RANDOM_SEED = "random_seed"
# A user may not speak right behind a tool's result: the assistant must have spoken in between.
ANSWERS_TOOLS = "assistant_after_tool"
# An assistant's turn that stands last is the beginning of the answer: unasked, by a flag of the
# request, or of that turn (`prefix`), which the answer then repeats.
CONTINUES = "continues"
CONTINUE_FLAG = "continue_final_message"
PREFIX = "prefix"
# Any other turn of the assistant's that stands last is refused.
USER_LAST = "user_last"
# Which tool must be called is said in words alone: the one that must be is the only one offered.
CHOICE_IN_WORDS = "tool_choice_in_words"
# Nothing of it is read: what must not be called is not offered, and the rest is left out.
IGNORES_CHOICE = "ignores_tool_choice"
# Any JSON is asked for by a schema that any object fits.
JSON_BY_SCHEMA = "json_by_schema"
# JSON and tools exclude each other: beside tools, JSON is what one more tool is given.
JSON_OR_TOOLS = "json_or_tools"
# No answer is held to a schema.
NO_SCHEMAS = "no_schemas"
# How thinking is asked for, where not by `reasoning_effort`.
REASONING_OBJECT = "reasoning_object"  # OpenRouter: `reasoning: {effort, max_tokens}`
THINKING_SWITCH = "thinking_switch"  # DeepSeek: `thinking: {type: enabled | disabled}` beside it
TEMPLATE_SWITCH = "template_switch"  # llama.cpp, vLLM: a variable of the model's template
NO_REASONING = "no_reasoning"  # not at all
# Where an earlier turn's thoughts may go back to.
TAKES_REASONING = "takes_reasoning_content"
TAKES_PLAIN = "takes_reasoning"  # in a field `reasoning`, as most servers tell it themselves
TAKES_DETAILS = "takes_reasoning_details"
# A model that thinks refuses an assistant's turn without the field; "" will do.
WANTS_REASONING = "wants_reasoning_content"

QUIRKS = frozenset(
    {
        TAKES_NEW_LIMIT,
        ONLY_OLD_LIMIT,
        STOPS_AT_16,
        OUTPUT_DIMENSION,
        UNASKED_USAGE,
        NO_STREAM_OPTIONS,
        USAGE_PER_CHOICE,
        REASONING_WITHIN,
        COST_IN_DOLLARS,
        COST_IN_TICKS,
        COST_IN_TOTAL,
        TEN_SECONDS,
        ALL_OF_OPENAI,
        USER,
        METADATA,
        CACHE_KEY,
        FLEX_TIER,
        PRIORITY_TIER,
        STANDARD_ONLY,
        MORE_SAMPLING,
        CACHE_CONTROL,
        MISTRALS_PARTS,
        SHORT_IDS,
        RANDOM_SEED,
        ANSWERS_TOOLS,
        CONTINUES,
        CONTINUE_FLAG,
        PREFIX,
        USER_LAST,
        CHOICE_IN_WORDS,
        IGNORES_CHOICE,
        JSON_BY_SCHEMA,
        JSON_OR_TOOLS,
        NO_SCHEMAS,
        REASONING_OBJECT,
        THINKING_SWITCH,
        TEMPLATE_SWITCH,
        NO_REASONING,
        TAKES_REASONING,
        TAKES_PLAIN,
        TAKES_DETAILS,
        WANTS_REASONING,
    }
)


def seconds_billed(quirks: frozenset[str], seconds: int) -> int:
    """Return how many seconds a recording of so many is billed as."""
    return max(seconds, 10) if TEN_SECONDS in quirks else seconds


def limit_field(quirks: frozenset[str], endpoint: Endpoint) -> str:
    """Return the field in which a target wants a limit that the client did not give."""
    new = endpoint == "chat" and TAKES_NEW_LIMIT in quirks
    return "max_completion_tokens" if new else "max_tokens"


def misses_new_limit(quirks: frozenset[str], endpoint: Endpoint) -> bool:
    """Whether a target refuses `max_completion_tokens`, or, worse, ignores it."""
    return endpoint == "completions" or ONLY_OLD_LIMIT in quirks


def own_limit(quirks: frozenset[str], endpoint: Endpoint) -> int | None:
    """Return how many tokens a target makes at most where the request says nothing."""
    return 16 if endpoint == "completions" and STOPS_AT_16 in quirks else None


def takes_zero(quirks: frozenset[str]) -> bool:
    """Whether `max_tokens: 0` means no output; to Ollama's runner it means no limit."""
    return STOPS_AT_16 in quirks


def size_field(quirks: frozenset[str]) -> str:
    """Return the field in which a target wants the length of vectors."""
    return "output_dimension" if OUTPUT_DIMENSION in quirks else "dimensions"


def is_asked_for_usage(quirks: frozenset[str]) -> bool:
    """Whether a stream's usage must be, and may be, asked for."""
    return UNASKED_USAGE not in quirks


def reports_each_choice(quirks: frozenset[str]) -> bool:
    """Whether the usage reports of a stream must be added up, one for each choice."""
    return USAGE_PER_CHOICE in quirks


def reasons_within(quirks: frozenset[str]) -> bool:
    """Whether reasoning is within `completion_tokens`, whatever the counts say."""
    return REASONING_WITHIN in quirks
