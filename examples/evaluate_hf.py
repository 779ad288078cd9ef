"""Compare a Hugging Face vision-language model with guessing and the paper's models on 2x2 puzzles.

Usage: python examples/evaluate_hf.py [MODEL] [EPISODES]

MODEL is a folder or a name on the hub, such as Qwen/Qwen2.5-VL-7B-Instruct; without it, the tiny model of this library
is built, untrained. On the command line: agile-gym eval --policy hf:MODEL --suite quick
"""

import sys
import tempfile

from tqdm import tqdm

from agile_gym import make_policy
from agile_gym.evaluation import EvaluationPlan, SuiteEntry, evaluate, format_tables, summarize

model = sys.argv[1] if len(sys.argv) > 1 else None
episodes = int(sys.argv[2]) if len(sys.argv) > 2 else 8

with tempfile.TemporaryDirectory() as folder:
    name, options, longest = model, {"image_size": 448}, 512
    if model is None:
        from agile_gym.models.tiny import save_tiny

        model = str(save_tiny(folder))
        name, longest = "tiny, untrained", 48
        options = {"image_size": 64, "prompt": "short"}  # its pieces have 32 x 32 pixels

    policy = make_policy(f"hf:{model}", temperature=0, max_new_tokens=longest)
    for label, player in (("random", make_policy("random")), (name, policy)):
        plan = EvaluationPlan(label, [SuiteEntry("2x2", episodes=episodes)], options=options)
        with tqdm(total=len(plan), desc=label) as bar:
            results = evaluate(player, plan, batch=8, on_result=lambda _, bar=bar: bar.update())
        print(format_tables(summarize(results), label))
        written = [result.tokens["new"] for result in results if result.tokens["new"] is not None]
        if written:
            print(f"{sum(written) / len(written):.0f} tokens written an episode")
