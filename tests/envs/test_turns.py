"""An environment of a third kind on the base of the jigsaw: it adds a task, a state and answers."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from agile_gym.actions.dialects import get_dialect
from agile_gym.actions.primitives import ActionError, Crop
from agile_gym.actions.workspace import Workspace, draw_into, render_recipe
from agile_gym.envs.contract import EpisodeDescription
from agile_gym.envs.reward import get_reward
from agile_gym.envs.turn_env import TurnEnv
from agile_gym.envs.turns import TurnConfig, TurnEpisode, TurnRules, given_options
from agile_gym.envs.vector import TurnVectorEnv
from agile_gym.errors import ConfigurationError
from agile_gym.testing import check_env

SIDE = 8
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


@dataclass(frozen=True)
class ColourConfig(TurnConfig):
    title = "Colour"
    max_turns: int = 3
    dialect: str = "code"
    reward: str = "paper"
    reveal: bool = False


class ColourEpisode(TurnEpisode):
    def check_options(self, options):
        return given_options(options, ("colour",))

    def draw(self, rng, options):
        self.colour = options.get("colour") or list(COLOURS)[int(rng.integers(2))]
        self.picture = np.full((SIDE, SIDE, 3), COLOURS[self.colour], np.uint8)
        self.workspace = self.new_workspace()
        return "a" * 64

    def new_workspace(self):
        return Workspace.of_pictures([(SIDE, SIDE)], self.rules.canvas, max_images=self.max_images)

    def first_text(self, workspace):
        return f"Red or blue? <image> You have {self.max_turns} turns."

    def show(self, canvas):
        return (self.picture,), draw_into(canvas, self.picture)

    def render(self, canvas, recipe):
        return draw_into(canvas, render_recipe(recipe, [self.picture], self.workspace.layout))

    def judge(self, answer):
        if answer.text not in COLOURS:
            raise ActionError("bad_answer", "The answer must be red or blue.")
        return int(answer.text == self.colour), None

    def task(self):
        return {"label": "colours", "max_turns": self.max_turns}

    def revealed(self):
        return {"solution": [self.colour]}

    def describe(self):
        return EpisodeDescription(self.task(), "colours", [self.colour])


class ColourEnv(TurnEnv):
    @classmethod
    def make_episodes(cls, options, count):
        config = ColourConfig.from_options(options)
        config.check()
        rules = TurnRules(config, (16, 16), get_dialect(config.dialect), get_reward(config.reward), brief=False)
        return [ColourEpisode(rules, None) for _ in range(count)]

    def usual_turn(self):
        return self.write_turn([Crop("image_1", (0.0, 0.0, 0.5, 0.5))])


class ColourVectorEnv(TurnVectorEnv):
    single = ColourEnv


def answer(text):
    return f"<think>a</think>\n<answer>{text}</answer>"


@pytest.mark.parametrize("dialect", ["code", "tools"])
def test_it_keeps_the_contract(dialect):
    check_env(ColourEnv(dialect=dialect))


def test_an_episode_of_a_look_a_wrong_form_and_the_answer():
    env = ColourEnv(render_mode="rgb_array", reveal=True)
    observation, info = env.reset(seed=0, options={"colour": "blue"})
    assert observation["text"] == "Red or blue? <image> You have 3 turns."
    assert (observation["image_size"] == 8).all()
    assert observation["image"][:8, :8].reshape(-1, 3).tolist() == [[0, 0, 255]] * 64
    assert not observation["image"][8:].any()
    assert (info["solution"], info["image_id"], info["turn"]) == (["blue"], "a" * 64, 0)
    observation, reward, *ends, info = env.step(env.usual_turn())
    assert (observation["image_size"] == 4).all()
    assert (reward, ends, info["error"], info["images"][0].shape) == (0.0, [False, False], None, (4, 4, 3))
    np.testing.assert_array_equal(env.render(), observation["image"])
    assert env.describe_state() == ["image_1"]
    observation, reward, *ends, info = env.step(answer("green"))
    assert (reward, ends, info["error"], info["images"]) == (0.0, [False, False], "bad_answer", ())
    assert "Error (bad_answer): The answer must be red or blue." in observation["text"]
    observation, reward, *ends, info = env.step(answer("blue"))
    assert (ends, info["solved"], info["score"], info["turn"]) == ([True, False], True, 1.0, 3)
    assert reward == info["reward"]["total"] == pytest.approx(0.8 + 0.2 - 0.05)  # one turn with code
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before step\(\)"):
        env.step("")
    with pytest.raises(ResetNeeded, match="there is nothing to give up"):
        env.give_up()


def test_a_limit_around_it_counts_for_the_text_and_the_reward():
    env = gymnasium.wrappers.TimeLimit(ColourEnv(), 2)
    observation, _ = env.reset(seed=0)
    assert observation["text"].endswith("You have 2 turns.")
    env.step("a")
    _, reward, terminated, truncated, info = env.step("b")
    assert (terminated, truncated, info["solved"]) == (False, True, False)
    assert reward == pytest.approx(-0.05 * 2)


def test_a_vector_of_them_plays_as_single_ones_do():
    singles = [ColourEnv() for _ in range(3)]
    vector = ColourVectorEnv(3)
    first = vector.reset(seed=5)[0]
    for number, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=5 + number)[0]["image"], first["image"][number])
    texts = [answer("red"), answer("blue"), singles[0].usual_turn()]
    observations, rewards, terminated, _, infos = vector.step(texts)
    for number, (env, text) in enumerate(zip(singles, texts, strict=True)):
        observation, reward, ended, _, info = env.step(text)
        np.testing.assert_array_equal(observation["image"], observations["image"][number])
        assert observation["text"] == observations["text"][number]
        assert (reward, ended, info["solved"]) == (rewards[number], terminated[number], infos["solved"][number])
    assert terminated.tolist() == [True, True, False]


def test_options_that_it_does_not_have():
    with pytest.raises(ConfigurationError, match=r"Colour has no option 'turns'\. Did you mean 'max_turns'"):
        ColourEnv(turns=3)
    with pytest.raises(ConfigurationError, match="max_turns=0 is not allowed"):
        ColourVectorEnv(2, max_turns=0)
    with pytest.raises(ConfigurationError, match=r"reset has no option 'color'\. Did you mean 'colour'"):
        ColourEnv().reset(options={"color": "red"})
    with pytest.raises(ConfigurationError, match="its keys can be colour"):
        ColourEnv().reset(options=3)
