"""Rollout tokens a second of three engines on the same model, puzzles and tokens: this library's, vLLM and TRL's.

    python benchmarks/rollout_engines.py --output engines.json
    python benchmarks/rollout_engines.py --quick            # small: a check that it runs, no measurement
    python benchmarks/rollout_engines.py --engines hf vllm --profile

Each engine has a process and a thread of its own. They take turns, round by round, at the same puzzles; the first round
of each is not counted. All play through `agile_gym.rollout.play_episodes`, groups of episodes of one puzzle, turns of
exactly the same number of tokens (no token ends a turn). With several turns, each but the last is replaced by a look at
the board, so that every turn brings an image whatever the model writes, as in benchmarks/cache_reuse.py.

- hf: `HFVLMPolicy`, with the key-value cache kept from turn to turn.
- vllm: the same with ``engine="vllm"``, prefix caching on.
- trl: `GRPOTrainer`'s generation with transformers (its ``_tokenize_prompts`` and ``_generate_single_turn``), called
  turn by turn on the conversation so far, as it does for tools; from the start in every turn, as it keeps no cache.

The models: the tiny one (64 px, a token an image), and a Qwen2.5-VL with random weights (448 px, 256 tokens an image).
Needs the extras ``train`` and ``vllm``, and TRL. ``--profile`` prints where the rounds of vLLM and of this library
spend their time.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.metadata
import io
import json
import os
import pstats
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

HERE = str(Path(__file__).parent)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH", "")]))
sys.path.insert(0, HERE)

from play_settings import PlaySetting  # noqa: E402 -- found by the path above

ENGINES = ("hf", "vllm", "trl")
NEVER = "never written"


@dataclass(frozen=True)
class Setting(PlaySetting):
    """Setup of the rollouts.

    Attributes:
        engine_options: Arguments of vLLM.
    """

    turns: int = 5
    engine_options: tuple[tuple[str, int], ...] = (("max_model_len", 1024), ("kv_cache_memory_bytes", 500_000_000))


class TRLPolicy:
    """Player whose turns TRL's trainer generates from the conversation so far."""

    def __init__(self, setting, folder):
        import datasets
        import torch
        import transformers
        from trl import GRPOConfig, GRPOTrainer

        model = transformers.AutoModelForImageTextToText.from_pretrained(setting.model, dtype=torch.float32)
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=setting.group_size,
            num_generations=setting.group_size,
            max_completion_length=setting.new_tokens,
            generation_kwargs={"min_new_tokens": setting.new_tokens},
            temperature=1.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
        )
        row = {"prompt": [{"role": "user", "content": "none"}]}
        self._trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda **_: [0.0],
            args=config,
            train_dataset=datasets.Dataset.from_list([row]),
            processing_class=transformers.AutoProcessor.from_pretrained(setting.model),
        )
        self._trainer.model.eval()
        self._size = setting.group_size
        self.reset()

    def reset(self, seed=None):
        self._messages, self.written = {}, 0

    def act(self, observations, infos):
        from PIL import Image

        from agile_gym.models.chat import content_parts

        for observation, info in zip(observations, infos, strict=True):
            images = iter([Image.fromarray(image) for image in info["images"]])
            parts = [
                {"type": "image", "image": next(images)} if part["type"] == "image" else part
                for part in content_parts(observation["text"])
            ]
            message = {"role": "user", "content": parts}
            self._messages[info["slot"]] = [*(self._messages[info["slot"]] if info["turn"] else ()), message]
        conversations = [self._messages[info["slot"]] for info in infos]
        ids, images, fields = self._trainer._tokenize_prompts(conversations)
        turns, _ = self._trainer._generate_single_turn(ids, images, fields, self._size)
        texts = self._trainer._tokenizer.batch_decode(turns, skip_special_tokens=True)
        for info, text, turn in zip(infos, texts, turns, strict=True):
            self.written += len(turn)
            answer = {"role": "assistant", "content": [{"type": "text", "text": text}]}
            self._messages[info["slot"]] = [*self._messages[info["slot"]], answer]
        return texts


class CountingPolicy:
    """Player that counts the tokens that a policy of this library writes."""

    def __init__(self, policy):
        self._policy, self.written, self.computed = policy, 0, 0

    def reset(self, seed=None):
        self._policy.reset(seed)
        self.written = self.computed = 0

    def act(self, observations, infos):
        return self._policy.act(observations, infos)

    def finish(self, slot):
        record = self._policy.finish(slot)
        self.written += sum(usage.new_tokens for usage in record.usage)
        self.computed += sum(usage.computed_tokens for usage in record.usage)
        return record


def make_policy(engine, setting, folder):
    """Make the player of an engine; no token ends its turns."""
    if engine == "trl":
        return TRLPolicy(setting, folder)
    from speed_grpo import endless_policy

    if engine == "hf":
        return CountingPolicy(endless_policy(setting.model, max_new_tokens=setting.new_tokens, device="cpu"))
    from agile_gym.models import vllm_engine
    from agile_gym.policies.model import VLLMPolicy

    vllm_engine.end_tokens = lambda model, chat: ()
    options = dict(setting.engine_options)
    return CountingPolicy(VLLMPolicy(setting.model, stop=[NEVER], max_new_tokens=setting.new_tokens, **options))


class Worker:
    """A process with one thread in which one engine plays."""

    def __init__(self, engine, setting, folder):
        self._executor = ProcessPoolExecutor(1, get_context("spawn"), initializer=begin)
        self._executor.submit(load, engine, setting, folder).result()

    def play(self, number, profile=False):
        """Play a round, and return its seconds of clock and processor, and tokens written and computed."""
        return self._executor.submit(play, number, profile).result()

    def stop(self):
        """End the process."""
        self._executor.shutdown()


def begin():
    """Keep a process to one thread, and its output to standard error."""
    import torch

    torch.set_num_threads(1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")


class _Loaded:
    """The player of a process."""

    policy = None
    setting = None


def load(engine, setting, folder):
    """Make the player of this process."""
    _Loaded.policy, _Loaded.setting = make_policy(engine, setting, folder), setting


def play(number, profile):
    """Play a round of groups."""
    from cache_reuse import Looking

    from agile_gym.envs.jigsaw import JigsawVisionEnv
    from agile_gym.rollout import EpisodeSpec, play_episodes

    policy, setting = _Loaded.policy, _Loaded.setting
    policy.reset(number)
    make = partial(
        JigsawVisionEnv, grid=2, level=0, image_size=setting.image_size, max_turns=setting.turns, prompt="short"
    )
    specs = [
        EpisodeSpec("env", 1000 * number + group, {}, policy_seed=1000 * group + member, keep_images=False)
        for group in range(setting.groups)
        for member in range(setting.group_size)
    ]
    player = Looking(policy, setting.turns - 1)
    if not hasattr(policy, "finish"):
        player = _Forgetful(player)
    profiler = cProfile.Profile()
    start = time.perf_counter(), time.process_time()
    if profile:
        profiler.enable()
    for _ in play_episodes(player, specs, {"env": make}, batch=len(specs)):
        pass
    profiler.disable()
    wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    told = io.StringIO()
    if profile:
        pstats.Stats(profiler, stream=told).sort_stats("tottime").print_stats(25)
    wanted = len(specs) * setting.turns * setting.new_tokens
    assert policy.written == wanted, (policy.written, wanted)
    return {
        "wall": wall,
        "processor": processor,
        "tokens": policy.written,
        "computed": getattr(policy, "computed", None),
        "profile": told.getvalue(),
    }


class _Forgetful:
    """Player without a record, for `play_episodes`."""

    def __init__(self, player):
        self.reset, self.act = player.reset, player.act


def measure(name, setting, options, folder):
    """Let the engines take turns; return the rows of the table, and the figures."""
    workers = {engine: Worker(engine, setting, folder) for engine in options.engines}
    readings = {engine: [] for engine in workers}
    for number in range(1 + options.rounds):
        for engine, worker in workers.items():
            readings[engine].append(worker.play(number))
    if options.profile:
        for engine in set(workers) & {"hf", "vllm"}:
            print(f"### {name}: {engine}\n\n{workers[engine].play(99, True)['profile']}", file=sys.stderr)
    for worker in workers.values():
        worker.stop()
    counted = {engine: entries[1:] for engine, entries in readings.items()}
    rates = {
        engine: {kind: [entry["tokens"] / entry[kind] for entry in entries] for kind in ("wall", "processor")}
        for engine, entries in counted.items()
    }
    rows = []
    for engine, rate in rates.items():
        ours = rates.get("hf", rate)
        ratios = [median(rate[kind]) / median(ours[kind]) for kind in ("processor", "wall")]
        computed = counted[engine][0]["computed"]
        rows.append(
            (
                name,
                engine,
                f"{counted[engine][0]['tokens']:,}",
                "" if computed is None else f"{computed:,}",
                spread(rate["processor"]),
                spread(rate["wall"]),
                *(f"{ratio:.2f}" for ratio in ratios),
            )
        )
    return rows, {"setting": asdict(setting), "rates": rates, "readings": counted}


def spread(values):
    """Write the median of some values, with the lowest and the highest."""
    return f"{median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--models", nargs="+", choices=("tiny", "qwen"), default=("tiny", "qwen"))
    parser.add_argument("--rounds", type=int, default=3, help="rounds that are counted; %(default)s by default")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="argument of vLLM")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path, help="file for the figures and their table, as JSON")
    options = parser.parse_args()
    from cache_reuse import random_qwen
    from training_speed import table

    from agile_gym.commands import read_pairs
    from agile_gym.models.tiny import save_tiny

    header = ("model", "engine", "tokens a round", "tokens read", "tokens a CPU second", "tokens a second",
              "CPU, beside hf", "clock, beside hf")  # fmt: skip
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "transformers"))
    with tempfile.TemporaryDirectory() as folder:
        settings = {}
        if "tiny" in options.models:
            settings["tiny, 64 px"] = Setting(str(save_tiny(os.path.join(folder, "tiny"))))
        if "qwen" in options.models:
            long = (("max_model_len", 4096), ("kv_cache_memory_bytes", 2_000_000_000))
            qwen = str(random_qwen(os.path.join(folder, "qwen")))
            settings["random Qwen2.5-VL, 448 px"] = Setting(qwen, 2, 4, image_size=448, engine_options=long)
        rows, figures = [], {}
        for name, setting in settings.items():
            more = tuple(read_pairs(options.option, "--option", "block_size=32").items())
            setting = replace(setting, engine_options=(*setting.engine_options, *more))
            small = replace(setting, groups=2, group_size=2, turns=2, new_tokens=4) if options.quick else setting
            told, figures[name] = measure(name, small, options, folder)
            rows += told
            load_now = os.getloadavg()[0]
            text = f"{os.cpu_count()} cores, {versions}; load {load_now:.0f}\n\n{table(header, rows)}\n"
            if options.output:  # what is measured is kept, whatever comes
                content = {"markdown": text, "figures": figures}
                options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
