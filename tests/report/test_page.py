"""Pages are one file: the stylesheet and the pictures are inside, and nothing is fetched."""

import re
from importlib import resources

import jinja2
import pytest

from anyres.report.page import render


def test_the_frame_holds_the_stylesheet_and_names_nothing_outside():
    page = render("anyres.report", "page.html", {}, {}).decode()
    style = (resources.files("anyres.report") / "templates" / "style.css").read_text(encoding="utf-8")
    assert page.count("<style>") == 1 and style.strip() in page
    assert not re.search(r"<link|@import|url\(|(src|href)=\"(?!data:|#)", page)


@pytest.mark.parametrize("room", ["report", "ablation"])
def test_no_template_has_a_style_or_a_head_of_its_own(room):
    for file in (resources.files(f"anyres.{room}") / "templates").iterdir():
        if file.name not in ("page.html", "style.css"):
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"<style|<head\b|<html|style=", text), file.name


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("anyres.report", "report.html", {}, dict.fromkeys(("size", "si", "bytes", "protocol", "side"), str))
