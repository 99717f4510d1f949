"""The page in headless Chromium, opened from disk: no errors, no requests, and every control does what it says."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.report_page.page import Options, build
from tests.experiments.report_page import synthetic
from tests.experiments.report_page.pages import GAMES, HOSTILE, make, overrides, write
from tests.experiments.report_page.reader import CHROMIUM, DRIVER, PHONE, WIDE, Reader
from tests.experiments.report_page.test_several_games import page as several

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    made = Reader(tmp_path_factory.mktemp("profile"))
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = make(tables=[synthetic.table()], options=Options(figures=1))
    return write(page, tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (PHONE, True)])
def test_nothing_is_wrong_and_nothing_is_asked_for(
    reader: Reader, address: str, size: tuple[int, int], dark: bool
) -> None:
    reader.requests()  # what earlier tests did
    reader.open(address, size, dark)
    reader.click("#show-games")
    reader.until("document.querySelectorAll('#games-table .tabulator-row').length > 0")
    assert reader.complaints() == []
    asked = reader.requests()
    assert address in asked
    own = ("file:", "data:", "blob:", "chrome:")  # the last are the browser's own icons
    assert [url for url in asked if not url.startswith(own)] == []
    assert {url for url in asked if url.startswith("file:")} == {address}


def test_a_click_on_a_heading_sorts(reader: Reader, address: str) -> None:
    reader.open(address)
    every = reader.ask("tables.cells.rows.map((row) => row.effect)")
    heading = "#cells-table .tabulator-col[tabulator-field=effect] .tabulator-col-title"
    for order in (sorted(every, reverse=True), sorted(every)):
        reader.click(heading)
        shown = [float(text.split()[0].replace("−", "-")) for text in reader.column("effect")]
        assert shown == [pytest.approx(value, abs=0.000501) for value in order[: len(shown)]]
        assert len(shown) > 5
    reader.driver.execute_script("document.querySelector('#cells-table [tabulator-field=attack]').focus()")
    reader.driver.switch_to.active_element.send_keys("\n")  # the same from the keyboard
    assert reader.ask("tables.cells.table.getSorters()[0].field") == "attack"


def test_filters_under_headings_and_search_narrow_the_rows(reader: Reader, address: str) -> None:
    reader.open(address)
    assert reader.rows() == 72
    reader.type("#cells-table [tabulator-field=effect] .tabulator-header-filter input", "> 0.1")
    wanted = reader.ask("tables.cells.rows.filter((row) => row.effect > 0.1).length")
    reader.until(f"tables.cells.table.getDataCount('active') === {wanted}")
    assert 0 < wanted < 72
    reader.type("#search", "mnist retrain")
    wanted = reader.ask(
        "tables.cells.rows.filter((row) => row.effect > 0.1 && row.data === 'mnist' && row.unlearning === 'retrain')"
        ".length"
    )
    reader.until(f"tables.cells.table.getDataCount('active') === {wanted}")
    assert wanted > 0
    assert f"{wanted} of 72 rows" in reader.ask("document.getElementById('row-count').textContent")
    reader.click("#show-games")
    reader.until("tables.games && document.querySelectorAll('#games-table .tabulator-row').length > 0")
    reader.until("tables.games.table.getDataCount('active') === 3 * 2 * 2 * 3")  # attacks, defenses, parts, seeds
    assert set(reader.column("unlearning", "games")) == {"retrain"}


def test_a_list_under_a_heading_chooses(reader: Reader, address: str) -> None:
    reader.open(address)
    reader.click("#cells-table [tabulator-field=unlearning] .tabulator-header-filter input")
    reader.until("document.querySelectorAll('.tabulator-edit-list-item').length === 3")
    reader.click(".tabulator-edit-list-item:nth-child(2)")
    reader.until("tables.cells.table.getDataCount('active') === 24")
    assert set(reader.column("unlearning")) == {"retrain"}


@pytest.mark.parametrize(
    ("typed", "holds"),
    [
        ("0.2", lambda x: abs(x - 0.2) <= 0.05), ("=-0.1", lambda x: abs(x + 0.1) <= 0.05), ("<=0", lambda x: x <= 0),
        ("-0.1..0.05", lambda x: -0.1 <= x <= 0.05), ("nonsense", lambda x: True), (">", lambda x: True),
    ],
)  # fmt: skip
def test_conditions_on_numbers(reader: Reader, address: str, typed: str, holds: Callable[[float], bool]) -> None:
    reader.look(address)
    values = [-0.3, -0.1, -0.05, 0.0, 0.05, 0.19, 0.2, 0.24, 0.26]
    assert reader.ask(f"{values}.filter((value) => matches('{typed}', value))") == [v for v in values if holds(v)]


def test_a_row_opens_its_command_settings_and_records(reader: Reader, address: str) -> None:
    reader.open(address)
    reader.click("#cells-table .tabulator-row:nth-child(3) [tabulator-field=unlearning]")
    assert reader.ask("document.getElementById('details').open")
    command = reader.ask("document.getElementById('details-command').textContent")
    assert command == "python experiments/run.py -m attack=uncertainty 'game.targets.over=[0.4,0.6]' 'seed=range(0,3)'"
    assert reader.ask("document.querySelectorAll('#details-games a').length") == 3
    assert reader.ask("document.querySelector('#details-games a').getAttribute('href')").startswith("./store/game/")
    settings = reader.ask("[...document.querySelectorAll('#details-settings li')].map((item) => item.textContent)")
    assert settings == ["attack=uncertainty", "game.targets.over=[0.4,0.6]"]
    reader.click("#copy-command")
    reader.until("document.getElementById('copy-command').textContent === 'Copied'")
    reader.click("#close")
    assert not reader.ask("document.getElementById('details').open")
    reader.click("#show-games")
    reader.until("document.querySelectorAll('#games-table .tabulator-row').length > 3")
    reader.click("#games-table .tabulator-row:nth-child(3) button")
    command = reader.ask("document.getElementById('details-command').textContent")
    assert command == "python experiments/run.py attack=uncertainty 'game.targets.over=[0.4,0.6]' seed=1"
    assert reader.complaints() == []


def test_every_command_is_listed(reader: Reader, address: str) -> None:
    reader.look(address)
    text = reader.ask("document.getElementById('command-list').textContent")
    assert text.count("python experiments/run.py") == 36
    assert reader.ask("document.getElementById('commands-summary').textContent") == "All 36 commands"


def test_the_csv_has_every_number_of_the_rows_that_are_left(reader: Reader, address: str) -> None:
    reader.open(address)
    reader.type("#search", "uncertainty black_box mnist first_order influence over")
    reader.until("tables.cells.table.getDataCount('active') === 1")
    text = reader.ask(
        "(() => { let csv; const keep = (text) => { csv = text; };"
        "tables.cells.table.modules.download.download('csv', '', {}, 'active', keep); return csv; })()"
    )
    head, row = (line.replace('"', "").split(",") for line in text.lstrip("\ufeff").splitlines())
    values = dict(zip(head, row, strict=True))
    shown = reader.ask("tables.cells.table.getData('active')[0]")
    assert float(values["effect"]) == shown["effect"]
    assert float(values["effect_low95"]) == shown["effect_low"]
    assert float(values["effect_high95"]) == shown["effect_high"]
    assert (values["model"], values["game"], values["n"]) == ("mlp", "request", "3")  # hidden columns too


def test_the_heat_map_shows_the_means_and_follows_the_choice(reader: Reader, address: str) -> None:
    reader.look(address)
    numbers = "[...document.querySelectorAll('#heatmap-over .annotation-text')].map((text) => text.textContent)"
    before = reader.ask(numbers)
    wanted = reader.ask("HEAT.panels[0].cells.map((cell) => `${numberText(cell.mean, 3, true)}n = 6`)")
    assert len(before) == 2 * 9 + 2
    assert set(wanted) < set(before)
    reader.driver.execute_script("chooseData.value = 'mnist'; chooseData.dispatchEvent(new Event('change'))")
    reader.until(f"{numbers}.some((text) => text.endsWith('n = 3'))")


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_long_names_are_whole_beside_the_heat_map(reader: Reader, tmp_path: Path, size: tuple[int, int]) -> None:
    page = make(synthetic.with_long_names(), options=Options(figures=0))
    reader.open(write(page, tmp_path / "named.html"), size)
    reader.until("document.querySelectorAll('#heatmap-over .ytick text').length > 0")
    cut = """(() => {
      const whole = document.querySelector("#heatmap-over svg").getBoundingClientRect();
      const names = [...document.querySelectorAll("#heatmap-over .xtick text, #heatmap-over .ytick text")];
      const boxes = names.map((name) => [name.textContent, name.getBoundingClientRect()]);
      return boxes.filter(([_, box]) => box.left < whole.left || box.right > whole.right || box.bottom > whole.bottom)
        .map(([name]) => name);
    })()"""
    assert reader.ask(cut) == []


def test_of_several_games_one_is_looked_at(reader: Reader, tmp_path: Path) -> None:
    reader.open(write(several(Options(figures=0)), tmp_path / "several.html"))
    assert reader.ask("[...chooseGame.options].map((option) => option.textContent)") == ["forge", "request"]
    assert not reader.ask("document.getElementById('choose-game').hidden")
    assert reader.rows() == 2
    assert reader.ask("document.querySelector('#heatmap-all') !== null")
    reader.click("#show-games")
    reader.until("tables.games && document.querySelectorAll('#games-table .tabulator-row').length === 8")
    choose = "chooseGame.value = '1'; chooseGame.dispatchEvent(new Event('change'))"
    reader.driver.execute_script(choose)
    reader.until("tables.games && document.querySelectorAll('#games-table .tabulator-row').length > 8")
    assert reader.ask("tables.games.rows.length") == 2 * 72
    assert reader.ask(
        "document.querySelector('#heatmap-all') === null && document.querySelector('#heatmap-over') !== null"
    )
    reader.click("#show-cells")
    assert reader.rows() == 72
    reader.click("#cells-table .tabulator-row [tabulator-field=unlearning]")
    assert reader.ask("document.getElementById('details-where').textContent").startswith("request, ")
    reader.click("#close")
    reader.driver.execute_script(choose.replace("1", "0"))
    reader.until("tables.cells.rows.length === 2 && document.querySelector('#heatmap-all') !== null")
    assert reader.ask("document.getElementById('scale-name').textContent").startswith("Mean passed (%)")
    assert reader.complaints() == []


def test_dark_and_back(reader: Reader, address: str) -> None:
    reader.look(address)
    paper, drawn = "getComputedStyle(document.body).backgroundColor", "document.querySelector('#heatmap-over image')"
    light, picture = reader.ask(paper), reader.ask(f"{drawn}.href.baseVal")
    reader.click("#theme")
    assert reader.ask(paper) != light
    assert reader.ask("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
    reader.until(f"{drawn}.href.baseVal.length > 0 && {drawn}.href.baseVal !== '{picture}'")
    reader.click("#theme")
    assert reader.ask(paper) == light


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_their_paper(reader: Reader, address: str, dark: bool) -> None:
    """Contrast of at least 4.5 to 1 (WCAG AA) for every colour that text has."""
    reader.look(address, dark=dark)
    pairs = [(ink, paper) for ink in ("--ink", "--quiet", "--accent") for paper in ("--paper", "--card", "--shade")]
    pairs += [("--yes", "--yes-shade"), ("--no", "--no-shade"), ("--accent", "--accent-shade"), ("--ink", "--no-shade")]
    for ink, paper in pairs:
        one, other = (luminance(reader.ask(f"channels(colour('{name}'))")) for name in (ink, paper))
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 4.5, f"{ink} on {paper}"


def luminance(channels: list[float]) -> float:
    """Relative luminance of an sRGB colour with channels from 0 to 255."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in channels)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_phone_scrolls_only_downwards(reader: Reader, address: str) -> None:
    reader.open(address, PHONE)
    for opened in ("", "document.querySelectorAll('details').forEach((each) => { each.open = true; })"):
        reader.driver.execute_script(opened)
        assert reader.ask("document.documentElement.scrollWidth") <= PHONE[0]
        assert reader.ask("document.body.scrollWidth") <= PHONE[0]
    assert reader.ask("document.querySelector('#cells-table .tabulator-tableholder').scrollWidth") > PHONE[0]
    names = reader.ask(
        "[...document.querySelectorAll('button')].filter((each) => !(each.textContent.trim() || each.ariaLabel))"
    )
    assert names == []


def test_paper_is_light_and_has_every_row(reader: Reader, address: str) -> None:
    reader.open(address, dark=True)
    reader.driver.execute_script(  # this listener comes after those of the page
        "addEventListener('beforeprint', () => { window.onPaper = {"
        "rows: document.querySelectorAll('table.tabulator-print-table tbody tr').length,"
        "theme: document.documentElement.dataset.theme } })"
    )
    pdf = base64.b64decode(reader.tell("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") >= 4
    assert reader.ask("window.onPaper") == {"rows": 72, "theme": "light"}
    assert reader.ask("document.documentElement.dataset.shade") == "dark"  # and the screen is as before
    assert reader.complaints() == []


def test_hostile_names_are_only_text(reader: Reader, tmp_path: Path) -> None:
    frame = synthetic.frame(seeds=1)
    for column in ("attack", "model", "unlearning", "defense.score", "heading", "goal"):
        frame[column] = HOSTILE
    page = build(frame, GAMES, lambda path: synthetic.record(), [], overrides, Options(figures=0, title=HOSTILE))
    reader.open(write(page, tmp_path / "hostile.html"))
    reader.click("#every-column")
    reader.click("#cells-table .tabulator-row [tabulator-field=unlearning]")
    reader.click("#close")
    reader.click("#cells-table [tabulator-field=defense] .tabulator-header-filter input")
    reader.tell("Page.printToPDF")
    assert reader.ask("document.images.length") == 0
    assert reader.ask("tables.cells.rows[0].attack") == f"{HOSTILE} (access=black_box)"
    assert reader.column("attack")[0] == f"{HOSTILE} (access=black_box)"
    assert reader.complaints() == []


def seconds_of_use(reader: Reader, address: str, seeds: int) -> float:
    """How long it takes to show, sort and search the games of a page with so many seeds of every cell."""
    reader.open(address)
    began = time.monotonic()
    reader.click("#show-games")
    reader.until("document.querySelectorAll('#games-table .tabulator-row').length > 0")
    reader.driver.execute_script("tables.games.table.setSort('effect', 'asc')")
    reader.type("#search", "mnist random over")
    reader.until(f"tables.games.table.getDataCount('active') === 2 * 3 * {seeds}")  # defenses, procedures, seeds
    return time.monotonic() - began


def test_ten_thousand_games_are_quick(reader: Reader, tmp_path: Path) -> None:
    few = synthetic.frame(seeds=2)
    small, large = (write(make(synthetic.repeated(few, n)), tmp_path / f"{n}.html") for n in (1, 139))
    base, seconds = seconds_of_use(reader, small, 2), seconds_of_use(reader, large, 278)
    print(f"72 games {base:.2f} s, 10,008 games {seconds:.2f} s")
    assert seconds < 10 * base  # of 139 times as many; whatever else the machine does, it does to both
    assert len(reader.ask("tables.games.rows.map((row) => row.record)")) == 2 * 36 * 278
    assert (
        reader.ask("document.querySelectorAll('#games-table .tabulator-row').length") < 200
    )  # the others are not drawn
