"""Compressed checkpoints as the libraries that own their formats write them.

Each compresses ``base`` into the directory ``out`` and returns what ``--candidate`` takes.
"""

import json
import shutil
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch

from tests.end_to_end.k_quants import ENCODERS, SUPERBLOCK, quantize


def _parts(base: Path, **settings):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, **{"dtype": "auto", **settings})
    return model, AutoTokenizer.from_pretrained(base)


def sharded(base: Path, out: Path) -> Path:
    model, tokenizer = _parts(base)
    model.save_pretrained(out, max_shard_size="1MB")
    tokenizer.save_pretrained(out)
    return out


def compressed_tensors(scheme: str):
    """One of the library's preset schemes, scales from the weights' own range."""

    def make(base: Path, out: Path) -> Path:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationConfig,
            QuantizationStatus,
            apply_quantization_config,
            preset_name_to_scheme,
        )
        from compressed_tensors.quantization.utils import calculate_qparams

        model, tokenizer = _parts(base)
        preset = preset_name_to_scheme(scheme, targets=["Linear"])
        if preset.weights.group_size:
            preset.weights.group_size = 32
        apply_quantization_config(
            model, QuantizationConfig(config_groups={"all": preset}, ignore=["lm_head"])
        )
        for module in model.modules():
            weights = getattr(getattr(module, "quantization_scheme", None), "weights", None)
            if weights is None:
                continue
            groups = module.weight.data.unflatten(1, (-1, weights.group_size or module.in_features))
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), weights)
            module.weight_scale.data.copy_(scale.view_as(module.weight_scale))
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.data.copy_(zero.view_as(module.weight_zero_point))
            module.quantization_status = QuantizationStatus.FROZEN
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(out)
        compressor.update_config(out)
        tokenizer.save_pretrained(out)
        return out

    return make


def torchao(base: Path, out: Path) -> Path:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(quant_type=Int8WeightOnlyConfig())
    model, tokenizer = _parts(base, quantization_config=config)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def bitsandbytes(base: Path, out: Path) -> Path:
    from transformers import BitsAndBytesConfig

    # Outliers are sought over a whole batch: without a threshold of zero, numbers depend on it.
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    model, tokenizer = _parts(base, quantization_config=config, device_map="cpu")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def gguf(kind: str | Sequence[str], header=lambda writer: None, tokenizer: bool = False):
    """A file as llama.cpp's converter lays out a LLaMA.

    Args:
        kind: in which all matrices are stored, or several in turn.
        header: adds keys to a ``GGUFWriter``.
        tokenizer: whether the file has the baseline's tokenizer and chat template.
    """

    def make(base: Path, out: Path) -> Path:
        import gguf as library
        from safetensors.numpy import load_file

        config = json.loads((base / "config.json").read_text())
        out.mkdir()
        writer = library.GGUFWriter(str(out / "model.gguf"), "llama")
        writer.add_vocab_size(config["vocab_size"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_dimension_count(config["head_dim"])
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        if tokenizer:
            _add_tokenizer(writer, base)
        header(writer)
        names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        kinds = cycle([kind] if isinstance(kind, str) else kind)
        for name, weight in load_file(base / "model.safetensors").items():
            count = heads.get(name.split(".")[-2])
            if count:  # llama.cpp rotates neighbours, transformers halves
                weight = weight.reshape(count, 2, -1, weight.shape[1]).swapaxes(1, 2)
                weight = weight.reshape(-1, weight.shape[-1])
            name = names.get_name(name, (".weight",))
            stored = next(kinds) if weight.ndim == 2 else "F32"
            type_ = library.GGMLQuantizationType[stored]
            if stored in ENCODERS:
                data = quantize(weight, stored)
            else:
                data = library.quants.quantize(weight, type_)
            writer.add_tensor(name, data, raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return out / "model.gguf"

    return make


def _add_tokenizer(writer, base: Path) -> None:
    """The tokenizer of a directory, which is a Unigram, as llama.cpp's converter writes one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    pieces = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types(
        [2 if i == tokenizer.unk_token_id else 3 if i in special else
         6 if piece.startswith("<0x") else 1 for i, (piece, _) in enumerate(pieces)]
    )  # fmt: skip
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)


def doubled(base: Path, out: Path) -> Path:
    """A LLaMA that computes the same with twice the sizes, so that rows are whole superblocks."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, out)
    config = json.loads((base / "config.json").read_text())
    neurons = -config["intermediate_size"] % SUPERBLOCK
    config |= {
        "tie_word_embeddings": False,
        "intermediate_size": neurons + config["intermediate_size"],
    }
    for size in ("hidden_size", "num_attention_heads", "num_key_value_heads"):
        config[size] *= 2
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    made = {}
    for name, weight in weights.items():
        if weight.ndim == 1:
            weight = torch.cat([weight, weight])
        elif "embed" in name:
            weight = torch.cat([weight, weight], 1)
        elif "lm_head" in name:
            weight = torch.cat([weight, weight], 1) / 2
        elif "gate_proj" in name or "up_proj" in name:
            weight = torch.nn.functional.pad(torch.cat([weight, weight], 1) / 2, (0, 0, 0, neurons))
        elif "down_proj" in name:
            weight = torch.nn.functional.pad(torch.cat([weight, weight]), (0, neurons))
        else:
            weight = torch.cat([weight, weight], 1) / 2
            weight = torch.cat([weight, weight])
        made[name] = weight.contiguous()
    for file in out.iterdir():
        file.chmod(0o644)
    save_file(made, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    return out


def lora(base: Path, out: Path) -> Path:
    """An adapter alone, as after little training, which names its base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, _ = _parts(base)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.002)
    model.save_pretrained(out)
    return out


def gptqmodel(method: str):
    """Four bits by GPTQModel, on the CPU: ``gptq`` or ``awq``."""

    def make(base: Path, out: Path) -> Path:
        from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
        from gptqmodel.looper.awq_processor import AWQProcessor
        from gptqmodel.quantization import FORMAT, METHOD

        from compression_gates.fixtures.world import corpus

        settings, more = {"desc_act": False}, {}
        if method == "awq":
            settings = {"method": METHOD.AWQ, "format": FORMAT.GEMM, "sym": False}
            more = {"backend": BACKEND.AWQ_TORCH}  # by itself it takes a kernel for GPUs
            # Its search for what to clip wants layers of multiples of 64 outputs.
            AWQProcessor._search_best_clip = lambda *args, **kwargs: []
        config = QuantizeConfig(
            bits=4, group_size=32, device="cpu", offload_to_disk=False, **settings
        )
        model = GPTQModel.load(str(base), config)
        _, tokenizer = _parts(base)
        texts = [corpus.passage("calibration", index).text for index in range(64)]
        model.quantize([dict(tokenizer(text)) for text in texts], batch_size=1, **more)
        model.save(str(out))
        tokenizer.save_pretrained(out)
        return out

    return make


MAKERS = {
    "sharded": sharded,
    "w4a16": compressed_tensors("W4A16"),
    "w8a8": compressed_tensors("W8A8"),
    "fp8": compressed_tensors("FP8_DYNAMIC"),
    "torchao-int8": torchao,
    "bitsandbytes-int8": bitsandbytes,
    "gguf-q8": gguf("Q8_0"),
    "gguf-q4": gguf("Q4_0"),
    "lora": lora,
}
REFUSED = {"w4a16-asymmetric": compressed_tensors("W4A16_ASYM")}
"""What transformers 5.23 does not load, and the suite must not judge."""
