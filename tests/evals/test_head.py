"""Logits from last hidden states, for the heads of several architectures."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.models.loading import load
from compression_gates.evals.scoring import baseline_predictions
from compression_gates.evals.scoring.baseline_files import BaselineFiles
from compression_gates.evals.scoring.baseline_predictions import (
    check_files,
    prediction_writer,
    stored_predictions,
)
from compression_gates.evals.scoring.head import Predictor
from compression_gates.evals.scoring.prediction_table import PredictionTable
from compression_gates.evals.scoring.protocols import TextProtocol
from compression_gates.evals.scoring.routing import count_expert_tokens
from compression_gates.evals.scoring.text import score_text
from compression_gates.evals.store.measurement import DamagedError

TEXTS = DataSet("texts", (Text("Rufus lives in Merrin and reads the map.", 0), Text("A town.", 1)))
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
MODELS = {
    "llama": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi": {"num_key_value_heads": 4},  # has a bias
}


def causal(name: str, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, "pad_token_id": 0, **MODELS[name]})
    model = AutoModelForCausalLM.from_config(config).eval().to(dtype)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
        if model.get_output_embeddings().bias is not None:
            model.get_output_embeddings().bias.normal_()
    return model


def encoder_decoder():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "t5", vocab_size=96, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4,
        tie_word_embeddings=True, decoder_start_token_id=0,
    )  # fmt: skip
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def inputs_of(model, rows: int = 3, tokens: int = 9) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 96, (rows, tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    return {**inputs, "decoder_input_ids": ids} if model.config.is_encoder_decoder else inputs


def predictor_of(model) -> Predictor:
    return Predictor(SimpleNamespace(model=model), inputs_of(model, 1))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*MODELS, "t5"])
def test_kept_states_give_the_logits_of_the_model(name, dtype, tmp_path):
    model = encoder_decoder().to(dtype) if name == "t5" else causal(name, dtype)
    predictor, inputs = predictor_of(model), inputs_of(model)
    logits = model(**inputs).logits.flatten(0, 1)
    outputs = predictor.run(inputs)
    assert outputs.shape == (27, 32)
    files = BaselineFiles(tmp_path / "rows.npy", tmp_path / "head.npy")
    with prediction_writer(files, predictor, [0, 27], 96, 0) as writer:
        baseline_predictions.keep_outputs(writer, predictor, outputs, [torch.arange(27)], [(0, 27)])
    assert files.rows.stat().st_size < 27 * 32 * dtype.itemsize + 1000
    check_files(files)
    with stored_predictions(files, torch.device("cpu")) as (predictions, count):
        assert count == 27
        parts = list(predictions.pieces({}, torch.arange(27), [(0, 27)], 10))
    stored = torch.cat([part for _, part in parts])
    computed = torch.cat([predictor.logits(outputs[part]) for part, _ in parts])
    assert torch.equal(stored, computed)
    torch.testing.assert_close(stored, logits, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_the_check_of_the_head_is_not_counted_as_tokens_of_experts():
    model = causal("mixtral")
    with torch.inference_mode(), count_expert_tokens(model) as counts:
        predictor_of(model).run(inputs_of(model))
    assert counts()["experts"].sum(1).tolist() == [27 * 2] * 2


def test_the_pass_ends_at_the_head():
    model = causal("gemma2")
    predictor, calls = predictor_of(model), []
    model.lm_head.register_forward_hook(lambda *args: calls.append(args))
    with torch.inference_mode():
        predictor.run(inputs_of(model))
    assert not calls
    assert not model.lm_head._forward_pre_hooks


class _Unusual(nn.Linear):
    def forward(self, states):
        return super().forward(states - states.mean(0, keepdim=True))


def add_to_logits(model) -> None:
    model.register_forward_hook(
        lambda model, args, output: output.__setitem__("logits", output.logits + 1.0)
    )


def mix_rows(model) -> None:
    layer = model.lm_head
    model.lm_head = _Unusual(layer.in_features, layer.out_features, bias=False)
    model.lm_head.weight = layer.weight


def small_unknown_cap(model) -> None:
    model.config.final_logit_softcapping = None
    model.register_forward_hook(
        lambda model, args, output: output.__setitem__("logits", (output.logits / 99).tanh() * 99)
    )


@torch.inference_mode()
@pytest.mark.parametrize("change", [add_to_logits, mix_rows, small_unknown_cap])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_kept_where_the_head_does_not_give_them(change, dtype, tmp_path):
    model = causal("llama", dtype)
    change(model)
    predictor, inputs = predictor_of(model), inputs_of(model)
    logits = model(**inputs).logits.flatten(0, 1)
    assert predictor.head is None
    assert torch.equal(predictor.logits(predictor.run(inputs)), logits)
    files = BaselineFiles(tmp_path / "rows.npy", tmp_path / "head.npy")
    with prediction_writer(files, predictor, [0, 27], 96, math.inf) as writer:
        baseline_predictions.keep_outputs(writer, predictor, logits, [torch.arange(27)], [(0, 27)])
    assert not files.head.exists()
    with stored_predictions(files, torch.device("cpu")) as (predictions, _):
        parts = list(predictions.pieces({}, torch.arange(27), [(0, 27)], 10))
    assert torch.equal(torch.cat([part for _, part in parts]), logits)
    with prediction_writer(files, predictor, [0, 27], 96, 100) as writer:
        assert writer is None


def test_logits_are_kept_where_the_head_is_not_a_plain_layer(tmp_path):
    class Packed(nn.Linear):
        pass

    model = causal("llama")
    model.lm_head.__class__ = Packed
    predictor = predictor_of(model)
    files = BaselineFiles(tmp_path / "rows.npy", tmp_path / "head.npy")
    with prediction_writer(files, predictor, [0, 1], 96, math.inf) as writer:
        assert writer.facts == {"kind": "logits"}
        writer.put(0, torch.zeros(1, 96))
    assert PredictionTable(files.rows).shape == (1, 96)


def test_several_data_sets_share_a_head(causal_checkpoint, tmp_path):
    loaded = load(causal_checkpoint())
    one, two = (BaselineFiles(tmp_path / f"{n}.npy", tmp_path / "head.npy") for n in "ab")
    score_text(loaded, TEXTS, TextProtocol(), keep=one)
    written = one.head.stat().st_mtime_ns
    score_text(loaded, TEXTS, TextProtocol(), keep=two)
    assert one.head.stat().st_mtime_ns == written
    assert not score_text(loaded, TEXTS, TextProtocol(), reference=two)["tv"].any()


def test_the_head_of_another_model_is_not_used(causal_checkpoint, tmp_path):
    one, two = load(causal_checkpoint("one")), load(causal_checkpoint("two", seed=1))
    for name, loaded in (("one", one), ("two", two)):
        (tmp_path / f"of-{name}").mkdir()
        files = BaselineFiles(tmp_path / f"of-{name}/rows.npy", tmp_path / f"of-{name}/head.npy")
        score_text(loaded, TEXTS, TextProtocol(), keep=files)
    (tmp_path / "of-one/head.npy").write_bytes((tmp_path / "of-two/head.npy").read_bytes())
    files = BaselineFiles(tmp_path / "of-one/rows.npy", tmp_path / "of-one/head.npy")
    for use in (lambda: score_text(two, TEXTS, TextProtocol(), reference=files),
                lambda: check_files(files)):  # fmt: skip
        with pytest.raises(DamagedError, match="head is another"):
            use()
