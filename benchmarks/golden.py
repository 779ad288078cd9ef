"""Hashes of results that a change of structure must not change, and the comparison of two such files.

Usage: python benchmarks/golden.py [--parts episodes transcripts evaluation training] --output FILE
       python benchmarks/golden.py --compare OLD NEW

Run it in two checkouts on one machine and compare the files: processors round differently, so pixels that were
resampled, the figures of an evaluation and the weights of a training are equal on one machine only.
``tests/rollout/test_golden.py`` keeps the hashes that hold everywhere (the names below ``exact/``).

Names of fields and keys are left out of the hashes: only types, values and their order count.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import gymnasium
import numpy as np

import agile_gym  # noqa: F401 -- registers the environments
from agile_gym.coldstart import ColdStartConfig, make_cold_start
from agile_gym.images import DEFAULT_MAX_PIXELS, ImageCollection
from agile_gym.images.folder import scan_file
from agile_gym.policies import make_policy
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import TranscriptWriter, read_transcripts

PARTS = ("episodes", "transcripts", "evaluation", "training")
EPISODES = 200
GRIDS = (2, "1x2", 3, "2x3", "4x2", "5x6")
OPTIONS = {
    "level": (0, None, "all", "0-1"),
    "crop": (None, "center", "random", (0.3, 0.6)),
    "image_size": (64, (48, 96), 120),
    "gap": (0.02, 0.0, 0.3),
    "labels": (False, True),
    "erode": (0.0, 0.1),
    "reference_image": (False, True),
    "rotations": (False, True),
    "initial_view": ("pieces", "board", "both"),
    "max_turns": (5, 1, 9),
    "dialect": ("code", "tools"),
    "prompt": ("full", "short"),
    "reward": ("paper", "official_code", {"step_weight": 0.5, "score_weight": 0.25}),
    "reveal": (False, True),
    "canvas_size": (None, 400),
    "split": (None, "train", "test"),
}
"""Values of each option; the first is the usual one."""
TEXTS = (
    "",
    "no tags at all",
    "<think>t</think><code>state[0], state[1] = state[1], state[0]</code>",
    "<think>t</think><code>state[0], state[1] = state[1], state[0]\nobservation_image_1 = observation(state)</code>",
    "<think>t</think><code>crop_image_1 = crop(image_list[0], [0.1, 0.2, 0.7, 0.9])</code>",
    "<think>t</think><code>zoom_image_1 = zoom(image_list[1], 1.5)</code>",
    "<think>t</think><code>zoom_image_1 = zoom(image_list[0], 1e9)</code>",
    "<think>t</think><code>rotate_image_1 = rotate(image_list[0], 30)</code>",
    "<think>t</think><code>import os</code>",
    "<think>t</think><code>state = 3</code><answer>[]</answer>",
    '<think>t</think><answer>["A", "B"]</answer>',
    '<think>t</think><answer>["A", "B", "C", "D"]</answer>',
    '<think>t</think><tool_call>{"name": "swap", "arguments": {"first": 0, "second": 1}}</tool_call>',
    '<think>t</think><tool_call>{"name": "observe", "arguments": {}}</tool_call>',
    '<think>t</think><tool_call>{"name": "nothing", "arguments": []}</tool_call>',
)
"""Turns beside those that the action space draws: sound ones of both dialects, and bad ones."""
SHORT_TRAINING = (
    "vision.steps=40",
    "vision.batch=32",
    "vision.few=16",
    "cold_start.count=320",
    "sft.replay_count=64",
    "sft.num_minibatches=20",
    "sft.lr=4e-3",
    "grpo.iterations=3",
    "grpo.groups_per_iteration=8",
    "evaluation.episodes=16",
    "evaluation.interval=0",
)
"""Settings that cut a training of all stages short."""


class Digest:
    """SHA-256 over values of any nesting: types, values and order, but no names."""

    def __init__(self):
        self._hash = hashlib.sha256()

    def add(self, value):
        """Add a value; arrays count with shape and type, data classes and mappings with their values in order."""
        if isinstance(value, np.ndarray):
            self._put("array", f"{value.dtype}{value.shape}")
            self._hash.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, Mapping):
            self._put("group", len(value))
            for item in value.values():
                self.add(item)
        elif is_dataclass(value):
            self._put("group", len(fields(value)))
            for field in fields(value):
                self.add(getattr(value, field.name))
        elif isinstance(value, list | tuple):
            self._put("list", len(value))
            for item in value:
                self.add(item)
        elif isinstance(value, bool | np.bool_) or value is None:
            self._put("constant", value)
        elif isinstance(value, float | np.floating):
            self._put("float", float(value).hex())
        elif isinstance(value, int | np.integer):
            self._put("int", int(value))
        else:
            self._put("text", value)

    def _put(self, kind, value):
        text = f"{kind} {value}".encode()
        self._hash.update(f"{len(text)} ".encode() + text)

    def __str__(self):
        """Return the hash in hexadecimal."""
        return self._hash.hexdigest()


def photographs(rng):
    """Return made-up photographs: smooth ones, noise, and one of few colours, from integers alone."""
    pictures = []
    for number in range(4):
        height, width = (int(side) for side in rng.integers(130, 260, 2))
        rows, columns = np.mgrid[:height, :width]
        channels = [(rows * (3 + c) + columns * (5 - c) + number * 40) % 256 for c in range(3)]
        noise = rng.integers(0, 64, (height, width, 3))
        pictures.append(np.clip(np.stack(channels, -1) // 2 + noise, 0, 255).astype(np.uint8))
    return pictures


def scikit_files():
    """Return five photographs of scikit-image, as paths: those that ship with this package may change."""
    folder = Path(importlib.util.find_spec("skimage").origin).with_name("data")
    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    return [folder / name for name in names]


def scikit_folder(folder):
    """Return a folder with these photographs alone, in a given one."""
    target = folder / "photographs"
    if not target.exists():
        target.mkdir()
        for path in scikit_files():
            shutil.copy(path, target)
    return target


def scikit_photographs():
    """Return these photographs as a source of images."""
    files = [(str(path), path.stem.removesuffix("_left")) for path in scikit_files()]
    items = [scan_file(path, name, DEFAULT_MAX_PIXELS) for path, name in files]
    return ImageCollection(items, max_pixels=DEFAULT_MAX_PIXELS)


def option_sets():
    """Return the options of each episode: each value of each option is used, alone and with others."""
    rng = np.random.default_rng(7)
    pictures, others = photographs(rng), scikit_photographs()
    sets = []
    for number in range(EPISODES):
        options = {"grid": GRIDS[number % len(GRIDS)]}
        changed = 1 + number % 5
        for name in rng.choice(sorted(OPTIONS), changed, replace=False):
            options[str(name)] = OPTIONS[str(name)][int(rng.integers(len(OPTIONS[str(name)])))]
        options.setdefault("image_size", 64)
        if number % 4 == 3:
            del options["image_size"]
            options["max_pixels"] = 9000
        if options["grid"] == "1x2" and options.get("level", 0) not in (0, None):
            options["level"] = 0
        if options["grid"] == "5x6":
            options.update({"image_size": 120} if "image_size" in options else {"max_pixels": 30000})
        if number % 2:
            options["images"] = pictures
            options.pop("split", None)
        else:
            options.update(images=others, crop=options.get("crop") or "random")
        sets.append(options)
    return sets


def episodes():
    """Play 200 episodes over all options; hash the pixels apart, as they depend on resampling."""
    rest, pixels = Digest(), Digest()
    rng = np.random.default_rng(11)
    for number, options in enumerate(option_sets()):
        env = gymnasium.make("JigsawVision-v0", disable_env_checker=True, **options)
        env.action_space.seed(number)
        observation, info = env.reset(seed=number)
        reward, ended, truncated = 0.0, False, False
        while True:
            images = info.pop("images")
            pixels.add([observation["image"], list(images)])
            shapes = [list(image.shape) for image in images]
            primitives = [type(primitive).__name__ for primitive in info.pop("primitives", ())]
            rest.add([observation["image_size"], observation["text"], reward, ended, truncated, shapes, primitives])
            told = {name: info[name] for name in sorted(info)}
            task = told["task"]  # but for a field that was added later, and follows from the options
            told["task"] = {f.name: getattr(task, f.name) for f in fields(task) if f.name != "board_size"}
            rest.add(told)
            if ended or truncated:
                break
            index = int(rng.integers(2 * len(TEXTS)))
            text = TEXTS[index] if index < len(TEXTS) else env.action_space.sample()
            observation, reward, ended, truncated, info = env.step(text)
        env.close()
    return {"exact/episodes": str(rest), "pixels/episodes": str(pixels)}


def hash_transcripts(transcripts):
    """Hash transcripts without the time that anything took; the pixels apart."""
    rest, pixels = Digest(), Digest()
    for transcript in transcripts:
        pixels.add(list(transcript.images))
        rest.add([transcript.id, dict(sorted(transcript.task.items())), transcript.prompt, transcript.solution])
        for turn in transcript.turns:
            rest.add([turn.text, turn.feedback, turn.primitives, turn.error, turn.state, turn.reward])
        rest.add([transcript.solved, transcript.score, transcript.reward, transcript.truncated])
        for segment in transcript.segments:
            rest.add([segment.ids, segment.loss_mask, segment.turns])
    return str(rest), str(pixels)


def transcripts(folder):
    """Play, store and read transcripts of the random policy, and make a small cold start."""
    policy = make_policy("random")
    policy.reset(0)
    source = {"images": scikit_photographs(), "crop": "random"}
    makers = {"small": lambda: gymnasium.make("JigsawVision-v0", image_size=64, max_turns=6, **source)}
    specs = [EpisodeSpec("small", seed, policy_seed=seed, name=f"e{seed}") for seed in range(24)]
    with TranscriptWriter(folder / "random") as writer:
        for _, transcript in sorted(play_episodes(policy, specs, makers), key=lambda pair: pair[0].seed):
            writer.append(transcript)
    played, seen = hash_transcripts(read_transcripts(folder / "random"))
    config = ColdStartConfig(count=24, grid="2x2", seed=3, options={"image_size": 64})
    make_cold_start(folder / "expert", config)
    expert, shown = hash_transcripts(read_transcripts(folder / "expert"))
    return {
        "exact/transcripts-random": played,
        "pixels/transcripts-random": seen,
        "pixels/transcripts-expert-text": expert,  # the expert names colours, which depend on resampling
        "pixels/transcripts-expert": shown,
    }


def command(*words):
    """Run a command of the package."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "agile_gym", *words], check=True, stdout=subprocess.DEVNULL, env=environment)


def evaluation(folder):
    """Evaluate two policies by the command."""
    hashes = {}
    for policy in ("random", "edge"):
        output = folder / f"{policy}.json"
        given = [
            "--policy",
            policy,
            "--images",
            str(scikit_folder(folder)),
            "--grid",
            "2",
            "2x3",
            "--levels",
            "all",
            "--episodes",
            "10",
            "--output",
            str(output),
        ]
        command("eval", *given)
        text = output.read_text("utf-8")
        results = json.loads(text, parse_float=lambda digits: round(float(digits), 12))  # of intervals, the last differ
        results.pop("cost")
        results["plan"].pop("images")
        digest = Digest()
        digest.add(results)
        hashes[f"figures/evaluation-{policy}"] = str(digest)
    return hashes


def training(folder):
    """Train with all stages, cut short, with one learner and with two of each; hash the weights."""
    from safetensors.numpy import load_file

    hashes = {}
    for count in (0, 2):
        run = folder / f"run-{count}"
        given = [word for setting in SHORT_TRAINING for word in ("--set", setting)]
        given += ["--images", str(scikit_folder(folder))]
        command("train", "--output", str(run), "--runners", str(count), "--learners", str(count), *given)
        for file in sorted(run.rglob("*.safetensors")):
            digest = Digest()
            digest.add(dict(sorted(load_file(file).items())))
            hashes[f"weights/{count}/{file.relative_to(run).parent}"] = str(digest)
    return hashes


def compare(old, new):
    """Print the names whose hashes differ; return the exit status."""
    before, after = (json.loads(Path(path).read_text("utf-8")) for path in (old, new))
    different = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    for name in different:
        print(f"{name}: {before.get(name, 'not there')} before, {after.get(name, 'not there')} after")
    print(f"{len(different)} of {len({*before, *after})} differ")
    return 1 if different or not before else 0


def main():
    """Compute or compare hashes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"))
    options = parser.parse_args()
    if options.compare:
        return compare(*options.compare)
    hashes = {}
    with tempfile.TemporaryDirectory() as name:
        for part in options.parts:
            hashes |= episodes() if part == "episodes" else globals()[part](Path(name))
    text = json.dumps(hashes, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
