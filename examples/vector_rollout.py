"""Step many jigsaws together, with actions drawn at random, and count episodes and solved puzzles.

Usage: python examples/vector_rollout.py [ENVIRONMENTS] [STEPS]
"""

import sys
import time

import gymnasium

import agile_gym  # noqa: F401 -- registers the environments

count = int(sys.argv[1]) if len(sys.argv) > 1 else 16
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 100
env = gymnasium.make_vec("JigsawVision-v0", num_envs=count, image_size=224)
env.reset(seed=0)
env.action_space.seed(0)
episodes = solved = 0
start = time.perf_counter()
for _ in range(steps):
    observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
    episodes += int((terminated | truncated).sum())
    solved += int(infos["solved"].sum())
seconds = time.perf_counter() - start
print(f"{count * steps / seconds:,.0f} turns a second, {episodes} episodes, {solved} solved by chance")
