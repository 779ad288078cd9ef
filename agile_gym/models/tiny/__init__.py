"""A tiny vision-language model, made in code, that learns on a CPU."""

from agile_gym.models.tiny.build import TinySizes, build_processor, build_tiny, save_tiny
from agile_gym.models.tiny.words import build_tokenizer

__all__ = ["TinySizes", "build_processor", "build_tiny", "build_tokenizer", "save_tiny"]
