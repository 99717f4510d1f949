"""The claims of tables as the page shows them, also where a table lacks something."""

from __future__ import annotations

import json
import re
from pathlib import Path

from experiments.report_page.claims import claims_section, read_tables
from experiments.report_page.markup import html_of
from storage.records import checked
from tests.experiments.report_page import synthetic
from tests.experiments.report_page.pages import parse


def test_claims_have_words_numbers_and_intervals() -> None:
    html = claims_section([synthetic.table()])
    text = parse(html).text
    for verdict in ("holds", "does not hold", "not decided"):
        assert verdict in text
    assert "1 holds, 1 not decided, 1 does not hold" in text
    assert "+0.283 [+0.250, +0.310] confidence · n = 60 · p\xa0= 0.0012 (Holm)" in text
    assert "−0.31 ± 0.04" in text.replace("-0.31", "−0.31")
    assert html.count("<svg") == 3


def test_claims_that_lack_something_are_still_shown() -> None:
    claims = [
        {"text": "No test was possible."}, {"id": "only-an-id", "verdict": "holds", "effect": "nan", "low": None},
        {"text": "New.", "verdict": "holds in part", "effect": 0.1}, "no claim at all",
    ]  # fmt: skip
    text = parse(claims_section([{"name": "bare", "claims": claims}, {"name": "none"}])).text
    for part in ("No test was possible.", "only-an-id", "holds in part", "+0.100", "This table has no claims."):
        assert part in text
    assert "no claim at all" not in text


def test_tables_are_read_by_name_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    whole = {name: json.dumps(checked({"name": name})) for name in ("b", "a")}
    broken = {"c": "{", "d": "[]", "e": whole["a"].replace('"a"', '"z"'), "f": '{"name": "f"}', "g": '{"x": NaN}'}
    for name, content in (whole | broken).items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.json").write_text(content)
    tables, warnings = read_tables(tmp_path)
    assert [table["name"] for table in tables] == ["a", "b"]
    assert len(warnings) == 5
    assert str(tmp_path / "c" / "table.json") in warnings[0]
    assert read_tables(tmp_path / "nowhere") == ([], [])
    assert "python experiments/tables.py table=uncertainty" in claims_section([])


def test_claims_say_what_was_compared_and_how() -> None:
    claim = synthetic.table()["claims"][0] | {"measured": 0.783, "baseline": 0.5, "n_seeds": 5, "detail": "over all"}
    text = parse(claims_section([{"name": "one", "claims": [claim, claim], "source": "A paper"}])).text
    assert "confidence · 0.783 against 0.500 · n = 60 in 5 seeds · p\xa0= 0.0012 (Holm)over all" in text
    assert text.count("Test: paired bootstrap.") == 1
    assert "Source of the claims: A paper" in text


def test_the_table_is_shown_without_its_title_and_claims() -> None:
    markdown = "# Title\n\n## Over\n\n| a |\n|---|\n| 1 |\n\n## Claims\n\n| b |\n|---|\n| 2 |\n"
    html = claims_section([{"title": "Named", "markdown": markdown}])
    assert "<h4>Over</h4>" in html
    assert '<td class="number">1</td>' in html
    assert "Title" not in html
    assert "2</td>" not in html


def test_markdown_becomes_html() -> None:
    html = html_of(
        "# Title\n\nSome\n`words`.\n\n| a | b |\n|---|--:|\n| **x** | -1.5 |\n| <i> | p\\|q |\n"
        "\n- one\n- two\n\n| lonely |\n"
    )
    html = re.sub(r' style="text-align:\w+"|\n', "", html)
    assert "<h4>Title</h4><p>Some<code>words</code>.</p>" in html
    assert '<div class="scroll" tabindex="0"><table><thead><tr><th>a</th><th class="number">b</th></tr>' in html
    assert '<td><strong>x</strong></td><td class="number">-1.5</td>' in html
    assert "<td>&lt;i&gt;</td><td>p|q</td>" in html
    assert "<ul><li>one</li><li>two</li></ul>" in html
    assert html.endswith("<p>| lonely |</p>")
    assert html_of("") == ""


def test_markdown_makes_no_address_and_no_markup_of_its_own() -> None:
    text = "[x](http://a.b) ![y](http://a.b/p.png) <http://a.b> <b onclick=z>w</b> &lt; http://a.b"
    found = parse(html_of(f"{text}\n\n| {text} |\n|---|\n| {text} |\n\n[x]: http://a.b\n"))
    assert {tag for tag, _ in found.tags} == {"p", "div", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, attributes in found.tags for name in attributes} == {"class", "tabindex"}
    assert "![y](http://a.b/p.png)" in found.text
