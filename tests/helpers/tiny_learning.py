"""Small models and samples to learn from, made in code."""

from functools import cache, partial

import numpy as np

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.learner.data import Sample, make_samples
from agile_gym.models.tiny import TinySizes, build_tiny
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import Segment

SIZES = TinySizes(width=64, layers=2, heads=4, inner=96, vision_width=32)
"""Of a model of some 200,000 parameters."""
SMALL = partial(JigsawVisionEnv, grid=2, level="all", image_size=64, max_turns=3, prompt="short", images=None)


def save_small(folder, *, seed=0):
    """Save a small model and its processor."""
    model, processor = build_tiny(seed, sizes=SIZES)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def small_vlm(seed=0):
    """Return a small model, made anew, so that it may be trained."""
    from agile_gym.models import VLM

    model, processor = build_tiny(seed, sizes=SIZES)
    return VLM(model.eval(), processor, "small")


def load(folder, **options):
    """Load a model in a fixed type."""
    from agile_gym.models import load_vlm

    return load_vlm(folder, device="cpu", dtype="float32", **options)


@cache
def episodes(count=6, tokens=10):
    """Return episodes that the small model has played, of one to three turns."""
    from agile_gym.policies.model import HFVLMPolicy

    policy = HFVLMPolicy(small_vlm(), max_new_tokens=tokens)
    specs = [EpisodeSpec("env", seed, {"level": 0}, policy_seed=100 + seed, name=str(seed)) for seed in range(count)]
    policy.reset(0)
    makers = {"env": partial(SMALL, max_turns=2)}
    played = sorted(play_episodes(policy, specs, makers, batch=3), key=lambda pair: pair[0].seed)
    return tuple(transcript for _, transcript in played)


def samples(count=6, *, supervised=False, minibatches=(0,)):
    """Return what a learner would be given of these episodes, with advantages that add up to nothing."""
    rng = np.random.default_rng(0)
    advantages = rng.normal(size=count).astype(np.float32)
    return [
        sample
        for episode, advantage in zip(episodes(count), advantages, strict=True)
        for sample in make_samples(episode, None if supervised else advantage, minibatches=minibatches)
    ]


def made_sample(length, *, marked=1, minibatches=(0,), images=()):
    """Return a sample of some length, whose last tokens are marked."""
    mask = np.arange(length) >= length - marked
    turns = np.where(mask, 0, -1).astype(np.int16)
    segment = Segment(np.zeros(length, np.int32), mask, np.zeros(length, np.float32), turns, ())
    return Sample(segment, images, marked, minibatches)
