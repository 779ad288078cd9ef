"""The page in a real browser: headless Chromium, driven by its own driver."""

import dataclasses
import functools
import http.server
import io
import json
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from viewer_samples import ERRS, HOSTILE, LOOKS, NEVER, Blocks, Script, decode, play, with_tokens

from agile_gym.policies import make_policy
from agile_gym.viewer import write_page
from agile_gym.viewer.page import json_text

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402 -- after the check that it is there
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="Chromium or its driver is not installed (Debian: chromium-driver)"
    ),
    pytest.mark.xdist_group("browser"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
MOST_SECONDS = 2.0
"""Time in which a page of a thousand episodes must be ready."""
TURNED = Script('<think>.</think><code>turn("B", 90)\nobserve()</code>', "<think>.</think><answer>{solution}</answer>")
CODE_AND_ANSWER = '<think>Two.</think><code>swap(0, 1)</code><answer>["A"]</answer>left over<think>and not closed'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def transcripts():
    answered = play(make_policy("random"), range(6), name="random", prefix="random-", grid=3, level=1)
    played = [
        *play(LOOKS, range(6)),
        *play(ERRS, range(3), level=1, max_turns=4),
        *play(NEVER, [1], level=2, max_turns=2),
        *answered,
        *play(TURNED, [0], rotations=True, prefix="turned-"),
        *play(LOOKS, [0], keep_images=False, prefix="bare-"),
        *play(Script(CODE_AND_ANSWER), [0], max_turns=1, prefix="mixed-"),
    ]
    return [with_tokens(played[0], seed=1), *played[1:]]


@pytest.fixture(scope="module")
def address(transcripts, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(transcripts, path, title="A run <b>", decode=decode, image_tokens=[99])
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    return Page(browser, address)


class Page:
    """A page that is open in the browser."""

    def __init__(self, browser, address, *, width=1360, height=900, theme="light"):
        self.browser, self.address = browser, address
        self.resize(width, height)
        self.theme(theme)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(address)
        self.wait(lambda: self.js("return document.documentElement.dataset.ready"))

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition):
        return WebDriverWait(self.browser, 10, 0.02).until(lambda _: condition())

    def open(self, hash_):
        self.js("location.hash = arguments[0]", hash_)
        self.wait(lambda: self.js("return location.hash") == f"#{hash_}")
        self.js("return new Promise((done) => setTimeout(done))")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector)

    def ids(self):
        return self.texts("#rows .row-id")

    def title(self):
        return self.find("#episode-title").text

    def keys(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()
        self.js("return new Promise((done) => setTimeout(done))")

    def choose(self, name, text):
        Select(self.find(f"#{name}")).select_by_visible_text(text)

    def resize(self, width, height, scale=1):
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def theme(self, name):
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def picture(self, element):
        return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")).astype(int)

    def complaints(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]


def test_the_page_opens_with_summary_list_and_tables(page, transcripts):
    assert page.browser.title == "A run <b>"
    stats = dict(zip(page.texts("#stats dt"), page.texts("#stats dd"), strict=True))
    count = len(transcripts)
    assert stats == {
        "Episodes": str(count),
        "Acc": f"{100 * sum(transcript.solved for transcript in transcripts) / count:.1f}%",
        "Score": f"{100 * sum(transcript.score for transcript in transcripts) / count:.1f}%",
        "Mean turns": f"{sum(len(transcript.turns) for transcript in transcripts) / count:.2f}",
        "Mean reward": f"{sum(transcript.reward['total'] for transcript in transcripts) / count:+.2f}",
        "Policies": "2",
    }
    assert page.ids() == [transcript.id for transcript in transcripts]
    levels = [row.text.split() for row in page.all("[aria-label^=Results] tbody tr")]
    assert [row[:4] for row in levels] == [
        ["2x2", "L0", "9", "88.9%"], ["2x2", "L1", "3", "0.0%"], ["2x2", "L2", "1", "0.0%"], ["3x3", "L1", "6", "0.0%"],
    ]  # fmt: skip
    errors = dict(row.text.rsplit(" ", 2)[::2] for row in page.all("[aria-label=Errors] tbody tr"))
    assert errors == {"no_action": "3", "not_allowed": "3", "bad_box": "3", "unpaired_tags": "1"}
    assert page.complaints() == []


def test_filters(page, transcripts):
    def expect(condition, select, choice):
        page.choose(select, choice)
        wanted = [transcript.id for transcript in transcripts if condition(transcript)]
        assert page.ids() == wanted
        shown = page.find("#found").text
        assert shown.startswith(f"{len(wanted)} of {len(transcripts)} episodes"), shown
        page.find("#clear").click()
        page.wait(lambda: len(page.ids()) == len(transcripts))

    expect(lambda transcript: transcript.task["grid"] == "3x3", "filter-grid", "3x3")
    expect(lambda transcript: transcript.task["level"] == 1, "filter-level", "L1")
    expect(lambda transcript: transcript.solved, "filter-result", "solved")
    expect(lambda transcript: not transcript.solved, "filter-result", "not solved")
    expect(lambda transcript: transcript.truncated, "filter-result", "turns ran out")
    expect(lambda transcript: any(turn.error == "bad_box" for turn in transcript.turns), "filter-error", "bad_box")
    expect(lambda transcript: any(turn.error for turn in transcript.turns), "filter-error", "any error")
    expect(lambda transcript: not any(turn.error for turn in transcript.turns), "filter-error", "no error")
    expect(lambda transcript: transcript.policy == "random", "filter-policy", "random")
    page.choose("filter-level", "L1")
    page.choose("filter-grid", "2x2")
    assert page.ids() == ["2x2-L1-0", "2x2-L1-1", "2x2-L1-2"]
    assert page.find("#found").text.endswith("Acc 0.0%")


def test_tables_lead_to_their_episodes(page):
    page.find("[aria-label=Errors] button").click()
    page.wait(lambda: page.ids() == ["2x2-L1-0", "2x2-L1-1", "2x2-L1-2"])
    page.find("[aria-label^=Results] tbody tr:last-child button").click()
    page.wait(lambda: len(page.ids()) == 6)
    assert all(name.startswith("random-3x3-L1-") for name in page.ids())


def test_order(page, transcripts):
    rewards = {transcript.id: transcript.reward["total"] for transcript in transcripts}
    page.choose("sort", "reward")
    assert [rewards[name] for name in page.ids()] == sorted(rewards.values())
    page.find("#direction").click()
    assert [rewards[name] for name in page.ids()] == sorted(rewards.values(), reverse=True)
    assert page.find("#direction").get_attribute("aria-pressed") == "true"
    page.find("#direction").click()
    page.choose("sort", "turns")
    assert page.ids()[0] == "random-3x3-L1-0"
    page.choose("sort", "id")
    assert page.ids()[:3] == ["2x2-L0-0", "2x2-L0-1", "2x2-L0-2"]


def test_search(page):
    def found(text):
        box = page.find("#search")
        box.clear()
        box.send_keys(text)
        page.wait(lambda: page.js("return document.querySelector('#search').value") == text)
        page.js("return new Promise((done) => setTimeout(done, 150))")
        return page.ids()

    assert found("FILES, PERHAPS") == ["2x2-L1-0", "2x2-L1-1", "2x2-L1-2"]  # in the reasoning
    assert found("the box of crop is empty") == ["2x2-L1-0", "2x2-L1-1", "2x2-L1-2"]  # in the feedback
    assert found("turned-") == ["turned-2x2-L0-0"]
    assert found("\\") == []
    assert page.find("#found").text.startswith("0 of")
    assert len(found("  ")) == 19


def test_keys_step_through_episodes_and_turns(page):
    page.keys("j")
    assert (page.title(), page.js("return location.hash")) == ("2x2-L0-0", "#2x2-L0-0")
    page.keys("j")
    page.keys("j")
    assert page.title() == "2x2-L0-2"
    page.keys("k")
    assert page.title() == "2x2-L0-1"
    assert page.find(".row[aria-current=true] .row-id").text == "2x2-L0-1"
    page.keys(Keys.ARROW_RIGHT)
    page.keys(Keys.ARROW_RIGHT)
    assert page.js("return [location.hash, document.activeElement.id]") == ["#2x2-L0-1/2", "turn-2"]
    assert page.find(".film [aria-current=step]").text.startswith("2\nSwap, Observe\n")
    page.keys(Keys.ARROW_LEFT)
    assert page.js("return [location.hash, document.activeElement.id]") == ["#2x2-L0-1/1", "turn-1"]
    page.keys("/")
    assert page.js("return document.activeElement.id") == "search"
    page.keys("j")
    assert page.title() == "2x2-L0-1"  # a letter of the search, not a key
    page.keys(Keys.ESCAPE, Keys.ESCAPE)
    assert page.title() == "Overview"
    page.keys("?")
    assert page.find("#help").is_displayed()
    page.find("#keys-on").click()
    page.find("#help button").click()
    page.keys("j")
    assert page.title() == "Overview"


def test_keys_follow_the_list_and_stop_at_its_ends(page):
    page.choose("filter-level", "L1")
    page.choose("filter-grid", "2x2")
    page.js("document.activeElement.blur()")
    for _ in range(5):
        page.keys("j")
    assert page.title() == "2x2-L1-2"
    assert not page.find("#next").is_enabled()
    page.find("#previous").click()
    page.wait(lambda: page.title() == "2x2-L1-1")


def test_deep_links(browser, address):
    page = Page(browser, f"{address}#2x2-L0-3/4")
    assert page.title() == "2x2-L0-3"
    assert page.js("return document.activeElement.id") == "turn-4"
    assert page.browser.title == "2x2-L0-3 \u2013 A run <b>"
    box = page.js("const box = document.querySelector('#turn-4').getBoundingClientRect(); return [box.top, box.bottom]")
    assert 0 <= box[0] < 900
    page.open("2x2-L0-3/999")
    assert page.js("return document.activeElement.id") == "turn-5"
    page.open("no-such-episode%")
    assert page.find("main").text == 'There is no episode "no-such-episode%" in this page.'
    page.open("__proto__")
    assert page.find("main").text == 'There is no episode "__proto__" in this page.'
    page.browser.back()
    page.browser.back()
    page.browser.back()
    page.wait(lambda: page.title() == "2x2-L0-3")
    page.find(".row").click()
    page.wait(lambda: page.title() == "2x2-L0-0")


def test_turns_are_shown_whole(page, transcripts):
    transcript = transcripts[1]
    page.open(transcript.id)
    assert page.find(".result").text == "\u2713 Solved"
    assert page.find(".episode-head .reward").text.split() == [
        "reward", "+0.800", "accuracy", "1.00", "format", "1.00", "step", "\u22120.20", "score", "1.00",
    ]  # fmt: skip
    assert page.texts(".turn h3") == [f"Turn {number}" for number in range(1, 6)]
    for number, turn in enumerate(transcript.turns, 1):
        kinds = page.texts(f"#turn-{number} .written h4")
        assert kinds == ["Think", "Answer" if number == 5 else "Code"]
        thought, action = page.texts(f"#turn-{number} .written :is(p, pre)")
        tag = kinds[1].lower()
        assert turn.text == f"<think>{thought}</think><{tag}>{action}</{tag}>"
        assert page.texts(f"#turn-{number} .chip-label") == list(turn.primitives)
        said = " ".join(page.texts(f"#turn-{number} .environment :is(.said, figcaption)"))
        for line in turn.feedback.replace(": <image>", "").split("\n"):
            assert line in said
        assert (
            f"environment {page.js('return duration(arguments[0])', turn.env_seconds)}"
            in page.find(f"#turn-{number} .cost").text
        )
    assert page.texts("#turn-2 .code-comment") == ["# swap, then look"]
    assert page.texts("#turn-2 .code-call") == ["observation"]
    frames = [frame.text.split("\n") for frame in page.all(".frame")]
    assert frames[0][:2] == ["Start", "as shown"]
    assert [frame[1] for frame in frames[1:-1]] == ["Observe", "Swap, Observe", "Crop", "Zoom", "Answer"]
    assert frames[-1][0] == "Solution"
    assert frames[5][-1] == "4/4 in place"


def test_errors_are_shown(page, transcripts):
    page.open("2x2-L1-0")
    assert page.texts(".chip-label.bad") == ["Error: no_action", "Error: not_allowed", "Error: bad_box"]
    assert page.texts("#turn-1 .written h4") == ["Outside the tags"]
    assert page.texts("#turn-1 .written p") == ["I forgot the tags."]
    assert "Error (bad_box)" in page.find("#turn-3 .environment").text
    assert "not a whole board" in page.find(".film").text
    page.open("mixed-2x2-L0-0")
    assert page.texts(".written h4") == ["Think", "Code", "Answer", "Outside the tags", "Thinknot closed"]
    assert page.texts(".written :is(p, pre)") == ["Two.", "swap(0, 1)", '["A"]', "left over", "and not closed"]
    page.open("2x2-L2-1")
    assert "turns ran out" in page.find(".facts").text
    assert page.texts("#turn-1 figcaption")[0].startswith("The board now, which the model did not see")


def test_the_prompt_holds_its_images(page, transcripts):
    page.open("2x2-L0-1")
    page.find("main .fold summary").click()
    assert page.texts(".fold-body figcaption") == [f"Image {name} 224\u00d7224" for name in "ABCD"]
    assert page.find(".fold-body .said").text.startswith(transcripts[1].prompt.split("\n", 1)[0])
    page.open("bare-2x2-L0-0")
    page.find("main .fold summary").click()
    assert page.texts(".fold-body .missing") == [f"Image {name}: image not kept" for name in "ABCD"]


def seen(image, shape):
    small = Image.fromarray(image).resize(shape[1::-1], Image.Resampling.BOX)
    return np.asarray(small).astype(int)


@pytest.mark.parametrize(("name", "turn"), [("2x2-L0-0", 1), ("2x2-L0-0", 2), ("turned-2x2-L0-0", 1)])
def test_boards_look_like_what_the_model_saw(page, transcripts, name, turn):
    (transcript,) = (transcript for transcript in transcripts if transcript.id == name)
    page.open(f"{name}/{turn}")
    page.js("document.activeElement.blur()")
    page.wait(lambda: page.js("return [...document.images].every((image) => image.complete)"))
    drawn = page.picture(page.find(f"#turn-{turn} .seen-board"))
    expected = seen(transcript.turns[turn - 1].images[0], drawn.shape)
    assert np.abs(drawn - expected).mean() < 8
    mirrored = seen(transcript.turns[turn - 1].images[0][:, ::-1], drawn.shape)
    assert np.abs(drawn - mirrored).mean() > 16


def test_single_images_look_like_what_the_model_saw(page, transcripts):
    page.open("2x2-L0-0/4")
    drawn = page.picture(page.find("#turn-4 .seen"))
    assert np.abs(drawn - seen(transcripts[0].turns[3].images[0], drawn.shape)).mean() < 8
    assert page.texts("#turn-4 figcaption")[0] == "zoom_image_1 277\u00d7280"


def open_tokens(page, name="2x2-L0-0"):
    page.open(name)
    page.find("#tokens summary").click()
    page.wait(lambda: page.all("#tokens .token-model"))


def test_the_token_strip_tells_the_truth(page, transcripts):
    open_tokens(page)
    assert page.find("#tokens summary").text == "Tokens 809, of which the model wrote 225"
    for number, segment in enumerate(transcripts[0].segments):
        entries = page.js("return tokenEntries(DATA.segments(0)[arguments[0]])", number)
        ids = [entry["id"] for entry in entries for _ in range(entry["count"])]
        assert ids == segment.ids.tolist()
        assert [entry["mask"] for entry in entries for _ in range(entry["count"])] == segment.mask.tolist()
        assert [entry["turn"] for entry in entries for _ in range(entry["count"])] == segment.turns.tolist()
        logps = [entry["logp"] or 0 for entry in entries for _ in range(entry["count"])]
        np.testing.assert_allclose(logps, segment.logps, rtol=1e-4)
        advantages = [entry["advantage"] for entry in entries for _ in range(entry["count"])]
        np.testing.assert_allclose(advantages, segment.advantages, rtol=1e-4)
    first = transcripts[0].segments[0]
    strip = page.all(".strip")[0]
    assert page.texts(".strip:first-of-type .token-image")[:4] == ["<|image_pad|> \u00d764"] * 4
    chips = page.js("return [...arguments[0].querySelectorAll('.token-model')].map((chip) => chip.textContent)", strip)
    written = first.ids[first.mask].tolist()
    shown = {"": "\u2205", "\n": "\u23ce"}
    assert chips == [shown.get(decode(token), decode(token).replace(" ", "\u00b7")) for token in written]


def test_colours_of_tokens_follow_their_values(page, transcripts):
    open_tokens(page)
    segment = transcripts[0].segments[0]
    colours = page.js(
        "return [...document.querySelector('.strip').querySelectorAll('.token-model')]"
        ".map((chip) => getComputedStyle(chip).backgroundColor)"
    )
    blue = [float(re.findall(r"[\d.]+", colour.partition("(")[2])[2]) for colour in colours]
    order = np.argsort(segment.logps[segment.mask])
    sorted_blue = np.array(blue)[order]
    assert (np.diff(sorted_blue) >= -0.012).all()  # the surer, the less orange
    assert sorted_blue[-1] - sorted_blue[0] > 0.3
    assert len(page.all(".strip:nth-of-type(1) .better")) == segment.mask.sum()
    assert len(page.all(".worse")) == transcripts[0].segments[1].mask.sum() + 1  # one in the legend


def test_tokens_tell_their_values(page, transcripts):
    open_tokens(page)
    segment = transcripts[0].segments[0]
    position = int(np.flatnonzero(segment.mask)[30])
    chip = page.all(".strip .token-model")[30]
    page.js("arguments[0].scrollIntoView({ block: 'center' })", chip)
    ActionChains(page.browser).move_to_element(chip).perform()
    page.wait(lambda: page.find("#tip").is_displayed())
    tip = dict(zip(page.texts("#tip dt"), page.texts("#tip dd"), strict=True))
    assert tip["id"] == str(segment.ids[position])
    assert tip["token"] == json.dumps(decode(int(segment.ids[position])))
    assert tip["position"] == str(position)
    assert tip["written in"] == "turn 2"
    assert tip["log-prob"].split()[0] == f"{segment.logps[position]:.3f}".replace("-", "\u2212")
    assert tip["advantage"] == "+0.700"
    page.js("arguments[0].focus()", chip)
    page.keys(Keys.ARROW_RIGHT)
    assert page.texts("#tip dd")[2] == str(position + 1)
    assert page.js("return document.activeElement.getAttribute('aria-describedby')") == "tip"
    assert page.js("return location.hash") == "#2x2-L0-0"  # arrows stay in the strip
    box = page.js(
        "const box = document.querySelector('#tip').getBoundingClientRect(); return [box.left, box.right, box.top]"
    )
    assert box[0] >= 0
    assert box[1] <= 1360
    assert box[2] >= 0


def test_tokens_without_a_tokenizer(browser, transcripts, tmp_path):
    path = tmp_path / "page.html"
    write_page(transcripts[:2], path)
    page = Page(browser, path.as_uri())
    open_tokens(page)
    assert page.texts(".strip .token-image") == ["99 \u00d764"] * 8
    assert page.texts(".strip .token-read")[:3] == ["1", "2", "3"]
    page.keys("j")
    assert page.title() == "2x2-L0-1"
    assert page.all("#tokens") == []


CONTRASTS = """
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", {
  willReadFrequently: true,
});
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const light = (colour) => {
  const [r, g, b] = colour.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = (node) => {
  if (node === null) return rgba(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  const own = rgba(getComputedStyle(node).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : over(own, back(node.parentElement));
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text = walker.nextNode(); text; text = walker.nextNode()) {
  const node = text.parentElement;
  if (!text.data.trim() || node.closest("script, noscript, option, :disabled, .skip")) continue;
  if (!node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  const style = getComputedStyle(node);
  const [top, below] = [light(over(rgba(style.color), back(node))), light(back(node))].sort((a, b) => b - a);
  found.push([(top + 0.05) / (below + 0.05), text.data.slice(0, 40), node.className]);
}
return found;
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_are_legible(browser, address, theme):
    page = Page(browser, address, theme=theme)
    texts = page.js(CONTRASTS)
    open_tokens(page)
    page.open("2x2-L0-0/2")
    texts += page.js(CONTRASTS)
    page.open("2x2-L1-0/2")
    for fold in page.all("main .fold:not([open]) summary"):
        fold.click()
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
    open_tokens(page)
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
    open_tokens(page)
    for fold in page.all("main .fold:not([open]) summary"):
        fold.click()
    check()
    cut = page.js(
        "return [...document.querySelectorAll('main .turn, main .fold')]"
        ".filter((node) => node.scrollWidth > node.clientWidth + 1).map((node) => node.id)"
    )
    assert cut == []


@pytest.fixture
def server(tmp_path):
    """A server on this machine that gives what is in a folder and keeps what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}", tmp_path, asked
        service.shutdown()
        thread.join()


def test_what_a_model_writes_stays_text(browser, server):
    address, folder, asked = server
    hostile = HOSTILE.replace("{address}", address)
    texts = [hostile, f"<think>{hostile}</think><code>{hostile}</code>", f"<think>x</think><answer>{hostile}</answer>"]
    (transcript,) = play(Script(*texts), [1], max_turns=3, image_size=64)
    transcript = dataclasses.replace(
        transcript,
        policy=hostile,
        system=hostile,
        details={hostile: hostile},
        task={**transcript.task, "dialect": hostile, "level": hostile},
        turns=tuple(dataclasses.replace(turn, feedback=hostile, error=hostile) for turn in transcript.turns),
    )
    write_page([with_tokens(transcript)], folder / "page.html", title=hostile, decode=lambda token: f"{hostile}{token}")
    browser.get_log("performance")
    page = Page(browser, f"{address}/page.html")
    scripts = len(page.all("script"))
    for hash_ in ("/overview", transcript.id, f"{transcript.id}/3", hostile.replace("\ud800", "")):
        page.js("location.hash = arguments[0]", hash_)
        page.js("return new Promise((done) => setTimeout(done, 50))")
    open_tokens(page, transcript.id)
    for fold in page.all("main .fold:not([open]) summary"):
        fold.click()
    ActionChains(browser).move_to_element(page.find(".token-model")).perform()
    page.js("return new Promise((done) => setTimeout(done, 300))")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url.partition("#")[0] for url in urls if not url.startswith("data:")} <= {
        "about:blank",
        f"{address}/page.html",
    }
    assert asked == ["/page.html"]
    assert not any(message["method"] == "Page.javascriptDialogOpening" for message in messages)
    assert len(page.all("script")) == scripts == len(Blocks(folder / "page.html").data) + 9
    assert page.all("main :is(svg, style, iframe, script, b)") == []
    assert page.js("return [...document.images].every((image) => image.src.startsWith('data:image/'))")
    assert page.js("return [...document.links].every((link) => link.getAttribute('href').startsWith('#'))")
    shown = page.texts("#turn-1 .written p")[0]
    assert '</script><script>alert(1)</script><img src=x onerror="alert(2)"> <!-- <script> ]]>' in shown
    assert page.texts("#turn-1 .unseen")[:5] == ["U+2028", "U+2029", "U+0000", "U+D800", "U+202E"]
    assert page.complaints() == []


def test_the_policy_of_the_page_holds(browser, server):
    address, folder, asked = server
    write_page(play(NEVER, [1], max_turns=1, image_size=64), folder / "page.html")
    page = Page(browser, f"{address}/page.html")
    outcome = page.js(
        """
        const outcomes = [];
        try { document.body.innerHTML = "<b>x</b>"; outcomes.push("markup"); } catch { outcomes.push("no markup"); }
        const script = document.createElement("script");
        try { script.text = "window.ran = true"; document.body.append(script); } catch { }
        outcomes.push(window.ran === undefined ? "no script" : "script");
        const image = document.createElement("img");
        image.src = "/stolen.png";
        document.body.append(image);
        return fetch("/stolen.json").then(() => "fetched", () => "not fetched").then((last) => [...outcomes, last]);
        """
    )
    assert outcome == ["no markup", "no script", "not fetched"]
    page.js("return new Promise((done) => setTimeout(done, 200))")
    assert asked == ["/page.html"]
    assert len(page.complaints()) >= 3  # the browser tells what it refused


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
            file.write(f'<script type="application/json" data-kind="{kind}"{attributes}>{json_text(value)}</script>\n')

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
    page.wait(lambda: page.js("return [...document.images].every((image) => image.complete)"))
    drawn = page.picture(page.find("#turn-2 .seen-board"))
    assert np.abs(drawn - seen(played[49].turns[1].images[0], drawn.shape)).mean() < 8
    took = page.js(
        "const start = performance.now(); document.querySelector('#search').value = 'straight';"
        "document.querySelector('#sort').dispatchEvent(new Event('change')); return performance.now() - start"
    )
    assert page.find("#found").text.startswith("1,000 episodes")
    assert took < 1000
