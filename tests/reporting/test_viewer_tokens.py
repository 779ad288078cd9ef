"""The token strip in a browser."""

import json
import re

import numpy as np
import pytest

from agile_gym.reporting import write_page
from tests.helpers.browsers import RIGHT, Page
from tests.helpers.viewer_samples import decode

pytestmark = pytest.mark.slow


def test_the_token_strip_tells_the_truth(page, played):
    page.open_tokens("2x2-L0-0")
    assert page.find("#tokens summary").text == "Tokens 809, of which the model wrote 225"
    for number, segment in enumerate(played[0].segments):
        entries = page.js("return tokenEntries(DATA.segments(0)[arguments[0]])", number)
        ids = [entry["id"] for entry in entries for _ in range(entry["count"])]
        assert ids == segment.ids.tolist()
        assert [entry["mask"] for entry in entries for _ in range(entry["count"])] == segment.loss_mask.tolist()
        assert [entry["turn"] for entry in entries for _ in range(entry["count"])] == segment.turns.tolist()
        logps = [entry["logp"] or 0 for entry in entries for _ in range(entry["count"])]
        np.testing.assert_allclose(logps, segment.logps, rtol=1e-4)
        advantages = [entry["advantage"] for entry in entries for _ in range(entry["count"])]
        np.testing.assert_allclose(advantages, segment.advantages, rtol=1e-4)
    first = played[0].segments[0]
    strip = page.all(".strip")[0]
    assert page.texts(".strip:first-of-type .token-image")[:4] == ["<|image_pad|> \u00d764"] * 4
    chips = page.js("return [...arguments[0].querySelectorAll('.token-model')].map((chip) => chip.textContent)", strip)
    written = first.ids[first.loss_mask].tolist()
    shown = {"": "\u2205", "\n": "\u23ce"}
    assert chips == [shown.get(decode(token), decode(token).replace(" ", "\u00b7")) for token in written]


def test_colours_of_tokens_follow_their_values(page, played):
    page.open_tokens("2x2-L0-0")
    segment = played[0].segments[0]
    colours = page.js(
        "return [...document.querySelector('.strip').querySelectorAll('.token-model')]"
        ".map((chip) => getComputedStyle(chip).backgroundColor)"
    )
    blue = [float(re.findall(r"[\d.]+", colour.partition("(")[2])[2]) for colour in colours]
    order = np.argsort(segment.logps[segment.loss_mask])
    sorted_blue = np.array(blue)[order]
    assert (np.diff(sorted_blue) >= -0.012).all()  # the surer, the less orange
    assert sorted_blue[-1] - sorted_blue[0] > 0.3
    assert len(page.all(".strip:nth-of-type(1) .better")) == segment.loss_mask.sum()
    assert len(page.all(".worse")) == played[0].segments[1].loss_mask.sum() + 1  # one in the legend


def test_tokens_tell_their_values(page, played):
    page.open_tokens("2x2-L0-0")
    segment = played[0].segments[0]
    position = int(np.flatnonzero(segment.loss_mask)[30])
    chip = page.all(".strip .token-model")[30]
    page.point_at(chip)
    page.wait(lambda: page.find("#tip").is_displayed())
    tip = dict(zip(page.texts("#tip dt"), page.texts("#tip dd"), strict=True))
    assert tip["id"] == str(segment.ids[position])
    assert tip["token"] == json.dumps(decode(int(segment.ids[position])))
    assert tip["position"] == str(position)
    assert tip["written in"] == "turn 2"
    assert tip["log-prob"].split()[0] == f"{segment.logps[position]:.3f}".replace("-", "\u2212")
    assert tip["advantage"] == "+0.700"
    page.js("arguments[0].focus()", chip)
    page.keys(RIGHT)
    assert page.texts("#tip dd")[2] == str(position + 1)
    assert page.js("return document.activeElement.getAttribute('aria-describedby')") == "tip"
    assert page.js("return location.hash") == "#2x2-L0-0"  # arrows stay in the strip
    box = page.js(
        "const box = document.querySelector('#tip').getBoundingClientRect(); return [box.left, box.right, box.top]"
    )
    assert box[0] >= 0
    assert box[1] <= 1360
    assert box[2] >= 0


def test_tokens_without_a_tokenizer(browser, played, tmp_path):
    path = tmp_path / "page.html"
    write_page(played[:2], path)
    page = Page(browser, path.as_uri())
    page.open_tokens("2x2-L0-0")
    assert page.texts(".strip .token-image") == ["99 \u00d764"] * 8
    assert page.texts(".strip .token-read")[:3] == ["1", "2", "3"]
    page.keys("j")
    assert page.title() == "2x2-L0-1"
    assert page.all("#tokens") == []
