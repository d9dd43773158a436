"""The report in a browser: it works, it is quiet, and nothing hostile in it runs."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from impasto.bench import Bench
from impasto.bench.export import export_bench
from impasto.images import write_png
from impasto.report import write_report
from impasto.report.reconstruction import write_reconstruction_report
from impasto.run.compare import compare
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.run.pictures import open_pictures
from impasto.run.reconstruction import ReconstructionSettings, measure_reconstruction
from impasto.score.base import Score
from impasto.search import BestOfN, NoSearch
from impasto.spec import Item, Spec
from impasto.zoo.registry import BENCHES
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond
from tests.test_run_measure import Lighter, grey

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
support = pytest.importorskip("selenium.webdriver.support.select")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "one\u2028two 'three' <b onclick=hacked()>",
)
SPECS = [*tiny.SPECS, *(Spec(tag="colors", include=(Item(cls="<svg/onload=hacked=1>"),), prompt=p)
                        for p in HOSTILE)]  # fmt: skip
BENCH = Bench(name="tiny", specs=tuple(SPECS), samples_per_prompt=2)


class BoxScorer(FakeScorer):
    """A fake whose one object lies at (4, 2, 12, 8) of 16 pixels."""

    def _one(self, value, spec):
        score = super()._one(value, spec)
        return replace(score, details={spec.include[0].cls: [[4.0, 2.0, 12.0, 8.0, 0.75]]})


@pytest.fixture(scope="module")
def driver():
    """Headless Chromium that writes down its console and every request."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if browser is None or service is None:
        pytest.skip("chromium and chromedriver are not both installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu",
                     "--disable-dev-shm-usage", "--force-prefers-reduced-motion",
                     "--window-size=1200,900"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        evaluate(tiny.settings(bench=BENCH, scorer=BoxScorer(), names={"search": name}),
                 FakeGenerator(), search, folder / name).path
        for name, search in (("none", NoSearch()), ("best", BestOfN(3, FakeSecond())))
    ]  # fmt: skip
    return write_report(runs, folder / "page.html", compare(runs))


def console(driver):
    """What stands in the console since the last call, violations of the policy included."""
    driver.execute_script("console.log('so far')")
    messages = []
    for _ in range(100):  # messages come in their order, but some time later
        messages += [entry["message"] for entry in driver.get_log("browser")]
        if messages and "so far" in messages[-1]:
            return messages[:-1]
        time.sleep(0.02)
    raise AssertionError(f"the console is not heard; so far: {messages}")


@pytest.fixture
def page(driver, report):
    """The page, freshly opened; at the end its console must be empty."""
    driver.get("about:blank")
    console(driver)
    driver.get(report.as_uri())
    yield driver
    assert driver.execute_script("return window.hacked === undefined")
    assert console(driver) == []


def find(page, selector):
    return page.find_element("css selector", selector)


def shown(page):
    """The prompts that are to be seen."""
    script = """return [...document.querySelectorAll('.gallery > article')]
        .filter(a => a.offsetParent !== null).map(a => a.querySelector('h3').textContent)"""
    return page.execute_script(script)


def click(page, selector):
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", find(page, selector))
    find(page, selector).click()


def choose(page, task):
    support.Select(find(page, "[name=task]")).select_by_value(task)


def test_the_page_shows_all_and_asks_the_network_for_nothing(driver, report):
    driver.get_log("performance")
    driver.get(report.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events
            if event["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert report.as_uri() in urls, "the log must see requests at all"
    assert not [url for url in urls if url != report.as_uri() and not url.startswith("data:")]
    assert len(shown(driver)) == 9
    images = driver.find_elements("css selector", ".gallery img")
    assert len(images) == 36
    assert all(image.get_property("naturalWidth") == 16 for image in images)


def test_hostile_prompts_are_words(page):
    assert shown(page)[-3:] == list(HOSTILE)
    assert len(page.find_elements("css selector", "script")) == 1
    assert not page.find_elements("css selector", "[onerror], [onload], [onclick]")


def test_the_policy_stops_what_is_not_the_pages_own(driver, report, tmp_path):
    changed = tmp_path / "changed.html"
    text = report.read_text().replace("<script>", "<script>window.hacked = 1;")
    changed.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    console(driver)
    driver.get(changed.as_uri())
    refused = [text for text in console(driver) if "Content Security Policy" in text]
    assert any("script" in text for text in refused) and any("x.png" in text for text in refused)
    assert driver.execute_script("return window.hacked === undefined")
    assert len(shown(driver)) == 9, "the page is read without its script too"
    assert not find(driver, "form.filter").is_displayed()


def test_filters_and_search(page):
    output = find(page, "form.filter output")
    assert output.text == "9 prompts, 36 pictures"
    choose(page, "counting")
    assert shown(page) == ["a photo of two cups"]
    assert output.text == "1 of 9 prompts, 4 pictures"
    assert page.current_url.endswith("#task=counting")
    choose(page, "")
    find(page, "[name=q]").send_keys("PHOTO of  cat")
    assert shown(page) == ["a photo of a cat and a bus"]
    find(page, "[name=q]").send_keys("<i")
    assert shown(page) == [] and find(page, ".none").is_displayed()
    click(page, ".reset")
    assert len(shown(page)) == 9 and "#" not in page.current_url


def test_verdict_filters_part_the_prompts(page):
    found = {}
    for verdict in ("right", "wrong", "disagree"):
        page.execute_script("document.querySelector(arguments[0]).click()",
                            f"[value={verdict}]")  # fmt: skip
        found[verdict] = shown(page)
    assert len(found["right"]) > 0 and len(found["wrong"]) > 0
    assert sorted(found["right"] + found["wrong"]) == sorted(spec.prompt for spec in SPECS)
    assert "a photo of a red car" in found["disagree"]
    assert set(found["disagree"]) <= set(found["wrong"])


def test_a_failures_number_leads_to_its_pictures(page):
    page.execute_script("document.querySelector('#failures td a[href*=colors]').click()")
    time.sleep(0.2)
    assert find(page, "[name=kind]").get_attribute("value") == "missing"
    assert find(page, "[name=task]").get_attribute("value") == "colors"
    prompts = shown(page)
    assert prompts and set(prompts) <= {spec.prompt for spec in SPECS if spec.tag == "colors"}
    places = page.find_elements("css selector", "article:not([hidden]) .shot")
    assert all(("aside" in p.get_attribute("class")) == (not p.get_attribute("data-kinds"))
               for p in places)  # fmt: skip
    assert any("aside" in p.get_attribute("class") for p in places), "or nothing was told apart"
    assert page.find_elements("css selector", ".boxed")
    page.execute_script("document.querySelector('.reset').click()")
    assert not page.find_elements("css selector", ".gallery .aside")


def test_where_the_scorers_disagree_most_comes_first(page):
    page.execute_script("document.querySelector('.reset').click()")
    before = shown(page)
    assert len(before) == 9
    page.execute_script("document.querySelector('[value=scorers]').click()")
    doubts = page.execute_script("""return [...document.querySelectorAll(
        '.gallery > article:not([hidden])')].map(a => Number(a.dataset.doubt))""")
    assert len(doubts) > 0 and doubts == sorted(doubts, reverse=True) and min(doubts) >= 0.75
    assert len(page.find_elements("css selector", "article:not([hidden]) .doubt")) >= len(doubts)
    page.execute_script("document.querySelector('.reset').click()")
    assert shown(page) == before


def test_the_address_keeps_the_filters(page, report):
    page.get("about:blank")
    page.get(f"{report.as_uri()}#q=cups&boxes=1")
    assert shown(page) == ["a photo of two cups"]
    assert find(page, "[name=boxes]").is_selected()
    page.execute_script("location.hash = '#task=nonsense&verdict=nonsense'")
    time.sleep(0.2)
    assert len(shown(page)) == 9 and find(page, "[name=verdict][value='']").is_selected()
    page.execute_script("location.hash = '#failures'")
    time.sleep(0.2)
    assert len(shown(page)) == 9


def test_boxes_lie_on_the_picture(page):
    assert not find(page, ".shot .boxes").is_displayed()
    click(page, ".shot .toggle")
    assert find(page, ".shot .toggle").get_attribute("aria-pressed") == "true"
    assert len(page.find_elements("css selector", ".boxed")) == 1
    box, image = find(page, ".boxed .boxes rect").rect, find(page, ".boxed img").rect
    pixel = image["width"] / 16
    assert box["x"] - image["x"] == pytest.approx(4 * pixel, abs=3)
    assert box["y"] - image["y"] == pytest.approx(2 * pixel, abs=3)
    assert box["width"] == pytest.approx(8 * pixel, abs=3)
    assert box["height"] == pytest.approx(6 * pixel, abs=3)
    assert "dog 0.75" in find(page, ".boxed .boxes text").get_attribute("textContent")
    click(page, "[name=boxes]")
    assert len(page.find_elements("css selector", ".boxed")) == 36
    click(page, "[name=boxes]")
    assert not page.find_elements("css selector", ".boxed")


def test_a_picture_enlarges(page):
    dialog = find(page, "dialog.large")
    choose(page, "counting")
    click(page, "article:not([hidden]) .enlarge")
    assert dialog.is_displayed()
    assert find(page, "dialog h3").text == "a photo of two cups"
    small, large = (find(page, f"{place} img").rect["width"]
                    for place in ("article:not([hidden])", "dialog"))  # fmt: skip
    assert large > small
    assert "no search, sample 0" in find(page, "dialog dl").text
    click(page, "dialog [data-step='1']")
    assert "sample 1" in find(page, "dialog dl").text
    dialog.send_keys("\ue012\ue012")  # the left arrow key, twice: round to the last one shown
    assert "best, sample 1" in find(page, "dialog dl").text
    assert "rewards" in find(page, "dialog dl").text
    click(page, "dialog .toggle")
    assert find(page, "dialog .boxes").is_displayed()
    page.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not dialog.is_displayed()
    assert page.switch_to.active_element.get_attribute("class") == "enlarge"
    assert len(page.find_elements("css selector", ".gallery .boxed")) == 1


def test_tables_sort(page):
    click(page, "#failures summary")
    names = "return [...document.querySelectorAll('#failures .sortable')[0].tBodies[0].rows]" \
            ".map(r => r.cells[arguments[0]].textContent)"  # fmt: skip
    before = page.execute_script(names, 0)
    click(page, ".sortable .keys th:first-child button")
    assert page.execute_script(names, 0) == sorted(before)
    click(page, ".sortable .keys th:first-child button")
    assert page.execute_script(names, 0) == sorted(before, reverse=True)
    click(page, ".sortable .keys th:nth-child(3) button")
    header = find(page, ".sortable .keys th:nth-child(3)")
    assert header.get_attribute("aria-sort") == "descending"
    right = [eval(share) for share in page.execute_script(names, 2)]
    assert right == sorted(right, reverse=True) and len(set(right)) > 1


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_cut_off_at_any_width(page, width):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


class EditScorer(FakeScorer):
    """A fake that finds every edit wrong, with reasons as long as they get."""

    by_key = True

    def _one(self, value, spec):
        return Score(value=0.0, correct=False, scores={"edit": 0.0, "rest": 1.0},
                     reason="expected green cup>=1, found 0 green; and 1 yellow")  # fmt: skip


OVERLAP = """
return [...document.querySelectorAll(".gallery article")].filter((article) => {
  const parts = ["header", ".sources", ".frame", "figcaption"].map((name) =>
    article.querySelector(name).getBoundingClientRect());
  return parts.some((part, i) => part.height === 0 || (i && part.top < parts[i - 1].bottom));
}).length;
"""


def test_given_pictures_stand_above_the_results_and_cover_nothing(driver, tmp_path):
    bench = BENCHES.create("sticker-edits:per_kind=1")
    export_bench(bench, tmp_path / "ex")
    settings = tiny.settings(bench=bench, scorer=EditScorer(), second=None)
    run = evaluate_images(settings, tmp_path / "ex/targets", tmp_path / "run").path
    driver.get(write_report([run], tmp_path / "page.html", []).as_uri())
    assert driver.execute_script("return document.querySelectorAll('.sources img').length") == 5
    assert driver.execute_script(OVERLAP) == 0


@pytest.fixture
def tokenizers(tmp_path):
    """The page of two tokenizers' runs over six pictures."""
    for i, light in enumerate((0, 40, 80, 120, 160, 200)):
        write_png(tmp_path / "in" / f"{i}.png", grey(light))
    runs = []
    for name, codes in (("latents", None), ("codes", [[7], [0, 0, 1, 1]])):
        model = Lighter(51 if codes is None else 5, codes=codes)
        model.name = name
        settings = ReconstructionSettings(model=model, pictures=open_pictures(tmp_path / "in"))
        runs.append(measure_reconstruction(settings, tmp_path / name).path)
    return write_reconstruction_report(runs, tmp_path / "page.html")


def test_the_page_of_tokenizers_works_and_is_quiet(driver, tokenizers):
    driver.get("about:blank")
    console(driver)
    driver.get(tokenizers.as_uri())
    assert len(shown(driver)) == 6
    assert find(driver, "form.filter output").text == "6 originals, 30 pictures"
    kinds = {}
    for kind in ("worst", "best", "random"):
        driver.execute_script("document.querySelector(arguments[0]).click()", f"[value={kind}]")
        kinds[kind] = shown(driver)
    found = sorted(name for names in kinds.values() for name in names)
    assert found == [f"{i}.png" for i in range(6)]
    assert all(kinds.values())
    click(driver, "article:not([hidden]) .enlarge")
    assert find(driver, "dialog.large").is_displayed()
    driver.switch_to.active_element.send_keys("\ue00c")
    for width in (400, 1400):
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert console(driver) == []
