"""Episodes and a page of them, a run and its report, and a browser."""

import pytest

from agile_gym.policies import make_policy
from agile_gym.reporting import write_page
from agile_gym.reporting.report import write_report
from tests.helpers.browsers import Page, start_browser
from tests.helpers.run_samples import make_run
from tests.helpers.viewer_samples import ERRS, LOOKS, NEVER, Script, decode, play, with_tokens

TURNED = Script('<think>.</think><code>turn("B", 90)\nobserve()</code>', "<think>.</think><answer>{solution}</answer>")
CODE_AND_ANSWER = (
    "<think>Two \U0001f600 of <think>three</think>, as in <code>x</code>.</think><code>swap(0, 1)</code>"
    '<answer>["A"]</answer>left over<think>and not closed'
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def played():
    answered = play(make_policy("random"), range(6), name="random", prefix="random-", grid=3, level=1)
    episodes = [
        *play(LOOKS, range(6)),
        *play(ERRS, range(3), level=1, max_turns=4),
        *play(NEVER, [1], level=2, max_turns=2),
        *answered,
        *play(TURNED, [0], rotations=True, prefix="turned-"),
        *play(LOOKS, [0], keep_images=False, prefix="bare-"),
        *play(Script(CODE_AND_ANSWER), [0], max_turns=1, prefix="mixed-"),
    ]
    return [with_tokens(episodes[0], seed=1), *episodes[1:]]


@pytest.fixture(scope="session")
def address(played, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(played, path, title="A run <b>", decode=decode, image_tokens=[99])
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    return Page(browser, address)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "my <b>run</b>")


@pytest.fixture(scope="session")
def report(run):
    return write_report(run, run.parent / "report.html")
