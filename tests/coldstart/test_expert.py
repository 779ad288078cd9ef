"""The expert: it solves what it plays, and what it says is so."""

import re
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from agile_gym.coldstart import ExpertPolicy
from agile_gym.coldstart.knowledge import Joint, know_puzzle
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.policies import make_policy
from tests.helpers.expert_episodes import SMALL, content, play
from tests.helpers.sentences_reader import check_transcript, think_of

OPTIONS = {
    "2x2": {},
    "1x2": {"grid": (1, 2)},
    "3x1": {"grid": (3, 1), "level": "all"},
    "3x3": {"grid": 3, "level": "all"},
    "tools": {"grid": (2, 3), "level": None, "dialect": "tools"},
    "rotations": {"rotations": True, "level": "all"},
    "rotations and tools": {"grid": 3, "rotations": True, "dialect": "tools"},
    "board": {"initial_view": "board", "gap": 0.0, "level": "all"},
    "eroded": {"erode": 0.15, "grid": 3},
    "aspect": {"image_size": None, "max_pixels": 20_000, "initial_view": "both", "labels": True},
    "wide gaps": {"gap": 0.3, "grid": (2, 3), "canvas_size": 300, "reference_image": True},
    "5x6": {"grid": (5, 6), "image_size": 120},
}


@pytest.mark.slow
@pytest.mark.parametrize("style", ["full", "short", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_episodes_are_solved_and_all_that_is_said_is_so(options, style):
    prompt = "short" if style == "short" else "full"
    episodes = play(20, prompt=prompt, expert={"style": style, "mistakes": 0.5}, **options)
    assert all(episode.solved and not episode.truncated for episode in episodes)
    assert not any(turn.error for episode in episodes for turn in episode.turns)
    said = Counter(kind for episode in episodes for kinds in check_transcript(episode) for kind in kinds)
    if style == "none":
        assert not said
    elif "erode" not in options:
        assert said["fits"] > 20
        assert said["misfits"] > 0
        assert said["whole"] >= 15


def test_large_grids_are_solved():
    for options in ({}, {"rotations": True}):
        episodes = play(3, grid=10, level=None, image_size=200, **options)
        assert all(episode.solved for episode in episodes)
        for episode in episodes:
            check_transcript(episode)


@pytest.mark.slow
def test_number_of_turns_and_ways_of_looking_go_round_with_the_seed():
    for start, options in ((0, {}), (12_345, {"grid": 3, "level": "all"}), (7, {"rotations": True})):
        found = Counter()
        for episode in play(60, start=start, image_size=48, **options):
            done = {primitive for turn in episode.turns for primitive in turn.primitives}
            found[len(episode.turns), "Crop" in done, "Zoom" in done] += 1
        assert len(found) == 20
        assert set(found.values()) == {3}


def test_steps_tell_what_each_turn_does():
    moves = Counter()
    for episode in play(80, expert={"mistakes": 1.0}):
        steps = episode.details["steps"]
        assert len(steps) == len(episode.turns)
        before = episode.task["names"]
        for step, turn in zip(steps, episode.turns, strict=True):
            right = [
                sum(a == b for a, b in zip(state, episode.solution, strict=True)) for state in (before, turn.state)
            ]
            kinds = set(turn.primitives) - {"Observe"}
            match step:
                case "move":
                    assert right[1] > right[0]
                case "wrong":
                    assert right[1] <= right[0]
                    moved = [a for a, b in zip(turn.state, before, strict=True) if a != b]
                    assert len(moved) == 2
                    assert all(turn.state.index(name) != episode.solution.index(name) for name in moved)
                case "undo":
                    assert kinds == {"Swap"}
                case "observe":
                    assert not kinds
                case _:
                    assert kinds == {step.capitalize()}
            moves[step] += 1
            before = list(turn.state)
    assert moves["wrong"] >= 60  # not every episode has the turns for it
    assert moves["undo"] >= 10


def test_a_wrong_move_is_noticed_when_the_board_is_seen_and_mended():
    for episode in play(60, expert={"mistakes": 1.0}):
        said = check_transcript(episode)
        seen_wrong = False
        for index, (step, turn) in enumerate(zip(episode.details["steps"], episode.turns, strict=True)):
            if seen_wrong:
                assert "wrong" in said[index]
            shows = "Observe" in turn.primitives
            wrong = step == "wrong" or (step == "observe" and episode.details["steps"][index - 1] == "wrong")
            seen_wrong = wrong and shows and not (step == "observe" and said[index].count("wrong"))
        assert episode.solved


def test_no_mistakes_where_none_are_wanted():
    for episode in play(60, expert={"mistakes": 0.0}):
        assert not {"wrong", "undo", "slip"} & set(episode.details["steps"])


@pytest.mark.parametrize("dialect", ["code", "tools"])
def test_slips_are_errors_that_are_mended_in_the_next_turn(dialect):
    errors = Counter()
    for episode in play(60, dialect=dialect, expert={"slips": 1.0}):
        assert episode.solved
        check_transcript(episode)
        steps = episode.details["steps"]
        assert [turn.error is not None for turn in episode.turns] == [step == "slip" for step in steps]
        for index, turn in enumerate(episode.turns):
            if turn.error:
                errors[turn.error] += 1
                assert episode.turns[index + 1].error is None
                assert episode.turns[index + 1].primitives in (("Crop",), ("Zoom",))
    unknown = "unknown_name" if dialect == "code" else "unknown_image"
    assert set(errors) == {"bad_box", unknown, "image_too_large"}


def column_is_in(column, image):
    """Return where (columns) a stretch of a column of pixels, as high as the image, lies in the image."""
    height = image.shape[0]
    parts = np.stack([column[start : start + height] for start in range(len(column) - height + 1)])
    return {x for x in range(image.shape[1]) if (parts == image[None, :, x]).reshape(len(parts), -1).all(axis=1).any()}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"grid": 3}, {"grid": (2, 5), "image_size": (60, 200)}, {"gap": 0.0}])
def test_a_crop_of_a_seam_shows_the_borders_of_both_pieces(options):
    seams = 0
    for episode in play(60, expert={"style": "short", "mistakes": 0.0}, **options):
        pieces = dict(zip(episode.task["names"], episode.prompt_images, strict=False))
        state = episode.task["names"]
        for turn in episode.turns:
            look = re.search(r"Look ([A-Z]) ([A-Z])$", think_of(turn.text))
            if look and "crop(observation" in turn.text:
                (crop,) = turn.images
                first, second = pieces[look[1]], pieces[look[2]]
                if state.index(look[2]) != state.index(look[1]) + 1:  # one above the other
                    crop, first, second = (image.swapaxes(0, 1) for image in (crop, first, second))
                # The crop may show a little of the next pieces along the seam, beyond these two: leave a fifth out.
                trim = slice(crop.shape[0] // 3, -(crop.shape[0] // 3))
                ends, starts = column_is_in(first[:, -1], crop[trim]), column_is_in(second[:, 0], crop[trim])
                gap = int(0 if options.get("gap") == 0.0 else 0.02 * first.shape[1])
                assert any(end + gap + 1 in starts for end in ends)
                seams += 1
            state = list(turn.state)
    assert seams > 15


def test_a_crop_of_a_border_reaches_it():
    borders = Counter()
    for episode in play(60, expert={"style": "short"}):
        pieces = dict(zip(episode.task["names"], episode.prompt_images, strict=False))
        for turn in episode.turns:
            look = re.search(r"Look ([A-Z]) (left|right|top|bottom)$", think_of(turn.text))
            if look:
                piece, (crop,) = pieces[look[1]], turn.images
                turns = {"left": 0, "top": 1, "right": 2, "bottom": 3}[look[2]]
                piece, crop = np.rot90(piece, turns), np.rot90(crop, turns)  # the border is on the left now
                ends = [
                    (dx, dy)
                    for dx in (0, 1)  # a box up to 1.0 leaves out the last pixel
                    for dy in (0, 1)
                    if np.array_equal(piece[dy : dy + crop.shape[0], dx : dx + crop.shape[1]], crop)
                ]
                assert ends
                assert crop.shape[1] <= 0.51 * piece.shape[1]
                assert crop.shape[0] >= piece.shape[0] - 1
                borders[look[2]] += 1
    assert set(borders) == {"left", "right", "top", "bottom"}


def test_a_zoom_enlarges_what_was_cropped_or_a_piece():
    zooms = Counter()
    for episode in play(60):
        previous = ()
        for turn in episode.turns:
            if turn.primitives == ("Zoom",):
                (image,) = turn.images
                of_crop = "zoom(crop" in turn.text
                source = previous[0] if of_crop else episode.prompt_images[0]
                assert image.shape[0] >= 1.4 * source.shape[0]
                zooms[of_crop] += 1
            previous = turn.images
    assert min(zooms[True], zooms[False]) > 10


@pytest.mark.slow
def test_colours_that_are_spoken_of_can_be_seen():
    ranges = {"red": 0, "green": 1, "blue": 2}
    spoken = 0
    for episode in play(200):
        pieces = dict(zip(episode.task["names"], episode.prompt_images, strict=False))
        text = " ".join(think_of(turn.text) for turn in episode.turns)
        found = re.findall(r"The (\w+) at the (right|bottom) border of ([A-Z]) goes on in ([A-Z])", text)
        for colour, way, a, b in found:
            first, second = (
                (pieces[a], pieces[b]) if way == "right" else (pieces[a].swapaxes(0, 1), pieces[b].swapaxes(0, 1))
            )
            for strip in (first[:, -2:], second[:, :2]):
                mean = strip.reshape(-1, 3).mean(axis=0)
                if colour in ranges:
                    assert mean.argmax() == ranges[colour]
                if colour in ("black", "white"):
                    assert mean.mean() < 60 if colour == "black" else mean.mean() > 170
                if colour in ("grey", "white"):
                    assert np.ptp(mean) < 60
                spoken += 1
    assert spoken > 20


@pytest.mark.filterwarnings("ignore::agile_gym.envs.jigsaw.EqualPiecesWarning")
@pytest.mark.parametrize("grid", [2, (1, 2), (1, 3), 3])
def test_where_nothing_can_be_seen_nothing_is_said_to_be_seen(grid):
    plain = np.full((64, 64, 3), 120, np.uint8)
    for episode in play(20, grid=grid, images=[plain], split=None):
        text = " ".join(think_of(turn.text) for turn in episode.turns)
        assert not re.search(r"not (continue|fit)|break off|meets", text)
        assert not re.search(r"border of \w continues|run on|goes on in|continues \w|ends in", text)
        assert "seem" in text or "tell" in text


def horizon():
    """Return a picture of 2 x 3 pieces, of which the upper three are sky and look alike."""
    picture = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)
    picture[:32] = (90, 140, 220)
    return picture


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::agile_gym.envs.jigsaw.EqualPiecesWarning")
@pytest.mark.parametrize("level", [0, 1, None])
def test_mistakes_with_pieces_that_look_alike_can_be_seen(level):
    options = {"grid": (2, 3), "images": [horizon()], "crop": "center", "split": None, "image_size": (64, 96)}
    mistakes = 0
    for episode in play(60, level=level, expert={"mistakes": 1.0}, **options):
        assert episode.solved
        pieces = {
            name: piece.tobytes() for name, piece in zip(episode.task["names"], episode.prompt_images, strict=True)
        }
        right = [pieces[name] for name in episode.solution]
        before = [pieces[name] for name in episode.task["names"]]
        for step, turn in zip(episode.details["steps"], episode.turns, strict=True):
            shown = [pieces[name] for name in turn.state]
            if step == "wrong":
                assert shown != before
                assert sum(map(bytes.__eq__, shown, right)) <= sum(map(bytes.__eq__, before, right))
                mistakes += 1
            before = shown
    assert mistakes > 20


@pytest.mark.filterwarnings("ignore::agile_gym.envs.jigsaw.EqualPiecesWarning")
@pytest.mark.parametrize("rotations", [False, True])
def test_pieces_fit_where_they_look_as_if_they_did(rotations):
    env = JigsawVisionEnv(
        grid=(2, 3), images=[horizon()], image_size=(64, 96), level=None, reveal=True, rotations=rotations
    )
    cells = [horizon()[32 * row : 32 * row + 32, 32 * col : 32 * col + 32] for row in range(2) for col in range(3)]
    for seed in range(5):
        _, info = env.reset(seed=seed)
        knowledge = know_puzzle(info, np.stack(info["images"]), 2, 3)
        for first, second in permutations(range(6), 2):
            pair = knowledge.pieces[first], knowledge.pieces[second]
            for side, step, starts in (("right", 1, (0, 1, 3, 4)), ("below", 3, (0, 1, 2))):
                seen = any(
                    np.array_equal(cells[place], pair[0]) and np.array_equal(cells[place + step], pair[1])
                    for place in starts
                )
                assert knowledge.fits(Joint(first, side, second)) == seen


def test_the_same_seed_gives_the_same_episode_in_any_batch():
    alone, together = play(24, batch=1), play(24, batch=7)
    together.sort(key=lambda episode: int(episode.id.rpartition("-")[2]))
    assert [content(episode) for episode in alone] == [content(episode) for episode in together]
    own = [[content(episode) for episode in play(4, batch=batch, seeds="own")] for batch in (1, 1)]
    assert own[0] == own[1]


def test_the_solver_can_be_its_knowledge():
    episodes = play(60, reveal=False, expert={"knowledge": "edges"})
    solved = [episode for episode in episodes if episode.solved]
    assert len(solved) >= 54
    for episode in solved:
        check_transcript(episode)


def test_episodes_of_one_or_two_turns():
    for episode in play(12, expert={"turns": 1}):
        assert [turn.primitives for turn in episode.turns] == [("Answer",)]
        assert {"fits", "rows"} <= set(check_transcript(episode)[0])
    for episode in play(12, expert={"turns": (2, 2)}):
        assert len(episode.turns) == 2
        assert episode.solved


def test_short_thoughts_are_few_tokens_of_the_tiny_model():
    pytest.importorskip("transformers")
    from agile_gym.models.tiny import build_tokenizer

    tokenizer = build_tokenizer()
    counts = []
    for episode in play(60, prompt="short", image_size=64, max_turns=5, expert={"style": "short", "turns": (2, 5)}):
        for turn in episode.turns:
            counts.append(len(tokenizer.encode(think_of(turn.text), add_special_tokens=False)))
            assert len(tokenizer.encode(turn.text, add_special_tokens=False)) < 70
    assert np.mean(counts) < 14


def test_the_expert_needs_the_solution():
    env = JigsawVisionEnv(**{**SMALL, "reveal": False})
    observation, info = env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="reveal=True"):
        ExpertPolicy().act([observation], [info])


def test_the_expert_needs_the_first_observation():
    observation, info = JigsawVisionEnv(**SMALL).reset(seed=0)
    with pytest.raises(ConfigurationError, match="first observation"):
        ExpertPolicy().act([observation], [{**info, "turn": 3}])


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (1, {"rotations": True, "expert": {"knowledge": "edges"}}, "upright"),
        (20, {"grid": 6, "rotations": True, "dialect": "tools", "image_size": 120}, "too many for the dialect 'tools'"),
    ],
)
def test_puzzles_that_the_expert_cannot_play_are_refused(count, options, message):
    with pytest.raises(ConfigurationError, match=message):
        play(count, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": (8, 4)}, "turns="),
        ({"turns": 0}, "turns="),
        ({"turns": 33}, "turns="),
        ({"turns": (1, 2, 3)}, "turns="),
        ({"turns": True}, "turns="),
        ({"style": "ful"}, "Did you mean 'full'"),
        ({"knowledge": "magic"}, "Allowed: 'edges', 'oracle'"),
        ({"mistakes": 1.5}, "mistakes=1.5"),
        ({"slips": "often"}, "slips='often'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_of_the_expert_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_policy("agile_gym.coldstart:ExpertPolicy", **options)
