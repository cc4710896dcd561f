"""Checkpoints that hang, exhaust memory or abort a library are refused quickly in one line."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from compression_gates.evals.bench import Bench
from compression_gates.evals.checkpoints import description, tokenizer_trial
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint, open_checkpoint
from compression_gates.evals.checkpoints.description import check_description
from compression_gates.evals.checkpoints.files import read_files
from compression_gates.evals.checkpoints.names import POSITIONS
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import load, load_tokenizer
from compression_gates.evals.store.store import Store
from compression_gates.fixtures.world.shipped import MODELS, NAMES

TEXTS = DataSet("texts", (Text("a" * 60 + "b and a story", 0), Text("another one", 1)))
SOON = 120
"""Seconds on a busy machine; without the checks, each test exhausts memory or never ends."""


def edit(checkpoint, name, change):
    file = checkpoint.path / name
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))
    return open_checkpoint(checkpoint.path)


def assert_refused(act, *parts):
    start = time.monotonic()
    with pytest.raises(EvalError) as caught:
        act()
    assert time.monotonic() - start < SOON
    assert str(caught.value).isprintable()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("num_hidden_layers", 2**31, "num_hidden_layers = 2147483648, but the weights consist of"),
        ("num_hidden_layers", 300, "num_hidden_layers = 300, but the weights consist of"),
        ("num_hidden_layers", 2**400, "num_hidden_layers = a number of 401 bits"),
        ("max_position_embeddings", 2**40, "is more than 268,435,456 positions"),
        ("max_source_positions", 2**40, "is more than 268,435,456 positions"),
        *(
            (name, 2**40, f"{name} = 1099511627776 is more than 268,435,456 positions")
            for name in POSITIONS
        ),
        ("vocab_size", 2**40, "weights"),
        ("intermediate_size", 2**36, "weights"),
        ("hidden_size", 2**31, ""),
    ],
)
def test_sizes_out_of_proportion_to_the_weights(causal_checkpoint, key, value, part):
    broken = edit(causal_checkpoint(), "config.json", lambda c: c.update({key: value}))
    assert_refused(lambda: load(broken), part)


QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 16,
        "num_hidden_layers": 2**31 - 1}  # fmt: skip
"""A configuration whose class builds a list with one entry per layer."""


def as_qwen(checkpoint):
    broken = edit(checkpoint, "config.json", lambda c: (c.clear(), c.update(QWEN)))
    file = broken.path / "tokenizer_config.json"
    described = json.loads(file.read_text())
    described.pop("tokenizer_class")  # the configuration says which one it is
    file.write_text(json.dumps(described))
    return broken


def test_layers_are_counted_before_a_class_lists_them(causal_checkpoint, tmp_path):
    baseline, broken = causal_checkpoint("one"), as_qwen(causal_checkpoint("two", seed=1))
    part = "num_hidden_layers = 2147483647, but the weights consist of"
    assert_refused(lambda: load_tokenizer(broken), part)
    bench, tasks = Bench(Store(tmp_path)), {"text": TEXTS}
    assert_refused(lambda: bench.compare(baseline, broken, tasks), part)
    assert_refused(lambda: bench.compare(broken, baseline, tasks), part)


def test_a_configuration_beside_the_tokenizer_of_an_adapter(causal_checkpoint, tmp_path):
    base, broken = causal_checkpoint("base"), as_qwen(causal_checkpoint("broken"))
    adapter = Checkpoint(tmp_path, CAUSAL, 1, "adapter", base=base, tokenizer=broken.path)
    assert_refused(
        lambda: load_tokenizer(adapter),
        "num_hidden_layers = 2147483647, but the weights consist of",
    )


def test_sizes_of_another_architecture(causal_checkpoint):
    """GPT-2 has other names for these settings, and builds masks over its positions."""
    gpt = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 576}
    for change in ({"n_layer": 10**6}, {"n_positions": 2**34}, {"n_inner": 2**40}):
        broken = edit(causal_checkpoint(), "config.json", lambda c, new=change: c.update(gpt | new))
        assert_refused(lambda broken=broken: load(broken))


def test_layers_within_a_text_configuration(causal_checkpoint):
    broken = edit(
        causal_checkpoint(), "config.json", lambda c: c.update(text_config={"n_layers": 2**31})
    )
    assert_refused(lambda: check_description(broken), "n_layers")


@pytest.mark.parametrize("name", NAMES)
def test_what_ships_is_in_proportion(name):
    checkpoint = open_checkpoint(MODELS / name)
    read_files(checkpoint.path)
    check_description(checkpoint)
    load(checkpoint)


def test_shared_layers_need_no_tensors_of_their_own(tiny_encoder, tmp_path):
    model = tiny_encoder("albert")
    model.config.num_hidden_layers = 96
    model.save_pretrained(tmp_path / "albert")
    for file in (MODELS / "albert-tiny").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "albert")
    check_description(open_checkpoint(tmp_path / "albert"))


@pytest.mark.parametrize(
    "value",
    ["flex_attention", "kernels-community/flash-attn", {"": "flex_attention"}, "paged|sdpa"],
)
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_that_is_compiled_or_fetched(causal_checkpoint, key, value):
    broken = edit(causal_checkpoint(), "config.json", lambda c: c.update({key: value}))
    assert_refused(
        lambda: load(broken), "is refused as unsafe: it is compiled or downloaded on first use"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("experts_implementation", "sonicmoe"),
        ("_experts_implementation", "deepgemm"),
        ("experts_implementation", {"": "eager", "text_config": "sonicmoe"}),
        ("chunkwise_kernel", "chunkwise--triton_xl_chunk"),
        ("sequence_kernel", "native_sequence__triton"),
        ("step_kernel", "triton"),
        ("text_config", {"experts_implementation": "deepgemm"}),
        ("per_layer_config", {"0": {"experts_implementation": "deepgemm"}}),
        ("parts", [1, {"attn_implementation": "flex_attention"}]),
    ],
)
def test_other_code_that_is_compiled_or_fetched(causal_checkpoint, key, value):
    broken = edit(causal_checkpoint(), "config.json", lambda c: c.update({key: value}))
    assert_refused(lambda: load(broken), "is refused as unsafe")


def test_a_flash_attention_where_kernels_can_be_fetched(causal_checkpoint, monkeypatch):
    checkpoint = edit(
        causal_checkpoint(), "config.json",
        lambda c: c.update(attn_implementation="flash_attention_2"),
    )  # fmt: skip
    monkeypatch.setattr(description, "find_spec", lambda name: None)
    check_description(checkpoint)
    monkeypatch.setattr(description, "find_spec", lambda name: object())
    assert_refused(lambda: check_description(checkpoint), "is refused as unsafe")


@pytest.mark.parametrize("value", ["eager", "batched_mm", "grouped_mm", None, {"": "eager"}])
def test_experts_that_are_plain(causal_checkpoint, value):
    check_description(
        edit(causal_checkpoint(), "config.json", lambda c: c.update(experts_implementation=value))
    )


@pytest.mark.parametrize("value", ["eager", "sdpa", None])
def test_attention_that_is_plain(causal_checkpoint, value):
    load(edit(causal_checkpoint(), "config.json", lambda c: c.update(attn_implementation=value)))


def test_a_decoder_that_claims_to_be_an_encoder_decoder(causal_checkpoint):
    broken = edit(causal_checkpoint(), "config.json", lambda c: c.update(is_encoder_decoder=True))
    assert_refused(
        lambda: load(broken), "sets is_encoder_decoder, but LlamaForCausalLM has no encoder"
    )


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "generation_config.json", "chat_template.jinja",
             "special_tokens_map.json", "tokenizer.json"],
)  # fmt: skip
def test_a_named_pipe_is_not_waited_for(causal_checkpoint, name):
    checkpoint = causal_checkpoint()
    (checkpoint.path / name).unlink(missing_ok=True)
    os.mkfifo(checkpoint.path / name)
    assert_refused(lambda: load(checkpoint), f"{name} is not a regular file")


def test_weights_and_configurations_that_are_pipes(causal_checkpoint):
    for name in ("model.safetensors", "config.json"):
        folder = causal_checkpoint(name).path
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert_refused(lambda folder=folder: open_checkpoint(folder))


def test_a_link_to_a_device(causal_checkpoint):
    checkpoint = causal_checkpoint()
    (checkpoint.path / "added_tokens.json").symlink_to("/dev/zero")
    assert_refused(lambda: load(checkpoint), "added_tokens.json lies outside of the folder")


BACKTRACKS = {"type": "Split", "pattern": {"Regex": "(a|a)*$|(a+)+$"}, "behavior": "Isolated",
              "invert": False}  # fmt: skip
MULTIPLIES = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 60}
    ] * 6,
}  # fmt: skip
TOKENIZERS = {
    "backtracks": lambda t: t.update(pre_tokenizer=BACKTRACKS),
    "multiplies": lambda t: t.update(normalizer=MULTIPLIES),
    "no JSON for the library": lambda t: t.update(model={"type": "none"}),
    "a byte pair of nothing": lambda t: t.update(
        model={"type": "BPE", "vocab": {"a": 0}, "merges": [["zz", "qq"]]}
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_fails_does_not_end_the_session(
    causal_checkpoint, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(tokenizer_trial, "_MEMORY", 1 << 29)
    baseline, broken = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    healthy = causal_checkpoint("three", seed=2)
    edit(broken, "tokenizer.json", TOKENIZERS[name])
    broken = open_checkpoint(broken.path)
    bench, tasks = Bench(Store(tmp_path)), {"text": TEXTS}
    assert_refused(lambda: bench.compare(baseline, broken, tasks), "does not encode the data: ")
    assert not bench.compare(baseline, healthy, tasks).findings
    assert bench.scores(healthy, tasks, baseline)["text"]["js"].size


def test_a_tokenizer_that_never_ends_is_killed(causal_checkpoint, monkeypatch, tmp_path):
    """Replace the encoding script by one that behaves like native code that never returns."""
    script = tmp_path / "encode.py"
    script.write_text("import signal\nsignal.pthread_sigmask(0, range(1, 32))\nwhile True: pass\n")
    monkeypatch.setattr(tokenizer_trial, "_SCRIPT", script)
    monkeypatch.setattr(tokenizer_trial, "_SECONDS", 1)
    monkeypatch.setattr(tokenizer_trial, "_problems", {})
    checkpoint = causal_checkpoint()
    assert_refused(
        lambda: tokenizer_trial.check_encoding(checkpoint, [TEXTS]), "no end after 1 seconds"
    )


def test_a_quantized_cache_compiles_nothing(causal_checkpoint):
    quanto = pytest.importorskip("optimum.quanto")
    from optimum.quanto.tensor.packed import PackedTensor

    build = Path(quanto.__file__).parent / "library" / "extensions" / "cpp" / "build"
    before = build.exists()
    checkpoint = causal_checkpoint()
    for bits in (2, 4):
        config = {"backend": "quanto", "nbits": bits, "q_group_size": 8, "residual_length": 4}
        edit(checkpoint, "generation_config.json", lambda g, new=config: g.update(
            cache_implementation="quantized", cache_config=new))  # fmt: skip
        loaded = load(open_checkpoint(checkpoint.path))
        ids = torch.arange(24)[None]
        tokens = loaded.model.generate(ids, max_new_tokens=8, attention_mask=torch.ones_like(ids))
        assert tokens.shape[1] > 24
        values = torch.randint(0, 2**bits, (16, 6), dtype=torch.uint8)
        assert PackedTensor.pack(values, bits).unpack().equal(values)
    assert build.exists() == before


@pytest.mark.parametrize("settings", [{"nbits": 3}, {"backend": "none"}, {"nbits": 4, "extra": 1}])
def test_invalid_settings_of_a_cache(causal_checkpoint, settings):
    broken = edit(causal_checkpoint(), "generation_config.json", lambda g: g.update(
        cache_implementation="quantized", cache_config=settings))  # fmt: skip
    assert_refused(lambda: load(broken), "does not load")


def test_output_of_libraries_is_not_shown_on_the_terminal(copies, capfd, caplog):
    made = copies()
    evil = "z\x1b[31m\n::error::"
    made.change("config.json", lambda c: c.update(rope_parameters={"rope_type": evil, evil: 1}))
    assert all(text.isprintable() for _, text in made.findings().values())
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
