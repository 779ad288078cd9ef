"""One episode, turn by turn: look at the board, swap two pieces, answer. Writes the images shown to PNG files.

Usage: python examples/quickstart.py [SEED]
"""

import sys

import gymnasium
from PIL import Image

import agile_gym  # noqa: F401 -- registers the environments

env = gymnasium.make("JigsawVision-v0", labels=True)
observation, info = env.reset(seed=int(sys.argv[1]) if len(sys.argv) > 1 else 0)
print(observation["text"])

turns = [
    "<think>Let me see all pieces together.</think><code>observation_image_1 = observation(state)</code>",
    "<think>A and C look misplaced.</think><code>swap('A', 'C')\nobservation_image_2 = observation(state)</code>",
    "<think>Is the right border of C sharp?</think><code>crop_image_1 = crop(image_list[2], [0.7, 0, 1, 1])</code>",
    '<think>That will do.</think><answer>["C", "B", "A", "D"]</answer>',
]
for number, turn in enumerate(turns, start=1):
    observation, reward, terminated, truncated, info = env.step(turn)
    print(f"\n--- turn {number}\n{turn}\n-->\n{observation['text']}")
    for image in info["images"]:
        Image.fromarray(image).save(f"turn_{number}.png")
    if terminated or truncated:
        print(f"\nreward {reward:.2f}, solved: {info['solved']}, parts: {info['reward']}")
        break
