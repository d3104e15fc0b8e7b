"""The report in a real browser, offline: pointing, picking axes, brushing, phones, keyboards."""

import json
import shutil
from pathlib import Path

import pytest
from drawable_run import finish, held_out_rows, make_run

from optishear.records.run_directory import find_run
from optishear.report.page.write import write_report


webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the path"
)
RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that can reach no host at all."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports by name, each written once."""
    folder = tmp_path_factory.mktemp("reports")
    made = make_run(folder / "run", candidates=60, failing=3, wild=2, blocks=12)
    finish(made, rows=held_out_rows())
    runs = {"made up": made, "joint": find_run(RESULTS / "embedded_joint")}
    return {
        name: write_report(run, folder / f"{name}.html").path.as_uri() for name, run in runs.items()
    }


@pytest.fixture
def opened(browser, pages):
    """Opens a report at a width; afterwards nothing may have gone wrong or been fetched."""

    def open_page(name, width=1280):
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(pages[name])
        return browser

    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield open_page
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        one["params"]["request"]["url"]
        for one in sent
        if one["method"] == "Network.requestWillBeSent"
    ]
    assert asked, "the page itself was asked for"
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def data_of(browser):
    return json.loads(browser.find_element(By.ID, "run-data").get_attribute("textContent"))


def card(browser):
    return browser.find_element(By.ID, "recipe").text


def mark(browser, index):
    return browser.find_element(By.CSS_SELECTOR, f"#plot [data-index='{index}']")


def lonely(browser, wanted):
    """The index of such a point that has no other within twelve pixels."""
    return browser.execute_script(
        """
        const spots = [...document.querySelectorAll('#plot [data-index]')].map((mark) => {
          const box = mark.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2, Number(mark.dataset.index)];
        });
        const alone = ([x, y, i]) => spots.every(([u, v, j]) => i === j || Math.hypot(u - x, v - y) > 12);
        const found = spots.filter((spot) => arguments[0].includes(spot[2]) && alone(spot));
        return found[found.length - 1][2];
        """,  # noqa: E501
        wanted,
    )


def hover(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).perform()


class TestTheFront:
    def test_begins_with_the_pick(self, opened):
        browser = opened("joint")
        data = data_of(browser)
        pick = data["items"][data["pick"]]
        text = card(browser)
        assert pick["key"] in text
        assert "the pick, on the front" in text
        assert "λ by block" in text
        assert f"--pick '{pick['command']}'" in browser.find_element(By.ID, "command").text

    def test_pointing_at_a_recipe_shows_it_and_a_click_keeps_it(self, opened):
        browser = opened("made up")
        data = data_of(browser)
        plain = [i for i, x in enumerate(data["items"]) if not x["front"] and not x["name"]]
        index = lonely(browser, plain)
        hover(browser, mark(browser, index))
        text = card(browser)
        item = data["items"][index]
        assert item["key"] in text
        assert "a candidate, not on the front" in text
        assert f"{100 * item['values'][0]:.2f} %" in text
        assert "Only recipes of the front can be exported" in text
        bars = browser.find_elements(By.CSS_SELECTOR, "#recipe .bar")
        assert len(bars) == 12

        mark(browser, index).click()
        hover(browser, browser.find_element(By.TAG_NAME, "h1"))
        assert item["key"] in card(browser), "kept when the mouse has gone"
        assert item["key"] in browser.find_element(By.ID, "heat").text
        browser.find_element(By.ID, "unpin").click()
        assert data["items"][data["pick"]]["key"] in card(browser)

    def test_a_baseline_says_its_name(self, opened):
        browser = opened("joint")
        data = data_of(browser)
        [wanda] = [i for i, x in enumerate(data["items"]) if x["name"] == "wanda"]
        hover(browser, mark(browser, wanda))
        assert "baseline wanda" in card(browser)

    def test_arrows_go_along_the_front(self, opened):
        browser = opened("made up")
        data = data_of(browser)
        browser.execute_script("document.getElementById('plot').focus()")
        plot = browser.switch_to.active_element
        plot.send_keys(Keys.HOME)
        seen = [browser.find_element(By.CSS_SELECTOR, "#recipe h3").text]
        front = [x["key"] for x in data["items"] if x["front"]]
        for _ in front[1:]:
            plot.send_keys(Keys.ARROW_RIGHT)
            seen.append(browser.find_element(By.CSS_SELECTOR, "#recipe h3").text)
        sparsity = {x["key"]: x["values"][0] for x in data["items"]}
        assert seen == sorted(front, key=sparsity.get)
        plot.send_keys(Keys.ENTER)
        assert "kept" in card(browser)
        plot.send_keys(Keys.ESCAPE)
        assert data["items"][data["pick"]]["key"] in card(browser)

    def test_the_axes_can_be_chosen(self, opened):
        browser = opened("made up")
        data = data_of(browser)
        names = [quantity["name"] for quantity in data["quantities"]]
        place = names.index("kl")
        before = mark(browser, 0).get_attribute("cy")
        Select(browser.find_element(By.ID, "choose-y")).select_by_value(str(place))
        assert browser.find_element(By.CSS_SELECTOR, ".title-y").text.startswith("kl")
        assert mark(browser, 0).get_attribute("cy") != before
        heights = {
            i: mark(browser, i).location["y"]
            for i, x in enumerate(data["items"])
            if x["places"] and not x["front"] and i != data["pick"]
        }
        kl = {i: data["items"][i]["values"][place] for i in heights}
        least, most = min(kl, key=kl.get), max(kl, key=kl.get)
        assert heights[least] > heights[most]

    def test_the_command_can_be_copied(self, opened):
        browser = opened("joint")
        button = browser.find_element(By.CSS_SELECTOR, "#recipe [data-copies]")
        assert button.get_attribute("data-copies").startswith("optishear front ")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        assert browser.execute_async_script(
            "const done = arguments[0]; setTimeout(() => done(document.querySelector("
            "'#recipe [data-copies]').textContent), 200)"
        ) in ("Copied", "Select and copy it by hand")


class TestBrushing:
    def test_a_drag_keeps_the_recipes_inside_and_a_click_lets_go(self, opened):
        browser = opened("made up")
        data = data_of(browser)
        axis = next(i for i, x in enumerate(data["axes"]) if x["label"] == "metric: alpha")
        band = browser.find_element(By.CSS_SELECTOR, f"[data-axis='{axis}']")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", band)
        wide = band.rect["width"] - 16
        from_left = ActionChains(browser).move_to_element_with_offset(band, round(-wide / 2), 0)
        from_left.click_and_hold().move_by_offset(round(wide * 0.4), 0).release().perform()
        inside = [
            i for i, x in enumerate(data["items"]) if x["places"] and x["places"][axis] <= 0.4
        ]
        lines = browser.find_elements(By.CSS_SELECTOR, "#lines path[data-index]")
        bright = [
            int(line.get_attribute("data-index"))
            for line in lines
            if "faded" not in line.get_attribute("class")
        ]
        assert 0 < len(inside) < len(lines)
        assert abs(len(set(bright) ^ set(inside))) <= 1, "but for half a pixel"
        told = browser.find_element(By.ID, "brushed").text
        assert told.startswith(f"{len(bright)} of {len(lines)} recipes")
        faded = browser.find_elements(By.CSS_SELECTOR, "#plot .faded")
        assert len(faded) >= len(lines) - len(bright), "the front's chart follows"

        browser.find_element(By.ID, "unbrush").click()
        assert not browser.find_elements(By.CSS_SELECTOR, "#lines .faded")

    def test_works_from_the_keyboard(self, opened):
        browser = opened("made up")
        band = browser.find_element(By.CSS_SELECTOR, "[data-axis='0']")
        browser.execute_script("arguments[0].focus()", band)
        for _ in range(10):
            browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
        assert band.get_attribute("aria-valuenow") == "50"
        assert browser.find_elements(By.CSS_SELECTOR, "#lines .faded")
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        assert band.get_attribute("aria-valuetext") == "all"


class TestEverywhere:
    @pytest.mark.parametrize("name", ["made up", "joint"])
    @pytest.mark.parametrize("width", [390, 1280])
    def test_nothing_leaves_the_page_sideways(self, opened, name, width):
        browser = opened(name, width)
        for details in browser.find_elements(By.TAG_NAME, "details"):
            browser.execute_script("arguments[0].open = true", details)
        size = "return document.documentElement.scrollWidth"
        assert browser.execute_script(size) <= width
        beyond = browser.execute_script(
            """
            return [...document.querySelectorAll('main *, header *')].filter((element) => {
              const box = element.getBoundingClientRect();
              return box.right > arguments[0] + 1 && !element.closest('.scroll, .card code');
            }).map((element) => element.outerHTML.slice(0, 80));
            """,
            width,
        )
        assert beyond == []

    def test_a_tap_on_a_phone_keeps_a_recipe(self, opened):
        browser = opened("made up", 390)
        data = data_of(browser)
        front = [i for i, x in enumerate(data["items"]) if x["front"] and i != data["pick"]]
        index = lonely(browser, front)
        spot = mark(browser, index)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", spot)
        spot.click()
        assert data["items"][index]["key"] in card(browser)
        assert Select(
            browser.find_element(By.ID, "choose-recipe")
        ).first_selected_option.get_attribute("value") == str(index)

    def test_reads_without_javascript(self, opened):
        browser = opened("made up")
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            opened("made up")
            shown = [x for x in browser.find_elements(By.TAG_NAME, "img") if x.is_displayed()]
            assert len(shown) == 6
            assert not browser.find_element(By.ID, "recipe").is_displayed()
        finally:
            browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
