"""What differs between two checkpoints is told in a line before either is scored."""

import json

import pytest

from evals.checkpoint import open_checkpoint
from evals.checkpoints.compare import Sides, compare
from evals.data import DataSet, Text

DATA = DataSet("texts", (Text("Rufus lives in Merrin.", 0), Text("Lena owns a steel drum.", 1)))


def problem(one, two):
    sides = Sides(open_checkpoint(one.path), open_checkpoint(two.path), [DATA])
    found = "; ".join(found.text for found in compare(sides).findings)
    assert "\n" not in found
    return found


def rewrite(checkpoint, name, change):
    file = checkpoint.path / name
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))


@pytest.fixture
def pair(causal_checkpoint):
    return causal_checkpoint("one"), causal_checkpoint("two", seed=1)


def test_two_models_with_one_tokenizer(pair):
    assert problem(*pair) == ""


def test_two_tokens_that_are_swapped(pair):
    def swap(described):
        words = described["model"]["vocab"]
        places = [i for i, (word, _) in enumerate(words) if word in ("\u2581lives", "\u2581owns")]
        one, two = places
        words[one], words[two] = words[two], words[one]

    rewrite(pair[1], "tokenizer.json", swap)
    found = problem(*pair)
    assert found.startswith("the tokenizers differ: token ")
    assert "of 'Rufus lives in Merrin.' in texts is '\u2581lives' (" in found
    assert "for the baseline and '\u2581lives' (" in found  # the same word has another id


def test_a_first_token_that_is_lost(pair):
    rewrite(pair[1], "tokenizer.json", lambda t: t.update(post_processor=None))
    assert "token 1 of 'Rufus lives in Merrin.' in texts is '<s>' (1)" in problem(*pair)


def test_another_end(pair):
    rewrite(pair[1], "tokenizer_config.json", lambda t: t.update(eos_token="<unk>"))
    told = "the eos token is '</s>' (2) for the baseline and '<unk>' (0) for the candidate"
    assert problem(*pair) == told


def test_padding_is_masked_whichever_token_it_is(pair):
    rewrite(pair[1], "tokenizer_config.json", lambda t: t.update(pad_token="<unk>"))
    assert problem(*pair) == ""


def test_chat_templates(pair):
    template = "{% for m in messages %}<s>user: {{ m.content }}{% endfor %}"
    (pair[1].path / "chat_template.jinja").write_text(template)
    (pair[0].path / "chat_template.jinja").unlink()
    assert problem(*pair) == "only the candidate has a chat template"
    (pair[0].path / "chat_template.jinja").write_text(template.replace("user:", "User -"))
    found = problem(*pair)
    assert found.startswith("the chat templates differ from character ")
    assert "User -" in found
    (pair[0].path / "chat_template.jinja").write_text(template)
    assert problem(*pair) == ""


def test_a_shorter_context(causal_checkpoint):
    one = causal_checkpoint("one")
    two = causal_checkpoint("two", max_position_embeddings=64)
    assert problem(one, two) == "the candidate takes 64 tokens at most, the baseline 128"
    assert problem(two, one) == "the candidate is said to take 128 tokens, the baseline 64"
