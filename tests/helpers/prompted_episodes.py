"""Episodes in which a model writes some turns and a script the others, so that there are images in several turns."""

from functools import partial

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.rollout import EpisodeSpec, play_episodes

LOOK = "<think>x</think><code>observation(state)</code>"
CROP = "<think>x</think><code>crop(image_list[0], [0, 0, 0.5, 1])</code>"
SMALL = partial(JigsawVisionEnv, grid=2, level="all", image_size=112, max_turns=4, prompt="short")


class Prompted:
    """A policy whose tokens are recorded, while the environment is given a text that asks for an image.

    What a random model writes means nothing; so the environment carries out something else, while the conversation goes
    on with what the model wrote. Every third turn is the model's own, which is an error and brings no image.
    """

    def __init__(self, policy):
        self.policy = policy

    def reset(self, seed=None):
        self.policy.reset(seed)

    def act(self, observations, infos):
        texts = self.policy.act(observations, infos)
        script = [LOOK, CROP, None]
        chosen = [script[(info["turn"] + info["policy_seed"]) % 3] for info in infos]
        return [text if asked is None else asked for text, asked in zip(texts, chosen, strict=True)]

    def finish(self, slot):
        return self.policy.finish(slot)


def longer(env, turns):
    """Return what makes such an environment with another number of turns."""
    return partial(env.func, **{**env.keywords, "max_turns": turns})


def play(policy, count=5, batch=3, make_env=SMALL, specs=None):
    """Play some episodes and return their transcripts in order."""
    specs = specs or [
        EpisodeSpec("env", seed, {"level": 0}, policy_seed=100 + seed, name=str(seed)) for seed in range(count)
    ]
    policy.reset(0)
    played = play_episodes(Prompted(policy), specs, {"env": make_env}, batch=batch)
    return sorted((transcript for _, transcript in played), key=lambda transcript: int(transcript.id))
