"""GGUF files of real architectures' shapes, their weights a hole in the file: they take no disk."""

import struct
from pathlib import Path
from typing import Any

# Number, elements in a block, bytes of a block.
TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210),
}  # fmt: skip

Tensors = dict[str, tuple[tuple[int, ...], str]]

LLAMA_8B: dict[str, Any] = {
    "layers": 32, "width": 4096, "forward": 14336, "heads": 32, "kv_heads": 8, "head": 128,
    "words": 128256, "kind": "Q4_K",
}  # fmt: skip
QWEN3_4B: dict[str, Any] = {
    "architecture": "qwen3", "layers": 36, "width": 2560, "forward": 9728, "heads": 32,
    "kv_heads": 8, "head": 128, "words": 151936, "kind": "Q8_0", "norms": "qk", "tied": True,
}  # fmt: skip
QWEN3_30B: dict[str, Any] = {
    "architecture": "qwen3moe", "layers": 48, "width": 2048, "forward": 6144, "heads": 32,
    "kv_heads": 4, "head": 128, "words": 151936, "kind": "Q4_K", "norms": "qk",
    "experts": (128, 8, 768),
}  # fmt: skip
GEMMA3_1B: dict[str, Any] = {
    "architecture": "gemma3", "layers": 26, "width": 1152, "forward": 6912, "heads": 4,
    "kv_heads": 1, "head": 256, "words": 262144, "kind": "Q8_0", "norms": "qk post",
    "tied": True, "more": {"attention.sliding_window": 512},
}  # fmt: skip
GEMMA2_2B: dict[str, Any] = {
    "architecture": "gemma2", "layers": 26, "width": 2304, "forward": 9216, "heads": 8,
    "kv_heads": 4, "head": 256, "words": 256000, "kind": "Q4_0", "norms": "post", "tied": True,
    "more": {"attention.sliding_window": 4096},
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": LLAMA_8B,
    "qwen3-4b": QWEN3_4B,
    "qwen3-30b": QWEN3_30B,
    "gemma3-1b": GEMMA3_1B,
    "gemma2-2b": GEMMA2_2B,
}


def shaped(  # noqa: PLR0917
    path: Path,
    architecture: str = "llama",
    layers: int = 2,
    width: int = 256,
    forward: int = 512,
    heads: int = 4,
    kv_heads: int = 2,
    head: int = 64,
    words: int = 1024,
    context: int = 32768,
    kind: str = "Q8_0",
    norms: str = "",
    *,
    tied: bool = False,
    experts: tuple[int, int, int] = (0, 0, 0),  # all, used for a token, width of each
    more: dict[str, Any] | None = None,
) -> Path:
    """Write a model without words or weights; llama.cpp goes through its load as with any."""
    facts: dict[str, Any] = {
        "vocab_size": words, "block_count": layers, "context_length": context,
        "embedding_length": width, "feed_forward_length": forward,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads,
        "attention.key_length": head, "attention.value_length": head,
        "rope.dimension_count": head, "attention.layer_norm_rms_epsilon": 1e-5, **(more or {}),
    }  # fmt: skip
    if experts[0]:
        names = ("expert_count", "expert_used_count", "expert_feed_forward_length")
        facts.update(zip(names, experts, strict=True))
    metadata = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    metadata |= {f"{architecture}.{key}": value for key, value in facts.items()}
    tensors: Tensors = {
        "token_embd.weight": ((width, words), kind),
        "output_norm.weight": ((width,), "F32"),
    }
    if not tied:
        tensors["output.weight"] = ((width, words), kind)
    for layer in range(layers):
        named = _attention(width, heads * head, kv_heads * head, kind) | _norms(width, head, norms)
        named |= _experts(width, experts, kind) if experts[0] else _dense(width, forward, kind)
        tensors |= {f"blk.{layer}.{name}.weight": one for name, one in named.items()}
    return hollow(path, metadata, tensors)


def _attention(width: int, queries: int, pairs: int, kind: str) -> Tensors:
    return {
        "attn_norm": ((width,), "F32"), "ffn_norm": ((width,), "F32"),
        "attn_q": ((width, queries), kind), "attn_k": ((width, pairs), kind),
        "attn_v": ((width, pairs), kind), "attn_output": ((queries, width), kind),
    }  # fmt: skip


def _norms(width: int, head: int, norms: str) -> Tensors:
    found: Tensors = {}
    if "qk" in norms:
        found |= {"attn_q_norm": ((head,), "F32"), "attn_k_norm": ((head,), "F32")}
    if "post" in norms:
        found |= {"post_attention_norm": ((width,), "F32"), "post_ffw_norm": ((width,), "F32")}
    return found


def _dense(width: int, forward: int, kind: str) -> Tensors:
    return {
        "ffn_gate": ((width, forward), kind), "ffn_up": ((width, forward), kind),
        "ffn_down": ((forward, width), kind),
    }  # fmt: skip


def _experts(width: int, experts: tuple[int, int, int], kind: str) -> Tensors:
    count, _, wide = experts
    return {
        "ffn_gate_inp": ((width, count), "F32"),
        "ffn_gate_exps": ((width, wide, count), kind), "ffn_up_exps": ((width, wide, count), kind),
        "ffn_down_exps": ((wide, width, count), kind),
    }  # fmt: skip


def hollow(path: Path, metadata: dict[str, Any], tensors: Tensors) -> Path:
    """Write a GGUF file whose weights are zeros that the file system does not store."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    offset = 0
    for name, (shape, kind) in tensors.items():
        number, block, block_bytes = TYPES[kind]
        head += _text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", number, offset)
        elements = 1
        for length in shape:
            elements *= length
        offset += -(-(elements // block * block_bytes) // 32) * 32
    head += bytes(-len(head) % 32)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + offset)
    return path


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [bool(), *_]:
            return struct.pack(f"<IIQ{len(value)}?", 9, 7, len(value), *value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
    raise TypeError(f"no GGUF value: {value!r}")


def mamba(path: Path) -> Path:
    """Write a model that keeps a state instead of what it has read."""
    width, inner, state, rank = 256, 512, 16, 16
    facts = {
        "vocab_size": 1024, "block_count": 3, "context_length": 32768, "embedding_length": width,
        "feed_forward_length": 0, "attention.head_count": 0, "ssm.conv_kernel": 4,
        "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    tensors: Tensors = {
        "token_embd.weight": ((width, 1024), "Q8_0"), "output_norm.weight": ((width,), "F32"),
    }  # fmt: skip
    for layer in range(3):
        named: Tensors = {
            "attn_norm.weight": ((width,), "F32"), "ssm_in.weight": ((width, 2 * inner), "Q8_0"),
            "ssm_conv1d.weight": ((4, inner), "F32"), "ssm_conv1d.bias": ((inner,), "F32"),
            "ssm_x.weight": ((inner, rank + 2 * state), "Q8_0"),
            "ssm_dt.weight": ((rank, inner), "F32"), "ssm_dt.bias": ((inner,), "F32"),
            "ssm_a": ((state, inner), "F32"), "ssm_d": ((inner,), "F32"),
            "ssm_out.weight": ((inner, width), "Q8_0"),
        }  # fmt: skip
        tensors |= {f"blk.{layer}.{name}": one for name, one in named.items()}
    return hollow(path, _facts("mamba", facts), tensors)


def hybrid(path: Path) -> Path:
    """Write a model of which two layers in three keep a short state, and the third attends."""
    width, forward, head = 256, 512, 64
    kv_heads = [0, 0, 2, 0, 0, 2]
    facts = {
        "vocab_size": 1024, "block_count": 6, "context_length": 32768, "embedding_length": width,
        "feed_forward_length": forward, "attention.head_count": 4,
        "attention.head_count_kv": kv_heads, "shortconv.l_cache": 3,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    tensors: Tensors = {
        "token_embd.weight": ((width, 1024), "Q8_0"), "token_embd_norm.weight": ((width,), "F32"),
    }  # fmt: skip
    for layer, heads in enumerate(kv_heads):
        named = _attention(width, width, heads * head, "Q8_0") | _norms(width, head, "qk")
        if not heads:
            named = {name: named[name] for name in ("attn_norm", "ffn_norm")} | {
                "shortconv.conv": ((3, width), "F32"),
                "shortconv.in_proj": ((width, 3 * width), "Q8_0"),
                "shortconv.out_proj": ((width, width), "Q8_0"),
            }
        named |= _dense(width, forward, "Q8_0")
        tensors |= {f"blk.{layer}.{name}.weight": one for name, one in named.items()}
    return hollow(path, _facts("lfm2", facts), tensors)


def latent(path: Path) -> Path:
    """Write a model that keeps one compressed vector of each token, for all its heads."""
    width, forward, heads, rank, rope, plain, value = 256, 512, 4, 128, 32, 64, 64
    facts = {
        "vocab_size": 1024, "block_count": 3, "context_length": 32768, "embedding_length": width,
        "feed_forward_length": forward, "attention.head_count": heads,
        "attention.head_count_kv": 1, "attention.key_length": rank + rope,
        "attention.value_length": rank, "attention.key_length_mla": plain + rope,
        "attention.value_length_mla": value, "attention.kv_lora_rank": rank,
        "attention.q_lora_rank": 64,
        "rope.dimension_count": rope, "leading_dense_block_count": 3, "expert_count": 4,
        "expert_used_count": 2, "expert_feed_forward_length": 128, "expert_shared_count": 1,
        "expert_weights_scale": 1.0, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    tensors: Tensors = {
        "token_embd.weight": ((width, 1024), "Q8_0"), "output_norm.weight": ((width,), "F32"),
        "output.weight": ((width, 1024), "Q8_0"),
    }  # fmt: skip
    for layer in range(3):
        named: Tensors = {
            "attn_norm": ((width,), "F32"), "ffn_norm": ((width,), "F32"),
            "attn_q_a": ((width, 64), "Q8_0"), "attn_q_a_norm": ((64,), "F32"),
            "attn_q_b": ((64, heads * (plain + rope)), "Q8_0"),
            "attn_kv_a_mqa": ((width, rank + rope), "Q8_0"),
            "attn_kv_a_norm": ((rank,), "F32"), "attn_k_b": ((plain, rank, heads), "Q8_0"),
            "attn_v_b": ((rank, value, heads), "Q8_0"),
            "attn_output": ((heads * value, width), "Q8_0"),
        }  # fmt: skip
        named |= _dense(width, forward, "Q8_0")
        tensors |= {f"blk.{layer}.{name}.weight": one for name, one in named.items()}
    return hollow(path, _facts("deepseek2", facts), tensors)


def _facts(architecture: str, facts: dict[str, Any]) -> dict[str, Any]:
    named = {f"{architecture}.{key}": value for key, value in facts.items()}
    return {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab", **named}
