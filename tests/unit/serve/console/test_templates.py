"""No page needs what its own policy forbids, and none loads anything from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tailrace.serve.console.pages import HEADERS, HERE, STATIC

TEMPLATES = sorted((HERE / "templates").glob("*.html"))
SCRIPTS = sorted((HERE / "static").glob("*.js"))


def test_there_are_templates_and_scripts_and_all_of_them_are_served() -> None:
    assert len(TEMPLATES) > 5
    assert {each.name for each in (HERE / "static").iterdir()} == set(STATIC)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_an_inline_script_or_style_or_switches_escaping_off(template: Path) -> None:
    text = template.read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", text, re.IGNORECASE) == []
    assert re.findall(r"\|\s*safe\b|autoescape|Markup", text) == []
    assert re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//""", text) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_of_text_or_asks_another_host(script: Path) -> None:
    text = script.read_text()
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://|setAttribute\(.on",
        text,
    )
    assert found == []


def test_the_policy_lets_nothing_inline_run() -> None:
    policy = dict(each.strip().split(" ", 1) for each in HEADERS["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in HEADERS["content-security-policy"]
