"""Batches of texts, and augmentation."""

import json

import pytest
import torch

from compression_gates.compression.__main__ import main
from compression_gates.compression.apply import compress
from compression_gates.compression.architectures import trial
from compression_gates.compression.architectures.models import (
    ARCHITECTURES,
    VOCABULARY,
    Architecture,
)
from compression_gates.compression.distillation.augment import (
    augment_texts,
    back_translate,
    sample_texts,
)
from compression_gates.compression.errors import CompressionError, RecipeError
from compression_gates.compression.model.pretrained import load
from compression_gates.compression.model.texts import (
    batches_of,
    check_labels,
    longest_input,
    padded,
    padding_token,
)
from compression_gates.compression.recipe import Recipe, needs_data
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world import tokenizers as vocabulary
from tests.compression import zoo

REVIEWS = [corpus.review("calibration", index) for index in range(40)]
TEXTS, LABELS = [item.text for item in REVIEWS], [item.label for item in REVIEWS]


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.wordpiece(64)


@pytest.fixture
def classifier(tokenizer):
    from transformers import AutoModelForSequenceClassification, BertConfig

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=66,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()


def make_batches(text, model, tokenizer, texts=TEXTS, labels=LABELS):
    return batches_of(Recipe.parse(text).steps[0], model, tokenizer, texts, labels)


def test_batches_contain_every_text_with_its_label(classifier, tokenizer):
    batches = make_batches("wanda-50", classifier, tokenizer)
    assert [len(batch["input_ids"]) for batch in batches] == [16, 16, 8]
    rows = [row for batch in batches for row in zip(*batch.values(), strict=True)]
    keys = list(batches[0])
    for row, text, label in zip(rows, TEXTS, LABELS, strict=True):
        item = dict(zip(keys, row, strict=True))
        length = int(item["attention_mask"].sum())
        assert item["input_ids"][:length].tolist() == tokenizer(text).input_ids
        assert not item["attention_mask"][length:].any()
        assert int(item["labels"]) == label


def test_samples_length_and_seed(classifier, tokenizer):
    def ids(text):
        return [tuple(row.tolist()) for b in make_batches(text, classifier, tokenizer)
                for row in b["input_ids"]]  # fmt: skip

    few = ids("wanda-50,samples=10,length=8")
    assert len(few) == 10
    assert {len(row) for row in few} == {8}
    assert few == ids("wanda-50,samples=10,length=8")
    assert few != ids("wanda-50,samples=10,length=8,seed=1")


def test_training_shuffles_and_sets_the_batch_size(classifier, tokenizer):
    first = make_batches("movement-50,batch=40", classifier, tokenizer)
    assert [len(batch["input_ids"]) for batch in first] == [40]
    assert sorted(first[0]["labels"].tolist()) == sorted(LABELS)
    assert first[0]["labels"].tolist() != LABELS


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], None, "no text to calibrate"),
        (["a", "b"], [0, 2], "text 2 has label 2, but the model has 2 classes"),
    ],
)
def test_invalid_texts_and_labels(classifier, tokenizer, texts, labels, message):
    with pytest.raises(CompressionError, match=message):
        make_batches("wanda-50", classifier, tokenizer, texts, labels)


@pytest.fixture(scope="module")
def generator():
    """A small random model and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = vocabulary.causal(64)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def test_sampled_texts_start_with_their_prompts(generator):
    passages = [corpus.passage("calibration", index).text for index in range(20)]
    state = torch.get_rng_state()
    texts = sample_texts(*generator, passages, max_new_tokens=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(texts) == 20
    _, tokenizer = generator
    for text, passage in zip(texts, passages, strict=True):
        prompt = tokenizer.decode(tokenizer(passage, add_special_tokens=False).input_ids[:4])
        assert text.split()[:2] == prompt.split()[:2]
    assert texts == sample_texts(*generator, passages, max_new_tokens=8)
    assert texts != sample_texts(*generator, passages, max_new_tokens=8, seed=1)


@pytest.fixture
def translators(tokenizer, tmp_path):
    """Two small random seq2seq models on disk."""
    from transformers import T5Config, T5ForConditionalGeneration

    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=len(tokenizer), d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2,
            pad_token_id=tokenizer.pad_token_id, decoder_start_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.sep_token_id,
        )  # fmt: skip
        T5ForConditionalGeneration(config).save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
        paths.append(str(tmp_path / str(seed)))
    return paths


def test_back_translation_applies_both_models(translators, tokenizer):
    from transformers import T5ForConditionalGeneration

    models = [T5ForConditionalGeneration.from_pretrained(name).eval() for name in translators]
    texts = back_translate(
        (models[0], tokenizer), (models[1], tokenizer), TEXTS[:3], max_new_tokens=6
    )
    for text, result in zip(TEXTS[:3], texts, strict=True):
        for model in models:
            ids = tokenizer(text, return_tensors="pt")
            out = model.generate(
                input_ids=ids.input_ids, attention_mask=ids.attention_mask, do_sample=False,
                max_new_tokens=6,
            )  # fmt: skip
            text = tokenizer.decode(out[0], skip_special_tokens=True)
        assert text == result


def test_labels_of_augmented_texts(translators, generator, tmp_path):
    model, tokenizer = generator
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    texts, labels = augment_texts(
        TEXTS[:3], LABELS[:3], str(tmp_path / "lm"), translators, 0, torch.device("cpu")
    )
    assert texts[:3] == TEXTS[:3]
    assert labels == [*LABELS[:3], None, None, None, *LABELS[:3]]


def test_distillation_on_augmented_texts(classifier, tokenizer, generator, translators, tmp_path):
    from compression_gates.compression.apply import compress

    model, generator_tokenizer = generator
    model.save_pretrained(tmp_path / "lm")
    generator_tokenizer.save_pretrained(tmp_path / "lm")
    text = f"distill,steps=2,generate={tmp_path / 'lm'},translate={'|'.join(translators)}"
    batches = make_batches(text, classifier, tokenizer, TEXTS[:4], LABELS[:4])
    assert sum(len(batch["input_ids"]) for batch in batches) == 12
    compress(classifier, Recipe.parse(text), batches)


def test_missing_augmentation_model():
    with pytest.raises(CompressionError, match=r"generate = /nowhere: no such directory"):
        augment_texts(["a"], None, "/nowhere", (), 0, torch.device("cpu"))


def test_causal_batches_have_no_labels():
    model = zoo.make("llama")
    tokenizer = vocabulary.causal(64)
    model.resize_token_embeddings(len(tokenizer))
    batches = make_batches(
        "wanda-50", model, tokenizer, [corpus.passage("calibration", 0).text], None
    )
    assert set(batches[0]) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("limit", [int(1e30), 10**6])
def test_length_is_limited_by_the_model(classifier, limit):
    fresh_tokenizer = vocabulary.wordpiece(64)
    fresh_tokenizer.model_max_length = limit
    (batch,) = make_batches("wanda-50", classifier, fresh_tokenizer, [" ".join(TEXTS)], None)
    assert batch["input_ids"].shape == (1, 66)


def test_tokenizer_is_not_changed(classifier):
    fresh_tokenizer = vocabulary.wordpiece(64)
    fresh_tokenizer.pad_token = None
    batches = make_batches("wanda-50", classifier, fresh_tokenizer)
    assert fresh_tokenizer.pad_token is None
    assert any(not batch["attention_mask"].all() for batch in batches)


def test_partly_labelled_texts(classifier, tokenizer):
    (batch,) = make_batches("distill,steps=1", classifier, tokenizer, TEXTS[:4], [1, None, 0, None])
    assert sorted(batch["labels"].tolist()) == [-100, -100, 0, 1]


def test_single_output_is_rejected_for_cross_entropy(tokenizer):
    from transformers import AutoModelForSequenceClassification, BertConfig

    from compression_gates.compression.apply import compress

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config).eval()
    batches = make_batches("taylor-50", model, tokenizer, TEXTS, None)
    with pytest.raises(CompressionError, match="single output"):
        compress(model, Recipe.parse("taylor-50"), batches)


AS_TARGETS = ("wanda-50", "heads-25,score=taylor", "gptq-int4", "taylor-50")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("t5", text) for text in AS_TARGETS),
        *(
            pytest.param(name, text, marks=[] if text in AS_TARGETS[:2] else pytest.mark.full)
            for name in ("bart", "marian", "prophetnet", "switch_transformers")
            for text in AS_TARGETS
        ),
    ],
)
def test_seq2seq_models_use_texts_as_targets(name, text):
    """Each text is also the target of the decoder, and padding is ignored."""
    model = ARCHITECTURES[name].make()
    recipe = Recipe.parse(text)
    fresh_tokenizer = vocabulary.causal(64)
    model.resize_token_embeddings(max(len(fresh_tokenizer), VOCABULARY))
    batches = batches_of(recipe.steps[0], model, fresh_tokenizer, ["a b", "a b c d e"])
    for batch in batches:
        kept = batch["attention_mask"] == 1
        assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])
        assert (batch["labels"][~kept] == -100).all()
    try:
        result = compress(model, recipe, batches)
    except RecipeError as error:
        assert recipe.steps[0].method == "heads"
        assert "layer " in str(error)  # noqa: PT017
    else:
        decoders = [layer for layer in result.layers if "decoder" in layer]
        assert decoders or recipe.steps[0].method == "heads"


@pytest.mark.parametrize("text", ["wanda-50", "taylor-50", "rtn-int8"])
def test_encoder_decoder_classifiers_use_labels(text):
    settings = {**ARCHITECTURES["bart"].settings, "num_labels": 3}
    model = Architecture("BartForSequenceClassification", settings).make()
    step = Recipe.parse(text).steps[0]
    rows = [[5, 6, 7, 2], [8, 2]]
    batch = {**padded(rows, 0), "labels": torch.tensor([2, 0])}
    compress(model, Recipe.parse(text), [batch] if needs_data(step) else [])
    check_labels(model, [2, 0])
    with pytest.raises(CompressionError, match="label 3, but the model has 3 classes"):
        check_labels(model, [3])


class TestPadding:
    """A classifier over the last token of a model whose configuration names no padding."""

    @pytest.fixture
    def baseline(self, tmp_path):
        from transformers import LlamaConfig, LlamaForSequenceClassification

        tokenizer = vocabulary.causal(64)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=None,
        )  # fmt: skip
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    @pytest.mark.parametrize(
        "text", ["wanda-50", "taylor-50", "heads-50", "ffn-50,score=activation",
                 "distill-1layers,steps=2"],
    )  # fmt: skip
    def test_saved_configuration_has_no_padding_token(self, baseline, tmp_path, capsys, text):
        (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
        words = [text, "--model", str(baseline), "--data", str(tmp_path / "texts.txt")]
        assert main([*words, "--output", str(tmp_path / "out")]) == 0, capsys.readouterr().err
        written, before = (
            json.loads((place / "config.json").read_text())
            for place in (tmp_path / "out", baseline)
        )
        assert written["pad_token_id"] is before["pad_token_id"] is None
        for each in ("bos_token_id", "eos_token_id"):
            assert written[each] == before[each]

    def test_padding_token(self, baseline):
        model, tokenizer = load(str(baseline), "--model")
        assert padding_token(model, tokenizer) == tokenizer.pad_token_id
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        assert padding_token(model, tokenizer) == 0
        model.config.pad_token_id = 5
        assert padding_token(model, tokenizer) == 5
        model.config.pad_token_id = tokenizer.pad_token = None
        assert padding_token(model, tokenizer) == tokenizer.eos_token_id


@pytest.mark.parametrize(("name", "limit"), [("xlnet", 2048), ("mpt", 96), ("gpt2", 96),
                                             ("gemma3_vision", 96), ("bert", 96)])  # fmt: skip
def test_longest_input(name, limit):
    model = ARCHITECTURES[name].make()
    words = trial.tokenizer()
    (batch,) = batches_of(Recipe.parse("wanda-50").steps[0], model, words, ["<3> " * 4000], size=1)
    assert longest_input(model) == batch["input_ids"].shape[1] == limit


@pytest.mark.parametrize("name", ["ibert", "gemma3_vision", "mistral3", "qwen2_vl", "xlnet"])
def test_models_with_unusual_configurations(name, tmp_path, capsys):
    ARCHITECTURES[name].make().save_pretrained(tmp_path / "model")
    trial.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("<3> <5> <9>\n<7> <8> <10> <11>\n")
    words = ["wanda-50", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "texts.txt")]
    code = main([*words, "--output", str(tmp_path / "out")])
    if name == "ibert":
        assert "no layer of IBertForSequenceClassification is left" in capsys.readouterr().err
    else:
        assert code == 0, capsys.readouterr().err
