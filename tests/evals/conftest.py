"""Small random checkpoints on disk."""

import json
import shutil

import pytest


@pytest.fixture(scope="session")
def saved_causal(tmp_path_factory):
    """``saved_causal(seed, changes)``: the folder of a random LLaMA, which is made once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from compression_gates.fixtures.world import tokenizers as vocabulary

    tokenizer, folders = vocabulary.causal(64), {}
    sizes = dict(
        vocab_size=576, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip

    def make(seed, changes):
        key = json.dumps([seed, changes], sort_keys=True)
        if key not in folders:
            torch.manual_seed(seed)
            model = LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()
            # Random weights at the usual scale predict almost uniformly; sharpen them.
            with torch.no_grad():
                model.get_input_embeddings().weight.mul_(20)
            folder = tmp_path_factory.mktemp("causal")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            folders[key] = folder
        return folders[key]

    return make


@pytest.fixture
def causal_checkpoint(saved_causal, tmp_path):
    """``causal_checkpoint(name, seed)``: a random LLaMA with the shipped tokenizer's pieces."""
    from compression_gates.evals.checkpoints.checkpoint import open_checkpoint

    def make(name: str = "model", seed: int = 0, **changes):
        shutil.copytree(saved_causal(seed, changes), tmp_path / name, dirs_exist_ok=True)
        return open_checkpoint(tmp_path / name)

    return make


@pytest.fixture(scope="session")
def saved_classifier(tmp_path_factory):
    """The folder of a random BERT classifier with a WordPiece tokenizer."""
    import torch

    from compression_gates.fixtures.world import tokenizers as vocabulary
    from compression_gates.fixtures.world import train_encoder

    tokenizer, folder = vocabulary.wordpiece(64), tmp_path_factory.mktemp("classifier")
    sizes = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )  # fmt: skip
    torch.manual_seed(0)
    train_encoder.build("bert", tokenizer, **sizes).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def classifier_checkpoint(saved_classifier, tmp_path):
    """A random BERT classifier with a WordPiece tokenizer."""
    from compression_gates.evals.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint(shutil.copytree(saved_classifier, tmp_path / "classifier"))
