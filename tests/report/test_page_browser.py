"""The pages to explore, in a real browser without a network: what a reader does there, and what names may not do."""

import itertools
import json
import shutil
import time

import numpy as np
import pytest

from moeopt.balancers import contiguous, eplb, hot_replication, local_search
from moeopt.errors import InputError, NoPlacementError
from moeopt.load import LoadMatrix
from moeopt.problem import PlacementProblem
from moeopt.report.moves import study_moves
from moeopt.report.page.gap import gap_page
from moeopt.report.replay_report import replay_report
from moeopt.report.study import Effort, study
from moeopt.solution import Solution
from moeopt.traces import generate
from moeopt.traces.engines import ENGINES, encoded
from tests.report.facts import facts_of

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Select = pytest.importorskip("selenium.webdriver.support.ui").Select
pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<img src=x onerror=alert(1)> $$x$$ **b**"
TRACE = "</script><script>alert(2)</script>"
LAYERS = (3, 4, 7)
ONCE = Effort(repeats=1)
VISITS = itertools.count()


def uneven(problem):
    """Has no placement on the first layer."""
    rows = contiguous(problem).phy2log.copy()
    rows[0] = -1
    return Solution(problem, rows)


def nothing(problem):
    """Has no placement at all."""
    raise NoPlacementError("none exists")


@pytest.fixture(scope="module")
def studies():
    """Two settings, the second with more slots and a placement in force."""
    load = LoadMatrix(np.random.default_rng(4).integers(1, 1000, (3, 16)), LAYERS, TRACE)
    methods = {"contiguous": contiguous, "eplb": eplb, "hot_replication": hot_replication, HOSTILE: local_search}
    methods |= {"uneven": uneven, "nothing": nothing}
    few = PlacementProblem(load, 4, 16, allow_empty_slots=True)
    many = PlacementProblem(load, 4, 20, allow_empty_slots=True)
    many = PlacementProblem(load, 4, 20, allow_empty_slots=True, reference=contiguous(many))
    second = study(many, methods, {}, ONCE)
    return [study(few, methods, {}, ONCE), type(second)(**{**vars(second), "moves": study_moves(second, ONCE)})]


@pytest.fixture(scope="module")
def file(studies, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(gap_page(studies, facts_of(command=("moeopt", "gap-report"), verification="verified: all")))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless browser with no network, whose downloads land in ``browser.downloads``."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.page_load_strategy = "none"  # waiting for it to settle can take minutes; see `visit`
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.downloads = downloads
    yield found
    found.quit()


def visit(page, file, fragment=""):
    """Load a file afresh and wait until its script is through."""
    url = f"{file.as_uri()}?{next(VISITS)}#{fragment}"
    page.get(url)
    number = url.partition("?")[2].partition("#")[0]
    waited(lambda: page.execute_script(f"return location.search === '?{number}' && document.readyState === 'complete'"))


@pytest.fixture
def opened(browser, file):
    """The page just opened; when the test is over nothing was complained of and nothing asked for."""
    browser.set_window_size(1280, 900)
    visit(browser, file)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    local = (file.as_uri(), "about:", "data:", "blob:")
    assert [url for url in asked if not url.startswith(local)] == []


def one(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def choose(page, name, value):
    Select(page.find_element(By.ID, name)).select_by_value(value)


def column(page, table, heading):
    """The cells under a heading."""
    headings = [cell.text.split("\n")[0] for cell in page.find_elements(By.CSS_SELECTOR, f"#{table} thead th")]
    place = [text.replace("\n", " ").strip(" ▲▼") for text in headings].index(heading) + 1
    return [cell.text for cell in page.find_elements(By.CSS_SELECTOR, f"#{table} tbody td:nth-child({place})")]


def shown_loads(page):
    """Heights of the bars of the layer's chart, once they are there."""
    script = "const drawn = charts.get(at('load-chart')); return drawn && drawn.view && "
    script += "Array.from(drawn.figure.renderers[0].data_source.data.top)"
    return waited(lambda: page.execute_script(script))


def waited(ask):
    for _ in range(400):
        if found := ask():
            return found
        time.sleep(0.05)
    raise AssertionError("did not happen within 20 seconds")


def test_names_from_outside_are_text_and_nothing_of_them_runs(opened):
    assert HOSTILE in column(opened, "summary", "method")
    assert TRACE in column(opened, "summary", "trace")
    assert not opened.find_elements(By.CSS_SELECTOR, "img[src=x]")
    choose(opened, "method", HOSTILE)
    assert HOSTILE in one(opened, "#layer-host h2").text
    opened.execute_script("dispatchEvent(new Event('error'))")
    assert opened.title == "Gap report: how far from the best possible placement"


def test_a_heading_sorts_by_key_and_keeps_the_focus(opened):
    heading = opened.find_element(By.ID, "summary-step_gap")
    heading.send_keys(Keys.ENTER)
    rising = [float(text) for text in column(opened, "summary", "step gap %")[:-2]]
    assert rising == sorted(rising)
    assert column(opened, "summary", "method")[-2:] == ["nothing", "nothing"]
    assert opened.switch_to.active_element.get_attribute("id") == "summary-step_gap"
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    falling = column(opened, "summary", "step gap %")
    assert [float(text) for text in falling[:-2]] == rising[::-1]
    assert falling[-2:] == ["-", "-"]
    assert one(opened, "th[aria-sort=descending]").text.startswith("step gap")


def test_filters_search_and_columns_pick_what_is_shown(opened):
    choose(opened, "per_gpu", "5")
    assert set(column(opened, "summary", "slots")) == {"20"}
    assert len(opened.find_elements(By.CSS_SELECTOR, "#words li")) == 1
    opened.find_element(By.ID, "search").send_keys("EPLB cont")
    assert sorted(column(opened, "summary", "method")) == ["contiguous", "eplb"]
    assert opened.find_element(By.ID, "count").text == "2 rows"
    opened.find_element(By.ID, "columns").click()
    opened.find_element(By.ID, "column-moves").click()
    assert "moves" not in one(opened, "#summary thead").text
    opened.find_element(By.ID, "reset").click()
    assert len(column(opened, "summary", "method")) == 12


def test_what_is_copied_are_the_rows_and_columns_that_are_shown(opened):
    opened.find_element(By.ID, "search").send_keys("<img")
    script = "const a = document.createElement('textarea'); a.id = 'pasted'; document.body.append(a)"
    opened.execute_script(script)
    buttons = opened.find_elements(By.CSS_SELECTOR, "#summary-host .bar > button")
    pasted = opened.find_element(By.ID, "pasted")
    texts = []
    for button in buttons:
        button.click()
        waited(lambda button=button: button.text.startswith("Copied 2"))
        pasted.clear()
        pasted.send_keys(Keys.CONTROL, "v")
        texts.append(pasted.get_property("value"))
    rows = [line.split(",") for line in texts[0].splitlines()]
    assert rows[0][:3] == ["method", "trace", "GPUs"]
    assert [row[0] for row in rows[1:]] == [HOSTILE, HOSTILE]
    assert "\\textless{}img src=x onerror=alert(1)\\textgreater{} \\$\\$x\\$\\$" in texts[1]
    assert texts[1].count(" \\\\\n") == 3


def test_a_layer_shows_the_loads_that_metrics_computes_beside_its_bound(opened, studies):
    choose(opened, "setting", studies[1].problem.load.source + "_4gpus_20slots")
    choose(opened, "method", "eplb")
    run = studies[1].runs["eplb"]
    worst = int(studies[1].layers[studies[1].layers.method == "eplb"].gap.argmax())
    assert f"layer {LAYERS[worst]}" in opened.find_element(By.ID, "worst").text
    assert one(opened, "#layer-host h2").text == f"Layer {LAYERS[worst]} with eplb"
    opened.find_element(By.ID, "layer-4").click()
    assert one(opened, "#layer-host h2").text == "Layer 4 with eplb"
    assert "layer=4" in opened.current_url
    assert shown_loads(opened) == pytest.approx(sorted(run.found.gpu_load[1], reverse=True), rel=1e-12)
    assert studies[1].known.bound_source[1] in one(opened, "#layer-host dl").text
    opened.find_element(By.ID, "next").click()
    assert one(opened, "#layer-host h2").text == "Layer 7 with eplb"


def test_a_link_shows_what_was_seen(opened, file):
    choose(opened, "setting", f"{TRACE}_4gpus_20slots")
    choose(opened, "method", HOSTILE)
    opened.find_element(By.ID, "layer-7").click()
    opened.find_element(By.ID, "near").click()
    opened.find_element(By.ID, "summary-max_gap").click()
    opened.find_element(By.ID, "legend-0").click()
    choose(opened, "theme", "dark")
    seen, link = opened.find_element(By.ID, "main").text, opened.current_url
    visit(opened, file, link.partition("#")[2])
    assert opened.find_element(By.ID, "main").text == seen
    assert opened.find_element(By.ID, "near").is_selected()
    assert opened.find_element(By.ID, "legend-0").get_attribute("aria-pressed") == "false"
    visit(opened, file, "setting=nonsense&layer=x&sort=-nonsense&theme=red&method=__proto__")
    assert one(opened, "#layer-host h2").text


def test_every_engines_file_is_what_our_writers_write(opened, studies):
    placement = studies[0].runs["eplb"].found.placement
    choose(opened, "method", "eplb")
    for engine in (name for name in ENGINES if name != "npz"):
        choose(opened, "engine", engine)
        options = {"layer_ids": LAYERS}
        if engine == "sglang":
            opened.find_element(By.ID, "model_layers").send_keys("9", Keys.TAB)
            waited(lambda: "model_layers=9" in opened.current_url)  # controls, the button too, are made again before
            options["model_layers"] = 9
        expected = encoded(placement, engine, **options)
        expected = expected.encode() if isinstance(expected, str) else expected
        for old in opened.downloads.iterdir():
            old.unlink()
        opened.find_element(By.ID, "save").click()
        (path,) = waited(lambda: list(opened.downloads.glob("[!.]*[!d]")))  # not .crdownload
        assert path.read_bytes() == expected
        assert path.name.endswith(ENGINES[engine].suffix)


def test_what_an_engine_cannot_load_is_not_written_and_said(opened, file, studies):
    placement = studies[1].runs["hot_replication"].found.placement
    with pytest.raises(InputError) as caught:
        encoded(placement, "vllm", layer_ids=LAYERS)
    visit(opened, file, "per_gpu=5&method=hot_replication&engine=vllm")
    opened.find_element(By.ID, "save").click()
    told = waited(lambda: opened.find_element(By.ID, "refused").text)
    assert told.startswith(f"Not written: {str(caught.value).partition(';')[0]}")
    choose(opened, "method", "uneven")
    opened.find_element(By.ID, "save").click()
    waited(lambda: "uneven has no placement on 1 layers" in opened.find_element(By.ID, "refused").text)


def test_colours_follow_the_system_and_the_switch_and_paper_is_white(opened):
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    background = "return getComputedStyle(document.body).backgroundColor"
    waited(lambda: opened.execute_script(background) == "rgb(16, 19, 23)")
    choose(opened, "theme", "light")
    assert opened.execute_script(background) == "rgb(246, 247, 249)"
    choose(opened, "theme", "")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [], "media": "print"})
    assert opened.execute_script(background) == "rgb(255, 255, 255)"
    assert not opened.find_element(By.ID, "filters").is_displayed()
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [], "media": ""})


def test_paper_gets_a_still_of_every_chart_in_light_colours(opened):
    choose(opened, "theme", "dark")
    shown_loads(opened)
    script = "dispatchEvent(new Event('{}print')); return document.querySelectorAll('.chart > canvas').length"
    theme = "return document.documentElement.dataset.theme"
    assert opened.execute_script(script.format("before")) == 5
    assert opened.execute_script(theme) == "light"
    assert opened.execute_script(script.format("after")) == 0
    assert opened.execute_script(theme) == "dark"


def test_a_narrow_screen_scrolls_tables_and_never_the_page(opened):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert opened.execute_script("return document.documentElement.scrollWidth") == 390
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_moves_are_shown_where_a_placement_is_in_force(opened):
    assert not opened.find_element(By.ID, "moves-section").is_displayed()
    choose(opened, "setting", f"{TRACE}_4gpus_20slots")
    assert opened.find_element(By.ID, "moves-section").is_displayed()
    assert "proven minimum" in column(opened, "moves", "method")


def test_the_replay_answers_for_another_price(browser, tmp_path):
    steps = tmp_path / "steps.npy"
    np.save(steps, generate("decode", num_layers=2, num_experts=8, tokens=40, num_windows=14, seed=2).windows)
    found = replay_report({}, trace=steps, gpus=4, every=[4], out=tmp_path / "out", quiet=True)
    visit(browser, tmp_path / "out" / "replay.html")
    assert len(column(browser, "policies", "policy")) == len(found.table)
    price = browser.find_element(By.ID, "price")
    price.send_keys(Keys.CONTROL, "a")
    price.send_keys("5", Keys.TAB)
    waited(lambda: "price=5" in browser.current_url)
    assert browser.find_element(By.ID, "at-price").text.startswith("At 5 balanced layer-steps per move")
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []
