"""TRL's side of benchmarks/training_speed.py: `GRPOTrainer` on the same puzzles as this library."""

from __future__ import annotations

import os
import warnings

import datasets
import gymnasium
import torch
import transformers
from PIL import Image
from speed_grpo import Reading, environment_options, now
from trl import GRPOConfig, GRPOTrainer

from agile_gym.learner.groups import make_group
from agile_gym.models.chat import content_parts

__all__ = ["train"]

SEED = 0


def puzzles(setting, first, count):
    """Return the openings of the puzzles that this library plays, from one of them on, as a dataset."""
    env = gymnasium.make("agile_gym:JigsawVision-v0", disable_env_checker=True, **environment_options(setting))
    rows = []
    for index in range(first, first + count):
        seed = make_group(index, seed=SEED, size=setting.group_size, shares=[1.0]).seed
        observation, info = env.reset(seed=seed)
        images = [Image.fromarray(image) for image in info["images"]]
        rows.append({"prompt": [{"role": "user", "content": content_parts(observation["text"])}], "images": images})
    env.close()
    return datasets.Dataset.from_list(rows)


def letters(completion_ids, **_):
    """Return the rewards that `speed_grpo.letters` gives."""
    return [float(sum(ids) % 7) for ids in completion_ids]


class TimedTrainer(GRPOTrainer):
    """Callback that reads the clock before and after completions are generated and scored; an update begins there."""

    def _generate_and_score_completions(self, inputs):
        start = now()
        batch = super()._generate_and_score_completions(inputs)
        self.tokens = int(batch["completion_mask"].sum())
        self.rollout = Reading.since(start, self.tokens)
        self.update_begun = now()
        return batch


class EachStep(transformers.TrainerCallback):
    """Callback that notes the time of each step."""

    def __init__(self):
        self.trainer, self.readings = None, []

    def on_step_end(self, args, state, control, **kwargs):
        """Note the readings; the gradients are applied and cleared by now."""
        trainer = self.trainer
        self.readings.append((trainer.rollout, Reading.since(trainer.update_begun, trainer.tokens)))


def train(setting, steps, folder, turn=0):
    """Train, and return the readings of rollout and update of each step.

    Args:
        setting: The setup.
        steps: Steps of the optimiser, with completions of their own each.
        folder: Folder for TRL's files.
        turn: Number of times that so many steps were taken before, so that other puzzles come.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    episodes = setting.groups * setting.group_size
    rows = min(setting.micro_batch, episodes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            setting.model, dtype=torch.float32, attn_implementation=setting.attention
        )
        processor = transformers.AutoProcessor.from_pretrained(setting.model)
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=episodes // rows,  # one step for all completions, which are generated at once
            num_generations=setting.group_size,
            max_completion_length=setting.new_tokens,
            generation_kwargs={"min_new_tokens": setting.new_tokens},
            temperature=1.0,
            beta=0.0,
            loss_type="grpo",
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            max_steps=steps,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=SEED,
        )
        callback = EachStep()
        callback.trainer = TimedTrainer(
            model=model,
            reward_funcs=letters,
            args=config,
            train_dataset=puzzles(setting, setting.groups * steps * turn, setting.groups * steps),
            processing_class=processor,
            callbacks=[callback],
        )
        callback.trainer.remove_callback(transformers.PrinterCallback)
        callback.trainer.train()
    return callback.readings
