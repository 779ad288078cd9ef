"""Draws the picture of the viewer; needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium."""

import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.policies import Policy, make_policy
from agile_gym.reporting import write_page
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import Transcript


class Sorter:
    """Is told the solution, and brings one piece a turn to its place, so that there is something to look at."""

    def reset(self, seed: int | None = None) -> None:
        """Do nothing."""

    def act(self, observations: Sequence[dict[str, Any]], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write the next turn of each episode."""
        return [self._turn(*pair) for pair in zip(observations, infos, strict=True)]

    def _turn(self, observation: dict[str, Any], info: dict[str, Any]) -> str:
        solution = info["solution"]
        state = re.findall(r'"(\w+)"', re.findall(r"state = (\[.*?\])", observation["text"])[-1])
        if info["turn"] == 0:
            return "<think>I look at the whole board.</think><code>observation_image_1 = observation(state)</code>"
        wrong = [place for place, name in enumerate(solution) if state[place] != name]
        if not wrong:
            answer = str(solution).replace("'", '"')
            return f"<think>Every edge goes on in the next piece now.</think><answer>{answer}</answer>"
        here, there = wrong[0], state.index(solution[wrong[0]])
        return (
            f"<think>The edges of {solution[here]} go on in the neighbours of {state[here]}.\n"
            "I swap the two and look again.</think>"
            f"<code># bring {solution[here]} to its place\n"
            f"state[{here}], state[{there}] = state[{there}], state[{here}]\n"
            f"observation_image_{info['turn'] + 1} = observation(state)</code>"
        )


def episodes() -> Iterator[Transcript]:
    """Play what is shown."""
    for policy, name, grid, levels in ((Sorter(), "sorter", 2, (0, 1)), (make_policy("random"), "random", 3, (0, 4))):
        policy.reset(0)
        for level in levels:
            yield from play(policy, name, grid, level)


def play(policy: Policy, name: str, grid: int, level: int) -> Iterator[Transcript]:
    """Play four episodes of a level."""
    specs = [EpisodeSpec("env", seed, {"level": level}, seed) for seed in range(4)]
    makers = {"env": lambda: JigsawVisionEnv(grid=grid, max_turns=8, reveal=True)}
    for _, transcript in play_episodes(policy, specs, makers, batch=1, policy_name=name):
        yield transcript


def viewer_picture() -> Image.Image:
    """Return the page with an episode open."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as folder:
        write_page(episodes(), Path(folder, "page.html"), title="first-run")
        for flag in ("--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}/profile"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            size = {"width": 1280, "height": 820, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(Path(folder, "page.html").as_uri() + "#2x2-L0-1")
            browser.execute_async_script("Promise.all([...document.images].map((i) => i.decode())).then(arguments[0])")
            picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        finally:
            browser.quit()
    return picture


if __name__ == "__main__":
    viewer_picture().save(Path(__file__).with_name("viewer.png"), optimize=True)
