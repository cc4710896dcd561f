"""What an attribution says, and what is stored of it."""

import json
import math

import pytest

from compression_gates.evals.attribution.attribution import Attribution, Share, not_found
from compression_gates.evals.attribution.causes import configuration_causes
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.gates.explain import explain
from compression_gates.evals.gates.gate import DEFAULT, Gate, verdict_of
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.report.report import Entry
from compression_gates.evals.report.report_folder import json_lines, report_rows
from compression_gates.evals.statistics.estimate import Estimate


def shares(*values):
    names = ("model.layers.1.self_attn.o_proj", "model.layers.0.mlp.down_proj", "lm_head", "d", "e")
    return tuple(Share(n, v, v) for n, v in zip(names, values, strict=False))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ((0.92, 0.03, 0.01, 0.01, 0.01),
         "model.layers.1.self_attn.o_proj 92%, model.layers.0.mlp.down_proj 3%, lm_head 1% of the "
         "divergence; all other modules 2%; 2% is not explained by single modules"),
        ((1.0,), "model.layers.1.self_attn.o_proj 100% of the divergence; 0% is not explained by "
                 "single modules"),
        ((0.8, 0.54),
         "model.layers.1.self_attn.o_proj 80%, model.layers.0.mlp.down_proj 54% of the divergence; "
         "the shares add up to 134%, because the effects of modules overlap or cancel"),
        ((0.001, 0.0005),
         "model.layers.1.self_attn.o_proj 0% of the divergence; all other modules 0%; 100% is not "
         "explained by single modules"),
        ((math.nan, 0.5),
         "with model.layers.1.self_attn.o_proj alone, the baseline's predictions are not finite"),
    ],
)  # fmt: skip
def test_the_shares_and_what_they_do_not_explain(values, line):
    found = Attribution(shares(*values), divergence=1.0)
    assert found.where() == [line]
    if not math.isnan(sum(values)):
        assert found.unexplained == pytest.approx(1 - sum(values))


def test_only_the_whole_is_not_finite():
    modules = tuple(Share(name, 0.1, math.nan) for name in "ab")
    (line,) = Attribution(modules, divergence=math.nan).where()
    assert line == (
        "The candidate's predictions are not finite, but no single module alone causes this"
    )


def test_configurations_are_named_before_the_modules():
    found = Attribution(shares(1.0), configuration=("they differ in eps",), not_swapped=("x",) * 5)
    lines = found.where()
    assert lines[0] == "they differ in eps; this may not show in single modules"
    assert lines[2:] == ["not swapped: x"] * 3 + ["not swapped: 2 more modules"]
    assert Attribution(shares(1.0), limited=("5 blocks\n",)).where()[1:] == ["5 blocks\\n"]
    assert not_found("why", ["they differ"]).where()[1] == "not found: why"


def test_what_is_stored_is_read_again_and_anything_else_is_refused():
    found = Attribution(shares(0.5), shares(0.7), 1e-3, 9, "d", 64, ("c",), ("n",), ("h",),
                        ({"name": "w", "bits": None},))  # fmt: skip
    assert Attribution.from_json(found.to_json()) == found
    for text in ("[]", "{}", '{"modules": 1}', "null", '{"modules": [{"name": 1}]}', "{"):
        with pytest.raises(ValueError, match=r".*"):
            Attribution.from_json(text)


def test_names_are_escaped():
    found = Attribution((Share("layers.\x1b[31m", 1.0, 1.0),), hints=("a\nb",))
    assert "\x1b" not in "".join([*found.where(), *found.weights()])
    assert "\n" not in found.weights()[0]


def test_a_failing_case_and_its_report_name_the_module():
    gate = Gate("js_divergence", 0.005)
    result = MetricResult(Estimate(0.03, 0.02, 0.04, 9, 9), 0, 1)
    verdict = verdict_of("m", gate, result)
    found = Attribution(shares(1.0), hints=("o_proj: 25% zeros (others 0%)",))
    text = explain(verdict, gate, result, "pytest x", DEFAULT, found)
    assert text.splitlines()[-3:] == [
        f"  where      {found.where()[0]}",
        "  weights    o_proj: 25% zeros (others 0%)",
        "  rerun      pytest x",
    ]
    row = json.loads(
        json_lines(report_rows([Entry("b", "m", verdict, False, attribution=found.as_dict())]))
    )
    assert row["attribution"]["modules"][0]["name"] == "model.layers.1.self_attn.o_proj"
    assert row["attribution"]["where"] == found.where()
    assert row["attribution"]["unexplained"] == 0


def test_findings_that_change_the_forward_pass_are_causes():
    findings = (
        Finding("rope", "they differ in rope_theta"),
        Finding("truncation", "model_max_length"),
        Finding("size", "the configurations differ in num_hidden_layers (3, 2)"),
        Finding("size", "the configurations differ in intermediate_size (3, 2)"),
        Finding("normalization", "they differ in eps"),
    )
    assert configuration_causes(CheckpointComparison(findings)) == tuple(
        findings[i].text for i in (0, 2, 4)
    )
    assert configuration_causes(None) == ()
