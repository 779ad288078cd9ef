"""Environments that are kept from one call to the next: the same episodes, fewer environments."""

from dataclasses import astuple, replace
from functools import partial

import gymnasium
import numpy as np
import PIL.Image
import pytest

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.rollout import EnvironmentPool, EpisodeSpec, play_episodes

TURNS = ("<think>t</think><code>o = observation(state)</code>", '<think>t</think><answer>["B", "A", "D", "C"]</answer>')
SPECS = [EpisodeSpec("small", seed, {"level": 0}) for seed in range(7)]
FAILS = EpisodeSpec("small", 99)


class Counted(JigsawVisionEnv):
    """Counts what is made and closed, and raises for one seed."""

    made, closed = 0, 0

    def __init__(self):
        Counted.made += 1
        super().__init__(image_size=48)

    def reset(self, *, seed=None, options=None):
        if seed == FAILS.seed:
            raise OSError("no photograph today")
        return super().reset(seed=seed, options=options)

    def close(self):
        Counted.closed += 1


class LooksOnce:
    """Looks at the board, then answers, whatever it has seen."""

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [TURNS[info["turn"]] for info in infos]


@pytest.fixture(autouse=True)
def nothing_counted():
    Counted.made = Counted.closed = 0


def play(makers, specs, **options):
    found = {}
    for spec, transcript in play_episodes(LooksOnce(), specs, makers, batch=3, **options):
        turns = [astuple(replace(turn, env_seconds=0, usage=None, images=())) for turn in transcript.turns]
        pictures = [image.tobytes() for image in transcript.images]
        found[spec.seed] = transcript.task, transcript.solution, turns, pictures
    return found


def test_a_pool_keeps_environments_for_the_next_call():
    pool = EnvironmentPool({"small": Counted})
    first = play(pool, SPECS)
    assert (Counted.made, Counted.closed) == (3, 0)
    assert play(pool, SPECS[::-1]) == first
    assert (Counted.made, Counted.closed) == (3, 0)
    pool.close()
    assert Counted.closed == 3
    assert play(pool, SPECS[:1])[0] == first[0]  # a closed pool makes new ones
    assert Counted.made == 4


def test_without_a_pool_environments_are_made_and_closed_in_each_call():
    pooled = play(EnvironmentPool({"small": Counted}), SPECS)
    Counted.made = 0
    assert play({"small": Counted}, SPECS) == pooled
    play({"small": Counted}, SPECS)
    assert (Counted.made, Counted.closed) == (6, 6)


def test_an_environment_that_raised_is_closed_and_not_kept():
    pool, failed = EnvironmentPool({"small": Counted}), []
    found = play(pool, [*SPECS[:2], FAILS, *SPECS[2:]], on_error=lambda spec, error: failed.append(spec.seed))
    assert failed == [99]
    assert sorted(found) == list(range(7))
    assert (Counted.made, Counted.closed) == (4, 1)
    assert play(pool, SPECS) == found
    pool.close()
    assert Counted.closed == Counted.made


def test_an_abandoned_call_gives_its_environments_back():
    pool = EnvironmentPool({"small": Counted})
    episodes = play_episodes(LooksOnce(), SPECS, pool, batch=3)
    next(episodes)
    episodes.close()
    assert len(play(pool, SPECS)) == 7
    assert (Counted.made, Counted.closed) == (3, 0)


def test_an_unknown_key_is_told():
    with pytest.raises(ConfigurationError, match=r"no environment 'large'; there are \['small'\]"):
        EnvironmentPool({"small": Counted}).take("large")
    with pytest.raises(ConfigurationError, match="no environment 'large'"):
        play(EnvironmentPool({"small": Counted}), [EpisodeSpec("large", 0)])


def test_closing_goes_on_when_an_environment_raises():
    class Stubborn(Counted):
        def close(self):
            super().close()
            raise OSError("not now")

    pool = EnvironmentPool({"small": Stubborn})
    play(pool, SPECS)
    with pytest.raises(OSError, match="not now"):
        pool.close()
    assert Counted.closed == 3


def test_environments_of_a_pool_list_a_folder_once(tmp_path):
    def save(number):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{number}.png")

    def play_last(pool):
        pool.take("folder").env.reset(seed=0, options={"image": 1})

    makers = {"folder": partial(gymnasium.make, "JigsawVision-v0", images=str(tmp_path), image_size=64)}
    save(0)
    pool = EnvironmentPool(makers)
    pool.take("folder")
    save(1)
    with pytest.raises(ConfigurationError, match="image"):
        play_last(pool)
    play_last(EnvironmentPool(makers))
    pool.close()
    play_last(pool)
