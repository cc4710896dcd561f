"""Small configurations."""

SMALL = {"vocab_size": 576, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 128, "max_position_embeddings": 512}  # fmt: skip
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SMALL}
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": None, "num_key_value_heads": 4}
GEMMA = {**SMALL, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 64}
MIXTRAL = {**SMALL, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
BERT = {**SMALL, "model_type": "bert"}
T5 = {"model_type": "t5", "is_encoder_decoder": True, "d_model": 64, "num_layers": 2}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 512}  # fmt: skip
MODERN = {**SMALL, "model_type": "modernbert"}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
PHI3 = {**SMALL, "model_type": "phi3", "pad_token_id": 0, "rope_scaling": LONGROPE,
        "original_max_position_embeddings": 256}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}  # fmt: skip


def changed(base, **changes):
    return base, {**base, **changes}
