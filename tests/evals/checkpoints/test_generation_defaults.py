"""The settings that plain ``generate`` uses are compared."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from compression_gates.evals.checkpoints.checkpoint import (
    CAUSAL,
    CLASSIFIER,
    SEQ2SEQ,
    Checkpoint,
    open_checkpoint,
)
from compression_gates.evals.checkpoints.compare import Sides
from compression_gates.evals.checkpoints.findings import KINDS, Severity
from compression_gates.evals.checkpoints.generation_defaults import FILE, compare
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.cache import Models
from compression_gates.evals.models.configurations import end_tokens, load_generation_config
from compression_gates.evals.models.loading import load
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end import foreign

CONFIG = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
BASE = {"bos_token_id": 1, "eos_token_id": [2, 506], "pad_token_id": 2}
SAMPLED = {**BASE, "do_sample": True, "temperature": 0.6, "top_p": 0.9}


@pytest.fixture
def files(sides_of):
    """``files(one, two)``: a comparison; None omits ``generation_config.json``."""

    def make(one, two, kind=CAUSAL, config=CONFIG, other=None):
        contents = [
            {"config.json": config} | ({} if config_values is None else {FILE: config_values})
            for config, config_values in ((config, one), (other or config, two))
        ]
        return compare(sides_of(*contents, kind))

    return make


@pytest.fixture
def differences(files):
    """Like ``files``, but returns the kind and the text of each difference."""

    def make(*args, **options):
        findings = files(*args, **options).findings
        assert all(f.text.isprintable() and len(f.text) < 1000 for f in findings)
        return [(f.kind, f.text) for f in findings]

    return make


def test_lost_end_tokens(differences):
    lost = ("end of generation", "generation ends at [2, 506] for the baseline and [2] for the "
            "candidate")  # fmt: skip
    assert differences(BASE, None) == [lost]  # the settings of config.json apply
    assert differences(BASE, {**BASE, "eos_token_id": 2}) == [lost]
    assert differences(None, None, other={**CONFIG, "eos_token_id": None}) == [
        ("end of generation", "generation ends at [2] for the baseline and [] for the candidate")
    ]


def test_equivalent_end_tokens(differences):
    assert differences(BASE, {**BASE, "eos_token_id": [506, 2, 2]}) == []
    assert differences({**BASE, "eos_token_id": 2}, None) == []
    nested = {"model_type": "gemma3", "text_config": {**BASE, "model_type": "gemma3_text"}}
    assert differences(BASE, None, config={**CONFIG, "eos_token_id": [2, 506]}) == []
    assert differences(BASE, None, other=nested) == []


def test_additional_special_end_tokens_are_noted(differences):
    base = {**BASE, "eos_token_id": 2}
    assert [k for k, _ in differences(base, {**base, "eos_token_id": [2, 0]})] == [
        "further end tokens"
    ]
    assert [k for k, _ in differences(base, {**base, "eos_token_id": [2, 40]})] == [
        "end of generation"
    ]


@pytest.mark.parametrize(
    ("changes", "kind", "named"),
    [
        ({"max_length": 1}, "length of generation", "max_length = 1 (prompt included)"),
        ({"max_new_tokens": 3}, "length of generation", "max_new_tokens = 3"),
        ({"suppress_tokens": list(range(576))}, "generation setting", "suppress_tokens"),
        ({"begin_suppress_tokens": [5]}, "generation setting", "begin_suppress_tokens"),
        ({"bad_words_ids": [[7]]}, "generation setting", "bad_words_ids"),
        ({"repetition_penalty": 100}, "generation setting", "(1.0 for the baseline, 100"),
        ({"repetition_penalty": 100.0}, "generation setting", "(1.0 for the baseline, 100.0"),
        ({"no_repeat_ngram_size": 1}, "generation setting", "no_repeat_ngram_size"),
        ({"min_new_tokens": 50}, "generation setting", "min_new_tokens"),
        ({"min_length": 50}, "generation setting", "min_length"),
        ({"do_sample": True, "temperature": 5.0}, "generation setting", "temperature"),
        ({"num_beams": 4}, "generation setting", "num_beams"),
        ({"forced_eos_token_id": 9}, "generation setting", "forced_eos_token_id"),
        ({"forced_bos_token_id": 9}, "generation setting", "forced_bos_token_id"),
        ({"stop_strings": ["e"]}, "generation setting", "stop_strings"),
        ({"sequence_bias": [[[5], -100.0]]}, "generation setting", "sequence_bias"),
        ({"max_time": 0.001}, "generation setting", "max_time"),
        ({"exponential_decay_length_penalty": [1, 2.0]}, "generation setting", "exponential_decay"),
        ({"eos_token_id": []}, "end of generation", "[] for the candidate"),
    ],
)
def test_settings_that_break_plain_generate(differences, changes, kind, named):
    texts = dict(differences(BASE, {**BASE, **changes}))
    assert named in texts[kind]
    assert KINDS[kind].severity == Severity.FAILED
    # The settings can also come from config.json.
    plain = {**CONFIG, **BASE}
    assert kind in dict(differences(None, None, config=plain, other={**plain, **changes}))


@pytest.mark.parametrize(
    ("one", "two", "named"),
    [
        ({**BASE, "repetition_penalty": 1.1}, BASE, "repetition_penalty"),
        ({**BASE, "no_repeat_ngram_size": 3}, BASE, "no_repeat_ngram_size"),
        ({**BASE, "suppress_tokens": [7]}, BASE, "suppress_tokens"),
        ({**BASE, "num_beams": 4}, BASE, "num_beams"),
        (SAMPLED, {**BASE, "do_sample": True}, "temperature"),
        (BASE, {**BASE, "do_sample": True}, "do_sample"),
    ],
)
def test_default_instead_of_an_effective_setting_fails(differences, one, two, named):
    [(kind, text)] = differences(one, two)
    assert kind == "generation setting"
    assert named in text


@pytest.mark.parametrize(
    ("one", "two", "kind"),
    [
        ({}, {"max_length": 24}, "length of generation"),  # 7 tokens and 20 new ones are 27
        ({}, {"max_length": 27}, "milder generation setting"),
        ({"max_new_tokens": 200}, {"max_length": 201}, "length of generation"),
        ({"max_new_tokens": 200}, {"max_length": 207}, "milder generation setting"),
        ({"max_length": 4096}, {"max_new_tokens": 4089}, "milder generation setting"),
        ({"max_length": 4096}, {"max_new_tokens": 4088}, "length of generation"),
        ({"max_length": 4096}, {"max_length": 4095}, "length of generation"),
    ],
)
def test_limits_of_new_tokens_and_of_whole_sequences(differences, one, two, kind):
    """The longest text has seven tokens."""
    assert [k for k, _ in differences({**BASE, **one}, {**BASE, **two})] == [kind]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (BASE, {**BASE, "max_length": 4096}),
        (BASE, {**BASE, "use_cache": False}),
        (BASE, {**BASE, "cache_implementation": "quantized", "cache_config": {"nbits": 2}}),
        (BASE, {**BASE, "temperature": 0.7}),  # without sampling
        (BASE, {**BASE, "length_penalty": 2.0}),  # without beams
        (SAMPLED, BASE),
        ({**BASE, "use_cache": False}, BASE),
        (BASE, {**BASE, "pad_token_id": 0}),
    ],
)
def test_harmless_settings_are_noted(differences, one, two):
    assert [kind for kind, _ in differences(one, two)] == ["milder generation setting"]


@pytest.mark.parametrize(
    ("before", "after", "kind", "named"),
    [
        (2, 5000, "padding token", "vocabulary has 576 entries"),
        (2, -1, "padding token", "vocabulary has 576 entries"),
        (2, 455, "padding token", "an ordinary token"),
        (None, 455, "padding token", "an ordinary token"),
        (455, 456, "milder generation setting", "pads with 455 for the baseline and 456"),
        (2, None, "milder generation setting", "None for the candidate"),
        (2, 0, "milder generation setting", "pads with 2"),
        (455, 2, "milder generation setting", "pads with 455"),
    ],
)
def test_padding_token(differences, before, after, kind, named):
    config = {**CONFIG, "vocab_size": 576}
    one, two = ({**BASE, "pad_token_id": pad} for pad in (before, after))
    [(actual, text)] = differences(one, two, config=config)
    assert actual == kind
    assert named in text
    assert differences(two, two, config=config) == []


def test_equivalent_settings_are_no_difference(differences):
    usual = GenerationConfig._get_default_generation_params()
    assert (
        differences(BASE, {**BASE, **usual, "max_length": None, "transformers_version": "4.1"})
        == []
    )
    assert differences(BASE, {**BASE, "cache_implementation": "hybrid"}) == []
    assert differences(BASE, {**BASE, "max_new_tokens": 20}) == []  # the default
    assert differences(SAMPLED, SAMPLED) == []


def test_lost_limit(differences):
    [(kind, text)] = differences({**BASE, "max_length": 4096}, BASE)
    assert kind == "length of generation"
    assert text == (
        "plain generate stops at max_length = 4096 (prompt included) for the baseline and "
        "max_new_tokens = 20 for the candidate"
    )


def test_limit_that_includes_the_prompt_is_shorter(differences):
    assert [k for k, _ in differences(BASE, {**BASE, "max_length": 20})] == ["length of generation"]
    assert [k for k, _ in differences({**BASE, "max_length": 20}, BASE)] == [
        "milder generation setting"
    ]


TOOL_TEMPLATE = """
{%- for m in messages -%}
<user>{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{% endfor %}<end>
{% endfor -%}
{%- if add_generation_prompt %}<user>{% endif -%}"""


def test_additional_end_token_within_an_answer_fails(tmp_path, sides_of):
    sides = sides_of({"config.json": CONFIG, FILE: {**BASE, "eos_token_id": 2}},
                     {"config.json": CONFIG})  # fmt: skip
    folder = tmp_path / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(sides.baseline.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<call>", "<end>"]})
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.save_pretrained(folder)

    def kind(token):
        ends = [2, tokenizer.convert_tokens_to_ids(token)]
        config_values = {**BASE, "eos_token_id": ends}
        (sides.candidate.path / FILE).write_text(json.dumps(config_values))
        both = (replace(side, tokenizer=folder) for side in (sides.baseline, sides.candidate))
        [finding] = compare(Sides(*both, sides.data)).findings
        return finding.kind

    assert kind("<end>") == "further end tokens"
    assert kind("<call>") == "end of generation"


def test_unknown_settings_are_noted_in_one_line(differences):
    assert differences(BASE, {**BASE, "mystery": 1, "a\x1bb": 2}) == [
        ("unknown setting", f"{FILE} differs in settings that transformers does not know: "
         "a\\x1bb, mystery")
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["{nope", "[]", "", "3", '{"eos_token_id": ', "[" * 10**5])
def test_invalid_json(differences, files, text):
    [(kind, message)] = differences(BASE, text)
    assert kind == f"unreadable {FILE}"
    assert f"{FILE}: not a JSON object" in message
    assert KINDS[kind].severity == Severity.FAILED
    assert "not a JSON object" in files(text, BASE).not_compared["generation"]


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"cache_implementation": "zork"}, {"eos_token_id": "x"},
     {"eos_token_id": [[2]]}, {"eos_token_id": [2.5]}, {"watermarking_config": {"zork": 1}}],
)  # fmt: skip
def test_settings_that_transformers_rejects(differences, wrong):
    with pytest.raises(EvalError) as caught:
        differences(BASE, {**BASE, **wrong})
    assert "\n" not in str(caught.value)


def test_first_token_of_a_decoder(differences):
    base = {**BASE, "decoder_start_token_id": 0}
    odd = {**base, "decoder_start_token_id": "a\n\x1b[0m"}
    for other in ({**base, "decoder_start_token_id": 7}, BASE, odd):
        assert [k for k, _ in differences(base, other, SEQ2SEQ)] == ["first token of the decoder"]
    assert differences(BASE, {**BASE, "decoder_start_token_id": 1}, SEQ2SEQ) == []


def test_settings_that_scoring_ignores_are_listed(files):
    [plain] = files(BASE, BASE).compared
    assert plain == "generation (scored greedily, to the lengths of the data)"
    [sampled] = files(SAMPLED, SAMPLED).compared
    assert f"without do_sample, temperature, top_p of {FILE}" in sampled


def test_classifier_is_not_compared(files):
    assert files(BASE, None, CLASSIFIER).compared == ()


def test_adapter_has_the_settings_of_its_base(sides_of):
    short = {**BASE, "max_length": 1}
    sides = sides_of({"config.json": CONFIG, FILE: BASE}, {"config.json": CONFIG, FILE: short})
    base = sides.candidate
    adapter = Checkpoint(base.path / "x", CAUSAL, 0, "a", base=base, tokenizer=base.tokenizer)
    [finding] = compare(Sides(sides.baseline, adapter, sides.data)).findings
    assert finding.kind == "length of generation"


NUMBERS = ("max_length", "max_new_tokens", "min_length", "num_beams", "top_k", "eos_token_id")
VALUES = st.sampled_from([None, 1, 2, 30])
REPEATED = [HealthCheck.function_scoped_fixture]


@settings(max_examples=40, deadline=None, suppress_health_check=REPEATED)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(NUMBERS, VALUES)))
def test_checkpoint_equals_itself(differences, config_values):
    assert differences(config_values, config_values) == []
    assert differences(None, None, config={**CONFIG, **config_values}) == []


@pytest.mark.parametrize("config_values", [BASE, None, "{nope", {"eos_token_id": 506}, {}])
def test_settings_are_those_of_plain_transformers(causal_checkpoint, config_values):
    path = causal_checkpoint().path
    (path / FILE).unlink()
    if config_values is not None:
        (path / FILE).write_text(
            config_values if isinstance(config_values, str) else json.dumps(config_values)
        )
    checkpoint = open_checkpoint(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    assert load_generation_config(checkpoint) == model.generation_config
    # Scoring stops where plain generate does, regardless of the end token of the tokenizer.
    assert load(checkpoint).eos_token_ids == end_tokens(model.generation_config)


@pytest.mark.parametrize("make", [foreign.lora, foreign.gguf("Q8_0")], ids=["adapter", "GGUF"])
def test_inherited_settings(tmp_path, make):
    """An adapter has the settings of its base, a GGUF file those of its header."""
    base = MODELS / "llama-tiny"
    made = open_checkpoint(make(base, tmp_path / "made"))
    made = made.with_tokenizer_of(open_checkpoint(base))
    expected = end_tokens(GenerationConfig.from_pretrained(base))
    assert end_tokens(load_generation_config(made)) == expected
    changed = Models("cpu", "auto", 1, False, ()).to_change(made)
    assert end_tokens(changed.generation_config) == expected
