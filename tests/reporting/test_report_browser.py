"""The report in a browser: it fits, it can be read, and what models wrote stays text."""

import dataclasses
import functools
import http.server
import json
import shutil
import threading
import time

import pytest

from agile_gym.evaluation import EnvironmentEntry, EvaluationPlan
from agile_gym.evaluation import write_report as write_results
from agile_gym.evaluation.journal import Session
from agile_gym.evaluation.run import prepare_plan
from agile_gym.policies import make_policy
from agile_gym.reporting.report import SCRIPTS, choose_pairs, write_report
from agile_gym.transcripts import TranscriptWriter, read_transcripts
from tests.helpers import ROOT
from tests.helpers.browsers import CONTRASTS
from tests.helpers.run_samples import make_run

pytestmark = pytest.mark.slow


class Report:
    """The page; its scripts have run when it is loaded."""

    def __init__(self, browser, address, *, width=1360, height=900, theme="light"):
        self.browser = browser
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(address)

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def unfold(self):
        self.js("document.querySelectorAll('details').forEach((fold) => { fold.open = true })")

    def complaints(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_are_legible(browser, report, theme):
    page = Report(browser, report.as_uri(), theme=theme)
    page.unfold()
    texts = [text for text in page.js(CONTRASTS) if text[1].strip()]
    assert len(texts) > 500
    drawn = page.js("return [...document.querySelectorAll('svg text')].map((node) => node.textContent)")
    assert sorted(text for text in texts if text[0] < 4.5 and text[1] not in drawn) == []
    # The text of drawings has the colour of `fill`, which the style sheet names, and so have the curves.
    found = "[...document.querySelectorAll(arguments[0])].map((node) => getComputedStyle(node)[arguments[1]])"
    colours = f"return [...new Set({found})]"
    assert page.js(colours, ".chart svg text", "fill") == page.js(colours, "section > p.quiet", "color")
    strokes = set(page.js(colours, ".chart svg path", "stroke"))
    assert set(page.js(colours, ".chart .swatch rect", "fill")) <= strokes
    assert "rgb(0, 0, 0)" not in strokes
    assert page.complaints() == []


@pytest.mark.parametrize("width", [360, 768, 1400, 2560])
def test_the_page_is_not_wider_than_the_window(browser, report, width):
    page = Report(browser, report.as_uri(), width=width)
    for _ in range(2):
        box = page.js("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert box[0] <= box[1] == width
        page.unfold()
    cut = page.js(
        "return [...document.querySelectorAll('.chart, .pair, .verdict, .turn, .side, .alarm-list li')]"
        ".filter((node) => node.scrollWidth > node.clientWidth + 1).map((node) => node.className)"
    )
    assert cut == []
    assert page.complaints() == []


def test_drawings_show_pieces_and_curves(browser, report):
    page = Report(browser, report.as_uri())
    page.unfold()
    boxes = page.js(
        "return [...document.querySelectorAll('.board img, .chart g > path')]"
        ".map((node) => { const box = node.getBoundingClientRect(); return [box.width, box.height]; })"
    )
    assert len(boxes) > 200
    assert all(max(box) > 5 for box in boxes)
    named = page.js("return [...document.querySelectorAll('[role=img]')].every((n) => n.getAttribute('aria-label'))")
    assert named
    ids = page.js("return [...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(set(ids)) == len(ids)


def test_the_same_puzzles_are_shown_side_by_side(browser, run, report):
    page = Report(browser, report.as_uri())
    pairs = choose_pairs(*(run / "evaluation" / f"{name}-transcripts" for name in ("coldstart", "grpo")))
    heads = page.js("return [...document.querySelectorAll('.pair-head h3')].map((node) => node.textContent)")
    assert heads == [first.id for first, _ in pairs]
    folds = page.js("return [...document.querySelectorAll('.pair details')].map((fold) => fold.open)")
    assert folds == [True] + [False] * 9
    right = sum(episode.solved for pair in pairs for episode in pair)
    assert 0 < right < 20
    text = page.js("return document.querySelector('#pairs').textContent")
    assert text.count("\u2713 right") == 2 * right  # in the head of a pair, and in its column
    assert text.count("Is the edge of B straight?") == 10
    turns = page.js("return [...document.querySelectorAll('.side')].map((n) => n.querySelectorAll('.turn').length)")
    assert turns == [len(episode.turns) for pair in pairs for episode in pair]
    boards = "[...document.querySelectorAll('.pair .film .board')]"
    labels = page.js(f"return {boards}.map((node) => node.getAttribute('aria-label'))")
    for place, (first, second) in enumerate(pairs):
        names = [" ".join(state) for state in (first.task["names"], first.turns[-1].state, second.solution)]
        assert labels[4 * place].startswith(f"Board: {names[0]};")
        assert labels[4 * place + 3] == f"Board: {names[2]}; 4/4 in place"
        answers = labels[4 * place + 1], labels[4 * place + 2]
        assert [answer.endswith("4/4 in place") for answer in answers] == [first.solved, second.solved]


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


def test_what_models_wrote_stays_text(browser, server):
    from tests.helpers.viewer_samples import HOSTILE

    address, folder, asked = server
    hostile = HOSTILE.replace("{address}", address)
    run = make_run(folder / "run")
    for name in ("coldstart", "grpo"):
        path = run / "evaluation" / f"{name}-transcripts"
        episodes = list(read_transcripts(path))
        shutil.rmtree(path)
        with TranscriptWriter(path) as writer:
            for episode in episodes[:3]:
                writer.append(spoiled(episode, hostile))
    (run / "settings.toml").write_text(hostile.replace("\ud800", ""), encoding="utf-8")
    for name in ("coldstart", "grpo"):
        path = run / "evaluation" / f"{name}.json"
        report = json.loads(path.read_text())
        report["summary"][hostile.replace("\ud800", "")] = report["summary"].pop("2x2")
        path.write_text(json.dumps(report))
    write_report(run, folder / "page.html", title=hostile + "{{ style }}{% block body %}")
    browser.get_log("performance")
    page = Report(browser, f"{address}/page.html")
    page.unfold()
    time.sleep(0.3)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    assert not any(message["method"] == "Page.javascriptDialogOpening" for message in messages)
    assert asked == ["/page.html"]
    strange = "iframe, main a:not([href^='#']), main style, main script, base, form"
    assert page.js("return document.querySelectorAll(arguments[0]).length", strange) == 0
    assert page.js("return document.querySelectorAll('style').length") == 1
    assert page.js("return [...document.images].every((image) => image.src.startsWith('data:image/'))")
    kinds = page.js("return [...document.querySelectorAll('script')].map((node) => node.dataset.kind ?? '')")
    assert kinds.count("") == len(SCRIPTS)
    assert kinds.count("episode") == 6
    title = page.js("return document.querySelector('h1').textContent")
    assert title.endswith("{{ style }}{% block body %}")
    seen = page.js("return document.title + document.querySelector('#results').textContent")
    assert not set("\u2028\u2029\u202e") & set(seen)
    assert seen.count("U+202E") > 3
    written = page.js("return [...document.querySelectorAll('.written p')].map((node) => node.textContent)")
    assert len(written) > 10
    assert '</script><script>alert(1)</script><img src=x onerror="alert(2)"> <!-- <script> ]]>' in written[0]
    assert page.js("return [...document.querySelectorAll('.unseen')].map((n) => n.textContent)")[:2] == [
        "U+2028",
        "U+2029",
    ]
    box = page.js("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert box[0] <= box[1]
    assert page.complaints() == []


def spoiled(episode, hostile):
    """Return an episode with hostile texts wherever a model, a server or a file could have put them."""
    texts = (hostile, f"<think>{hostile}</think><code>{hostile}</code>")
    turns = tuple(
        dataclasses.replace(turn, text=texts[place % 2], feedback=hostile, error=hostile)
        for place, turn in enumerate(episode.turns)
    )
    task = {**episode.task, "dialect": hostile, "level": hostile}
    return dataclasses.replace(episode, turns=turns, policy=hostile, system=hostile, task=task)


def test_the_policy_of_the_page_holds(browser, run, server):
    address, folder, asked = server
    write_report(run, folder / "page.html")
    page = Report(browser, f"{address}/page.html")
    outcome = page.js(
        """
        const script = document.createElement("script");
        try { script.text = "window.ran = true"; document.body.append(script); } catch { }
        const inline = document.querySelector("main");
        inline.setAttribute("style", "display: none");
        const styled = getComputedStyle(inline).display === "none" ? "styled" : "not styled";
        const image = document.createElement("img");
        image.src = "/stolen.png";
        document.body.append(image);
        const ran = window.ran === undefined ? "no script" : "script";
        return fetch("/stolen.json").then(() => "fetched", () => "not fetched").then((last) => [ran, styled, last]);
        """
    )
    assert outcome == ["no script", "not styled", "not fetched"]
    time.sleep(0.2)
    assert asked == ["/page.html"]
    assert len(page.complaints()) >= 3  # the browser tells what it refused


def test_pairs_of_another_environment_are_shown_without_boards(browser, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    folder = tmp_path / "evaluation"
    folder.mkdir()
    for stage, policy in (("coldstart", "custom_env:guess"), ("grpo", "custom_env:Teacher")):
        plan = EvaluationPlan(policy, [EnvironmentEntry("custom_env:QuarterEnv", 4)])
        prepared = prepare_plan(plan)
        with Session(prepared, folder / f"{stage}.json", keep=4) as session:
            labels = [result.label for result in session.play(make_policy(policy))]
            results = session.journal.results
        write_results(folder / f"{stage}.json", results, plan=plan.to_json(), photographs=prepared.photographs())
    page = Report(browser, write_report(tmp_path, tmp_path / "report.html", pairs=4).as_uri())
    page.unfold()
    text = page.js("return document.body.innerText")
    assert "Qwen2.5-VL-7B" not in text
    assert "green frame" not in text
    assert "pieces" not in text
    assert page.js("return document.querySelectorAll('.pair').length") == 4
    assert page.js("return document.querySelectorAll('.board, .film').length") == 0
    found = "return [...document.querySelectorAll(arguments[0])].map((node) => node[arguments[1]])"
    assert sorted(page.js(found, ".pair-head > .quiet:first-of-type", "textContent")) == sorted(labels)
    assert sorted(page.js(found, ".pair > .pictures img", "naturalWidth")) == [32] * 4 + [64] * 4
    told = page.js(found, ".pair-head .result", "textContent")
    assert set(told) == {"\u2713 right", "\u2717 wrong, score 0%"}
    assert page.complaints() == []
