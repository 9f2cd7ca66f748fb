"""``matrix.html`` in a real browser: it shows the cells, filters them, and opens one."""

from __future__ import annotations

import shutil

import pytest

from dtn_core.conform.cells import Cell
from dtn_core.conform.report import COLUMNS, command, counted, markdown, page, reasons

SOURCE = "def ahla(q, k, v):\n    return q < k & v  # <b>not markup</b>"
MADE = [
    ("ahla", {}, "torch", "value", "pass", 1.5e-7, 2e-6, ""),
    ("ahla", {}, "torch", "gradient", "fail", 1.0, 2e-6, "largest error above its bound"),
    ("ahla", {}, "jax", "value", "pass", 1e-8, 2e-6, ""),
    (
        "tensor_attention",
        {"order": 3, "mask": "causal"},
        "jax",
        "value",
        "xfail",
        1.0,
        1e-6,
        "known, https://example.org/1",
    ),
    ("tensor_attention", {"order": 3, "mask": "causal"}, "torch", "second gradient", "skip", None, None, "no <second>"),
]


def made():
    cells = []
    for operator, knobs, backend, check, status, error, bound, reason in MADE:
        text = operator + (":" if knobs else "") + ",".join(f"{k}={v}" for k, v in knobs.items())
        cells.append(
            Cell(operator, text, knobs, backend, "dense", "eager", check, "float32", status, error, bound, reason, "cpu", f"{backend} 1.0")
        )  # fmt: skip
    many = [
        Cell(f"other_{i}", f"other_{i}", {}, "numpy", "dense", "eager", "value", "float64", "pass", 0.0, 1e-15)
        for i in range(450)
    ]
    return [*cells, *many]


SOURCES = {"torch dense ahla": SOURCE}


def test_the_page_needs_nothing_else():
    text = page(made(), SOURCES, seed=7)
    assert "src=" not in text
    assert "<link" not in text
    assert "http" not in text.partition('<script id="data"')[0].replace("http-equiv", "")


def test_markdown_lists_every_reason_with_its_count():
    text = markdown(made(), seed=7)
    assert "| xfail | jax | known, https://example.org/1 | 1 |" in text
    assert [row[0] for row in reasons(made())] == ["fail", "xfail", "skip"]


def test_every_backend_is_counted_with_the_cell_that_is_nearest_to_its_bound():
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in counted(made())}
    assert (rows["torch"]["pass"], rows["torch"]["fail"], rows["torch"]["skip"], rows["torch"]["cells"]) == tuple(
        "1113"
    )
    assert [rows[name]["largest error / bound"] for name in ("torch", "jax", "numpy", "all")] == [
        "0.07",
        "0.01",
        "0.00",
        "0.07",
    ]
    assert rows["all"]["cells"] == "455"


def test_the_command_quotes_what_a_shell_would_split():
    assert "--checks 'second gradient'" in command(made()[4])
    assert "--ops 'tensor_attention:order=3,mask=causal'" in command(made()[4])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window, with a profile of its own."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("no chromium and chromedriver here; on Debian: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = programs[0]
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-dev-shm-usage", "--window-size=1400,1000", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(programs[1]))
    try:
        folder = tmp_path_factory.mktemp("page")
        (folder / "matrix.html").write_text(page(made(), SOURCES, seed=7), encoding="utf-8")
        driver.get(f"file://{folder / 'matrix.html'}")
        yield Page(driver)
    finally:
        driver.quit()


class Page:
    """The page as a reader uses it."""

    def __init__(self, driver):
        from selenium.webdriver.support.ui import Select, WebDriverWait

        self.driver, self.select = driver, Select
        WebDriverWait(driver, 30).until(lambda _: "cells match" in self.text("shown"))

    def element(self, name):
        return self.driver.find_element("id", name)

    def text(self, name):
        return self.element(name).text

    def choose(self, **values):
        """Set filters; the others show all."""
        for each in self.driver.find_elements("css selector", "#filters select"):
            wanted = values.get(each.get_attribute("id").removeprefix("filter-"), "all")
            self.select(each).select_by_visible_text(wanted)

    def rows(self):
        return [[cell.text for cell in row.find_elements("tag name", "td")] for row in self.find("#cells tr")]

    def find(self, selector):
        return self.driver.find_elements("css selector", selector)


class TestInABrowser:
    def test_all_cells_are_there_a_page_of_them_shown(self, browser):
        browser.choose()
        assert browser.text("shown") == "455 of 455 cells match, 200 shown"
        browser.element("more").click()
        assert browser.text("shown") == "455 of 455 cells match, 400 shown"

    def test_counts_by_backend_and_status(self, browser):
        rows = [row.text.split() for row in browser.find("#counts tbody tr")]
        assert rows[0] == ["jax", "1", "0", "1", "0", "0", "2", "0.01"]
        assert rows[-1] == ["all", "452", "1", "1", "1", "0", "455", "0.07"]

    @pytest.mark.parametrize(
        ("filters", "count"),
        [
            ({"status": "fail"}, 1), ({"backend": "jax"}, 2), ({"operator": "ahla"}, 3), ({"knobs": "order=3,mask=causal"}, 2),
            ({"check": "second gradient"}, 1), ({"dtype": "float32", "operator": "ahla", "backend": "torch"}, 2),
            ({"mode": "jit"}, 0), ({"form": "dense"}, 455),
        ],
        ids=str,
    )  # fmt: skip
    def test_every_axis_filters(self, browser, filters, count):
        browser.choose(**filters)
        assert browser.text("shown").startswith(f"{count} of 455 cells match")

    def test_a_click_shows_error_bound_source_and_command(self, browser):
        browser.choose(operator="ahla", backend="torch", check="value")
        browser.find("#cells tr")[0].click()
        assert browser.text("title") == "ahla"
        assert browser.text("fact-error") == "1.50e-7"
        assert browser.text("fact-bound") == "2.00e-6"
        assert browser.text("fact-versions") == "torch 1.0"
        assert browser.text("source") == SOURCE
        assert browser.text("command") == command(made()[0])
        browser.element("close").click()
        assert not browser.element("detail").is_displayed()

    def test_a_reason_is_text_and_not_markup(self, browser):
        browser.choose(status="skip")
        browser.find("#cells tr")[0].click()
        assert browser.text("fact-reason") == "no <second>"
        assert browser.text("command") == command(made()[4])
        assert not browser.element("source").is_displayed()
        browser.element("close").click()

    def test_the_address_keeps_the_filters(self, browser):
        browser.choose(status="xfail")
        browser.driver.refresh()
        again = Page(browser.driver)
        assert [row[:2] for row in again.rows()] == [["xfail", "tensor_attention order=3,mask=causal"]]

    def test_nothing_is_wrong_on_the_console(self, browser):
        assert [entry for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"] == []
