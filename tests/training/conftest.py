"""A run, its report, and a browser."""

import pytest

from tests.helpers.run_samples import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "my <b>run</b>")


@pytest.fixture(scope="session")
def report(run):
    from agile_gym.reporting.report import write_report

    return write_report(run, run.parent / "report.html")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from tests.helpers.browsers import start_browser

    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
