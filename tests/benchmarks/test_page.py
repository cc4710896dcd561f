"""Time and size of the page of a large report.

pytest tests/benchmarks/test_page.py
"""

import shutil
import time

import numpy as np
import pytest

from compression_gates.evals.report import page, report, report_folder
from compression_gates.evals.statistics.item_values import MEAN, ItemValues
from tests.evals import pages

CANDIDATES = 500
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def large():
    """500 candidates with ten gates, half of which fail, and values of 200 documents each."""
    entries = pages.large_report(CANDIDATES, items=10, length=2000)
    rng, ones = np.random.default_rng(0), np.ones(200, np.int32)
    items = {
        (entry.verdict.candidate, entry.verdict.metric): ItemValues(
            MEAN, rng.exponential(0.01, 200).astype(np.float32), ones,
            np.arange(200, dtype=np.int32), {},
        )
        for entry in entries
        if entry.verdict.metric == "js_divergence"
    }  # fmt: skip
    return entries, items


def test_report_of_500_candidates(benchmark, large, tmp_path):
    """Written in at most 10 s, with a page of at most 15 MB."""
    entries, items = large

    def write():
        report_folder.write(tmp_path, entries, report.markdown(entries, []), items=items)

    benchmark.pedantic(write, rounds=2, warmup_rounds=1)
    size = (tmp_path / page.PAGE).stat().st_size / 1e6
    benchmark.extra_info["MB"] = round(size, 1)
    assert benchmark.stats["max"] <= 10
    assert size <= 15


def test_page_of_500_candidates_with_trends(large):
    """The page also keeps its size with the trends of a history."""
    entries, items = large
    html = page.render(report_folder.report_rows(entries), items, pages.trends(entries))
    assert len(html.encode()) <= 15e6


@pytest.mark.skipif(DRIVER is None, reason="chromedriver is not installed")
def test_page_of_500_candidates_answers(benchmark, large, tmp_path):
    """A cell opens, and a filter is applied, in at most 0.5 s."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    entries, items = large
    report_folder.write(tmp_path, entries, "", items=items)
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        start = time.monotonic()
        browser.get((tmp_path / page.PAGE).as_uri())
        benchmark.extra_info["opened in s"] = round(time.monotonic() - start, 1)

        def answer():
            browser.execute_script(
                "const field = document.getElementById('text-filter');"
                "field.value = field.value ? '' : 'wanda'; field.dispatchEvent(new Event('input'));"
                "document.querySelectorAll('button[data-cell]')[4000].click();"
                "document.body.getBoundingClientRect();"
                "document.getElementById('evidence').close()"
            )

        benchmark.pedantic(answer, rounds=10, warmup_rounds=1)
        assert benchmark.stats["median"] <= 0.5
    finally:
        browser.quit()
