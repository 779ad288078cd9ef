"""The page in a browser: the list, and episodes."""

from urllib.parse import unquote

import numpy as np
import pytest

from agile_gym.transcripts.behaviours import BEHAVIOURS, find_behaviours
from tests.helpers.browsers import ESCAPE, LEFT, RIGHT, Page, scaled

pytestmark = pytest.mark.slow


def test_the_page_opens_with_summary_list_and_tables(page, played):
    assert page.browser.title == "A run <b>"
    stats = dict(zip(page.texts("#stats dt"), page.texts("#stats dd"), strict=True))
    count = len(played)
    assert stats == {
        "Episodes": str(count),
        "Acc": f"{100 * sum(transcript.solved for transcript in played) / count:.1f}%",
        "Score": f"{100 * sum(transcript.score for transcript in played) / count:.1f}%",
        "Mean turns": f"{sum(len(transcript.turns) for transcript in played) / count:.2f}",
        "Mean reward": f"{sum(transcript.reward['total'] for transcript in played) / count:+.2f}",
        "Policies": "2",
    }
    assert page.ids() == [transcript.id for transcript in played]
    levels = [row.text.split() for row in page.all("[aria-label^=Results] tbody tr")]
    assert [row[:4] for row in levels] == [
        ["2x2", "L0", "9", "88.9%"], ["2x2", "L1", "3", "0.0%"], ["2x2", "L2", "1", "0.0%"], ["3x3", "L1", "6", "0.0%"],
    ]  # fmt: skip
    errors = dict(row.text.rsplit(" ", 2)[::2] for row in page.all("[aria-label=Errors] tbody tr"))
    assert errors == {
        "no_action": "3",
        "not_allowed": "3",
        "bad_box": "3",
        "not_a_permutation": "3",
        "unpaired_tags": "1",
    }
    assert page.complaints() == []


def test_filters(page, played):
    def expect(condition, select, choice):
        page.choose(select, choice)
        wanted = [transcript.id for transcript in played if condition(transcript)]
        assert page.ids() == wanted
        shown = page.find("#found").text
        assert shown.startswith(f"{len(wanted)} of {len(played)} episodes"), shown
        page.find("#clear").click()
        page.wait(lambda: len(page.ids()) == len(played))

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


def test_behaviours_lead_to_their_episodes_and_turns(page, played):
    found = {transcript.id: find_behaviours(transcript) for transcript in played}
    lines = page.all("[aria-label=Behaviours] tbody tr")
    rows = dict(zip(page.texts("[aria-label=Behaviours] td:first-child"), lines, strict=True))
    assert list(rows) == list(BEHAVIOURS.values())
    shown = [name for name, turns in found.items() if turns["look_closer"]]
    assert 0 < len(shown) < len(played)
    assert rows["look closer"].text.split()[2:4] == [str(len(shown)), f"{100 * len(shown) / len(played):.1f}%"]
    link = rows["look closer"].find_element("css selector", "a")
    turn = found[shown[0]]["look_closer"]
    assert link.text == f"{shown[0]}, turn {turn}"
    link.click()
    page.wait(lambda: page.title() == shown[0])
    assert page.js("return document.activeElement.id") == f"turn-{turn}"
    labels = [f"{BEHAVIOURS[name]} (turn {turn})" for name, turn in found[shown[0]].items() if turn is not None]
    assert page.texts(".behaviours a") == labels
    page.choose("filter-behaviour", "look closer")
    assert page.ids() == shown
    page.find("#clear").click()
    page.wait(lambda: len(page.ids()) == len(played))
    page.open("/")
    page.find("[aria-label=Behaviours] tbody tr:nth-child(3) button").click()
    page.wait(lambda: page.ids() == shown)
    assert page.complaints() == []


def test_order(page, played):
    rewards = {transcript.id: transcript.reward["total"] for transcript in played}
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
    page.keys(RIGHT)
    page.keys(RIGHT)
    assert page.js("return [location.hash, document.activeElement.id]") == ["#2x2-L0-1/2", "turn-2"]
    assert page.find(".film [aria-current=step]").text.startswith("2\nSwap, Observe\n")
    page.keys(LEFT)
    assert page.js("return [location.hash, document.activeElement.id]") == ["#2x2-L0-1/1", "turn-1"]
    page.keys("/")
    assert page.js("return document.activeElement.id") == "search"
    page.keys("j")
    assert page.title() == "2x2-L0-1"  # a letter of the search, not a key
    page.keys(ESCAPE, ESCAPE)
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
    # A tab of its own: Chromium prunes a tab's history at 50 entries, and a step back then misses an entry at times.
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        follow_deep_links(Page(browser, f"{address}#2x2-L0-3/4"))
    finally:
        browser.close()
        browser.switch_to.window(first)


def follow_deep_links(page):
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
    for place in ("no-such-episode%", "2x2-L0-3/999", "2x2-L0-3/4"):
        page.js("history.back()")  # one at a time: a step back while another one is pending may be dropped
        page.wait(lambda place=place: unquote(page.js("return location.hash")) == f"#{place}")
    page.wait(lambda: page.title() == "2x2-L0-3")
    page.find(".row").click()
    page.wait(lambda: page.title() == "2x2-L0-0")


def test_turns_are_shown_whole(page, played):
    transcript = played[1]
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


def test_errors_are_shown(page, played):
    page.open("2x2-L1-0")
    kinds = ["no_action", "not_allowed", "bad_box", "not_a_permutation"]
    assert page.texts(".chip-label.bad") == [f"Error: {kind}" for kind in kinds]
    assert page.texts("#turn-1 .written h4") == ["Outside the tags"]
    assert page.texts("#turn-1 .written p") == ["I forgot the tags."]
    assert "Error (bad_box)" in page.find("#turn-3 .environment").text
    assert "not a whole board" in page.find(".film").text
    page.open("mixed-2x2-L0-0")
    assert page.texts(".written h4") == ["Think", "Code", "Answer", "Outside the tags", "Thinknot closed"]
    thought = "Two \U0001f600 of <think>three</think>, as in <code>x</code>."
    assert page.texts(".written :is(p, pre)") == [thought, "swap(0, 1)", '["A"]', "left over", "and not closed"]
    page.open("2x2-L2-1")
    assert "turns ran out" in page.find(".facts").text
    assert page.texts("#turn-1 figcaption")[0].startswith("The board now, which the model did not see")


def test_the_prompt_holds_its_images(page, played):
    page.open("2x2-L0-1")
    page.find("main .fold summary").click()
    assert page.texts(".fold-body figcaption") == [f"Image {name} 224\u00d7224" for name in "ABCD"]
    assert page.find(".fold-body .said").text.startswith(played[1].prompt.split("\n", 1)[0])
    page.open("bare-2x2-L0-0")
    page.find("main .fold summary").click()
    assert page.texts(".fold-body .missing") == [f"Image {name}: image not kept" for name in "ABCD"]


@pytest.mark.parametrize(("name", "turn"), [("2x2-L0-0", 1), ("2x2-L0-0", 2), ("turned-2x2-L0-0", 1)])
def test_boards_look_like_what_the_model_saw(page, played, name, turn):
    (transcript,) = (transcript for transcript in played if transcript.id == name)
    page.open(f"{name}/{turn}")
    page.js("document.activeElement.blur()")
    page.loaded()
    drawn = page.picture(page.find(f"#turn-{turn} .seen-board"))
    expected = scaled(transcript.turns[turn - 1].images[0], drawn.shape)
    assert np.abs(drawn - expected).mean() < 8
    mirrored = scaled(transcript.turns[turn - 1].images[0][:, ::-1], drawn.shape)
    assert np.abs(drawn - mirrored).mean() > 16


def test_single_images_look_like_what_the_model_saw(page, played):
    page.open("2x2-L0-0/4")
    drawn = page.picture(page.find("#turn-4 .seen"))
    assert np.abs(drawn - scaled(played[0].turns[3].images[0], drawn.shape)).mean() < 8
    assert page.texts("#turn-4 figcaption")[0] == "zoom_image_1 277\u00d7280"
