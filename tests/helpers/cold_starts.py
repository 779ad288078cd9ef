"""Small cold starts, and the command that makes one in a process of its own."""

import sys

import numpy as np

from agile_gym.coldstart import ColdStartConfig, make_cold_start

SMALL = {"image_size": 48}


def make(folder, count=20, **settings):
    playing = {name: settings.pop(name) for name in list(settings) if name in PLAYING}
    settings["options"] = {**SMALL, **settings.get("options", {})}
    return make_cold_start(folder, ColdStartConfig(count=count, **settings), **playing)


PLAYING = ("teacher_policy", "batch", "workers", "format", "resume", "overwrite", "on_attempt", "teacher_object")


def noise(side=64, seed=0):
    return np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)


def command(folder, *words):
    arguments = ["coldstart", "--output", str(folder), "--count", "40", "--option", "image_size=120", *words]
    return [sys.executable, "-m", "agile_gym", *arguments]
