"""Texts of models on the page: they do not run, and nothing is fetched."""

import dataclasses
import functools
import http.server
import json
import threading

import pytest

from agile_gym.reporting import write_page
from agile_gym.reporting.viewer import SCRIPTS
from tests.helpers.browsers import Page
from tests.helpers.viewer_samples import HOSTILE, NEVER, Blocks, Script, play, with_tokens

pytestmark = pytest.mark.slow


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
    page.open_tokens(transcript.id)
    page.unfold()
    page.point_at(page.find(".token-model"))
    page.js("return new Promise((done) => setTimeout(done, 300))")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    own = ("data:", "chrome:")  # what the page brings itself, and what the browser loads for its own pages
    assert {url.partition("#")[0] for url in urls if not url.startswith(own)} <= {
        "about:blank",
        f"{address}/page.html",
    }
    assert asked == ["/page.html"]
    assert not any(message["method"] == "Page.javascriptDialogOpening" for message in messages)
    assert len(page.all("script")) == scripts == len(Blocks(folder / "page.html").data) + len(SCRIPTS)
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
