"""Episodes of the expert, and the parts of them that are equal between two runs."""

import json

from agile_gym.coldstart import ExpertPolicy
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import read_transcripts

SMALL = {"image_size": 96, "max_turns": 8, "split": "train", "crop": "random", "reveal": True}


def play(count, *, batch=8, seeds=None, start=0, **options):
    """Play episodes of the expert; ``expert`` holds its options."""
    policy = ExpertPolicy(**options.pop("expert", {}))
    policy.reset(0)
    specs = [
        EpisodeSpec("env", seed=seed, policy_seed=None if seeds == "own" else seed)
        for seed in range(start, start + count)
    ]
    makers = {"env": lambda: JigsawVisionEnv(**{**SMALL, **options})}
    return [transcript for _, transcript in play_episodes(policy, specs, makers, batch=batch)]


def content(transcript):
    """Return an episode as what is the same in every run of it."""
    return (
        transcript.id,
        transcript.policy,
        json.dumps(transcript.task),
        json.dumps(transcript.details),
        transcript.prompt,
        [(turn.text, turn.feedback, turn.error, list(turn.state)) for turn in transcript.turns],
        [image.tobytes() for image in transcript.images],
        list(transcript.solution),
    )


def stored(folder):
    """Return the contents of a folder, in order."""
    return [content(transcript) for transcript in read_transcripts(folder)]
