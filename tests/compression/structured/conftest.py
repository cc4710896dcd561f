"""Small random models of many architectures."""

import pytest
import torch
import transformers

_COMMON = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
_GROUPED = dict(_COMMON, num_key_value_heads=2, head_dim=8, bos_token_id=1, eos_token_id=2)
_GPT2 = dict(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=2)
_MAMBA = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
_T5 = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)

MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED | dict(tie_word_embeddings=True)),
    "mistral": ("MistralForCausalLM", "MistralConfig", _GROUPED | dict(sliding_window=8)),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _GROUPED),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _GROUPED | dict(sliding_window=8)),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _GROUPED | dict(sliding_window=8)),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _GROUPED),
    "opt": ("OPTForCausalLM", "OPTConfig", _COMMON | dict(ffn_dim=48, word_embed_proj_dim=32)),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2 | dict(bos_token_id=1)),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _COMMON),
    "bloom": ("BloomForCausalLM", "BloomConfig", _GPT2 | dict(hidden_size=32)),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _GROUPED),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _GROUPED | dict(num_local_experts=4)),
    "mamba": ("MambaForCausalLM", "MambaConfig", _MAMBA),
    "bert": ("BertForSequenceClassification", "BertConfig", _COMMON),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _COMMON),
    "albert": (
        "AlbertForSequenceClassification", "AlbertConfig", _COMMON | dict(embedding_size=16),
    ),
    "distilbert": (
        "DistilBertForSequenceClassification", "DistilBertConfig",
        dict(vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4, pad_token_id=0),
    ),
    "deberta": (
        "DebertaV2ForSequenceClassification", "DebertaV2Config",
        _COMMON | dict(relative_attention=True, pos_att_type=["c2p", "p2c"]),
    ),
    "bart": (
        "BartForConditionalGeneration", "BartConfig",
        dict(vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=2, pad_token_id=0,
             encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64,
             encoder_ffn_dim=48, decoder_ffn_dim=48),
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", dict(_T5, decoder_start_token_id=0)),
}  # fmt: skip


@pytest.fixture
def tiny():
    """Return a function that makes a small model with random weights, in float64 by default."""

    def make(kind: str, dtype: torch.dtype = torch.float64, **changes: object):
        model, config, settings = MODELS[kind]
        torch.manual_seed(0)
        model = getattr(transformers, model)(getattr(transformers, config)(**(settings | changes)))
        with torch.no_grad():
            for parameter in model.parameters():
                # Make biases nonzero and attention not uniform.
                parameter += 0.15 * torch.randn_like(parameter)
        return model.to(dtype).eval()

    return make


@pytest.fixture
def forward(batches):
    """Return a function that computes the logits of a model on a padded batch."""

    def run(model):
        extra = {}
        if model.config.is_encoder_decoder:
            extra["decoder_input_ids"] = batches[0]["input_ids"].flip(1)
        with torch.no_grad():
            return model(**batches[0], **extra).logits

    return run
