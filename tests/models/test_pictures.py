"""Images of any size, as a model may cut them out: all are read, or the episode that asked for one ends, alone."""

import copy
import json
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import AgileGymError
from agile_gym.learner.groups import make_group, play_groups
from agile_gym.models import VLM, ChatFormat
from agile_gym.models.loading import ImageRefusedError, fit_image, process
from agile_gym.models.scoring import segment_logps
from agile_gym.policies import GivenUp
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec, play_episodes

SLIVERS = ("[0.0, 0.995, 1.0, 1.0]", "[0.995, 0.0, 1.0, 1.0]", "[0.995, 0.995, 1.0, 1.0]")
"""Boxes of a row, of a column and of a single pixel."""
LARGE = partial(JigsawVisionEnv, grid=2, level=0, image_size=452, max_turns=3, prompt="short")


class Cutter:
    """A policy whose tokens are recorded, while the environment is told to cut a box out."""

    def __init__(self, policy, boxes):
        self.policy, self.boxes = policy, boxes

    def reset(self, seed=None):
        self.policy.reset(seed)

    def act(self, observations, infos):
        texts = self.policy.act(observations, infos)
        return [
            text if isinstance(text, GivenUp) else self._turn(info) for text, info in zip(texts, infos, strict=True)
        ]

    def _turn(self, info):
        box = self.boxes[(info["policy_seed"] + info["turn"]) % len(self.boxes)]
        if info["turn"] == 0:
            return f"<think>x</think><code>board = observation(state)\ncrop(board, {box})</code>"
        if info["turn"] == 1:
            return f"<think>x</think><code>crop(image_list[0], {box})</code>"
        return f"<think>x</think><answer>{json.dumps(list(info['task'].names))}</answer>"

    def finish(self, slot):
        return self.policy.finish(slot)


def play(policy, boxes=SLIVERS, count=3, make_env=LARGE):
    specs = [EpisodeSpec("env", seed, policy_seed=seed, name=str(seed)) for seed in range(count)]
    policy.reset(0)
    played = [transcript for _, transcript in play_episodes(Cutter(policy, boxes), specs, {"env": make_env}, batch=3)]
    return sorted(played, key=lambda transcript: int(transcript.id))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 3), (3, 448), (448, 3), (2, 449)])
def test_any_size_is_read_with_its_colours(loaded, family, size):
    """A plain image looks to the model as a plain image of an ordinary size does: no channel is taken for a row."""
    if family == "llava_onevision" and size[0] != size[1]:
        pytest.skip("it pads images to squares, so that a sliver melts into what is around it")
    vlm = loaded(family)
    colour = np.array([200, 120, 40], np.uint8)
    seen = []
    for height, width in (size, (64, 64)):
        pixels = process(vlm.processor, vlm.processor.image_token, [np.tile(colour, (height, width, 1))])
        values = np.unique(pixels["pixel_values"].numpy().round(4))
        seen.append(set(values.tolist()) - {0.0, -1.0, 1.0})  # but for what fills up
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_slivers_are_played_and_scored_as_they_were_read(loaded, family):
    policy = HFVLMPolicy(loaded(family), max_new_tokens=4)
    transcripts = play(policy)
    shapes = {image.shape[:2] for transcript in transcripts for image in transcript.images}
    assert {(1, 1), (1, 225), (225, 1), (2, 455)} <= shapes
    for transcript in transcripts:
        assert [turn.error for turn in transcript.turns] == [None] * 3
        (segment,) = transcript.segments
        (logps,) = segment_logps(policy.vlm, policy.chat, [segment], [transcript.images])
        np.testing.assert_allclose(logps, segment.logps, atol=1e-4)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 70), st.integers(1, 250))
def test_an_image_is_made_to_fit_by_repeating_whole_rows_and_columns(height, width, shortest, ratio):
    image = np.arange(height * width, dtype=np.uint32).astype(np.uint8).reshape(height, width, 1)
    fitted = fit_image(image, shortest, ratio)
    high, wide = fitted.shape[:2]
    assert min(high, wide) >= min(shortest, height, width)
    assert max(high, wide) <= ratio * min(high, wide)
    assert (high, wide) == (max(height, shortest, -(-width // ratio)), max(width, shortest, -(-high // ratio)))
    assert np.array_equal(fitted[:: max(1, high // height)][:1], fitted[:1])
    rows, columns = np.arange(high) * height // high, np.arange(wide) * width // wide
    assert np.array_equal(fitted, image[rows][:, columns])
    assert set(rows) == set(range(height))
    assert set(columns) == set(range(width))


class Picky:
    """A real image processor that takes no image with a side of less than so many pixels, as some do."""

    def __init__(self, images, shortest):
        self.images, self.shortest = images, shortest

    def __getattr__(self, name):
        return getattr(self.images, name)

    def __call__(self, images, **options):
        if any(min(image.size) < self.shortest for image in images):
            raise ValueError(f"height and width must be\nlarger than {self.shortest}")
        return self.images(images, **options)


def picky(vlm, shortest):
    processor = copy.copy(vlm.processor)
    processor.image_processor = Picky(processor.image_processor, shortest)
    return VLM(vlm.model, processor, vlm.name)


@pytest.mark.slow
def test_what_a_processor_refuses_is_made_larger(loaded):
    policy = HFVLMPolicy(picky(loaded("qwen2_5_vl"), 30), max_new_tokens=4)
    for transcript in play(policy):
        assert "given_up" not in transcript.details
        (segment,) = transcript.segments
        (logps,) = segment_logps(policy.vlm, policy.chat, [segment], [transcript.images])
        np.testing.assert_allclose(logps, segment.logps, atol=1e-4)


@pytest.mark.slow
def test_an_episode_whose_image_is_refused_ends_and_the_others_go_on(loaded):
    policy = HFVLMPolicy(picky(loaded("qwen2_5_vl"), 100), max_new_tokens=4)
    good = "[0.0, 0.0, 1.0, 1.0]"
    transcripts = play(policy, boxes=("[0.0, 0.0, 0.01, 0.01]", good, good, good), count=4)
    ends = [transcript.details.get("given_up") for transcript in transcripts]
    assert [end is not None for end in ends] == [True, False, False, True]
    for transcript, turns in ((transcripts[0], 2), (transcripts[3], 3)):
        assert (transcript.solved, transcript.score, transcript.truncated) == (False, 0.0, False)
        assert len(transcript.turns) == turns
        assert len(transcript.segments[0].ids)
        last = transcript.turns[-1]
        assert (last.text, last.error, last.images) == ("", "image_refused", ())
        assert transcript.details["given_up"] == {"kind": last.error, "reason": last.feedback}
        assert last.feedback.startswith("The image processor refuses an image of ")
        assert last.feedback.endswith("pixels: ValueError: height and width must be larger than 100")
        assert transcript.reward["total"] == pytest.approx(-0.05 * 3)  # that of any other that is not solved
        (segment,) = transcript.segments
        (logps,) = segment_logps(policy.vlm, policy.chat, [segment], [transcript.images])
        np.testing.assert_allclose(logps, segment.logps, atol=1e-4)
    alone = play(HFVLMPolicy(loaded("qwen2_5_vl"), max_new_tokens=4), boxes=(good,), count=4)
    assert transcripts[1].segments[0].ids.tolist() == alone[1].segments[0].ids.tolist()


def test_a_loop_of_ones_own_is_given_it_again(loaded):
    policy, env = HFVLMPolicy(picky(loaded("qwen2_5_vl"), 100), max_new_tokens=4), LARGE(image_size=64)
    observation, info = env.reset(seed=0)
    for turn in range(3):
        (text,) = policy.act([observation], [info])
        assert isinstance(text, GivenUp)
        assert (text, text.kind) == ("", "image_refused")
        again = pickle.loads(pickle.dumps(text))
        assert (again.kind, again.reason) == (text.kind, text.reason)
        observation, *_, info = env.step(text)
        assert info["turn"] == turn + 1
    observation, info = LARGE(image_size=452).reset(seed=0)
    (text,) = policy.act([observation], [info])
    assert not isinstance(text, GivenUp)
    assert len(policy.finish(0).usage) == 1


@pytest.mark.slow
def test_groups_keep_episodes_that_were_given_up_unless_nothing_was_written(loaded):
    policy = HFVLMPolicy(picky(loaded("qwen2_5_vl"), 100), max_new_tokens=4)
    good = "[0.0, 0.0, 1.0, 1.0]"
    groups = [make_group(number, seed=0, size=4, shares=[1.0], stream=1) for number in range(2)]
    boxes = [good, good, good, good, "[0.0, 0.0, 0.01, 0.01]"]
    play = play_groups(Cutter(policy, boxes), groups, {0: LARGE}, batch=4)
    assert not play.failures
    given_up = ["given_up" in episode.details for group in play.groups for episode in group.episodes]
    assert len(given_up) == 8
    assert 0 < sum(given_up) < 8
    play = play_groups(Cutter(policy, boxes), groups, {0: partial(LARGE, image_size=64)}, batch=4)
    assert play.groups == ()
    assert list(play.failures) == [0, 1]
    assert all("image_refused: The image processor refuses" in text for text in play.failures.values())


def test_a_policy_that_gives_up_everything_does_not_count_as_played(loaded):
    from agile_gym.evaluation import EvaluationPlan, SuiteEntry, evaluate

    policy = HFVLMPolicy(picky(loaded("qwen2_5_vl"), 100), max_new_tokens=4)
    plan = EvaluationPlan("mine", entries=(SuiteEntry("2x2", (0,), 3),), options={"image_size": 64, "prompt": "short"})
    results = []
    with pytest.raises(AgileGymError, match=r"'mine' gave up each of the first 3 .* image of 32 x 32 pixels"):
        evaluate(policy, plan, on_result=results.append)
    assert results == []


def test_a_word_that_stands_for_the_turn_may_be_written(loaded):
    """It is in the feedback then, where the model's name for a thing is quoted."""
    from agile_gym.models.chat import _MARK

    chat = ChatFormat(loaded("qwen2_5_vl").processor)
    plain = chat.tokenizer.decode(chat.follow_up("Unknown: x", ()).ids)
    assert chat.tokenizer.decode(chat.follow_up(f"Unknown: {_MARK}", ()).ids) == plain.replace(": x", f": {_MARK}")


def test_an_image_that_is_taken_in_no_form_is_named(loaded):
    processor = picky(loaded("qwen2_5_vl"), 5000).processor
    with pytest.raises(ImageRefusedError, match=r"image of 7 x 5 pixels: ValueError"):
        process(processor, processor.image_token, [np.zeros((5, 7, 3), np.uint8)])
