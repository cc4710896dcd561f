"""The page of a report in a headless Chromium, driven as a reader would."""

import base64
import json
import shutil
import time

import pytest

from compression_gates.evals.report import page, report_folder
from compression_gates.evals.report.trends import trend_rows
from tests.evals import pages

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that logs the messages of its console and its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_window_size(1440, 900)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """``opened(html, hash)`` opens a page; afterwards its console must be empty, and it must have
    requested nothing but itself."""
    file = tmp_path / page.PAGE
    address = file.as_uri()

    def open_page(html, fragment=""):
        file.write_text(html, encoding="utf-8")
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get("about:blank")
        browser.get(address + fragment)
        return browser

    yield open_page
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [message["params"]["request"]["url"] for message in messages
                if message["method"] == "Network.requestWillBeSent"]  # fmt: skip
    loaded = {url for url in requests if not url.startswith(("about:blank", "data:"))}
    assert loaded == {address}
    assert len(browser.window_handles) == 1


@pytest.fixture(scope="module")
def report():
    entries = pages.small_report()
    decision = {"decision": {"word": "do not release", "reason": "m-wanda-50 failed"}}
    trends = trend_rows(pages.trends(entries[:12]))
    return page.render(report_folder.report_rows(entries, [decision, *trends]))


def find(browser, selector):
    return browser.find_element("css selector", selector)


def shown(browser, selector):
    found = browser.find_elements("css selector", selector)
    return [one.text for one in found if one.is_displayed()]


def wait(condition, seconds=10):
    """Return the first true value of ``condition()``."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return value


def type_filter(browser, text):
    field = find(browser, "#text-filter")
    field.clear()
    field.send_keys(text)


def rows_of_matrix(browser):
    return shown(browser, "table.matrix tbody th")


def test_a_cell_opens_its_evidence_and_its_worst_items(opened, report):
    browser = opened(report)
    assert "do not release: m-wanda-50 failed" in find(browser, "#decision").text
    type_filter(browser, "wanda")
    assert rows_of_matrix(browser) == ["wanda-50"]
    assert find(browser, "#shown").text == "1 of 5 candidates"
    failed = next(button for button in browser.find_elements("css selector", ".cell.failed")
                  if button.is_displayed())  # fmt: skip
    assert failed.text.startswith("✗")
    failed.send_keys("\ue007")  # the return key
    text = find(browser, "#evidence").text
    assert text.startswith("m-wanda-50: perplexity")
    assert "The worst 10 of 14 items that got worse" in text
    assert shown(browser, "#evidence .item pre")[:4] == [
        "Who lives in Fenwick? (1)", "Nora", "Nora", "Oskar 1",
    ]  # fmt: skip
    address = browser.current_url
    assert address.endswith("#m-wanda-50:perplexity_drift")
    find(browser, "#evidence").send_keys("\ue00c")  # the escape key
    assert not find(browser, "#evidence").is_displayed()
    assert browser.switch_to.active_element == failed
    opened(report, "#m-wanda-50:perplexity_drift")
    assert find(browser, "#evidence").is_displayed()


def test_candidates_are_filtered_by_outcome_and_sorted_by_column(opened, report):
    browser = opened(report)
    for outcome, rows in {
        "failed": ["wanda-50", "svd-60"],
        "known failure": ["magnitude-50"],
        "not judged": ["fp8"],
        "inconclusive": ["svd-60"],
    }.items():
        find(browser, f"#outcome-filter option[value='{outcome}']").click()
        assert rows_of_matrix(browser) == rows
    find(browser, "#outcome-filter option[value='']").click()
    head = browser.find_elements("css selector", "table.matrix thead tr:first-child th")[1]
    before = rows_of_matrix(browser)
    head.find_element("css selector", "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert rows_of_matrix(browser) == ["rtn-int8", "wanda-50", "magnitude-50", "fp8", "svd-60"]
    head.find_element("css selector", "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert rows_of_matrix(browser)[:3] == ["magnitude-50", "wanda-50", "rtn-int8"]
    assert sorted(before) == sorted(rows_of_matrix(browser))


def test_plots_are_switched_and_filtered(opened, report):
    browser = opened(report)
    find(browser, "#figure").location_once_scrolled_into_view  # noqa: B018
    wait(lambda: shown(browser, "#figure .gtitle"))
    titles = []
    for option in browser.find_elements("css selector", "#figure-choice option"):
        option.click()
        titles.append(option.text)
        assert wait(lambda: shown(browser, "#figure .gtitle"))[0] == option.text
    assert {"Perplexity against the task", "Size against quality"} <= set(titles)
    buttons = browser.find_elements("css selector", "#figure .modebar-btn")
    names = [button.get_attribute("data-title") for button in buttons]
    assert "Zoom" in names
    assert not any("loud" in name or "Share" in name for name in names)
    find(browser, "#figure-data summary").click()
    assert "m-rtn-int8" in find(browser, "#figure-data").text
    bars = next(o for o in browser.find_elements("css selector", "#figure-choice option")
                if o.text.startswith("EM"))  # fmt: skip
    bars.click()
    assert len(wait(lambda: shown(browser, "#figure .ytick"))) == 4
    type_filter(browser, "wanda")
    wait(lambda: len(shown(browser, "#figure .ytick")) == 1)


def test_a_weight_changes_the_ranking(opened, report):
    browser = opened(report)

    def ranking():
        rows = browser.find_elements("css selector", ".ranking tbody tr")
        return [row.text.split()[:3] for row in rows]

    initial = ranking()
    assert initial[0][0] == "magnitude-50"
    assert find(browser, ".best").text == "rtn-int8"  # magnitude-50 has known failures
    assert initial[0][1:] == ["1", f"{0.6 * 0.8 + 0.2 * 6 + 0.2 * 1.5:.3f}"]
    sliders = browser.find_elements("css selector", "input[type=range]")
    sliders[1].send_keys("\ue011")  # the home key: no weight for the size
    assert find(browser, ".weights label:nth-child(2) output").text == "0"
    changed = ranking()
    assert [name for name, *_ in changed][:3] == ["rtn-int8", "wanda-50", "magnitude-50"]
    assert changed[0][1:] == ["1", f"{0.6 * 0.898 + 0.2 * 1.99:.3f}"]
    assert find(browser, ".best").text == "rtn-int8"


def test_the_weights_of_the_profile_are_not_changed_by_the_first_move_of_a_slider(opened):
    weights = {"task": 3.0, "size": 0.33, "speed": 1.0}
    rows = report_folder.report_rows(pages.small_report())
    browser = opened(page.render([*rows, {"group": "m", "weights": weights}]))
    sliders = browser.find_elements("css selector", "input[type=range]")
    values = [float(slider.get_attribute("value")) for slider in sliders]
    assert values == list(weights.values())
    sliders[2].send_keys("\ue011")  # the home key: no weight for the speed
    score = find(browser, "#ranking tbody tr .score").text
    assert score == f"{3 * 0.8 + 0.33 * 6:.3f}"  # of magnitude-50


def test_a_trend_is_followed_from_a_cell(opened, report):
    browser = opened(report, "#m-wanda-50:perplexity_drift")
    find(browser, "#follow-trend").click()
    assert not find(browser, "#evidence").is_displayed()
    title = wait(lambda: shown(browser, "#trend .gtitle"))
    assert title == ["m-wanda-50: perplexity"]
    assert browser.execute_script("return document.activeElement.id") == "trend-choice"
    assert "step 2026-01-17" in find(browser, "#trend").text


def test_texts_of_models_run_no_script(opened):
    browser = opened(page.render(pages.hostile_report()))
    for number in range(3):
        browser.execute_script(
            "document.querySelectorAll('button[data-cell]')[arguments[0]].click()", number
        )
        browser.execute_script("document.getElementById('evidence').close()")
    find(browser, "#figure").location_once_scrolled_into_view  # noqa: B018
    for option in browser.find_elements("css selector", "#figure-choice option"):
        option.click()
        wait(lambda: shown(browser, "#figure .gtitle"))
    assert browser.execute_script("return window.attacked") is None
    addresses = browser.execute_script(
        "return [...document.querySelectorAll('#figure *, #evidence *')].flatMap((node) =>"
        "  ['href', 'xlink:href', 'src'].map((name) => node.getAttribute(name)).filter(Boolean))"
    )
    assert [address for address in addresses if not address.startswith("#")] == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_the_page_fits_its_window_and_can_be_read(opened, browser, report, width, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(report, "#m-wanda-50:perplexity_drift")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return window.innerWidth") == width
        assert browser.execute_script(CONTRAST) >= 4.5
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRAST = """
const luminance = (text) => {
  const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (node) => {
  for (; node; node = node.parentElement) {
    const color = getComputedStyle(node).backgroundColor;
    if (!color.endsWith(", 0)") && color !== "transparent") return color;
  }
  return "rgb(255, 255, 255)";
};
const ratios = [...document.querySelectorAll("button, th, td, dd, dt, p, h1, h2, .mark, a")]
  .filter((node) => node.textContent.trim()).map((node) => {
    const [a, b] = [luminance(getComputedStyle(node).color), luminance(background(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
return Math.min(...ratios);
"""
"""The smallest contrast of a text with its background, as WCAG 2 defines it."""


def test_print_has_the_evidence_of_failures(opened, report):
    browser = opened(report)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        text = find(browser, "#print-evidence").text
        assert "Evidence of the failures" in text
        assert "m-wanda-50: perplexity" in text
        assert "Who lives in Fenwick? (1)" in text
        assert "m-rtn-int8" not in text
        assert not find(browser, "#filters").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
