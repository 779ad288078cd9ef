"""Vision-language models of Hugging Face: loading, chat format, sampling with a cache kept over turns, scoring."""

from agile_gym.models.cache import Context
from agile_gym.models.chat import ChatFormat, Chunk
from agile_gym.models.loading import VLM, load_vlm
from agile_gym.models.processors import load_processor

__all__ = ["VLM", "ChatFormat", "Chunk", "Context", "load_processor", "load_vlm"]
