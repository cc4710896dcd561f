"""Readers and encoder-decoders of a user's own, judged in one command."""

import json

import pytest
import torch

from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world import tokenizers as vocabulary


@pytest.fixture
def files(tmp_path):
    passages = [corpus.passage("held-out", index) for index in range(32)]
    questions = [
        {"question": p.questions[0].text, "context": p.text,
         "answers": {"text": [p.questions[0].answer]}}
        for p in passages
    ]  # fmt: skip
    summaries = [{"article": p.text, "highlights": p.summary} for p in passages]
    for name, rows in (("questions", questions), ("summaries", summaries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def pair_of(model, tokenizer, folder):
    """A baseline, and a candidate that differs by a little noise."""
    for name, noise in (("base", 0.0), ("candidate", 1e-3)):
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(noise * torch.randn_like(parameter) * parameter.std())
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return ["--baseline", folder / "base", "--candidate", folder / "candidate"]


def test_a_reader(gates, files, bert_config):
    from transformers import BertForQuestionAnswering

    tokenizer = vocabulary.wordpiece(128)
    torch.manual_seed(0)
    config = bert_config(tokenizer, max_position_embeddings=128, initializer_range=0.3)
    both = pair_of(BertForQuestionAnswering(config), tokenizer, files)
    done = gates(*both, "--data", f"questions={files / 'questions.jsonl'}", "-m", "quality")
    assert done.returncode == 0, done.stdout
    # A random model answers nothing right, so there is nothing that it could lose.
    assert "the baseline has exact match 0%, which is no better than chance" in done.stdout
    heads = next(line for line in done.stdout.splitlines() if line.startswith("base "))
    assert heads.split()[1:] == ["JS", "JS/naive", "EM", "F1"]
    refused = gates(*both, "--text", files / "questions.jsonl")
    assert refused.returncode == 4
    assert "--text cannot be used with extractive models; give --questions" in refused.stderr


def test_an_encoder_decoder(gates, files):
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = vocabulary.causal(512)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=576, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, pad_token_id=0,
        decoder_start_token_id=0, eos_token_id=2,
    )  # fmt: skip
    both = pair_of(T5ForConditionalGeneration(config), tokenizer, files)
    done = gates(*both, "--data", f"summaries={files / 'summaries.jsonl'}", "-m", "quality")
    assert done.returncode == 0, done.stdout
    heads = next(line for line in done.stdout.splitlines() if line.startswith("base "))
    assert heads.split()[1:] == ["perplexity", "JS", "JS/naive", "ROUGE-1", "length"]
    assert "with a vocabulary of 576, which is no better than chance" in done.stdout
    assert "the baseline has ROUGE-1 0%" in done.stdout
