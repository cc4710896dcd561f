"""Reports for tests of the page: small and large ones, and names and texts that attack it."""

import math

from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.history.series import GatePoint, GateSeries, LevelStep
from compression_gates.evals.metrics.regressions import Regression
from compression_gates.evals.metrics.result import MetricResult, not_judged
from compression_gates.evals.report.report import Entry
from compression_gates.evals.report.report_folder import report_rows
from compression_gates.evals.statistics.estimate import Estimate

LIMITS = {
    "perplexity_drift": 0.05, "js_divergence": 0.01, "exact_match_drop": 0.02, "f1_drop": 0.02,
    "rouge1_drop": 0.02, "top1_agreement_drop": 0.05, "kl_to_baseline": 0.01,
    "compression_ratio": 0.99, "speedup": 0.8, "weighted_score": 0.9,
}  # fmt: skip
DRIFTS = tuple(LIMITS)[:7]
METHODS = ("wanda-50", "magnitude-50", "rtn-int8", "gptq-int4", "sparsegpt-2:4")
HOSTILE = (
    "</script><script>window.attacked=1</script><img src=x onerror='window.attacked=1'>"
    "\"'`${7*7}{{7*7}} <b>bold</b> &lt; <!-- \u202e\u2066 \x1b[31m\x00 \u2028\u2029 \ud800 "
    "<a href='javascript:window.attacked=1'>"
)


def item(number, text="Who lives in Fenwick?"):
    return Regression(
        row=number, document=number, prompt=f"{text} ({number})", question=text,
        expected="Nora", baseline="Nora", candidate=f"Oskar {number}", loss=1.0,
    )  # fmt: skip


def entry(row, metric, value, group="m", half=0.001, items=(), **fields):
    estimate = Estimate(value, value - half, value + half, 500, 100)
    level = 0.9 - value if metric in DRIFTS else 2.0
    result = MetricResult(estimate, 0.9, level)
    verdict = verdict_of(f"{group}-{row}", Gate(metric, LIMITS[metric]), result)
    defaults = {"passed": verdict.met, "text": "" if verdict.met else f"{metric} failed"}
    defaults |= {"regressions": tuple(items), "rerun": f"compression-gates -k {row}"}
    return Entry(group, row, verdict, **(defaults | fields))


def candidate(row, damage, group="m", items=(), **fields):
    """The entries of a candidate, whose drifts are ``damage`` times their limits."""
    return [
        *(entry(row, metric, damage * LIMITS[metric], group, items=items, **fields)
          for metric in DRIFTS),
        entry(row, "compression_ratio", 1 + damage, group),
        entry(row, "speedup", 2 - damage / 10, group),
        entry(row, "weighted_score", 1.2, group),
    ]  # fmt: skip


def small_report():
    """Four candidates: one passes, one fails, one is a known failure, one is not judged."""
    entries = [
        *candidate("rtn-int8", 0.1),
        *candidate("wanda-50", 3, items=[item(i) for i in range(1, 15)]),
        *candidate("magnitude-50", 5, passed=False, reason="too <much>"),
        Entry("m", "fp8", verdict_of("m-fp8", Gate("speedup", 0.8), not_judged("no kernels")),
              True),
        entry("svd-60", "js_divergence", 0.0101, half=0.005, passed=False, text="js failed"),
    ]  # fmt: skip
    return entries


def series(candidate, metric, points, *steps):
    """The series of a gate with steps at the given indexes of points."""
    found = [LevelStep(i, points[i].run, points[i].time, points[i].commit, 0.0, 1.0) for i in steps]
    return GateSeries(candidate, metric, 0.05, points, found)


def trends(entries, runs=30):
    """A step in the middle of each series of the given entries."""
    found = []
    for one in entries:
        verdict = one.verdict
        points = tuple(
            GatePoint(day + 1, f"2026-01-{day + 1:02}T02:00:00", f"{day:07x}",
                      verdict.value * (1 + (day > runs // 2)), verdict.low, verdict.high * 2,
                      day == 3)
            for day in range(runs)
        )  # fmt: skip
        found.append(series(verdict.candidate, verdict.metric, points, runs // 2 + 1))
    return found


def large_report(candidates=500, items=10, length=300):
    """Entries of ten gates per candidate, half of which fail with items of their own."""
    entries = []
    for number in range(candidates):
        fails = number % 2
        worst = [item(i, f"{number} " + "x" * length) for i in range(1, items + 1)] if fails else []
        row = f"{METHODS[number % len(METHODS)]},seed={number}"
        entries += candidate(row, 2.0 + number / 100 if fails else 0.5, items=worst)
    return entries


def hostile_report():
    """A report whose names, texts and messages attack the page."""
    long_line = "A" * 100_000
    attack = Regression(1, 1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, math.nan, HOSTILE)
    line = Regression(2, 2, long_line, long_line, long_line, None, long_line)
    entries = [
        *candidate(HOSTILE, 3, HOSTILE, [attack, line], reason=HOSTILE, text=HOSTILE,
                   form=HOSTILE, kernel=HOSTILE, evidence=(HOSTILE,), rerun=HOSTILE),
        *candidate("wanda", 3, HOSTILE, [line], text=long_line),
    ]  # fmt: skip
    rows = [
        {"decision": {"word": HOSTILE, "reason": HOSTILE,
                      "candidates": {HOSTILE: {"word": HOSTILE, "reason": HOSTILE}}}},
        {"notes": [HOSTILE, long_line]},
        {"manifest": {HOSTILE: {HOSTILE: [HOSTILE, 1, None]}}},
        {"since": {"lines": [HOSTILE], "changes": [
            {"candidate": HOSTILE, "metric": HOSTILE, "before": 1.0, "after": 2.0,
             "before_text": HOSTILE, "after_text": HOSTILE, "is_quiet": False,
             "verdict": HOSTILE}]}},
        {"defect": HOSTILE, "what": HOSTILE, "baseline": HOSTILE, "caught": HOSTILE},
    ]  # fmt: skip
    found = report_rows(entries, rows)
    found[0]["attribution"] = {
        "modules": [{"name": HOSTILE, "share": 0.5, "divergence": 1.0}],
        "where": [HOSTILE],
        "weights": [HOSTILE],
    }
    return found
