"""Rollouts: playing episodes, recording and storing them, and passing them on to other trainers.

transcript   what an episode is after it was played
recorder     records one while it is played
play         plays many side by side
pool         keeps their environments for later
store        `TranscriptWriter`: writes them to disk while they are played
reading      `read_transcripts` and `read_headers`: reads them again
export       for LLaMA-Factory, TRL and verl
importing    from AGILE's released data

Below them: records (transcripts as JSON values), segments (their tokens), lines and parts (the files), pictures (their
images), fields and files (reading and writing with care), agile_rl and agile_rows.
"""

from agile_gym.rollout.export import export_sharegpt, export_trl, export_verl
from agile_gym.rollout.importing import AgilePuzzle, AgilePuzzles, read_agile_cold_start, read_agile_rl
from agile_gym.rollout.play import EpisodeSpec, play_episodes
from agile_gym.rollout.pool import EnvironmentPool
from agile_gym.rollout.reading import TranscriptHeader, read_headers, read_transcripts
from agile_gym.rollout.recorder import EpisodeRecorder
from agile_gym.rollout.store import TranscriptWriter
from agile_gym.rollout.transcript import Message, PolicyRecord, Segment, Transcript, Turn, TurnUsage

__all__ = [
    "AgilePuzzle",
    "AgilePuzzles",
    "EnvironmentPool",
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
