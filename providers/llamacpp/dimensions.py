"""What of a model's architecture its memory depends on, read from the header's metadata.

Plain attention, grouped queries, latent attention, sliding windows, shared layers, recurrent
and hybrid memory by llama.cpp's own rules. Of an architecture that none of them names, every
layer counts as plain attention over the whole context, which is never too little.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

MOST_LAYERS = 4_096

# Encoders and diffusion models: each step reads all there is, and nothing is remembered.
FORGETFUL = frozenset(
    {
        "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert",
        "eurobert", "wavtokenizer-dec", "modern-bert", "gemma-embedding", "dream", "llada",
        "llada-moe", "rnd1",
    }
)  # fmt: skip
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
# Every layer has both kinds of memory.
BOTH = frozenset({"falcon-h1"})


class Window(NamedTuple):
    """An architecture's sliding windows: of each `every` layers one, the last, sees all."""

    every: int
    tokens: int = 0  # where the file does not say
    dense_first: bool = False  # the first of each `every` sees all, not the last


WINDOWS = {
    "gemma2": Window(2, 4096),
    "gemma3": Window(6),
    "gemma3n": Window(5),
    "gemma4": Window(6),
    "gpt-oss": Window(2),
    "cohere2": Window(4),
    "cohere2moe": Window(4, dense_first=True),
    "exaone4": Window(4, 4096),
    "exaone-moe": Window(4, 128),
    "llama4": Window(4, 8192),
    "olmo2": Window(4),
    "smallthinker": Window(4, 4096, dense_first=True),
    "afmoe": Window(4),
    "mellum": Window(4),
    "plamo3": Window(8),
}
# Layers from the first on that have a memory of their own; the others read theirs.
OWN_MEMORY = {"gemma3n": 20}


class Attention(msgspec.Struct, frozen=True):
    """Layers that remember alike: numbers a token, and the window in tokens, 0 for none."""

    layers: int
    keys: int
    values: int
    window: int = 0


class Dimensions(msgspec.Struct, frozen=True):
    """What a model remembers, and what a step of it needs."""

    attention: tuple[Attention, ...] = ()
    state_bytes: int = 0  # of each sequence, whatever its length
    numbers: int = 0  # 32-bit ones that a step needs for each of its tokens
    attending: int = 0  # of them, those of attention alone
    heads: int = 0  # each has a score for each token and cell, where flash attention is off


class Facts:
    """An architecture's metadata, each value checked to be what it should."""

    def __init__(self, architecture: str, metadata: Mapping[str, object]) -> None:
        self.architecture = architecture
        self._metadata = metadata

    def raw(self, key: str) -> object:
        """Return a value as it stands, an array as the tuple of its items, None for none."""
        value = self._metadata.get(f"{self.architecture}.{key}")
        return getattr(value, "items", value)

    def whole(self, key: str, otherwise: int = 0) -> int:
        """Return a whole number, of a list the largest; `otherwise` where there is none."""
        value = self.raw(key)
        if isinstance(value, tuple):
            value = max((item for item in value if _is_count(item)), default=0)
        return value if isinstance(value, int) and _is_count(value) else otherwise

    def each(self, key: str, layers: int, otherwise: int) -> list[int]:
        """Return a number for each layer, be it one for all or a list."""
        value = self.raw(key)
        if isinstance(value, tuple):
            found = [item if isinstance(item, int) and _is_count(item) else 0 for item in value]
            return (found + [otherwise] * layers)[:layers]
        return [self.whole(key, otherwise)] * layers


def dimensions_of(architecture: str, metadata: Mapping[str, object]) -> Dimensions:
    """Return a model's dimensions; metadata that makes no sense is no error here.

    `metadata` is the header's: plain values, and arrays with their `items`.
    """
    facts = Facts(architecture, metadata)
    layers = min(facts.whole("block_count"), MOST_LAYERS)
    recurrent = _recurrent(facts, layers)
    return Dimensions(
        attention=_attention(facts, layers, recurrent),
        state_bytes=_state_numbers(facts) * 4 * sum(recurrent),
        numbers=_numbers(facts, layers),
        attending=_attending(facts, layers),
        heads=facts.whole("attention.head_count"),
    )


def _attention(facts: Facts, layers: int, recurrent: list[bool]) -> tuple[Attention, ...]:
    if facts.architecture in FORGETFUL | RECURRENT:
        return ()
    heads = facts.whole("attention.head_count")
    kv_heads = facts.each("attention.head_count_kv", layers, heads)
    windows = _windows(facts, layers)
    own = _own_memory(facts, layers)
    found: Counter[tuple[int, int, int]] = Counter()
    for layer in range(own):
        if recurrent[layer] and facts.architecture not in BOTH:
            continue
        kind = "_swa" if windows[layer] else ""
        keys, values = (
            facts.whole(f"attention.{name}_length{kind}", _width(facts, name))
            for name in ("key", "value")
        )
        # Latent attention keeps one compressed vector, from which it makes the values too.
        values = 0 if facts.whole("attention.key_length_mla") else values
        if kv_heads[layer]:
            found[kv_heads[layer] * keys, kv_heads[layer] * values, windows[layer]] += 1
    return tuple(Attention(count, *sizes) for sizes, count in found.items())


def _width(facts: Facts, name: str) -> int:
    heads = facts.whole("attention.head_count")
    return facts.whole(
        f"attention.{name}_length", facts.whole("embedding_length") // heads if heads else 0
    )


def _windows(facts: Facts, layers: int) -> list[int]:
    """Return each layer's window in tokens, 0 for the whole context."""
    rule = WINDOWS.get(facts.architecture)
    if rule is None:
        return [0] * layers
    tokens = facts.whole("attention.sliding_window", rule.tokens)
    pattern = facts.raw("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return [tokens if at < len(pattern) and pattern[at] else 0 for at in range(layers)]
    every = facts.whole("attention.sliding_window_pattern", rule.every)
    if not every:
        return [tokens] * layers
    whole = 0 if rule.dense_first else every - 1
    return [0 if at % every == whole else tokens for at in range(layers)]


def _own_memory(facts: Facts, layers: int) -> int:
    shared = facts.whole("attention.shared_kv_layers")
    return max(0, min(layers - shared, OWN_MEMORY.get(facts.architecture, layers)))


def _recurrent(facts: Facts, layers: int) -> list[bool]:
    """Return for each layer whether it keeps a state instead of what it has read."""
    if facts.architecture in RECURRENT | BOTH:
        return [True] * layers
    if not _state_numbers(facts):
        return [False] * layers
    if every := facts.whole("full_attention_interval"):
        return [bool((layer + 1) % every) for layer in range(layers)]
    # A layer of the feed-forward network alone has no heads either, and keeps nothing.
    forward = facts.each("feed_forward_length", layers, 0)
    alone = facts.architecture.startswith("nemotron_h")
    heads = facts.each("attention.head_count_kv", layers, 1)
    return [not heads[at] and not (alone and forward[at]) for at in range(layers)]


def _state_numbers(facts: Facts) -> int:
    """Return the 32-bit numbers that one recurrent layer keeps of a sequence."""
    embedding = facts.whole("embedding_length")
    if wkv := facts.whole("wkv.head_size"):
        return embedding * (facts.whole("token_shift_count", 2) + wkv)
    if short := facts.whole("shortconv.l_cache"):
        return embedding * (short - 1)
    if width := facts.whole("kda.head_dim"):
        heads = facts.whole("attention.head_count")
        convolution = 3 * (facts.whole("ssm.conv_kernel", 4) - 1) * heads * width
        return convolution + width * width * heads
    inner, state = facts.whole("ssm.inner_size"), facts.whole("ssm.state_size")
    channels = inner + 2 * facts.whole("ssm.group_count") * state
    return max(0, facts.whole("ssm.conv_kernel") - 1) * channels + state * inner


def _numbers(facts: Facts, layers: int) -> int:
    """Return what a step needs for each token, where a layer needs most: fitted to llama.cpp.

    Exact on dense transformers whose feed-forward network is the wider part; of mixtures of
    experts up to a half too much, which is little beside their weights.
    """
    embedding = facts.whole("embedding_length")
    queries = facts.whole("attention.head_count") * _width(facts, "key")
    forward = 3 * facts.whole("feed_forward_length")
    if used := facts.whole("expert_used_count"):
        wide = facts.whole("expert_feed_forward_length", facts.whole("feed_forward_length"))
        forward = used * (3 * wide + embedding)
    inner = 4 * facts.whole("ssm.inner_size")
    return max(3 * embedding + max(forward + queries, inner), _attending(facts, layers))


def _attending(facts: Facts, layers: int) -> int:
    queries = facts.whole("attention.head_count") * _width(facts, "key")
    kv_heads = max(facts.each("attention.head_count_kv", layers, 0), default=0)
    pairs = kv_heads * (_width(facts, "key") + _width(facts, "value"))
    return 3 * facts.whole("embedding_length") + 2 * queries + pairs


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
