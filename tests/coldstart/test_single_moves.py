"""The expert that makes one swap a turn: each of its episodes is played and counted."""

from collections import Counter
from functools import partial

import pytest

from agile_gym.coldstart import ColdStartConfig, ExpertPolicy
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.rollout import EpisodeSpec, play_episodes


def play(expert, count=24, **options):
    make = partial(JigsawVisionEnv, **{"image_size": 64, "max_turns": 12, "reveal": True, **options})
    specs = [EpisodeSpec(env=0, seed=seed, policy_seed=seed) for seed in range(count)]
    return [transcript for _, transcript in play_episodes(expert, specs, {0: make}, batch=8)]


@pytest.mark.parametrize("view", ["pieces", "board", "both"])
@pytest.mark.parametrize(("grid", "most"), [(2, 6), ((2, 3), 9), (3, 12)])
def test_each_turn_is_a_swap_and_a_look_until_the_board_is_right(view, grid, most):
    expert = ExpertPolicy(moves="single", turns=(2, most), looks=["board"], mistakes=0.5)
    kinds = Counter()
    for episode in play(expert, grid=grid, initial_view=view):
        steps = episode.details["steps"]
        kinds.update(steps)
        assert episode.solved
        assert len(episode.turns) == len(steps) <= most
        assert all(turn.error is None for turn in episode.turns)
        used = [turn.primitives for turn in episode.turns]
        assert used[-1] == ("Answer",)
        if view == "pieces":
            assert used[0] == ("Observe",)
        swaps = used[view == "pieces" : -1]
        assert swaps
        assert all(names == ("Swap", "Observe") for names in swaps)
        assert episode.turns[-1].state == tuple(episode.solution) or list(episode.turns[-1].state) == episode.solution
    assert kinds["wrong"] >= 2  # of a puzzle of four pieces few have room for one
    assert not kinds["undo"]


def test_without_mistakes_no_swap_is_lost_and_places_are_in_order():
    expert = ExpertPolicy(moves="single", turns=(2, 6), looks=["board"], mistakes=0.0, style="verdict")
    for episode in play(expert, initial_view="board"):
        names = [list("ABCD")] + [list(turn.state) for turn in episode.turns[:-1]]
        home = [sum(a == b for a, b in zip(state, episode.solution, strict=True)) for state in names]
        assert home == sorted(home)
        assert len(set(home)) == len(home)  # each swap brings a piece home
        for turn in episode.turns[:-1]:
            first, second = (
                int(number)
                for number in turn.text.split("state[", 1)[1].replace("], state[", " ").split("]")[0].split()
            )
            assert first < second


def test_verdicts_say_whether_the_board_is_right_and_no_more():
    expert = ExpertPolicy(moves="single", turns=(2, 8), looks=["board"], style="verdict", mistakes=0.5)
    for view, opening in (("pieces", ["Look"]), ("board", [])):
        for episode in play(expert, initial_view=view):
            thoughts = [turn.text.split("<think>")[1].split("</think>")[0] for turn in episode.turns]
            assert thoughts == [*opening, *["No"] * (len(thoughts) - len(opening) - 1), "All fit"]


def test_closer_looks_crop_the_whole_of_a_board_that_is_a_thumbnail():
    expert = ExpertPolicy(moves="single", turns=(2, 8), looks=["crop"], style="verdict")
    for episode in play(expert, initial_view="board", board_scale=0.125):
        used = [turn.primitives for turn in episode.turns]
        assert used[0] == ("Observe", "Crop")
        assert all(names == ("Swap", "Observe", "Crop") for names in used[1:-1])
        assert all(turn.error is None for turn in episode.turns)
        assert episode.solved


def test_a_pace_that_there_is_not():
    with pytest.raises(ConfigurationError, match="moves='one' is not allowed"):
        ExpertPolicy(moves="one")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slips": 0.1, "looks": ["crop"]}, r"slips=0\.1 is not allowed: give looks"),
        ({"looks": ["board", "zoom"]}, r"looks=\['board', 'zoom'\] and slips=0\.0 is not allowed"),
    ],
)
def test_options_that_single_moves_do_not_have(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ExpertPolicy(moves="single", **options)


def test_a_puzzle_that_needs_more_turns_and_a_balance_that_cannot_be_kept():
    with pytest.raises(ConfigurationError, match=r"needs \d+ turns with moves='single'; turns=\(2, 4\) is too few"):
        play(ExpertPolicy(moves="single", turns=(2, 4), looks=["board"]), grid=3)
    with pytest.raises(ConfigurationError, match=r"balance='both': with moves='single' the puzzle sets"):
        ColdStartConfig(teacher_options={"moves": "single"})
    assert ColdStartConfig(teacher_options={"moves": "single"}, balance="looks").balance == "looks"


@pytest.mark.parametrize("style", ["short", "full"])
def test_crops_of_whole_boards_are_described_as_boards_are(style):
    kinds = Counter()
    expert = ExpertPolicy(moves="single", turns=(2, 8), looks=["crop"], style=style, mistakes=1.0)
    for episode in play(expert, count=12, initial_view="board", board_scale=0.25):
        steps = episode.details["steps"]
        for step, after in zip(steps, episode.turns[1:], strict=False):
            kinds[step == "wrong", " not " in after.text or "wrong" in after.text or "No" in after.text] += 1
    assert kinds[True, True] > kinds[True, False]  # where the borders show it, a wrong swap is noticed in words
