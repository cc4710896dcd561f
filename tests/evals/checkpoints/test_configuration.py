"""Configurations are compared by their meaning, whatever their spelling."""

import json

import pytest
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from compression_gates.evals.checkpoints.checkpoint import (
    CAUSAL,
    CLASSIFIER,
    SEQ2SEQ,
    Checkpoint,
    open_checkpoint,
)
from compression_gates.evals.checkpoints.compare import Sides
from compression_gates.evals.checkpoints.configuration import compare
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.checkpoints.setting_kinds import same
from compression_gates.evals.errors import EvalError
from tests.evals.checkpoints.configurations import (
    BERT,
    GEMMA,
    LLAMA,
    LLAMA3,
    MISTRAL,
    MIXTRAL,
    MODERN,
    PHI3,
    SMALL,
    T5,
    YARN,
    changed,
)

BREAKS = [
    ("normalization", changed(LLAMA, rms_norm_eps=1e-3)),
    ("normalization", changed(BERT, layer_norm_eps=1e-3)),
    ("normalization", changed({**SMALL, "model_type": "gpt2"}, layer_norm_epsilon=1e-3)),
    ("activation", changed(LLAMA, hidden_act="gelu")),
    ("activation", changed(GEMMA, hidden_activation="relu")),
    ("activation", changed({**SMALL, "model_type": "gpt2"}, activation_function="relu")),
    ("scaling", changed(GEMMA, final_logit_softcapping=30.0)),
    ("scaling", changed(GEMMA, query_pre_attn_scalar=100)),
    ("scaling", changed({**SMALL, "model_type": "granite"}, residual_multiplier=0.2)),
    ("scaling", changed({**SMALL, "model_type": "granite"}, embedding_multiplier=12.0)),
    ("scaling", changed({**SMALL, "model_type": "granite"}, attention_multiplier=0.1)),
    ("scaling", changed({**SMALL, "model_type": "cohere"}, logit_scale=1.0)),
    ("attention pattern", changed(MISTRAL, sliding_window=4)),
    ("attention pattern", changed(GEMMA, layer_types=["full_attention"] * 4)),
    ("attention pattern", changed(GEMMA, use_bidirectional_attention=True)),
    ("heads", changed({**LLAMA, "num_key_value_heads": 2}, num_attention_heads=2, head_dim=32)),
    ("heads", changed(BERT, num_attention_heads=8)),
    ("expert routing", changed(MIXTRAL, num_experts_per_tok=1)),
    ("expert routing",
     changed({**SMALL, "model_type": "qwen3_moe", "num_experts": 8}, norm_topk_prob=True)),
    ("tied output layer", changed(LLAMA, tie_word_embeddings=True)),
    ("setting", changed({**SMALL, "model_type": "gpt_neox"}, use_parallel_residual=False)),
    ("setting", changed(T5, relative_attention_max_distance=64)),
    ("setting", changed(BERT, is_decoder=True)),
    ("setting", changed(BERT, problem_type="multi_label_classification")),
    ("rope", changed(LLAMA, rope_theta=500000.0)),
    ("rope", changed(LLAMA, rope_parameters={**YARN})),
    ("rope", changed({**SMALL, "model_type": "gpt_neox"}, rotary_pct=1.0)),
    ("rope", changed({**SMALL, "model_type": "glm"}, partial_rotary_factor=1.0)),
    ("rope", changed(GEMMA, rope_local_base_freq=20000.0)),
    ("rope", changed({**LLAMA, "rope_scaling": {**YARN}}, rope_scaling={**YARN, "factor": 8.0})),
    ("rope", changed({**LLAMA, "rope_scaling": {**YARN}}, rope_scaling={**YARN, "mscale": 0.5,
                                                                          "mscale_all_dim": 1.0})),
    ("rope", changed({**LLAMA, "rope_scaling": YARN}, rope_scaling={**YARN, "truncate": False})),
    ("rope", changed(PHI3, original_max_position_embeddings=512)),
    ("rope", changed(MODERN, local_rope_theta=20000.0)),
    ("rope", changed({**SMALL, "model_type": "modernbert-decoder"}, global_rope_theta=10000.0)),
]  # fmt: skip


GPTJ = {"model_type": "gptj", "vocab_size": 576, "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": 512, "rotary_dim": 8}  # fmt: skip
BIG_BIRD = {**SMALL, "model_type": "big_bird", "block_size": 64, "num_random_blocks": 3}
DEBERTA = {**SMALL, "model_type": "deberta-v2", "relative_attention": True, "position_buckets": 256,
           "max_relative_positions": 256}  # fmt: skip
SWITCH = {"model_type": "switch_transformers", "d_model": 64, "num_layers": 2, "num_experts": 4}


@pytest.mark.parametrize(
    ("kind", "pair"),
    [
        (CAUSAL, changed(GPTJ, rotary_dim=16)),
        (CAUSAL, changed({**GPTJ, "model_type": "codegen"}, rotary_dim=16)),
        (CAUSAL, changed({"model_type": "dbrx", "attn_config": {"clip_qkv": 8}},
                         attn_config={"clip_qkv": None})),
        (SEQ2SEQ, changed({**T5, "model_type": "longt5"}, local_radius=15)),
        (CLASSIFIER, changed(BIG_BIRD, block_size=16)),
        (CLASSIFIER, changed(BIG_BIRD, num_random_blocks=1)),
        (SEQ2SEQ, changed({**SWITCH, "expert_capacity": 64}, expert_capacity=1)),
        (CLASSIFIER, changed({"model_type": "xlnet", "n_layer": 2}, clamp_len=5)),
        (CAUSAL, changed({"model_type": "reformer", "is_decoder": True}, num_hashes=4)),
        (CLASSIFIER, changed(DEBERTA, position_buckets=-1)),
        (CAUSAL, changed({**MIXTRAL, "model_type": "phimoe", "router_jitter_noise": 0.01},
                         router_jitter_noise=0.5)),
        (CAUSAL, changed({"model_type": "zamba2"}, time_step_min=0.1)),
        (SEQ2SEQ, changed(T5, scale_decoder_outputs=False)),
    ],
)  # fmt: skip
def test_what_changes_no_shape_is_no_size(compared, kind, pair):
    for one, two in (pair, pair[::-1]):
        [(difference_kind, _)] = compared(one, two, kind)
        assert difference_kind in ("setting", "scaling")


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (LLAMA, {"intermediate_size": 96}),
        (MIXTRAL, {"num_local_experts": 4}),
        ({**SMALL, "model_type": "albert", "embedding_size": 16}, {"num_hidden_layers": 2}),
        ({**SMALL, "model_type": "albert", "embedding_size": 16}, {"embedding_size": 8}),
        ({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4}, {"n_inner": 32}),
        (DEBERTA, {"position_buckets": 128}),
        (LLAMA, {"vocab_size": 1 << 40}),
    ],
)
def test_what_changes_a_shape_or_the_depth_is_a_size(compared, base, changes):
    assert [kind for kind, _ in compared(base, {**base, **changes})] == ["size"]


@pytest.mark.parametrize(("kind", "pair"), BREAKS)
def test_what_breaks_plain_use_is_shown_with_both_values(compared, kind, pair):
    for one, two in (pair, pair[::-1]) if kind != "tied output layer" else (pair,):
        differences = compared(one, two)
        assert [name for name, _ in differences] == [kind]
        assert " for the baseline, " in differences[0][1]
        assert " for the candidate)" in differences[0][1]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({}, {"rope_theta": 10000.0}),
        ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500000}}),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}},
         {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000.0}}),
        ({"rope_scaling": None}, {"rope_scaling": {"type": "linear", "factor": 1.0}}),
        ({"rope_scaling": {**LLAMA3, "type": "llama3"}, "rope_theta": 5e5},
         {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}),
        ({"rope_scaling": YARN},
         {"rope_scaling": {**YARN, "beta_fast": 32, "beta_slow": 1, "finetuned": True}}),
        ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 9.999999747378752e-06}),
        ({"hidden_act": "silu"}, {"hidden_act": "swish"}),
        ({"hidden_act": "gelu_new"}, {"hidden_act": "gelu_pytorch_tanh"}),
        ({"hidden_act": "gelu_fast"}, {"hidden_act": "gelu_accurate"}),
        ({}, {"head_dim": 16, "num_key_value_heads": 4}),
        ({"torch_dtype": "float16"}, {"dtype": "bfloat16", "use_cache": False}),
        ({}, {"quantization_config": {"quant_method": "gptq", "bits": 4}, "_name_or_path": "x",
              "transformers_version": "4.30.0", "pretraining_tp": 2}),
        ({"id2label": {"0": "a"}}, {}),  # of no classifier
        ({"problem_type": None}, {"problem_type": "single_label_classification"}),
        ({"rope_scaling": YARN}, {"rope_scaling": {**YARN, "truncate": True}}),
    ],
)  # fmt: skip
def test_the_same_in_another_spelling(compared, one, two):
    base = {**LLAMA, "rms_norm_eps": 1e-6}
    assert compared({**base, **one}, {**base, **two}) == []
    assert compared({**base, **two}, {**base, **one}) == []


@pytest.mark.parametrize("model_type", ["modernbert", "modernbert-decoder", "neomme"])
def test_rope_by_type_of_layer_in_another_spelling(compared, model_type):
    base = {**SMALL, "model_type": model_type}
    config = transformers.AutoConfig.for_model(model_type)
    assert config.rope_parameters.keys() == {"full_attention", "sliding_attention"}
    spelled = {
        name: {"partial_rotary_factor": 1.0, **parameters}
        for name, parameters in config.rope_parameters.items()
    }
    assert compared(base, {**base, "rope_parameters": spelled}) == []
    spelled["full_attention"]["rope_theta"] = 3.0
    [(kind, text)] = compared(base, {**base, "rope_parameters": spelled})
    assert kind == "rope"
    assert "rope_parameters.full_attention.rope_theta" in text


def _written(config):
    return json.loads(config.to_json_string(use_diff=False))


CLASSES = sorted(
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() | MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.full)])
def test_defaults_of_every_class_count_as_if_written(compared, every):
    """Older versions of transformers wrote defaults out that newer ones leave away."""
    count, names = 0, CLASSES[::every]
    for name in names:
        try:
            config = transformers.AutoConfig.for_model(name)
            short, whole = json.loads(config.to_json_string()), _written(config)
            transformers.AutoConfig.for_model(**whole)
        except Exception:  # classes that need arguments, or do not read what they write
            continue
        assert (name, compared(short, whole)) == (name, [])
        assert (name, compared(whole, short)) == (name, [])
        count += 1
    assert count > len(names) / 2


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
         "num_attention_heads (4 for the baseline, 2 for the candidate)"),
        ({"intermediate_size": 96}, "intermediate_size (128 for the baseline, 96"),
        ({"num_hidden_layers": 2}, "num_hidden_layers (4 for the baseline, 2"),
        ({"attention_bias": True}, "attention_bias (False for the baseline, True"),
    ],
)  # fmt: skip
def test_what_compression_changes_is_noted(compared, changes, names):
    base = {**LLAMA, "head_dim": 16, "num_key_value_heads": 4}
    [(kind, text)] = compared(base, {**base, **changes})
    assert kind == "size"
    assert names in text


def test_experts_that_are_pruned_may_be_asked_less_often(compared):
    [(kind, text)] = compared(*changed(MIXTRAL, num_local_experts=1, num_experts_per_tok=1))
    assert kind == "size"
    assert "num_experts" in text


def test_a_student_keeps_the_kinds_of_its_layers(compared):
    base = {**GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2}
    student = {**base, "num_hidden_layers": 2, "layer_types": base["layer_types"][:2]}
    assert [kind for kind, _ in compared(base, student)] == ["size"]
    student["layer_types"] = ["full_attention"] * 3
    student["num_hidden_layers"] = 3
    assert "attention pattern" in dict(compared(base, student))


def test_a_student_of_another_width_has_settings_of_its_own(compared):
    differences = dict(compared(*changed(LLAMA, hidden_size=32, rope_theta=5e5, rms_norm_eps=1e-3)))
    assert set(differences) == {"size", "setting of a student"}


def test_one_model_under_two_architectures(compared):
    assert compared(LLAMA, MISTRAL) == []
    assert [kind for kind, _ in compared(LLAMA, {**MISTRAL, "sliding_window": 4})] == [
        "attention pattern"
    ]
    assert "rope" in dict(compared(LLAMA, {**MISTRAL, "rope_theta": 1e6}))


def test_the_text_model_of_a_multimodal_one(compared):
    def config(**changes):
        text = {**SMALL, "head_dim": 16, **changes}
        return {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}

    assert compared(config(), config()) == []
    [(kind, text)] = compared(config(), config(rms_norm_eps=1e-3))
    assert kind == "normalization"
    assert "text_config.rms_norm_eps" in text


def test_a_text_model_that_was_taken_out_of_a_multimodal_one(compared):
    text = {**SMALL, "head_dim": 16, "model_type": "gemma3_text"}
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    assert [kind for kind, _ in compared(whole, text)] == ["size"]
    assert [kind for kind, _ in compared(whole, {**text, "rms_norm_eps": 1e-3})] == [
        "normalization", "size",
    ]  # fmt: skip


def test_unknown_keys_are_noted_in_one_line(compared):
    [(kind, text)] = compared(*changed(LLAMA, zeta=1, alpha_2="x" * 500, **{"a\nb": 2}))
    assert kind == "unknown setting"
    assert text.endswith("settings that transformers does not know: a\\nb, alpha_2, zeta")


def test_dropout_is_noted_at_most(compared):
    assert compared(*changed(LLAMA, attention_dropout=0.1)) == [
        ("training setting", "the configurations differ in settings of training: attention_dropout")
    ]


def test_a_context_that_only_the_defaults_tell(compared):
    without = {name: value for name, value in LLAMA.items() if name != "max_position_embeddings"}
    assert compared(without, LLAMA) == [
        ("context length", "the candidate accepts at most 512 tokens, the baseline 2048")
    ]
    assert compared(LLAMA, without) == [
        ("longer context", "the candidate accepts at most 2048 tokens, the baseline 512")
    ]


@pytest.mark.parametrize(("name", "count"), [("num_hidden_layers", 2**31), ("num_labels", 10**30)])
def test_more_layers_or_classes_than_memory_holds(compared, name, count):
    with pytest.raises(EvalError, match=f"{name} = "):
        compared(GEMMA, {**GEMMA, name: count})


@pytest.mark.parametrize("wrong", [{"model_type": "nope"}, {"hidden_size": "wide"}, {"a": 1}])
def test_a_configuration_that_transformers_does_not_take(compared, wrong):
    with pytest.raises(EvalError, match="does not load") as caught:
        compared(LLAMA, {**LLAMA, "model_type": None, **wrong})
    assert "\n" not in str(caught.value)


def test_an_adapter_has_the_configuration_of_its_base(sides_of):
    sides = sides_of({"config.json": LLAMA}, {"config.json": {**LLAMA, "rms_norm_eps": 1e-3}})
    base = sides.candidate
    adapter = Checkpoint(base.path / "x", CAUSAL, 0, "a", base=base, tokenizer=base.tokenizer)
    [finding] = compare(Sides(sides.baseline, adapter, sides.data)).findings
    assert finding.kind == "normalization"


def test_a_gguf_file_has_none_of_its_own(sides_of):
    sides = sides_of({"config.json": LLAMA}, {})
    file = Checkpoint(sides.candidate.path, CAUSAL, 0, "g", file="m.gguf", tokenizer=None)
    comparison = compare(Sides(sides.baseline, file, sides.data))
    assert comparison.not_compared == {"config.json": "a GGUF file has a header in its place"}


@pytest.mark.parametrize("name", ["llama", "bert", "roberta", "albert"])
def test_the_shipped_models_beside_themselves(name):
    checkpoint = open_checkpoint(f"fixtures/models/{name}-tiny")
    comparison = compare(Sides(checkpoint, checkpoint, []))
    assert comparison.findings == ()
    assert comparison.compared == ("configuration",)


def test_severities(compared):
    from compression_gates.evals.checkpoints.findings import KINDS

    assert {KINDS[kind].severity for kind, _ in BREAKS} == {Severity.FAILED}


@pytest.mark.parametrize("base", [LLAMA, {**SMALL, "model_type": "qwen2"}])
def test_attention_to_later_tokens_is_no_unknown_setting(compared, base):
    [(kind, text)] = compared(*changed(base, is_causal=False))
    assert kind == "attention pattern"
    assert text.endswith("is_causal (True for the baseline, False for the candidate)")
    assert compared(*changed(base, is_causal=True)) == []


@pytest.mark.parametrize(
    ("one", "two", "is_same"),
    [(True, 5, False), (True, 0.5, False), (True, 1, True), (False, 0, True), (None, False, True),
     (None, True, False), (None, 0, False), (True, "yes", False)],
)  # fmt: skip
def test_what_a_switch_means(one, two, is_same):
    assert same(one, two) == same(two, one) == is_same
