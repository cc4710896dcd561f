"""Small random checkpoints on disk."""

import pytest


@pytest.fixture
def causal_checkpoint(tiny_llama, tmp_path):
    """``causal_checkpoint(name, seed)``: a random LLaMA with the shipped tokenizer's pieces."""
    import torch
    from transformers import LlamaForCausalLM

    from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
    from compression_gates.fixtures.world import tokenizers as vocabulary

    tokenizer = vocabulary.causal(64)

    def make(name: str = "model", seed: int = 0, **changes):
        config = type(tiny_llama.config)(
            **{**tiny_llama.config.to_dict(), "vocab_size": 576, "max_position_embeddings": 128,
               "bos_token_id": 1, "eos_token_id": 2, **changes}
        )  # fmt: skip
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        # Random weights at the usual scale predict almost uniformly; sharpen them.
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(20)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return open_checkpoint(tmp_path / name)

    return make


@pytest.fixture
def classifier_checkpoint(tiny_encoder, tmp_path):
    """A random BERT classifier with a WordPiece tokenizer."""
    from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
    from compression_gates.fixtures.world import tokenizers as vocabulary
    from compression_gates.fixtures.world import train_encoder

    tokenizer = vocabulary.wordpiece(64)
    sizes = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )  # fmt: skip
    model = train_encoder.build("bert", tokenizer, **sizes).eval()
    model.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    return open_checkpoint(tmp_path / "classifier")
