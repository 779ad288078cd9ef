"""A run, its report, and a browser."""

import sys
from pathlib import Path

import pytest
from run_samples import make_run

# For the browser and the hostile texts, and for policies.
sys.path += [str(Path(__file__).parents[1] / name) for name in ("viewer", "evaluation")]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "my <b>run</b>")


@pytest.fixture(scope="session")
def report(run):
    from agile_gym.reporting.report import write_report

    return write_report(run, run.parent / "report.html")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from viewer_browser import start_browser

    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
