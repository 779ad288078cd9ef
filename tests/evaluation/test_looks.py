"""Blanked looks, and what looks are worth: counts, figures, the paired difference."""

import json
import re
from functools import partial
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from scipy.stats import binomtest

from agile_gym.envs.contract import EpisodeDescription, make_info
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import (
    EnvironmentEntry,
    EpisodeResult,
    EvaluationPlan,
    choose_entries,
    compare_blanked,
    evaluate,
    format_looks,
    looks_report,
    summarize,
    summarize_looks,
    wilson,
)
from agile_gym.evaluation.metrics import looks_shown
from agile_gym.policies import EdgePolicy, GivenUp, RandomPolicy, blank_look
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import TranscriptWriter, read_transcripts
from tests.evaluation.test_look_counts import NOISE, SMALL, counts, play
from tests.helpers.evaluation_policies import Ignorer, Reader


def plan_of(grid=2, levels=(0,), episodes=12, **more):
    options = {**SMALL, **more.pop("options", {})}
    return EvaluationPlan("mine", choose_entries([grid], levels, episodes), options=options, **more)


class Watcher:
    """Keeps what it is shown."""

    def __init__(self, policy):
        self.policy, self.shown = policy, []

    def reset(self, seed=None):
        self.policy.reset(seed)

    def act(self, observations, infos):
        self.shown += [(info["turn"], o, info) for o, info in zip(observations, infos, strict=True)]
        return self.policy.act(observations, infos)


@pytest.mark.parametrize("initial_view", ["pieces", "board", "both"])
def test_what_is_shown_is_grey_after_the_first_observation(initial_view, tmp_path):
    options = {"initial_view": initial_view, "reference_image": True}
    blank, plain = Watcher(Ignorer()), Watcher(Ignorer())
    blanked, episodes = play(blank, 9, **options), play(plain, 9, blank_looks=False, **options)
    shown = sorted(blank.shown, key=lambda entry: (entry[2]["policy_seed"], entry[0]))
    truth = sorted(plain.shown, key=lambda entry: (entry[2]["policy_seed"], entry[0]))
    assert max(turn for turn, _, _ in shown) > 1
    for (turn, observation, info), (_, there, true) in zip(shown, truth, strict=True):
        assert observation["text"] == there["text"]
        height, width = there["image_size"]
        assert tuple(observation["image_size"]) == (height, width)
        assert [image.shape for image in info["images"]] == [image.shape for image in true["images"]]
        if turn == 0:
            np.testing.assert_array_equal(observation["image"], there["image"])
            for image, original in zip(info["images"], true["images"], strict=True):
                np.testing.assert_array_equal(image, original)
            continue
        expected = np.zeros_like(there["image"])
        expected[:height, :width] = 128
        np.testing.assert_array_equal(observation["image"], expected)
        assert {int(value) for image in info["images"] for value in np.unique(image)} == {128}
        assert len(np.unique(there["image"])) > 50  # which had something to show
        rest = {key for key in info if key not in ("images", "task", "slot")}
        assert {key: info[key] for key in rest} == {key: true[key] for key in rest}
    with TranscriptWriter(tmp_path / "run") as writer:
        for transcript in blanked:
            writer.append(transcript)
    for one, other, stored in zip(blanked, episodes, read_transcripts(tmp_path / "run"), strict=True):
        assert (one.solved, one.score, one.reward) == (other.solved, other.score, other.reward)
        for mine, theirs in zip(one.turns, other.turns, strict=True):
            assert (mine.text, mine.feedback, mine.state, mine.reward) == (
                theirs.text, theirs.feedback, theirs.state, theirs.reward
            )  # fmt: skip
            assert all((image == 128).all() for image in mine.images)
        assert one.details["blank_looks"] is stored.details["blank_looks"] is True
        assert "blank_looks" not in other.details
        for image, original in zip(stored.images, one.images, strict=True):
            np.testing.assert_array_equal(image, original)


def test_an_observation_that_is_blanked_is_not_changed():
    env = JigsawVisionEnv(images=NOISE, grid=2, level=0, image_size=32)
    env.reset(seed=0)
    observation, _, _, _, info = env.step("<think>x</think><code>observe()</code>")
    before = observation["image"].copy()
    blank, told = blank_look(observation, info)
    np.testing.assert_array_equal(observation["image"], before)
    assert info["images"][0].tobytes() == before[:32, :32].tobytes()
    assert (told["images"][0] == 128).all()
    assert blank["image"].shape == before.shape
    assert {**blank, "image": 0} == {**observation, "image": 0}
    # An environment of another kind may draw beyond the image, or say that there is none.
    for size in ((4, 5), np.array([0, 0], np.int32)):
        drawn = {"text": "x", "image": NOISE[0], "image_size": size}
        blank, told = blank_look(drawn, {"images": [NOISE[1]], "more": 1})
        high, wide = size
        assert (blank["image"][:high, :wide] == 128).all()
        assert int(blank["image"].astype(int).sum()) == 128 * high * wide * 3
        assert told["more"] == 1
        assert (told["images"][0] == 128).all()
        assert told["images"][0].shape == NOISE[1].shape


def test_environments_are_used_again_with_and_without_looks():
    from agile_gym.rollout import EnvironmentPool

    pool = EnvironmentPool({"env": partial(JigsawVisionEnv, images=NOISE, grid=2, level=0, **SMALL)})
    specs = [EpisodeSpec("env", 3, {}, 5, str(n), blank_looks=n % 2 == 0) for n in range(6)]
    grey = {
        transcript.id: [bool((image == 128).all()) for turn in transcript.turns for image in turn.images]
        for _, transcript in play_episodes(Ignorer(), specs, pool, batch=1)
    }
    assert grey == {str(n): [n % 2 == 0] * 2 for n in range(6)}
    pool.close()


# --- what looks are worth


def test_a_policy_that_reads_its_looks_fails_without_them():
    report = looks_report(Reader(), plan_of(episodes=20))
    column = report.blank_looks["2x2"]["avg"]
    assert (column["acc"]["first"], column["acc"]["second"], column["acc"]["difference"]) == (0, 1, 1)
    assert column["acc"]["p"] == pytest.approx(0.5**19)
    assert column["acc"]["test"] == "McNemar's exact test"
    assert column["blanked"]["acc"] == wilson(0, 20)._asdict()
    looks = report.summary["2x2"]["avg"]["looks"]
    assert looks["spoiled"] == {"count": 0, "of": 20, **wilson(0, 20)._asdict()}
    assert looks["noticed"]["count"] == looks["mended"]["count"] == looks["noticed"]["of"] > 0
    assert sum(entry["of"] for entry in looks["by_looks"].values()) == 20
    assert all(entry["value"] == 1 for entry in looks["by_looks"].values())
    lines = {words[0]: words[1:] for words in (re.split("  +", line.strip()) for line in report.text().splitlines())}
    assert lines["Acc"] == ["100.0", "83.9", "100.0", "20"]
    assert lines["Acc, looks blanked"] == ["0.0", "0.0", "16.1", "20"]
    assert lines["difference, p 1.9e-06"][0] == "+100.0"


def test_a_careless_one_spoils_and_mends_some():
    report = looks_report(Reader(careless=True), plan_of(episodes=60))
    looks = report.summary["2x2"]["avg"]["looks"]
    known = [result.looks for result in report.results]
    for name, kind in (("noticed", "wrong"), ("mended", "wrong"), ("spoiled", "right")):
        count, of = sum(entry[name] for entry in known), sum(entry[kind] for entry in known)
        interval = binomtest(count, of).proportion_ci(method="wilson")
        assert looks[name] == {
            "count": count,
            "of": of,
            "value": count / of,
            "low": interval.low,
            "high": interval.high,
        }
    assert 0 < looks["mended"]["value"] < looks["noticed"]["value"] == 1
    assert 0 < looks["spoiled"]["value"] < 0.5
    only = [(one.solved, other.solved) for one, other in zip(report.results, sorted_like(report), strict=True)]
    column = report.blank_looks["2x2"]["avg"]
    assert (column["only_first"], column["only_second"]) == (only.count((False, True)), only.count((True, False)))
    assert column["acc"]["p"] == pytest.approx(
        binomtest(only.count((True, False)), len(set(only)) and sum(a != b for a, b in only)).pvalue
    )


def sorted_like(report):
    blanked = {result.key: result for result in report.blanked}
    return [blanked[result.key] for result in report.results]


@pytest.mark.parametrize("policy", [Ignorer(), RandomPolicy(3), EdgePolicy()])
def test_looks_are_worth_exactly_nothing_to_a_policy_that_does_not_use_them(policy):
    report = looks_report(policy, plan_of(episodes=15))
    column = report.blank_looks["2x2"]["avg"]
    assert column["acc"]["difference"] == column["score"]["difference"] == 0
    assert (column["acc"]["p"], column["only_first"], column["only_second"]) == (1, 0, 0)
    looks = report.summary["2x2"]["avg"]["looks"]
    if isinstance(policy, Ignorer):
        assert set(looks["by_looks"]) == {"0", "1", "2"}
    else:
        acc = report.summary["2x2"]["avg"]["acc"]
        assert looks["by_looks"] == {"0": {"count": round(15 * acc["value"]), "of": 15, **acc}}
        assert looks["noticed"] == looks["spoiled"] == {"count": 0, "of": 0}
        assert "wrong boards noticed" in report.text()


def test_a_function_and_several_samples():
    text = '<think>x</think><answer>["A", "B", "C", "D"]</answer>'
    report = looks_report(lambda observation: text, plan_of(episodes=3, samples=2, levels=None, blank_looks=True))
    assert len(report.results) == len(report.blanked) == 18
    column = report.blank_looks["2x2"]["avg"]
    assert (column["puzzles"], column["acc"]["test"]) == (9, "the sign-flip permutation test")
    assert "its p by the sign-flip permutation test" in report.text()
    assert set(report.blank_looks["2x2"]) == {"L0", "L1", "L2", "avg"}


class Lamp(gymnasium.Env):
    """Shows a colour after the first turn, and takes its name; its record has words of the jigsaw's."""

    colours: ClassVar = {"red": (250, 0, 0), "green": (0, 250, 0), "grey": (128, 128, 128)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.colour = list(self.colours)[self.np_random.integers(3)]
        self.turn, self.image = 0, np.zeros((8, 8, 3), np.uint8)
        return self.seen("Look."), make_info([], turn=0)

    def step(self, action):
        self.turn += 1
        self.image = np.full((8, 8, 3), self.colours[self.colour], np.uint8)
        over = action in self.colours
        info = make_info([] if over else [self.image], turn=self.turn, solved=action == self.colour)
        return self.seen("Done." if over else "<image>"), float(action == self.colour), over, False, info

    def seen(self, text):
        return {"text": text, "image": self.image, "image_size": (8, 8) if self.turn else (0, 0)}

    def describe_episode(self):
        return EpisodeDescription({"rotations": 3, "names": 7}, self.colour, [self.colour])

    def describe_state(self):
        return [self.turn, None]


class Eye(Ignorer):
    """Names the colour that it sees."""

    def turn(self, info):
        if info["turn"] == 0:
            return "look"
        known = {colour: name for name, colour in Lamp.colours.items()}
        return known[tuple(info["images"][0][0, 0].tolist())]


def test_looks_of_another_environment():
    plan = EvaluationPlan("eye", [EnvironmentEntry("tests.evaluation.test_looks:Lamp", 30)])
    report = looks_report(Eye(), plan)
    columns = report.blank_looks["Lamp"]
    assert set(columns) == {"red", "green", "grey", "avg"}
    for name, column in columns.items():
        assert column["acc"]["second"] == 1
        if name != "avg":  # all is grey to one without looks
            assert column["acc"]["first"] == (name == "grey")
    assert all(result.looks == {"images": 1} for result in report.results)
    assert list(report.summary["Lamp"]["avg"]["looks"]["by_looks"]) == ["1"]
    assert "boards" not in report.text()


def test_results_of_other_puzzles_are_not_compared():
    results = evaluate(RandomPolicy(0), plan_of(episodes=3))
    for other in (results[:2], evaluate(RandomPolicy(0), plan_of(episodes=3, seed=1))):
        with pytest.raises(ConfigurationError, match="not of the same puzzles"):
            compare_blanked(results, other)
    with pytest.raises(ConfigurationError, match="blank_looks='yes' is not allowed"):
        plan_of(blank_looks="yes")


def test_a_policy_that_gives_up_has_seen_what_came_before():
    class Quitter(Ignorer):
        def turn(self, info):
            return GivenUp("refused", "no") if info["turn"] == 2 else "<think>x</think><code>observe()</code>"

    (result,) = evaluate(Quitter(), plan_of(episodes=1))
    assert (result.given_up, result.looks) == ("refused", counts(1))


# --- figures


def made(looks, solved=False, number=0):
    return EpisodeResult("2x2", 0, number, 0, number, "p", solved, float(solved), 1, looks=looks)


def test_figures_by_hand():
    results = [
        made(counts(0), True, 0), made(counts(1, 1, 1, 0), False, 1), made(counts(1, 2, 1, 1), True, 2),
        made(counts(12, 3, 0, 0, 1, 1), False, 3), made(None, True, 4),
    ]  # fmt: skip
    looks = summarize(results)["2x2"]["avg"]["looks"]
    assert looks == summarize_looks(results)
    assert looks["episodes"] == 4
    assert list(looks["by_looks"]) == ["0", "1", "12"]
    assert [(entry["count"], entry["of"]) for entry in looks["by_looks"].values()] == [(1, 1), (1, 2), (0, 1)]
    assert looks["mended"] == {"count": 1, "of": 6, **wilson(1, 6)._asdict()}
    assert (looks["noticed"]["count"], looks["spoiled"]["of"]) == (2, 1)
    json.dumps(looks)
    assert list(looks_shown(looks["by_looks"], 1)) == ["0", "1+"]
    assert looks_shown(looks["by_looks"], 1)["1+"] == {"count": 1, "of": 3, **wilson(1, 3)._asdict()}
    assert list(looks_shown(looks["by_looks"], 12)) == ["0", "1", "12"]
    assert "Acc after 8+ looks" in format_looks(summarize(results))
    assert "Acc after 1 look " in format_looks(summarize(results))


def test_what_is_not_recorded_is_left_out():
    assert summarize_looks([]) is summarize_looks([made(None)]) is None
    old = summarize([made(None)])
    assert format_looks(old) == ""
    del old["2x2"]["avg"]["looks"]  # as in older files
    assert format_looks(old) == ""
    other = summarize_looks([made({"images": 2}, True)])
    assert list(other) == ["episodes", "by_looks"]
    assert "boards" not in format_looks(summarize([made({"images": 2}, True)]))


@pytest.mark.parametrize(
    "looks",
    [
        [], "x", 1, {}, {"images": -1}, {"images": 1.0}, {"images": True}, {"images": 1, "wrong": 1},
        counts(1, 1, 2), counts(1, 2, 1, 2), counts(1, right=1, spoiled=2), {**counts(1), "more": 1},
        {**counts(1), "wrong": "1"}, {**counts(1), "wrong": None}, {**counts(2**60)},
    ],
)  # fmt: skip
def test_looks_that_no_episode_has_are_refused(looks):
    values = made(counts(2, 2, 1, 1, 1, 1)).to_json()
    assert EpisodeResult.from_json(values).looks == counts(2, 2, 1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"no episode has|no table"):
        EpisodeResult.from_json({**values, "looks": looks})
    assert "looks" not in made(None).to_json()
    assert EpisodeResult.from_json(made(None).to_json()).looks is None
