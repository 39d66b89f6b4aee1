"""The report is one valid HTML file with everything in it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from mmkernels.models.evaluate import evaluate
from mmkernels.models.html_page import page, paragraph, table
from mmkernels.models.report import SECTIONS, Story, write_report
from mmkernels.models.tables import comparison_table, evaluation_tables, print_tables

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Checker(HTMLParser):
    """Collects ids, pictures and text; raises where a tag closes another."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.pictures, self.text, self.seen = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            assert values.get("alt"), "a picture without a description"
            self.pictures.append(values["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.text.append(data)


def check(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open and html.startswith("<!DOCTYPE html>")
    return checker


@pytest.fixture(scope="module")
def evaluation(trained, corpus):
    return evaluate(trained.model, corpus, trained.recipe, grids=24)


@pytest.fixture(scope="module")
def comparison():
    side = {"losses": [3.0, 2.0, 1.0], "seconds per step": 0.1, "training peak bytes": 2**27,
            "long attention": {"seconds": 1.0, "peak bytes": 2**26}}  # fmt: skip
    naive = {**side, "seconds per step": 0.2, "losses": [3.0, 2.0, 1.0001]}
    return {"steps": 3, "fused": side, "naive": naive, "largest relative loss difference": 1e-4,
            "within tolerance": True, "outputs": {"answer logits": 1e-5}}  # fmt: skip


@pytest.fixture(scope="module")
def story(trained, corpus, evaluation, comparison):
    return Story(corpus, trained.model, evaluation, trained.history, {"seed": "3 <&>"}, comparison)


@pytest.fixture(scope="module")
def html(story, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "runs" / "report.html"
    write_report(story, path)
    return path.read_text("utf-8")


def test_report_is_one_valid_file_with_every_section(html):
    checker = check(html)
    assert [name for name in checker.ids if name in SECTIONS] == list(SECTIONS)
    assert not {"script", "link", "iframe"} & set(checker.seen)
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import', html), "the file refers to another"
    assert len(checker.pictures) > 30
    for source in checker.pictures:
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data, validate=True))).size[0] > 10


def test_report_says_what_it_must(story, html):
    text = " ".join(check(html).text)
    for words in ("CC BY-SA 4.0", "OpenMoji", "chance", "majority", "nearest picture by pixels", "not usable",
                  "generated from templates", "largest relative difference", "3 <&>"):  # fmt: skip
        assert words in text, words
    shown = [example for example in story.evaluation.held_out if f"→ {example.caption}" in text]
    assert shown, "no caption of a held-out concept is shown"


def test_text_is_escaped():
    html = page("<title>", [paragraph("a < b & c"), table("<t>", ["<h>"], [["<script>"]])])
    assert "<script>" not in html and "a &lt; b &amp; c" in html
    check(html)


def test_evaluation_numbers(evaluation, corpus):
    results = evaluation.results
    held = results["retrieval"]["held_out"]
    assert held["count"] == len(corpus.held_out) == len(evaluation.held_out) == len(evaluation.retrieved)
    for name, part in results["vqa"].items():
        assert part["questions"] == 96, name
        assert part["model"].keys() == part["majority"].keys() == part["shuffled pictures"].keys()
        assert all(0 <= value <= 100 for scores in (part["model"], part["majority"]) for value in scores.values())
    for row, found in evaluation.retrieved.items():
        assert row in corpus.held_out and set(found) <= set(corpus.held_out)
    hits = sum(found[0] == row for row, found in evaluation.retrieved.items())
    assert held["image to text"]["R@1"] == pytest.approx(100 * hits / held["count"], abs=0.01)


def test_evaluation_does_not_depend_on_torchs_generator(trained, corpus, evaluation):
    torch.manual_seed(77)
    assert evaluate(trained.model, corpus, trained.recipe, grids=24).results == evaluation.results


def test_tables_for_people(evaluation, comparison, capsys):
    print_tables([*evaluation_tables(evaluation.results), comparison_table(comparison)])
    printed = capsys.readouterr().out
    for words in ("R@10", "chance", "majority", "nearest picture by pixels", "within 1e-3", "2.00 x"):
        assert words in printed, words
