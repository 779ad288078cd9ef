"""Measures everything that benchmarks/RESULTS.md reports, and writes that file.

Usage: python benchmarks/run_all.py [--images FOLDER] [--fuzz 1000000] [--quick]

Every figure stands beside its comparison, measured in the same run. Without ``--images`` the built-in
photographs are used.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import cv2
import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from learning_report import START as TRAINING
from PIL import Image
from tqdm import tqdm

import agile_gym
from agile_gym.commands.bench import format_speed, measure_speed, swap_texts, turn_rate
from agile_gym.envs.jigsaw import JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.evaluation import EvaluationPlan, SuiteEntry, evaluate, format_tables, reference_rows, summarize
from agile_gym.images import clear_cache, open_images
from agile_gym.images.folder import PHOTOGRAPHS
from agile_gym.policies import make_policy
from agile_gym.policies.edge import solve_by_edges
from agile_gym.questions.generated import KINDS

HERE = Path(__file__).parent


def table(header, rows):
    """Write a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines)


def machine():
    """Describe this machine in a line."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("gymnasium", "numpy", "pillow", "opencv-python")
    ]
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}"


def sizes_section(seconds):
    """Turns a second over sizes and grids."""
    rows = []
    for size in (224, 448, 896):
        row = [size]
        for grid in (2, 3, 5, 10):
            env = JigsawVisionEnv(grid=grid, image_size=size, max_turns=1000)
            row.append(f"{turn_rate(env, swap_texts(grid * grid, 40), seconds=seconds):,.0f}")
        rows.append(row)
    return table(["image size", "2x2", "3x3", "5x5", "10x10"], rows)


class Keeping:
    """Keeps the last observation, as a learner does while it decides."""

    def __init__(self, env):
        self.env = env

    def reset(self, seed):
        self.kept = self.env.reset(seed=seed)

    def step(self, action):
        self.kept = self.env.step(action)


class Loop:
    """Single environments stepped one after the other; with ``stack``, their images are put into one batch."""

    def __init__(self, envs, *, stack):
        self.envs = envs
        self.stack = stack

    def reset(self, seed):
        return [env.reset(seed=seed + i) for i, env in enumerate(self.envs)]

    def step(self, actions):
        results = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        batch = np.stack([observation["image"] for observation, *_ in results]) if self.stack else None
        return results, batch


def vector_section(seconds, counts):
    """The vector environment beside single ones in a loop and Gymnasium's own, and its memory."""
    rows = []
    texts = swap_texts(4, 20)
    warm = JigsawVisionEnv()
    for seed in range(50):
        warm.reset(seed=seed)  # the photographs are decoded once for all and belong to no environment
    for count in tqdm(counts, desc="vector", unit="size"):
        gc.collect()
        tracemalloc.start()
        vector = JigsawVisionVectorEnv(count, max_turns=1000)
        observations = vector.reset(seed=0)[0]
        for _ in range(3):
            observations = vector.step([texts[0]] * count)[0]
        gc.collect()
        image = observations["image"][0].nbytes
        share = (tracemalloc.get_traced_memory()[0] / count - image) / image
        tracemalloc.stop()
        del observations
        singles = [gymnasium.make("JigsawVision-v0", max_turns=1000) for _ in range(count)]
        sync = (
            SyncVectorEnv([lambda: gymnasium.make("JigsawVision-v0", max_turns=1000)] * count) if count <= 64 else None
        )
        contestants = {"vector": vector, "stacked": Loop(singles, stack=True), "loop": Loop(singles, stack=False)}
        if sync is not None:
            contestants["sync"] = sync
        speeds = {name: [] for name in contestants}
        rounds, repeats, turns = (3, 1, 6) if count > 64 else (5, 3, 20)
        for _ in range(rounds):  # in turn, so that all run under the same load of the machine
            for name, env in contestants.items():
                batches = [(text,) * count for text in texts[:turns]]
                speeds[name].append(turn_rate(Keeping(env), batches, seconds=seconds / 5, repeats=repeats) * count)
        ratio = np.median(np.array(speeds["vector"]) / speeds["stacked"])
        shown = [
            f"{np.median(speeds[name]):,.0f}" if name in speeds else "not run" for name in ("stacked", "loop", "sync")
        ]
        rows.append([count, f"{np.median(speeds['vector']):,.0f}", *shown, f"{ratio:.2f}", f"{share:.2f}"])
        del vector, singles, sync, contestants
    header = ["N", "vector", "N singles, stacked", "N singles", "SyncVectorEnv", "vector / stacked", "memory"]
    return table(header, rows)


def reset_section(images, seconds):
    """Time of a reset beside decoding and resizing the same photographs with Pillow and OpenCV."""
    if images is None:
        images = PHOTOGRAPHS
    paths = sorted(path for path in Path(images).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    env = JigsawVisionEnv(images=open_images(paths), crop="center")
    count = len(env.episode.source)

    def reset(index):
        env.reset(seed=0, options={"image": index})

    def plain(index):
        with Image.open(paths[index]) as file:
            pixels = np.asarray(file.convert("RGB"))
        side = min(pixels.shape[:2])
        cv2.resize(pixels[:side, :side], (448, 448), interpolation=cv2.INTER_AREA)

    times = {"plain": [], "cold": [], "warm": []}
    end = time.perf_counter() + 3 * seconds
    while time.perf_counter() < end:
        for index in range(min(count, len(paths))):  # photograph by photograph, so that the ratios are of pairs
            clear_cache()
            for name, function in (("plain", plain), ("cold", reset), ("warm", reset)):
                start = time.perf_counter()
                function(index)
                times[name].append(1e3 * (time.perf_counter() - start))
    plain_ms, cold_ms, warm_ms = (float(np.median(times[name])) for name in ("plain", "cold", "warm"))
    ratio = {name: float(np.median(np.array(times[name]) / times["plain"])) for name in times}
    rows = [
        ["decoding and resizing, Pillow and OpenCV", f"{plain_ms:.2f}", "1.00"],
        ["env.reset, photograph not cached", f"{cold_ms:.2f}", f"{ratio['cold']:.2f}"],
        ["env.reset, photograph cached", f"{warm_ms:.2f}", f"{ratio['warm']:.2f}"],
    ]
    return table(["", "ms", "ratio"], rows)


def questions_section(seconds):
    """Turns a second of looks at questions about pictures, beside those at a jigsaw, and time of a reset by kind."""
    calls = {"crop": "crop({}, [0.1, 0.1, 0.6, 0.6])", "zoom": "zoom({}, 0.5)"}
    options = {"max_turns": 100}
    question = gymnasium.make("VisualQA-v0", kinds="word", **options).unwrapped
    jigsaw = gymnasium.make("JigsawVision-v0", grid=(1, 2), level=None, image_size=(448, 896), **options).unwrapped
    rows = []
    for name, env, image in (("VisualQA-v0", question, "image_1"), ("JigsawVision, 1x2", jigsaw, "image_list[0]")):
        texts = [f"<think>a</think>\n<code>\nx = {call.format(image)}\n</code>" for call in calls.values()]
        rows.append([name, *(f"{turn_rate(env, [text] * 18, seconds=seconds):,.0f}" for text in texts)])
    resets = []
    for kind in KINDS:
        env, times = gymnasium.make("VisualQA-v0", kinds=kind, difficulty="all").unwrapped, []
        for seed in range(60):
            start = time.perf_counter()
            env.reset(seed=seed)
            times.append(1e3 * (time.perf_counter() - start))
        resets.append([kind, f"{np.median(times[10:]):.1f}", f"{np.max(times[10:]):.0f}"])
    header = ["turns a second, picture of 448 x 448", "crop to half", "zoom by 0.5"]
    return table(header, rows) + "\n\n" + table(["reset", "median, ms", "slowest, ms"], resets)


def policy_section(images, quick):
    """Acc and Score of the baselines over all levels, beside the paper's best model."""
    rows = []
    tables = []
    scale = 0.1 if quick else 1
    for grid, episodes in (("2x2", 300), ("3x3", 300), ("5x5", 40), ("8x8", 10), ("10x10", 6)):
        entry = SuiteEntry(grid, episodes=max(int(episodes * scale), 1))
        plan = EvaluationPlan("edge", [entry], images=images, options={"crop": "center"})
        with tqdm(total=len(plan), desc=f"edge {grid}", unit="puzzle") as bar:
            results = evaluate(make_policy("edge"), plan, on_result=lambda _, bar=bar: bar.update())
        summary = summarize(results)
        everything = summary[grid]["avg"]
        reference = {row.model: row.average for row in reference_rows(grid, "acc")}
        best = max(reference.items(), key=lambda item: item[1], default=("not reported", None))
        rows.append(
            [
                grid,
                everything["episodes"],
                "{:.1f} ({:.1f}-{:.1f})".format(*(100 * everything["acc"][k] for k in ("value", "low", "high"))),
                "{:.1f} ({:.1f}-{:.1f})".format(*(100 * everything["score"][k] for k in ("value", "low", "high"))),
                best[0] if best[1] is None else f"{best[1]:.1f} ({best[0]})",
            ]
        )
        if reference:
            tables.append("```\n" + format_tables(summary, "edge") + "\n```")
    plan = EvaluationPlan("random", [SuiteEntry("2x2", episodes=max(int(1000 * scale), 10))], images=images)
    chance = summarize(evaluate(make_policy("random"), plan, batch=64))["2x2"]["avg"]["acc"]
    edge = table(["grid", "puzzles", "Acc (95% interval)", "Score", "paper's best Acc"], rows)
    random = "`RandomPolicy`, 2x2: Acc {:.2f} (95% interval {:.2f}-{:.2f}); exactly 1/24 = 4.17 is expected.".format(
        *(100 * chance[k] for k in ("value", "low", "high"))
    )
    return edge + "\n\n" + random, "\n\n".join(tables)


def solver_section(images):
    """Milliseconds a solve."""
    source = open_images(images)
    rows = []
    for grid in (2, 3, 5, 8, 10):
        env = JigsawVisionEnv(grid=grid, level=None, images=source, crop="center")
        times = []
        for index in range(min(len(source), 33)):
            _, info = env.reset(seed=index, options={"image": index})
            start = time.perf_counter()
            solve_by_edges(info["images"], grid, grid)
            times.append(1e3 * (time.perf_counter() - start))
        rows.append([f"{grid}x{grid}", f"{np.median(times):.1f}", f"{max(times):.1f}"])
    return table(["grid", "median, ms", "slowest, ms"], rows)


def import_section():
    """Seconds that `import agile_gym` takes in a fresh process."""
    code = "import time; t = time.perf_counter(); import agile_gym; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(7)
    ]
    bare = "import time; t = time.perf_counter(); import gymnasium; print(time.perf_counter() - t)"
    base = [
        float(subprocess.run([sys.executable, "-c", bare], capture_output=True, check=True).stdout) for _ in range(7)
    ]
    return f"`import agile_gym`: {np.median(times):.3f} s (`import gymnasium` alone: {np.median(base):.3f} s)."


def fuzz_section(inputs):
    """The fuzzer's own report."""
    command = [sys.executable, str(HERE / "fuzz.py"), "--inputs", str(inputs)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return "```\n" + result.stdout.strip() + "\n```"


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default=None, help="folder of photographs for the policies (default: built-in)")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N", help="also feed N random texts to the parser")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, for a look")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    seconds = 0.3 if options.quick else 2.0
    counts = (1, 4, 16) if options.quick else (1, 4, 16, 64, 256, 1024)
    names = "the built-in photographs" if options.images is None else f"{len(open_images(options.images))} photographs"
    edge, tables = policy_section(options.images, options.quick)
    parts = [
        "# Results",
        "Written by `python benchmarks/run_all.py`; do not edit. " + machine() + ".",
        f"agile_gym {agile_gym.__version__}. Speeds are of one thread.",
        "## Speed of a turn\n\n```\n" + format_speed(measure_speed(seconds=seconds)) + "\n```",
        "Turns a second, swap and observe, through `JigsawVisionEnv.step`:\n\n" + sizes_section(seconds / 2),
        "## Many environments\n\nTurns a second in all, 448 x 448, 2x2. N singles are environments of `gymnasium.make` "
        "stepped in a loop; stacked: their images put into one batch, as a vector environment returns them. Memory "
        "is what an environment holds besides the observation it returned, as a multiple of that observation.\n\n"
        + vector_section(seconds, counts),
        "## Reset\n\n" + reset_section(options.images, seconds),
        "## Questions about pictures\n\n" + questions_section(seconds),
        f"## Baselines\n\nWhole photographs (largest centred square, 448 pixels), {names}, all levels.\n\n" + edge,
        "### Time of `EdgePolicy`'s solver\n\n" + solver_section(options.images),
        "### Tables\n\n" + tables,
        "## Import\n\n" + import_section(),
    ]
    if options.fuzz:
        parts.append("## Fuzzing\n\n" + fuzz_section(options.fuzz))
    former = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    if TRAINING in former:  # another script's part
        parts.append(TRAINING + former.partition(TRAINING)[2].rstrip())
    options.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"Written: {options.output}")


if __name__ == "__main__":
    main()
