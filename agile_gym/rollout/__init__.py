"""Rollouts: playing episodes and recording them."""

from agile_gym.rollout.play import EpisodeSpec, play_episodes
from agile_gym.rollout.recorder import EpisodeRecorder
from agile_gym.rollout.transcript import Message, PolicyRecord, Segment, Transcript, Turn, TurnUsage

__all__ = [
    "EpisodeRecorder",
    "EpisodeSpec",
    "Message",
    "PolicyRecord",
    "Segment",
    "Transcript",
    "Turn",
    "TurnUsage",
    "play_episodes",
]
