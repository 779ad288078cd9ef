"""Draws the pictures of the documentation."""

from pathlib import Path

import numpy as np
from PIL import Image

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.images import open_images

HERE = Path(__file__).parent


def puzzle_picture() -> Image.Image:
    """Return a shuffled 3x3 board beside the solved one."""
    source = open_images()
    coffee = [source.name(index) for index in range(len(source))].index("coffee")
    env = JigsawVisionEnv(grid=3, images=source, labels=True, image_size=360, crop="center", reveal=True)
    observation, info = env.reset(seed=0, options={"image": coffee})
    shuffled = observation["image"]
    answer = str(info["solution"]).replace("'", '"')
    observation, *_ = env.step(f"<code>state = {answer}\nobserve()</code>")
    space = np.full((shuffled.shape[0], 24, 3), 255, np.uint8)
    return Image.fromarray(np.hstack([shuffled, space, observation["image"]]))


if __name__ == "__main__":
    puzzle_picture().save(HERE / "puzzle.png")
