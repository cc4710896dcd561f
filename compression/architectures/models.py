"""Small random models of many architectures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

VOCABULARY = 96
SEED = 0
_TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_WIDE = _SIZES | {"intermediate_size": 48, "max_position_embeddings": 96}
_GROUPED = _WIDE | {"num_key_value_heads": 2}
_HEADS = _GROUPED | {"head_dim": 8}
_SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 96, "decoder_start_token_id": 2,
}  # fmt: skip
_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
_VISION = _SIZES | {"intermediate_size": 48, "image_size": 28, "patch_size": 14}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}


@dataclass(frozen=True)
class Architecture:
    """A small model configuration.

    Attributes:
        model: name of the model class in transformers.
        settings: arguments of its configuration, except for those of the vocabulary.
    """

    model: str
    settings: Mapping[str, object] = field(default_factory=dict)

    def make(self, **changes: object):
        """Return a random model in evaluation mode, with ``changes`` to its settings.

        The weights are the same in every call.
        """
        import torch
        import transformers

        torch.manual_seed(SEED)
        kind = getattr(transformers, self.model)
        tokens = {} if "text_config" in self.settings else _TOKENS
        return kind(kind.config_class(**tokens | self.settings | changes)).eval()


def _causal(name: str, **settings: object) -> Architecture:
    return Architecture(f"{name}ForCausalLM", settings)


def _classifier(name: str, **settings: object) -> Architecture:
    return Architecture(f"{name}ForSequenceClassification", settings)


def _seq2seq(name: str, **settings: object) -> Architecture:
    return Architecture(f"{name}ForConditionalGeneration", settings)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _causal("Llama", **_GROUPED, tie_word_embeddings=True),
    "mistral": _causal("Mistral", **_GROUPED),
    "qwen2": _causal("Qwen2", **_GROUPED),
    "qwen3": _causal("Qwen3", **_HEADS),
    "gemma": _causal("Gemma", **_HEADS),
    "gemma2": _causal("Gemma2", **_HEADS),
    "gemma3": _causal("Gemma3", **_HEADS),
    "phi": _causal("Phi", **_WIDE),
    "phi3": _causal("Phi3", **_GROUPED),
    "olmo": _causal("Olmo", **_GROUPED),
    "olmo2": _causal("Olmo2", **_GROUPED),
    "granite": _causal("Granite", **_GROUPED),
    "glm": _causal("Glm", **_HEADS),
    "cohere": _causal("Cohere", **_GROUPED),
    "stablelm": _causal("StableLm", **_GROUPED),
    "starcoder2": _causal("Starcoder2", **_GROUPED),
    "nemotron": _causal("Nemotron", **_GROUPED),
    "persimmon": _causal("Persimmon", **_WIDE),
    "smollm3": _causal("SmolLM3", **_GROUPED),
    "exaone4": _causal("Exaone4", **_GROUPED),
    "ernie4_5": _causal("Ernie4_5", **_GROUPED),
    "opt": _causal("OPT", hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                   max_position_embeddings=96, word_embed_proj_dim=32),
    "gpt2": Architecture("GPT2LMHeadModel", _GPT),
    "gpt_neo": _causal("GPTNeo", hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
                       attention_types=[[["global", "local"], 1]], max_position_embeddings=96),
    "gpt_neox": _causal("GPTNeoX", **_WIDE),
    "gptj": _causal("GPTJ", **_GPT, rotary_dim=4),
    "codegen": _causal("CodeGen", **_GPT, rotary_dim=4),
    "gpt_bigcode": _causal("GPTBigCode", **_GPT),
    "bloom": _causal("Bloom", hidden_size=32, n_layer=2, n_head=4),
    "mpt": _causal("Mpt", d_model=32, n_layers=2, n_heads=4, expansion_ratio=2, max_seq_len=96),
    "falcon": _causal("Falcon", **_SIZES),
    "xglm": _causal("XGLM", d_model=32, ffn_dim=48, num_layers=2, attention_heads=4,
                    max_position_embeddings=96),
    "biogpt": _causal("BioGpt", **_WIDE),
    "mamba": _causal("Mamba", hidden_size=32, num_hidden_layers=2),
    "mamba2": _causal("Mamba2", hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8,
                      n_groups=2, state_size=16, chunk_size=16),
    "falcon_mamba": _causal("FalconMamba", hidden_size=32, num_hidden_layers=2),
    "recurrent_gemma": _causal("RecurrentGemma", **_HEADS, lru_width=32, attention_window_size=16,
                               block_types=["recurrent", "attention"]),
    "lfm2": _causal("Lfm2", **_GROUPED, layer_types=["conv", "full_attention"]),
    "mixtral": _causal("Mixtral", **_GROUPED, num_local_experts=4),
    "qwen2_moe": _causal("Qwen2Moe", **_GROUPED, num_experts=4, num_experts_per_tok=2,
                         moe_intermediate_size=24, shared_expert_intermediate_size=24),
    "qwen3_moe": _causal("Qwen3Moe", **_HEADS, num_experts=4, num_experts_per_tok=2,
                         moe_intermediate_size=24),
    "olmoe": _causal("Olmoe", **_GROUPED, num_experts=4, num_experts_per_tok=2),
    "phimoe": _causal("Phimoe", **_GROUPED, num_local_experts=4),
    "granitemoe": _causal("GraniteMoe", **_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "jetmoe": _causal("JetMoe", hidden_size=32, num_hidden_layers=2, num_key_value_heads=4,
                      kv_channels=8, intermediate_size=48, num_local_experts=4,
                      num_experts_per_tok=2, max_position_embeddings=96),
    "jamba": _causal("Jamba", **_GROUPED, num_experts=4, attn_layer_period=2, attn_layer_offset=1,
                     expert_layer_period=2, expert_layer_offset=1, mamba_d_state=8,
                     use_mamba_kernels=False),
    "llama4": _causal("Llama4", **_HEADS, intermediate_size_mlp=48, num_local_experts=4,
                      num_experts_per_tok=1, interleave_moe_layer_step=1),
    "gpt_oss": _causal("GptOss", **_HEADS, num_local_experts=4, num_experts_per_tok=2),
    "dbrx": _causal("Dbrx", d_model=32, n_heads=4, n_layers=2, max_seq_len=96,
                    attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
                    ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2}),
    "deepseek_v3": _causal("DeepseekV3", **_WIDE, num_key_value_heads=4, moe_intermediate_size=24,
                           n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
                           q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4,
                           qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=1),
    "gemma3_vision": Architecture("Gemma3ForConditionalGeneration", {
        "text_config": _TOKENS | _HEADS, "vision_config": _VISION, "mm_tokens_per_image": 4,
        "image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92,
    }),
    "mistral3": Architecture("Mistral3ForConditionalGeneration", {
        "text_config": _TOKENS | _HEADS | {"model_type": "mistral"}, "image_token_index": 90,
        "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 8},
    }),
    "qwen2_vl": Architecture("Qwen2VLForConditionalGeneration", {
        "text_config": _TOKENS | _HEADS | {"rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4,
                          "patch_size": 14},
        "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92,
        "vision_end_token_id": 93,
    }),
    "t5": _seq2seq("T5", **_T5),
    "mt5": _seq2seq("MT5", **_T5),
    "umt5": _seq2seq("UMT5", **_T5),
    "longt5": _seq2seq("LongT5", **_T5, local_radius=7),
    "switch_transformers": _seq2seq("SwitchTransformers", **_T5, num_experts=4,
                                    num_sparse_encoder_layers=1, num_sparse_decoder_layers=1,
                                    num_decoder_layers=2),
    "bart": _seq2seq("Bart", **_SEQ2SEQ),
    "mbart": _seq2seq("MBart", **_SEQ2SEQ),
    "pegasus": _seq2seq("Pegasus", **_SEQ2SEQ),
    "marian": Architecture("MarianMTModel", _SEQ2SEQ),
    "m2m_100": _seq2seq("M2M100", **_SEQ2SEQ),
    "nllb_moe": _seq2seq("NllbMoe", **_SEQ2SEQ, num_experts=4, encoder_sparse_step=2,
                         decoder_sparse_step=2),
    "blenderbot": _seq2seq("Blenderbot", **_SEQ2SEQ),
    "led": _seq2seq("LED", **{k: v for k, v in _SEQ2SEQ.items() if k != "max_position_embeddings"},
                    attention_window=16, max_encoder_position_embeddings=96,
                    max_decoder_position_embeddings=96),
    "prophetnet": _seq2seq("ProphetNet", hidden_size=32, encoder_ffn_dim=48, decoder_ffn_dim=48,
                           num_encoder_layers=2, num_decoder_layers=2,
                           num_encoder_attention_heads=4, num_decoder_attention_heads=4,
                           max_position_embeddings=96, ngram=2, decoder_start_token_id=2),
    "bert": _classifier("Bert", **_WIDE),
    "roberta": _classifier("Roberta", **_WIDE),
    "xlm_roberta": _classifier("XLMRoberta", **_WIDE),
    "albert": _classifier("Albert", **_WIDE, embedding_size=16),
    "distilbert": _classifier("DistilBert", dim=32, hidden_dim=48, n_layers=2, n_heads=4,
                              max_position_embeddings=96),
    "electra": _classifier("Electra", **_WIDE, embedding_size=16),
    "deberta": _classifier("Deberta", **_WIDE, relative_attention=True,
                           pos_att_type=["p2c", "c2p"], pooler_hidden_size=32),
    "deberta_v2": _classifier("DebertaV2", **_WIDE, relative_attention=True,
                              pos_att_type=["p2c", "c2p"], position_buckets=8,
                              pooler_hidden_size=32),
    "modernbert": _classifier("ModernBert", **_WIDE, cls_token_id=1, sep_token_id=2,
                              global_attn_every_n_layers=2, local_attention=16),
    "mobilebert": _classifier("MobileBert", hidden_size=32, num_hidden_layers=2,
                              num_attention_heads=4, intermediate_size=48, embedding_size=16,
                              intra_bottleneck_size=16, num_feedforward_networks=2,
                              max_position_embeddings=96),
    "squeezebert": _classifier("SqueezeBert", **_WIDE, embedding_size=32),
    "mpnet": _classifier("MPNet", **_WIDE),
    "convbert": _classifier("ConvBert", **_WIDE, embedding_size=16),
    "funnel": _classifier("Funnel", block_sizes=[1, 1], num_decoder_layers=1, d_model=32, n_head=4,
                          d_head=8, d_inner=48),
    "xlnet": _classifier("XLNet", d_model=32, n_layer=2, n_head=4, d_inner=48),
    "xlm": _classifier("XLM", emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=96),
    "ibert": _classifier("IBert", **_WIDE),
    "fnet": _classifier("FNet", **{k: v for k, v in _WIDE.items() if k != "num_attention_heads"}),
    "roformer": _classifier("RoFormer", **_WIDE, embedding_size=16),
    "rembert": _classifier("RemBert", **_WIDE, input_embedding_size=16),
    "nystromformer": _classifier("Nystromformer", **_WIDE, num_landmarks=32,
                                 segment_means_seq_len=32),
    "longformer": _classifier("Longformer", **_WIDE, attention_window=16),
    "big_bird": _classifier("BigBird", **_WIDE, attention_type="original_full"),
    "esm": _classifier("Esm", **_WIDE, position_embedding_type="rotary"),
    "eurobert": _classifier("EuroBert", **_GROUPED),
}  # fmt: skip
"""Architectures by name, which mostly equals their ``model_type``."""
