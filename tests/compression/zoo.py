"""Small random models of many architectures."""

import torch
import transformers as hf

_COMMON = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=66, pad_token_id=0,
)  # fmt: skip
_GROUPED = _COMMON | dict(num_key_value_heads=2)
_HEADS = _GROUPED | dict(head_dim=8)

CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "mistral": lambda: hf.MistralConfig(**_GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**_GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**_HEADS),
    "gemma2": lambda: hf.Gemma2Config(**_HEADS),
    "gemma3": lambda: hf.Gemma3TextConfig(**_HEADS),
    "phi3": lambda: hf.Phi3Config(**_GROUPED),
    "opt": lambda: hf.OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=66, pad_token_id=0, word_embed_proj_dim=32,
    ),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=66, pad_token_id=0
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_COMMON),
    "mixtral": lambda: hf.MixtralConfig(**_GROUPED, num_local_experts=4),
    "bert": lambda: hf.BertConfig(**_COMMON),
    "roberta": lambda: hf.RobertaConfig(**_COMMON),
    "albert": lambda: hf.AlbertConfig(**_COMMON, embedding_size=16),
    "distilbert": lambda: hf.DistilBertConfig(
        vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=66,
        pad_token_id=0,
    ),
    "deberta_v2": lambda: hf.DebertaV2Config(
        **_COMMON, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8,
        pooler_hidden_size=32,
    ),
    "t5": lambda: hf.T5Config(
        vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, pad_token_id=0,
        decoder_start_token_id=0,
    ),
}  # fmt: skip
SIMILAR = ("mistral", "qwen2", "qwen3", "roberta")
"""Models whose blocks are those of LLaMA or BERT, with other settings; long sweeps over
architectures need --full for these."""
CLASSIFIERS = ("bert", "roberta", "albert", "distilbert", "deberta_v2")


def auto(name: str):
    """The class that loads such a model."""
    if name == "t5":
        return hf.AutoModelForSeq2SeqLM
    if name in CLASSIFIERS:
        return hf.AutoModelForSequenceClassification
    return hf.AutoModelForCausalLM


def make(name: str):
    """A model in evaluation mode; the same each time."""
    torch.manual_seed(0)
    return auto(name).from_config(CONFIGS[name]()).eval()


def inputs(name: str, batches):
    """Batches for it: with labels where it classifies or decodes."""
    if name == "t5":
        return [
            {**b, "labels": b["input_ids"].masked_fill(b["attention_mask"] == 0, -100)}
            for b in batches
        ]
    if name in CLASSIFIERS:
        return [{**b, "labels": torch.arange(len(b["input_ids"])) % 2} for b in batches]
    return batches
