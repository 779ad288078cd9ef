"""Accessibility of the page: contrast, names, a fitting width."""

import re

import pytest

from tests.helpers.browsers import CONTRASTS, Page

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_are_legible(browser, address, theme):
    page = Page(browser, address, theme=theme)
    texts = page.js(CONTRASTS)
    page.open_tokens("2x2-L0-0")
    page.open("2x2-L0-0/2")
    texts += page.js(CONTRASTS)
    page.open("2x2-L1-0/2")
    page.unfold()
    texts += page.js(CONTRASTS)
    page.open("mixed-2x2-L0-0")
    page.find("#help-button").click()
    texts += page.js(CONTRASTS)
    assert len(texts) > 500
    assert sorted(text for text in texts if text[0] < 4.5) == []
    level = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", level)[0]) < 60) == (theme == "dark")


def test_everything_has_a_name(browser, address):
    page = Page(browser, address)
    page.open_tokens("2x2-L0-0")
    tree = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "link", "combobox", "searchbox", "textbox", "checkbox", "image", "dialog", "main", "search"}
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node.get("ignored")]
    found = [(role, name) for role, name in named if role in roles - {"main", "search"}]
    assert len(found) > 40
    assert [(role, name) for role, name in found if not name.strip()] == []
    assert {"main", "search"} <= {role for role, _ in named}
    assert ("image", "Board: C B A D; 1/4 in place") in found


@pytest.mark.parametrize("width", [360, 768, 1024, 2560])
def test_no_view_is_wider_than_the_window(browser, address, width):
    page = Page(browser, address, width=width, height=740)

    def check():
        box = page.js("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert box[0] <= box[1] == width

    check()
    narrow = width <= 860
    assert page.find(".list-pane").is_displayed()
    assert page.find("main").is_displayed() != narrow
    for hash_ in ("/overview", "random-3x3-L1-0", "2x2-L1-0/2", "2x2-L0-0"):
        page.open(hash_)
        check()
        assert page.find("main").is_displayed()
        assert page.find(".list-pane").is_displayed() != narrow
    page.open_tokens("2x2-L0-0")
    page.unfold()
    check()
    cut = page.js(
        "return [...document.querySelectorAll('main .turn, main .fold')]"
        ".filter((node) => node.scrollWidth > node.clientWidth + 1).map((node) => node.id)"
    )
    assert cut == []
