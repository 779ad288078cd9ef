"""Rollouts: playing episodes, recording them, storing them, and exchanging them with other tools."""

from agile_gym.rollout.export import export_sharegpt, export_trl, export_verl
from agile_gym.rollout.importing import read_agile_cold_start, read_agile_rl
from agile_gym.rollout.play import EpisodeSpec, play_episodes
from agile_gym.rollout.reading import TranscriptHeader, read_headers, read_transcripts
from agile_gym.rollout.recorder import EpisodeRecorder
from agile_gym.rollout.store import TranscriptWriter
from agile_gym.rollout.transcript import Message, PolicyRecord, Segment, Transcript, Turn, TurnUsage

__all__ = [
    "EpisodeRecorder",
    "EpisodeSpec",
    "Message",
    "PolicyRecord",
    "Segment",
    "Transcript",
    "TranscriptHeader",
    "TranscriptWriter",
    "Turn",
    "TurnUsage",
    "export_sharegpt",
    "export_trl",
    "export_verl",
    "play_episodes",
    "read_agile_cold_start",
    "read_agile_rl",
    "read_headers",
    "read_transcripts",
]
