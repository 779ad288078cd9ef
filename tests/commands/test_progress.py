import logging
import subprocess
import sys

import pytest

from agile_gym import commands as progress
from agile_gym.commands import warnings_above


def test_warnings_that_differ_in_numbers_only_are_shown_once_in_a_while(monkeypatch):
    lines, now = [], [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    logger = logging.getLogger("agile_gym.policies.api.policy")
    with warnings_above(lines.append):
        for number in range(40):
            logger.warning("Attempt %d failed: no answer. The next one is in %.1f s.", number, number / 3)
            now[0] += 0.2
        logger.warning("Something else: \x1b[2J%s", "x" * 10_000)
        logger.info("This is no warning.")
        now[0] += 5
        logger.warning("Attempt 7 failed: no answer. The next one is in 30.0 s.")
    logger.warning("Nobody listens any more.")
    assert lines == [
        "Attempt 0 failed: no answer. The next one is in 0.0 s.",
        r"Something else: \x1b[2J" + "x" * 477 + "...",
        "Attempt 7 failed: no answer. The next one is in 30.0 s. (39 more like this were not shown)",
    ]


@pytest.mark.slow
def test_an_endpoint_that_is_down_ends_an_evaluation_in_few_lines(tmp_path):
    pytest.importorskip("openai")
    options = ["base_url=http://127.0.0.1:9/v1", "backoff=0.01", "max_retries=3"]
    arguments = [word for option in options for word in ("--policy-option", option)]
    result = subprocess.run(
        [sys.executable, "-m", "agile_gym", "eval", "--policy", "api:m", *arguments, "--suite", "quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    lines = [line for line in result.stderr.replace("\r", "\n").split("\n") if line.startswith("agile-gym: ")]
    assert len(lines) == 2
    assert lines[0].startswith("agile-gym: Attempt 1 failed: ")
    assert "Check that a server runs at http://127.0.0.1:9/v1" in lines[1]
    assert "Traceback" not in result.stderr
