"""Time in which a page of a thousand episodes opens."""

import json

import numpy as np
import pytest

from agile_gym.reporting import write_page
from tests.helpers.browsers import Page, scaled
from tests.helpers.viewer_samples import LOOKS, Blocks, decode, play, with_tokens

pytestmark = pytest.mark.slow

MOST_SECONDS = 2.0
"""Time in which the page must be ready."""


def grow(source, target, times):
    """Write a page like another one, with its episodes so many times over, and images as many of their own."""
    text = source.read_text(encoding="ascii")
    start = text.index('<script type="application/json"')
    blocks = Blocks(source)
    end = text.index("\n<script>", start)
    images = sum(len(value) for value in blocks.values("images"))
    (index,) = blocks.values("index")
    rows = []

    def moved(value, step, key=None):
        if isinstance(value, dict):
            return {name: moved(item, step, name) for name, item in value.items()}
        if isinstance(value, list):
            return [moved(item, step, key) for item in value]
        return value + step if key in ("image", "pieces") else value

    with target.open("w", encoding="ascii") as file:

        def write(kind, value, attributes=""):
            text = json.dumps(value).replace("<", "\\u003c")
            file.write(f'<script type="application/json" data-kind="{kind}"{attributes}>{text}</script>\n')

        file.write(text[:start])
        for copy in range(times):
            for kind, attributes, value in blocks.data:
                if kind == "images":
                    write(kind, value, f' data-first="{int(attributes["data-first"]) + copy * images}"')
                elif kind == "episode":
                    write(kind, moved(value, copy * images) | {"id": f"{value['id']}-{copy}"})
                elif kind == "tokens":
                    number = int(attributes["data-episode"]) + copy * len(index["rows"])
                    write(kind, value, f' data-episode="{number}"')
            rows += [row | {"id": f"{row['id']}-{copy}"} for row in index["rows"]]
        write("vocabulary", blocks.values("vocabulary")[0])
        write("index", {**index, "rows": rows})
        file.write(text[end:])


def test_a_thousand_episodes_load_quickly(browser, tmp_path):
    played = [with_tokens(transcript, seed=seed) for seed, transcript in enumerate(play(LOOKS, range(50)))]
    write_page(played, tmp_path / "some.html", decode=decode, image_tokens=[99])
    grow(tmp_path / "some.html", tmp_path / "page.html", 20)
    assert 15e6 < (tmp_path / "page.html").stat().st_size < 40e6
    times = []
    for _ in range(3):  # the best of some, because other processes may keep the processor busy
        page = Page(browser, (tmp_path / "page.html").as_uri())
        times.append(page.js("return Number(document.documentElement.dataset.ready)") / 1000)
        loaded = page.js("return performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
        assert len(page.ids()) == 1000
        if max(times[-1], loaded) < MOST_SECONDS:
            break
    print(f"ready after {min(times):.2f} s")
    assert min(times) < MOST_SECONDS, times
    assert page.all("img") == []  # nothing is decoded before it is shown
    page.open("2x2-L0-49-19/2")
    assert page.title() == "2x2-L0-49-19"
    page.loaded()
    drawn = page.picture(page.find("#turn-2 .seen-board"))
    assert np.abs(drawn - scaled(played[49].turns[1].images[0], drawn.shape)).mean() < 8
    took = page.js(
        "const start = performance.now(); document.querySelector('#search').value = 'straight';"
        "document.querySelector('#sort').dispatchEvent(new Event('change')); return performance.now() - start"
    )
    assert page.find("#found").text.startswith("1,000 episodes")
    assert took < 1000
