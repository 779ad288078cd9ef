"""Transcripts: the record of an episode for training, evaluation and inspection.

record     `Transcript` and its parts
values     transcripts as JSON values
store      `TranscriptWriter`, for writing during a run
reading    `read_transcripts` and `read_headers`
parts      Parquet
pictures   their images
export     for LLaMA-Factory, TRL and verl
importing  from AGILE's released data
agile      AGILE's puzzles
"""

from agile_gym.transcripts.agile import AgilePuzzle, AgilePuzzles
from agile_gym.transcripts.export import export_sharegpt, export_trl, export_verl
from agile_gym.transcripts.importing import read_agile_cold_start, read_agile_rl
from agile_gym.transcripts.reading import TranscriptHeader, read_headers, read_transcripts
from agile_gym.transcripts.record import Message, PolicyRecord, Segment, Transcript, Turn, TurnUsage
from agile_gym.transcripts.store import TranscriptWriter

__all__ = [
    "AgilePuzzle",
    "AgilePuzzles",
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
    "read_agile_cold_start",
    "read_agile_rl",
    "read_headers",
    "read_transcripts",
]
