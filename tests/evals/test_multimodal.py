"""Models of text and images are judged on text."""

import json
import shutil

import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file

from compression_gates.evals.bench import Bench
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, CLASSIFIER, open_checkpoint
from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.data.items import DataSet, Prompt, ProtocolOverrides, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import load
from compression_gates.evals.store.store import Store

TEXTS = DataSet("texts", tuple(Text(f"Rufus lives in Merrin, number {i}.", i) for i in range(3)))
SHORT = ProtocolOverrides(max_new_tokens=2)
PROMPTS = DataSet("prompts", (Prompt("Question: Where?", "there", 0),), SHORT)
TEXT = dict(
    vocab_size=576, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
    bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)


def gemma3():
    vision = dict(VISION, image_size=28, patch_size=14)
    config = T.Gemma3Config(
        text_config=dict(TEXT, sliding_window=64), vision_config=vision, mm_tokens_per_image=4,
        image_token_index=570, boi_token_index=571, eoi_token_index=572,
    )  # fmt: skip
    return T.Gemma3ForConditionalGeneration(config)


def mistral3():
    config = T.Mistral3Config(
        text_config=dict(TEXT, model_type="mistral"),
        vision_config=dict(VISION, model_type="pixtral", image_size=28, patch_size=14, head_dim=8),
        image_token_index=570,
    )
    return T.Mistral3ForConditionalGeneration(config)


def qwen2_5_vl():
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    config = T.Qwen2_5_VLConfig(
        text_config=dict(text, rope_parameters=dict(
            rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2]
        )),
        vision_config=dict(depth=1, hidden_size=32, out_hidden_size=32, num_heads=4,
                           intermediate_size=48, patch_size=14, fullatt_block_indexes=[0]),
        image_token_id=570, video_token_id=571, vision_start_token_id=572, vision_end_token_id=573,
    )  # fmt: skip
    return T.Qwen2_5_VLForConditionalGeneration(config)


def llama4():
    text = dict(TEXT, intermediate_size_mlp=48, num_local_experts=2, num_experts_per_tok=1)
    config = T.Llama4Config(
        text_config=text,
        vision_config=dict(VISION, image_size=28, patch_size=14, projector_input_dim=32,
                           projector_output_dim=32, vision_output_dim=32),
        image_token_index=570, boi_token_index=571, eoi_token_index=572,
    )  # fmt: skip
    return T.Llama4ForConditionalGeneration(config)


def llava():
    config = T.LlavaConfig(
        text_config=dict(TEXT, model_type="llama"),
        vision_config=dict(VISION, model_type="clip_vision_model", image_size=28, patch_size=14,
                           projection_dim=32),
        image_token_index=570,
    )  # fmt: skip
    return T.LlavaForConditionalGeneration(config)


@pytest.fixture
def folder_of(tmp_path):
    from compression_gates.fixtures.world import tokenizers as vocabulary

    def make(build):
        torch.manual_seed(0)
        model = build().eval()
        with torch.no_grad():  # random weights at the usual scale predict almost uniformly
            model.get_input_embeddings().weight.mul_(20)
        model.save_pretrained(tmp_path / "base")
        vocabulary.causal(64).save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return make


@pytest.mark.parametrize(
    "build",
    [gemma3, qwen2_5_vl, llama4, llava, pytest.param(mistral3, marks=pytest.mark.full)],
)
def test_one_is_judged_against_a_copy_and_a_broken_one(build, folder_of, tmp_path):
    base = folder_of(build)
    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / "README.txt").write_text("a copy")
    broken = shutil.copytree(base, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("o_proj.weight"):
            tensor.zero_()
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})

    baseline = open_checkpoint(base)
    assert (baseline.kind, baseline.multimodal, baseline.context) == (CAUSAL, True, 128)
    bench = Bench(Store(tmp_path / "store"))
    tasks = {"text": TEXTS, "answers": PROMPTS}
    drift = {}
    for path in (copy, broken):
        candidate = open_checkpoint(path)
        compared = bench.compare(baseline, candidate, tasks)
        assert not compared.of(Severity.FAILED)
        scores = bench.scores(candidate, tasks, baseline)
        used = bench.compare_use(baseline, candidate)
        assert not used.of(Severity.FAILED)
        assert not used.not_compared
        assert scores.footprint["parameters"] > 0
        drift[path] = scores["text"].measurement["js"].mean()
    assert drift[copy] == 0
    assert drift[broken] > 0


@pytest.mark.parametrize("build", [gemma3, qwen2_5_vl])
def test_text_is_scored_as_the_class_that_the_checkpoint_names_does(build, folder_of):
    base = folder_of(build)
    loaded = load(open_checkpoint(base))
    plain = type(build()).from_pretrained(base).eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.equal(loaded.model(**loaded.inputs(ids)).logits, expected)


def test_the_configuration_of_older_files_is_flat(folder_of):
    base = folder_of(qwen2_5_vl)
    config = json.loads((base / "config.json").read_text())
    flat = {**config.pop("text_config"), **config, "model_type": "qwen2_5_vl"}
    (base / "config.json").write_text(json.dumps(flat))
    checkpoint = open_checkpoint(base)
    assert (checkpoint.kind, checkpoint.context) == (CAUSAL, 128)


def test_a_classifier_beside_an_image_encoder_is_a_classifier(folder_of):
    base = folder_of(gemma3)
    config = json.loads((base / "config.json").read_text())
    config["architectures"] = ["Gemma3ForSequenceClassification"]
    (base / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(base)
    assert (checkpoint.kind, checkpoint.multimodal) == (CLASSIFIER, False)


@pytest.mark.parametrize(
    "described",
    [
        {"architectures": ["BlipForConditionalGeneration"], "label": 1},
        {"architectures": ["WhisperForConditionalGeneration"], "vision_config": {"depth": 1}},
    ],
)
def test_what_has_no_decoder_of_text_is_no_such_model(folder_of, described):
    base = folder_of(gemma3)
    if "vision_config" in described:
        described["is_encoder_decoder"] = True
    (base / "config.json").write_text(json.dumps(described))
    if described.get("is_encoder_decoder"):
        assert not open_checkpoint(base).multimodal
    else:
        with pytest.raises(EvalError, match="no model that generates text, classifies it"):
            open_checkpoint(base)
