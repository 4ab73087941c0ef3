"""Proves in a real browser, to which nothing but this machine is reachable, that the page of
explore_t5.py fills blanks and answers tasks; and that report.py's page shows values."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 150
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium with its driver: make test-browser installs them"
)
WORDS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1000,1000", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"),
)


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in (*WORDS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(LIMIT_SECONDS)
    yield driver
    driver.quit()


def wait_for(condition):
    """What `condition` returns as soon as that is something."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("nothing came of it")


@pytest.fixture
def page(whole_run, tmp_path):
    """The address of the page of a tiny model."""
    pytest.importorskip("gradio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "explore_t5.py"), str(whole_run), "--port", str(port)],
            stdout=file,
            stderr=file,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    wait_for(lambda: "http://" in log.read_text() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.wait(LIMIT_SECONDS)


def find(browser, selector: str) -> list:
    return [e for e in browser.find_elements("css selector", selector) if e.is_displayed()]


def foreign_addresses(browser) -> list[str]:
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    return [n for n in browser.execute_script(script) if not n.startswith("http://127.0.0.1:")]


def test_blanks_are_filled_and_mistakes_are_said(browser, page):
    browser.get(page)
    (text,) = wait_for(lambda: find(browser, "#blanks-text textarea"))
    (button,) = find(browser, "#blanks-fill")
    text.send_keys("the cat")
    button.click()
    wait_for(lambda: "Mark what is missing" in browser.find_element("css selector", "body").text)
    text.send_keys(" ___ sees a <blank>.")
    button.click()
    ways = wait_for(lambda: find(browser, "#blanks-ways .way"))
    assert 1 <= len(ways) <= 5
    for way in ways:
        assert re.match(r"(< )?\d+\.\d %\s+the cat .*sees a .*\.$", way.text, flags=re.DOTALL), (
            way.text
        )
        assert len(way.find_elements("css selector", "mark")) == 2
    assert foreign_addresses(browser) == []
    fonts = browser.execute_script("return getComputedStyle(document.body).fontFamily")
    assert "system-ui" in fonts or "sans-serif" in fonts


def test_a_task_is_answered_with_a_share_for_each_word(browser, page):
    browser.get(page)
    (tab,) = wait_for(
        lambda: [t for t in find(browser, "button[role=tab]") if t.text == "Answer a task"]
    )
    tab.click()
    (name,) = wait_for(lambda: find(browser, "#task-name input"))
    name.click()
    name.send_keys("\ue009a\ue000glue/mnli\ue007")  # Control-A, the name, Enter
    columns = wait_for(
        lambda: (
            len(boxes := [b for b in find(browser, "textarea") if b.is_enabled()]) == 2 and boxes
        )
    )
    for column, text in zip(columns, ("a cat", "a dog"), strict=True):
        column.send_keys(text)
    (ask,) = find(browser, "#task-ask")
    ask.click()
    ways = wait_for(lambda: find(browser, "#task-labels .way"))
    words = {way.text.split()[-1] for way in ways}
    assert words == {"entailment", "neutral", "contradiction"}
    bars = [way.find_element("css selector", ".bar i").get_attribute("style") for way in ways]
    shares = [float(re.search(r"width: ([\d.]+)%", bar)[1]) for bar in bars]
    assert sum(shares) == pytest.approx(100, abs=0.2) and shares == sorted(shares, reverse=True)
    read = [box.get_attribute("value") for box in browser.find_elements("css selector", "textarea")]
    assert "mnli hypothesis: a cat premise: a dog" in read


def test_the_comparison_of_runs_shows_values_under_the_mouse(browser, whole_run, tmp_path):
    import report

    report.main([str(whole_run), "--output", str(tmp_path / "page.html")])
    browser.get((tmp_path / "page.html").as_uri())
    drawing = find(browser, ".chart svg")[0]
    webdriver = pytest.importorskip("selenium.webdriver")
    webdriver.ActionChains(browser).move_to_element(drawing).perform()
    (values,) = wait_for(lambda: find(browser, ".chart .values"))
    assert re.match(rf"{whole_run.name}\s+\d\.\d+\s+\(step \d+\)", values.text), values.text
    assert foreign_addresses(browser) == []
