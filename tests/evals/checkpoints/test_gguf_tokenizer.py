"""The tokenizer and the template of a GGUF header are compared with the baseline."""

import json
import re
import shutil

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.scoring import prompts
from tests.end_to_end import foreign
from tests.evals.checkpoints import published
from tests.evals.checkpoints.gguf_files import BASE, NOTHING, change_list, drop_key, set_key

pytest.importorskip("gguf")


def swap(tokens):
    tokens[400], tokens[401] = tokens[401], tokens[400]


def plain_end(types):
    types[2] = 1


def shown_end(types):
    types[2] = 4


def hidden_word(types):
    types[400] = 3


def plain_bytes(types):
    types[:] = [1 if kind == 6 else kind for kind in types]


def zero(scores):
    scores[:] = [0.0] * len(scores)


TEMPLATE = (BASE / "chat_template.jinja").read_text()


def template(text, name=""):
    return set_key(f"tokenizer.chat_template{name}", text, "add_string")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (set_key("tokenizer.ggml.model", "gpt2", "add_string"), "model is 'gpt2' in model.gguf"),
        (change_list("tokenizer.ggml.tokens", swap), "token 400 is "),
        (change_list("tokenizer.ggml.tokens", list.pop), "has 568 tokens"),
        (change_list("tokenizer.ggml.token_type", plain_end), "special token '</s>' is normal"),
        (set_key("tokenizer.ggml.add_bos_token", False, "add_bool"), "adds the bos token"),
        (set_key("tokenizer.ggml.add_eos_token", True, "add_bool"), "does not add the eos token"),
        (set_key("tokenizer.ggml.bos_token_id", 5, "add_uint32"), "bos token is 1 for the"),
        (change_list("tokenizer.ggml.token_type", shown_end), "end token '</s>' is user-defined"),
        (change_list("tokenizer.ggml.token_type", hidden_word), "is control in model.gguf"),
        (change_list("tokenizer.ggml.token_type", plain_bytes), "byte token '<0x00>' is normal"),
        (drop_key("tokenizer.ggml.token_type"), "has no token types"),
        (change_list("tokenizer.ggml.scores", zero), "the score of token"),
        (change_list("tokenizer.ggml.scores", list.reverse), "the score of token"),
        (drop_key("tokenizer.ggml.scores"), "lacks scores of some tokens"),
        (set_key("tokenizer.ggml.add_space_prefix", True, "add_bool"), "and llama.cpp adds one"),
        (drop_key("tokenizer.ggml.add_space_prefix"), "and llama.cpp adds one"),
        (set_key("tokenizer.ggml.eot_token_id", 400, "add_uint32"), "[2, 400] in the header"),
        (set_key("tokenizer.ggml.eom_token_id", 400, "add_uint32"), "[2, 400] in the header"),
        (template("{% if messages[0].role == 'system' %}Mind:{% endif %}" + TEMPLATE), "Mind:"),
        (template(TEMPLATE + "{% if tools %}{{ tools }}{% endif %}"), "with tools"),
        (template(TEMPLATE.replace("{% endif %}", "{% else %}X{% endif %}")), "on a user, "),
        (template("{{ 1 }}", ".tool_use"), "with tools"),
        (set_key("tokenizer.ggml.eos_token_id", 9, "add_uint32"), "ends at [2] for the baseline"),
        (drop_key("tokenizer.chat_template"), "only the baseline has a chat template"),
        (template("{{ messages[0] }}"), "differs on a user that asks"),
        (template("{{ nothing.at.all }}"), "the template fails: UndefinedError"),
    ],
)  # fmt: skip
def test_different_tokenization_in_llama_cpp_fails(differences, header, message):
    findings = differences(header)
    assert any(message in text for text in findings[Severity.FAILED]), findings
    assert not findings[Severity.REFUSED]


def test_slow_template_fails(differences, monkeypatch):
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 0.2)
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    [text] = differences(template(slow + TEMPLATE))[Severity.FAILED]
    assert "the template fails: no end after" in text


def test_key_that_llama_cpp_ignores_is_noted(differences):
    findings = differences(set_key("tokenizer.ggml.remove_extra_whitespaces", True, "add_bool"))
    [text] = findings[Severity.NOTED]
    assert "keeps repeated spaces" in text
    assert findings[Severity.FAILED] == []


@pytest.fixture
def layout_differences(differences, tmp_path, monkeypatch):
    """``layout_differences(layout, pre, header)``: of a file with the tokenizer of a published
    layout, under a name of ``tokenizer.ggml.pre``."""

    def find(layout, pre, header=lambda writer: None):
        base = tmp_path / "layout"
        shutil.rmtree(base, ignore_errors=True)
        shutil.copytree(BASE, base, copy_function=shutil.copyfile)
        published.write(layout, base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        for name in ("config.json", "generation_config.json"):
            ids = {
                f"{token}_token_id": getattr(tokenizer, f"{token}_token_id")
                for token in ("bos", "eos", "pad")
            }
            file = base / name
            file.write_text(json.dumps({**json.loads(file.read_text()), **ids}))

        def add(writer, base):
            described = json.loads((base / "tokenizer.json").read_text())
            known = {index: token for token, index in tokenizer.get_vocab().items()}
            added = tokenizer.added_tokens_decoder
            writer.add_tokenizer_model("gpt2" if layout in BYTE_LEVEL else "llama")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list([known.get(i, f"[PAD{i}]") for i in range(max(known) + 1)])
            merges = [" ".join(m) if isinstance(m, list) else m
                      for m in described["model"]["merges"]]  # fmt: skip
            bytes_ = re.compile("<0x..>")
            kinds = [
                5 if i not in known else 3 if i in added else 6 if bytes_.fullmatch(known[i]) else 1
                for i in range(max(known) + 1)
            ]
            writer.add_token_types(kinds)
            if layout in BYTE_LEVEL:
                writer.add_token_merges(merges)
            else:
                vocab = described["model"]["vocab"]
                scores = [-1000.0] * len(kinds)
                for rank, merge in enumerate(merges):
                    index = vocab[merge.replace(" ", "")]
                    scores[index] = max(scores[index], -float(rank))
                writer.add_token_scores(scores)
                if layout is published.gemma:
                    writer.add_add_space_prefix(False)
            if tokenizer.bos_token_id is not None:
                writer.add_bos_token_id(tokenizer.bos_token_id)
            writer.add_eos_token_id(tokenizer.eos_token_id)
            writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)
            if tokenizer.chat_template:
                writer.add_chat_template(tokenizer.chat_template)

        monkeypatch.setattr(foreign, "_add_tokenizer", add)
        return differences(header, base=base)

    return find


BYTE_LEVEL = (published.llama_3, published.qwen_2, published.gpt_2)
ADD_BOS = "tokenizer.ggml.add_bos_token"


@pytest.mark.parametrize(
    ("layout", "pre"),
    [
        (published.llama_3, "llama-bpe"),
        (published.llama_3, "smaug-bpe"),
        (published.qwen_2, "qwen2"),
        (published.gpt_2, "gpt-2"),
        (published.llama_2, "default"),
        (published.gemma, "default"),
    ],
)
def test_healthy_file_of_a_published_layout(layout_differences, layout, pre):
    if layout is published.qwen_2:  # as its file has it, digit by digit
        layout = digit_by_digit
    findings = layout_differences(layout, pre)
    assert not findings[Severity.FAILED]
    assert not findings[Severity.REFUSED]


def digit_by_digit():
    tokenizer, config, model = published.qwen_2()
    described = json.loads(tokenizer.to_str())
    cut = described["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    cut["Regex"] = cut["Regex"].replace("{1,3}", "")
    return Tokenizer.from_str(json.dumps(described)), config, model


BYTE_LEVEL = (*BYTE_LEVEL, digit_by_digit)


@pytest.mark.parametrize("pre", ["qwen2", "default", "gpt-2", "starcoder"])
def test_different_split(layout_differences, pre):
    findings = layout_differences(published.llama_3, pre)
    [text] = findings[Severity.FAILED]
    assert f"pre is '{pre}' in model.gguf, and the baseline splits texts as llama-bpe" in text


def test_unknown_split_is_noted(layout_differences):
    findings = layout_differences(published.llama_3, "zork")
    assert not findings[Severity.FAILED]
    assert "pre is 'zork'" in findings[Severity.NOTED][0]


def test_missing_key_has_the_default_of_llama_cpp(layout_differences):
    """llama.cpp adds the bos token of Llama 3 by default."""
    assert not layout_differences(published.llama_3, "llama-bpe", drop_key(ADD_BOS))[
        Severity.FAILED
    ]
    findings = layout_differences(published.llama_3, "dbrx", drop_key(ADD_BOS))
    assert "adds the bos token, and llama.cpp does not" in findings[Severity.FAILED][0]


@pytest.mark.parametrize("change", [zero, list.reverse])
def test_scores_that_contradict_the_merges(layout_differences, change):
    header = change_list("tokenizer.ggml.scores", change)
    findings = layout_differences(published.llama_2, "default", header)
    assert any("merges in a different order" in text for text in findings[Severity.FAILED])


def test_equivalent_template_is_no_difference(differences):
    template = (BASE / "chat_template.jinja").read_text()
    header = set_key("tokenizer.chat_template", "{# a remark #}" + template, "add_string")
    assert differences(header) == NOTHING


def test_lost_end_token_fails(differences, base_with):
    base = base_with(generation={"eos_token_id": [2, 506]})
    lost = differences(base=base)
    assert "ends at [2, 506] for the baseline and [2] in the header" in lost[Severity.FAILED][0]
    assert differences(set_key("tokenizer.ggml.eot_token_id", 506, "add_uint32"), base) == NOTHING


def test_padding_is_noted(differences):
    findings = differences(set_key("tokenizer.ggml.padding_token_id", 0, "add_uint32"))
    assert findings[Severity.NOTED] == ["the pad token is 2 for the baseline and 0 in model.gguf"]
    assert not findings[Severity.FAILED]


def test_additional_tokens_are_noted_unless_unused(differences):
    def longer(token, type_):
        def header(writer):
            writer.kv_data[0]["tokenizer.ggml.tokens"].value.append(token)
            writer.kv_data[0]["tokenizer.ggml.token_type"].value.append(type_)

        return header

    assert differences(longer("[PAD576]", 5)) == NOTHING
    assert "1 tokens that the baseline lacks" in differences(longer("new", 1))[Severity.NOTED][0]
