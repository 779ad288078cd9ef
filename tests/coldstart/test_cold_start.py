"""Cold starts: balance, filters, repetition."""

from collections import Counter

import numpy as np
import pytest

from agile_gym.coldstart import ColdStartConfig, make_cold_start
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import AgileGymError, ConfigurationError
from agile_gym.images import open_images
from agile_gym.policies import RandomPolicy
from agile_gym.transcripts import read_transcripts
from tests.helpers.cold_starts import SMALL, make, noise
from tests.helpers.expert_episodes import content, stored
from tests.helpers.teachers import Clever, Failing


def kinds(folder):
    """Count episodes by grid, turns and ways of looking, from what is stored."""
    found = Counter()
    for transcript in read_transcripts(folder):
        done = {primitive for turn in transcript.turns for primitive in turn.primitives}
        found[transcript.task["grid"], len(transcript.turns), "Crop" in done, "Zoom" in done] += 1
    return found


def totals(found, key):
    sums = Counter()
    for kind, count in found.items():
        sums[key(kind)] += count
    return sums


def spread(counts):
    return max(counts.values()) - min(counts.values())


def test_episodes_are_balanced_over_turns_and_ways_of_looking(tmp_path):
    report = make(tmp_path, 47)
    found = kinds(tmp_path)
    assert sum(found.values()) == report.kept == 47
    assert len(found) == 20
    assert spread(found) == 1
    assert spread(totals(found, lambda kind: kind[1])) == 1
    assert spread(totals(found, lambda kind: kind[2:])) <= 2
    assert {tuple(kind): count for kind, count in report.found.items()} == {
        (grid, turns, {0: "board", 1: "crop", 2: "zoom", 3: "both"}[crop + 2 * zoom]): count
        for (grid, turns, crop, zoom), count in found.items()
    }
    text = report.text()
    assert "2x2, turns:           4      5      6      7      8    all" in text
    assert f"Kept 47 of {report.attempts} episodes played" in text
    actions = Counter(name for t in read_transcripts(tmp_path) for turn in t.turns for name in set(turn.primitives))
    assert report.actions == actions


def test_several_grids_and_few_turns_are_balanced_where_there_is_room(tmp_path):
    make(tmp_path, 60, grid=["2", "2x3"], level="all", turns=(1, 3), options={"prompt": "short"})
    found = kinds(tmp_path)
    assert totals(found, lambda kind: kind[0]) == {"2x2": 30, "2x3": 30}
    assert totals(found, lambda kind: kind[:2]) == {(grid, turns): 10 for grid in ("2x2", "2x3") for turns in (1, 2, 3)}
    for (_, turns, crop, zoom), count in found.items():
        room = {1: [0], 2: [0, 1, 2], 3: [0, 1, 2, 3]}[turns]
        assert crop + 2 * zoom in room
        assert count in (10 // len(room), 10 // len(room) + 1)


def test_episodes_look_closer_only_as_they_may(tmp_path):
    make(tmp_path, 20, looks=["zoom", "board"])
    assert totals(kinds(tmp_path), lambda kind: kind[2:]) == {(False, False): 10, (False, True): 10}


@pytest.mark.parametrize("looks", [[], ["telescope"], ["board", "Zoom"]])
def test_unknown_ways_of_looking_are_refused(looks):
    with pytest.raises(ConfigurationError, match="board"):
        ColdStartConfig(looks=looks)


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["turns", "looks", "none"])
def test_balance_can_be_over_less(tmp_path, balance):
    report = make(tmp_path, 21, balance=balance)
    found = kinds(tmp_path)
    assert report.complete
    if balance == "turns":
        assert spread(totals(found, lambda kind: kind[1])) == 1
    elif balance == "looks":
        assert spread(totals(found, lambda kind: kind[2:])) == 1
    else:
        assert report.attempts == 21


@pytest.mark.parametrize("options", [{}, {"rotations": True, "dialect": "tools"}, {"initial_view": "board"}])
def test_what_is_kept_is_solved_without_errors_and_can_be_played_again(tmp_path, options):
    make(tmp_path, level="all", options=options)
    transcripts = list(read_transcripts(tmp_path))
    source = open_images(None, split="train")
    env = JigsawVisionEnv(**SMALL, **options, images=source, crop="random", max_turns=8)
    assert len(transcripts) == 20
    for transcript in transcripts:
        assert transcript.solved
        assert transcript.policy == "expert"
        assert transcript.reward["format"] == transcript.reward["accuracy"] == 1
        task = transcript.task
        observation, info = env.reset(seed=task["seed"], options={"level": task["level"]})
        assert observation["text"] == transcript.prompt
        assert all(map(np.array_equal, info["images"], transcript.prompt_images))
        assert info["image_id"] == task["image_id"]
        for turn in transcript.turns:
            observation, reward, terminated, _, info = env.step(turn.text)
            assert (observation["text"], info["error"]) == (turn.feedback, None)
            assert len(info["images"]) == len(turn.images)
            assert all(map(np.array_equal, info["images"], turn.images))
            assert env.unwrapped.episode.workspace.state_list() == list(turn.state)
        assert terminated
        assert info["solved"]
        assert reward == transcript.reward["total"]


def test_only_training_photographs_are_used(tmp_path):
    make(tmp_path, 60, balance="turns")
    train, everything = open_images(None, split="train"), open_images(None)
    allowed = {train.content_hash(index) for index in range(len(train))}
    used = {transcript.task["image_id"] for transcript in read_transcripts(tmp_path, images=False)}
    assert used <= allowed
    assert 20 < len(used) <= len(allowed) < len(everything)
    with pytest.raises(ConfigurationError, match="training images only"):
        ColdStartConfig(split="test")


@pytest.mark.slow
def test_the_same_settings_give_the_same_episodes_in_any_batch_and_on_any_worker(tmp_path):
    settings = {"count": 24, "grid": ["2", "1x2"], "level": None}
    for name, playing in (("a", {"batch": 1}), ("b", {"batch": 5}), ("c", {"batch": 3, "workers": 2})):
        make(tmp_path / name, **settings, **playing)
    alone = stored(tmp_path / "a")
    assert len(alone) == 24
    assert stored(tmp_path / "b") == alone
    assert stored(tmp_path / "c") == alone
    manifests = [(tmp_path / name / "cold_start.json").read_text() for name in "abc"]
    assert manifests[0] == manifests[1] == manifests[2]
    make(tmp_path / "d", **settings, seed=1)
    other = stored(tmp_path / "d")
    assert not {text for episode in alone for text, *_ in episode[5]} >= {
        text for episode in other for text, *_ in episode[5]
    }


@pytest.mark.slow
def test_each_puzzle_is_kept_once(tmp_path):
    # One photograph without random crops has 9 puzzles whose pieces are all misplaced.
    report = make(
        tmp_path, 12, images=[noise()], split=None, balance="none", max_attempts=300, options={"crop": "center"}
    )
    assert (report.kept, report.complete) == (9, False)
    assert report.rejected["puzzle"] == report.attempts - 9
    assert len({transcript.solution for transcript in read_transcripts(tmp_path)}) == 9
    assert "12 episodes were wanted and 9 were found in 300 attempts" in report.shortage()


@pytest.mark.parametrize(("distinct", "kept"), [(True, 1), (False, 5), (None, 1)])
def test_each_text_is_kept_once(tmp_path, distinct, kept):
    report = make(
        tmp_path, 5, grid="1x2", turns=2, balance="none", teacher="tests.helpers.teachers:Clever", max_attempts=5,
        distinct_texts=distinct,
    )  # fmt: skip
    assert report.kept == kept
    assert report.rejected == ({"text": 4} if kept == 1 else {})


def test_short_prompts_may_have_the_same_texts(tmp_path):
    report = make(
        tmp_path, 5, grid="1x2", turns=2, balance="none", teacher="tests.helpers.teachers:Clever",
        options={"prompt": "short"},
    )  # fmt: skip
    assert report.complete


def test_a_weak_teacher_gives_fewer_and_that_is_told(tmp_path):
    report = make(
        tmp_path, 30, teacher="random", grid="1x2", turns=1, balance="turns", distinct_texts=False, max_attempts=40
    )
    transcripts = list(read_transcripts(tmp_path))
    assert 5 < report.kept == len(transcripts) < 30
    assert all(transcript.solved and transcript.policy == "random" for transcript in transcripts)
    assert report.rejected == {"unsolved": 40 - report.kept}
    assert report.shortage().startswith(f"30 episodes were wanted and {report.kept} were found in 40 attempts.")
    assert f"Missing are {30 - report.kept} of 1x2 with 1 turn." in report.shortage()

    more = make(
        tmp_path, 30, teacher="random", grid="1x2", turns=1, balance="turns", distinct_texts=False, max_attempts=400,
        resume=True,
    )  # fmt: skip
    whole = make(
        tmp_path / "whole", 30, teacher="random", grid="1x2", turns=1, balance="turns", distinct_texts=False,
        max_attempts=400,
    )  # fmt: skip
    assert more.complete
    assert (more.attempts, more.rejected) == (whole.attempts, whole.rejected)
    assert stored(tmp_path) == stored(tmp_path / "whole")


def test_a_teacher_that_never_crops_leaves_kinds_empty(tmp_path):
    report = make(tmp_path, 20, teacher="tests.helpers.teachers:Clever", grid=2, turns=(2, 3), max_attempts=60,
                  distinct_texts=False)  # fmt: skip
    # 20 episodes are 10 of 2 turns, which have three ways of looking (4 + 3 + 3), and 10 of 3 turns.
    assert dict(report.found) == {("2x2", 2, "board"): 4}
    assert report.rejected == {"surplus": 56}
    assert sum(report.short.values()) == 16
    assert "3 of 2x2 with 2 turns (crop)" in report.shortage()


def test_episodes_with_errors_are_kept_only_if_they_are_allowed(tmp_path):
    settings = {"teacher_options": {"right": 0.8, "errs": 0.3}, "grid": 2, "turns": 2, "balance": "none"}
    rules = {"teacher": "tests.helpers.teachers:Clever", "distinct_texts": False, "max_attempts": 100}
    strict = make(tmp_path / "a", 1000, **settings, **rules)
    lenient = make(tmp_path / "b", 1000, **settings, **rules, allow_errors=True)
    draws = np.array([np.random.default_rng(t.task["policy_seed"]).random(2) for t in read_transcripts(tmp_path / "b")])
    assert lenient.kept == len(draws) == 100 - lenient.rejected["unsolved"]
    assert (draws[:, 0] < 0.8).all()
    assert strict.kept == int((draws[:, 1] >= 0.3).sum()) < lenient.kept
    assert strict.rejected["error"] == lenient.kept - strict.kept


def test_answers_without_a_thought_are_not_solved(tmp_path):
    report = make(tmp_path, 10, teacher="tests.helpers.teachers:careless", grid="1x2", turns=1, max_attempts=5)
    assert report.rejected == {"unsolved": 5}


def test_right_answers_without_a_thought_are_rejected_for_their_form(tmp_path):
    report = make_cold_start(
        tmp_path,
        ColdStartConfig(count=5, teacher="mine", grid="1x2", turns=1, max_attempts=5, options=SMALL),
        teacher=lambda observation: '<answer>["B", "A"]</answer>',
    )
    assert report.rejected == {"form": 5}


def test_planned_errors_are_kept_only_if_that_is_wanted(tmp_path):
    with pytest.raises(ConfigurationError, match="allow_errors"):
        ColdStartConfig(teacher_options={"slips": 0.5})
    report = make(tmp_path, 40, teacher_options={"slips": 1.0}, allow_errors=True)
    assert report.complete
    slips = 0
    for transcript in read_transcripts(tmp_path):
        errors = [turn.error is not None for turn in transcript.turns]
        assert errors == [step == "slip" for step in transcript.details["steps"]]
        slips += sum(errors)
    assert slips == report.steps["slip"] >= 20


def test_a_policy_can_be_given_itself(tmp_path):
    config = ColdStartConfig(
        count=4, teacher="mine", grid="1x2", turns=1, balance="none", distinct_texts=False, options=SMALL
    )
    report = make_cold_start(tmp_path, config, teacher=RandomPolicy())
    assert report.complete
    assert {transcript.policy for transcript in read_transcripts(tmp_path)} == {"mine"}
    with pytest.raises(ConfigurationError, match="by its name"):
        make_cold_start(tmp_path / "other", config, teacher=RandomPolicy(), workers=2)


@pytest.mark.slow
def test_a_teacher_that_fails_costs_nothing_that_was_kept(tmp_path):
    settings = {"grid": 2, "turns": 2, "balance": "none", "distinct_texts": False}
    config = ColdStartConfig(count=12, teacher="tests.helpers.teachers:Clever", options=SMALL, **settings)
    with pytest.raises(RuntimeError, match="fallen ill"):
        make_cold_start(tmp_path, config, teacher=Failing(9), batch=1)
    assert len(stored(tmp_path)) == 4
    make_cold_start(tmp_path, config, teacher=Clever(), resume=True)
    make_cold_start(tmp_path / "whole", config, teacher=Clever())
    assert stored(tmp_path) == stored(tmp_path / "whole")
    with pytest.raises(AgileGymError, match="fallen ill"):
        make(
            tmp_path / "workers", 12, teacher="tests.helpers.teachers:Failing", teacher_options={"calls": 1}, workers=2,
            **settings,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"count": 2.5}, "count=2.5"),
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"turns": (5, 4)}, "turns="),
        ({"seed": -1}, "seed=-1"),
        ({"balance": "turn"}, "Did you mean 'turns'"),
        ({"grid": "2y2"}, "is not a grid"),
        ({"grid": []}, "at least one grid"),
        ({"level": 3}, "L0"),
        ({"images": "/no/such/folder"}, "/no/such/folder"),
        ({"teacher": "expertt"}, "no policy 'expertt'"),
        ({"teacher_options": {"styl": "full"}}, "Did you mean 'style'"),
        ({"teacher_options": {"turns": 4}}, "give turns"),
        ({"options": {"reveal": False}}, "a teacher may have the solution"),
        ({"options": {"max_turns": 5}}, "max_turns=5"),
        ({"options": {"image_sise": 5}}, "Did you mean 'image_size'"),
        ({"batch": 0}, "batch=0"),
        ({"workers": 0}, "workers=0"),
        ({"format": "csv"}, "format='csv'"),
    ],
)
def test_mistakes_of_the_user_are_told_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make(tmp_path / "out", **{"count": 5, **settings})
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_notes_tell_the_attempt(tmp_path):
    make(tmp_path, 20, grid=2)
    for transcript in read_transcripts(tmp_path):
        note = transcript.details["cold_start"]
        assert transcript.id.endswith(f"-{note['attempt']}")
        assert content(transcript)[0] == transcript.id


def test_small_puzzles_have_the_kinds_that_there_is_something_to_do_in(tmp_path):
    report = make(tmp_path, 24, grid="1x2")
    assert report.complete
    assert {kind.turns for kind in report.found if kind.looks == "board"} == {4}  # look, swap, look, answer
    assert {kind.looks for kind in report.found} == {"board", "crop", "both"}  # a piece is as high as the canvas
