"""Vision-language models of Hugging Face: loading, chat format, sampling with a cache kept over turns, scoring."""

from agile_gym.policies.vlm.chat import ChatFormat, Chunk
from agile_gym.policies.vlm.context import Context
from agile_gym.policies.vlm.loading import VLM, load_vlm
from agile_gym.policies.vlm.processors import load_processor

__all__ = ["VLM", "ChatFormat", "Chunk", "Context", "load_processor", "load_vlm"]
