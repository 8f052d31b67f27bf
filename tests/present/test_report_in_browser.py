"""report.html in a real browser: no errors, no requests, and what a click and the slider show."""

import json
import shutil

import pytest
from looked_at import HOSTILE, REKEYED, SWEPT, results_of
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ipseclab.present.report.page import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no chromium and chromedriver: apt-get install chromium chromium-driver",
    ),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    path = tmp_path_factory.mktemp("reports")
    return {
        name: write_report(results_of(text, path / name))
        for name, text in (("rekeyed", REKEYED), ("swept", SWEPT))
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    home = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={home}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def look(browser, reports):
    """Opens a report; afterwards nothing was complained of and nothing else asked for."""
    asked = []

    def open_report(name):
        asked.append(reports[name].as_uri())
        browser.get(asked[0])
        return browser

    browser.get_log("browser")
    browser.get_log("performance")
    yield open_report
    assert browser.get_log("browser") == []
    events = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
    urls = {
        event["params"]["request"]["url"].partition("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert urls == set(asked)


def rung(page, words):
    found = page.find_elements(By.CSS_SELECTOR, ".point:not([hidden]) button.rung")
    return next(one for one in found if words in one.text)


def tree(page):
    return [one.text for one in page.find_elements(By.CSS_SELECTOR, ".message .tree button")]


def marked(page):
    return "".join(one.text for one in page.find_elements(By.CSS_SELECTOR, ".panes mark"))


def test_a_message_shows_its_payloads_and_a_payload_its_octets(look):
    page = look("rekeyed")
    panel = page.find_element(By.CSS_SELECTOR, ".message")
    assert not panel.is_displayed()
    rung(page, "IKE_AUTH request 1").click()
    assert panel.is_displayed()
    assert "IKE_AUTH request 1" in panel.find_element(By.TAG_NAME, "h3").text
    (identity,) = [words for words in tree(page) if words.startswith("IDi")]
    assert HOSTILE in identity
    buttons = page.find_elements(By.CSS_SELECTOR, ".message .tree button")
    next(one for one in buttons if one.text.startswith("IDi")).click()
    octets = bytes.fromhex(marked(page))
    assert octets[8:] == HOSTILE.encode()
    assert page.title.startswith("looked-at in sim")
    rung(page, "IKE_AUTH request 1").click()
    assert not panel.is_displayed()


def test_esp_is_shown_decrypted_with_the_keyboard_alone(look):
    page = look("rekeyed")
    rung(page, "ESP").send_keys(Keys.ENTER)
    panes = [one.text for one in page.find_elements(By.CSS_SELECTOR, ".panes h4")]
    assert [name.split(",")[0] for name in panes] == ["On the wire", "Decrypted"]
    inner = next(
        one
        for one in page.find_elements(By.CSS_SELECTOR, ".message .tree button")
        if one.text.startswith("ICMP 10.1.0.10 > 10.2.0.10")
    )
    inner.send_keys(Keys.SPACE)
    packet = bytes.fromhex(marked(page))
    assert (packet[0], packet[9], packet[12:16]) == (0x45, 1, bytes([10, 1, 0, 10]))


def test_the_slider_changes_the_counts_and_the_tunnel(look):
    page = look("rekeyed")
    slider = page.find_element(By.CSS_SELECTOR, ".slider input")
    output = page.find_element(By.CSS_SELECTOR, ".slider output")

    def count(words):
        found = page.find_elements(By.CSS_SELECTOR, ".map .count")
        return next(int(one.text.split()[-1]) for one in found if one.text.startswith(words))

    tunnel = page.find_element(By.CSS_SELECTOR, ".map .tunnel")
    assert (output.text, count("probes sent")) == ("2.000 s", 100)
    assert "up" in tunnel.get_attribute("class").split()
    slider.send_keys(Keys.HOME)
    assert (output.text, count("probes sent")) == ("0.000 s", 0)
    assert "up" not in tunnel.get_attribute("class").split()
    slider.send_keys(Keys.ARROW_RIGHT)
    assert output.text == "0.008 s"
    slider.send_keys(Keys.END)
    assert count("probes sent") == 100


def test_a_sweep_shows_one_point_at_a_time(look):
    page = look("swept")
    points = page.find_elements(By.CSS_SELECTOR, ".point")
    assert [one.is_displayed() for one in points] == [True, False]
    chooser = page.find_element(By.ID, "point")
    chooser.send_keys(Keys.ARROW_DOWN)
    assert [one.is_displayed() for one in points] == [False, True]


def test_it_is_no_wider_than_a_telephone(look):
    page = look("rekeyed")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        row = rung(page, "IKE_SA_INIT request")
        row.click()
        panel = page.find_element(By.CSS_SELECTOR, ".message")
        assert panel.rect["y"] >= row.rect["y"]
        assert panel.find_element(By.XPATH, "..").tag_name == "li"
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_and_light_differ(look):
    page = look("rekeyed")
    seen = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen.append(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(255, 255, 255)", "rgb(22, 23, 26)"]
