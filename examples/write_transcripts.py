"""Record episodes of a scripted player, look at them in a browser, and export them for training.

Usage: python examples/write_transcripts.py [FOLDER] [EPISODES]
"""

import sys
from functools import partial
from pathlib import Path

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.policies import OraclePolicy
from agile_gym.reporting import write_page
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import TranscriptWriter, export_sharegpt, read_transcripts


class LookingOracle:
    """Policy that shows the board and a part of it, puts the pieces right, and answers."""

    def reset(self, seed=None):
        """Nothing is random here."""

    def act(self, observations, infos):
        """Write the next turn of each episode."""
        return [self._turn(info) for info in infos]

    def _turn(self, info):
        if info["turn"] == 0:
            return "<think>Let me see the board.</think><code>observation_image_1 = observation(state)</code>"
        if info["turn"] == 1:
            box = "[0.0, 0.25, 1.0, 0.75]"
            return f"<think>Do the middle borders fit?</think><code>crop(observation_image_1, {box})</code>"
        if info["turn"] == 2:
            state = str(info["solution"]).replace("'", '"')
            return f"<think>They do not. I know better.</think><code>state = {state}\nobservation(state)</code>"
        return self._oracle.act([{}], [info])[0]

    _oracle = OraclePolicy()


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "run")
count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
makers = {"2x2": partial(JigsawVisionEnv, grid=2, level="all", reveal=True)}
specs = [EpisodeSpec("2x2", seed, {"level": seed % 3}) for seed in range(count)]

with TranscriptWriter(folder, overwrite=True) as writer:
    for _, transcript in play_episodes(LookingOracle(), specs, makers, policy_name="looking oracle"):
        writer.append(transcript)

page = write_page(read_transcripts(folder), folder / "page.html", title="A scripted player")
print(f"{page.episodes} episodes in {folder}; open {folder / 'page.html'} in a browser")
print(f"{export_sharegpt(read_transcripts(folder), folder / 'sharegpt')} conversations for LLaMA-Factory")
