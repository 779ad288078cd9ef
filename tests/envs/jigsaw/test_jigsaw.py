import copy
import json
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from PIL import Image

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images import SkippedImageWarning
from tests.helpers.comparing import same

OBSERVE = "<think>t</think><code>o = observation(state)</code>"
SMALL = {"image_size": 64}


def answer(names):
    return f"<think>t</think><answer>{json.dumps(names)}</answer>"


def photo(seed=0, height=80, width=100):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_first_observation_is_agiles():
    env = JigsawVisionEnv(images=[photo()], reveal=True, **SMALL)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert observation["text"].count("<image>") == 4
    assert [line for line in observation["text"].splitlines() if "<image>" in line] == [
        f"Image {name}: <image>" for name in "ABCD"
    ]
    assert 'state = ["A", "B", "C", "D"]' in observation["text"]
    assert "5 turns" in observation["text"]
    assert len(info["images"]) == 4
    board = observation["image"][: observation["image_size"][0], : observation["image_size"][1]]
    np.testing.assert_array_equal(info["images"][0], board[:32, :32])
    np.testing.assert_array_equal(info["images"][3], board[-32:, -32:])
    assert info["level"] == 0
    assert info["turn"] == 0


def test_the_solution_rebuilds_the_photograph():
    picture = photo(height=64, width=64)
    env = JigsawVisionEnv(images=[picture], gap=0, reveal=True, **SMALL)
    _, info = env.reset(seed=5)
    text = f"<code>state = {json.dumps(info['solution'])}\nobserve()</code>"
    observation, _, _, _, info = env.step(text)
    np.testing.assert_array_equal(observation["image"], picture)
    np.testing.assert_array_equal(info["images"][0], picture)
    assert info["pieces_in_place"] == 4


@pytest.mark.parametrize(("view", "images"), [("pieces", 4), ("board", 1), ("both", 5)])
def test_initial_views_with_and_without_a_reference(view, images):
    for reference in (False, True):
        picture = photo(height=64, width=64)
        env = JigsawVisionEnv(initial_view=view, reference_image=reference, images=[picture], **SMALL)
        observation, info = env.reset(seed=0)
        assert len(info["images"]) == observation["text"].count("<image>") == images + reference
        if reference:
            observation, _, _, _, info = env.step("<code>zoom(image_list[4], 1)</code>")
            np.testing.assert_array_equal(info["images"][0], picture)


def test_turns_feedback_and_ends():
    env = JigsawVisionEnv(reveal=True, max_turns=3, **SMALL)
    _, info = env.reset(seed=0)
    solution = info["solution"]
    observation, reward, terminated, truncated, info = env.step(OBSERVE)
    assert observation["text"].startswith("o: <image>\n")
    assert "2 turns left" in observation["text"]
    assert (reward, terminated, truncated, info["turn"]) == (0, False, False, 1)
    observation, reward, terminated, truncated, info = env.step("nonsense")
    assert info["error"] == "no_action"
    assert "1 turn left" in observation["text"]
    assert tuple(observation["image_size"]) == (0, 0)
    assert not observation["image"].any()
    assert info["images"] == ()
    observation, reward, terminated, truncated, info = env.step(OBSERVE)
    assert (terminated, truncated) == (False, True)
    assert info["solved"] is False
    with pytest.raises(ResetNeeded):
        env.step(OBSERVE)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(answer(solution))
    assert (reward, terminated, truncated, info["solved"], info["score"]) == (1.0, True, False, True, 1.0)
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(answer(solution[::-1]))
    assert terminated
    assert info["solved"] is False


def test_an_answer_in_the_last_turn_counts():
    env = JigsawVisionEnv(reveal=True, max_turns=1, **SMALL)
    _, info = env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(answer(info["solution"]))
    assert (terminated, truncated, info["solved"]) == (True, False, True)


def test_nothing_tells_the_solution_unless_asked():
    env = JigsawVisionEnv(**SMALL)
    _, info = env.reset(seed=0)
    _, _, _, _, later = env.step(OBSERVE)
    for key in ("solution", "pieces_in_place", "level", "permutation"):
        assert key not in info
        assert key not in later


def test_actions_that_are_no_text():
    env = JigsawVisionEnv(**SMALL)
    env.reset(seed=0)
    for action in (3, None, b"bytes", ["list"]):
        with pytest.raises(ConfigurationError, match="give the text of a turn"):
            env.step(action)


def test_same_seed_same_episode_other_seed_other_episode():
    options = {"level": None, "crop": "random", "rotations": True, "labels": True, "erode": 0.05, **SMALL}
    first, second = JigsawVisionEnv(**options), JigsawVisionEnv(**options)
    for env in (second,):
        env.reset(seed=99)  # another history
        env.step(OBSERVE)
    one, two = first.reset(seed=7), second.reset(seed=7)
    assert same(one, two)
    for env in (first, second):
        env.action_space.seed(3)
    for _ in range(3):
        text = first.action_space.sample()
        assert text == second.action_space.sample()
        one, two = first.step(text), second.step(text)
        assert same(one, two)
        if one[2] or one[3]:
            break
    assert same(first.reset(), second.reset())  # the stream goes on alike
    images = {first.reset(seed=seed)[0]["image"].tobytes() for seed in range(10)}
    assert len(images) == 10


def test_observations_that_are_kept_never_change():
    env = JigsawVisionEnv(max_turns=100, **SMALL)
    kept = [env.reset(seed=0)[0]]
    copies = [copy.deepcopy(kept[0])]
    views = []
    for turn in range(20):
        observation, _, _, _, info = env.step(f"<code>swap({turn % 4}, {(turn + 1) % 4})\nobserve()</code>")
        kept.append(observation)
        copies.append(copy.deepcopy(observation))
        views.append((info["images"][0], info["images"][0].copy()))
        if turn % 3 == 0:
            kept.pop(), copies.pop()  # only the view in info is left
    env.reset(seed=1)
    env.step(OBSERVE)
    assert all(map(same, kept, copies))
    assert all(np.array_equal(view, before) for view, before in views)


def test_canvases_that_nobody_holds_are_used_again():
    env = JigsawVisionEnv(max_turns=100, **SMALL)
    env.reset(seed=0)
    addresses = {env.step(OBSERVE)[0]["image"].ctypes.data for _ in range(30)}
    assert len(addresses) <= 3


def test_pickling_and_copying_in_the_middle_of_an_episode():
    env = JigsawVisionEnv(max_turns=9, reveal=True, **SMALL)
    env.reset(seed=3)
    env.step("<code>mine = state\nc = crop(image_list[0], [0, 0, .5, .5])\nswap(0, 1)</code>")
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    script = [
        "<code>mine[2], mine[3] = mine[3], mine[2]\nobserve()</code>",
        "<code>zoom(c, 2)</code>",
        answer(list("ABCD")),
    ]
    for text in script:
        expected = env.step(text)
        for twin in twins:
            assert same(expected, twin.step(text))
    expected = env.reset()
    for twin in twins:
        assert same(expected, twin.reset())


def test_long_episodes_do_not_run_out_of_images():
    env = JigsawVisionEnv(max_turns=200, **SMALL)
    env.reset(seed=0)
    for _ in range(150):
        assert env.step("<code>swap(0, 1)\nobserve()</code>")[4]["error"] is None


def test_the_text_says_when_image_and_state_differ():
    env = JigsawVisionEnv(**SMALL)
    env.reset(seed=0)
    assert "another order than the state" in env.step("<code>observe()\nswap(0, 1)</code>")[0]["text"]
    assert "another order" not in env.step("<code>swap(0, 1)\nobserve()</code>")[0]["text"]


def test_an_episode_that_ends_without_an_answer_says_so():
    env = JigsawVisionEnv(reward="official_code", **SMALL)
    env.reset(seed=0)
    observation, _, terminated, _, _ = env.step("hello")
    assert terminated
    assert "without an answer" in observation["text"]
    env.reset(seed=0)
    for text in ("<think></think><code># nothing</code>", "<think></think><code>" + "#" * 4001 + "</code>"):
        assert not env.step(text)[2]  # a code block that fails costs nothing in the released code


def test_turned_pieces_are_square_and_need_their_angles():
    env = JigsawVisionEnv(grid=(2, 3), rotations=True, reveal=True, image_size=60, images=[photo()])
    _, info = env.reset(seed=1)
    assert all(image.shape == (20, 20, 3) for image in info["images"])
    solution = info["solution"]
    assert any(angle for _, angle in solution)
    _, _, _, _, info = env.step(answer([name for name, _ in solution]))
    assert not info["solved"]
    env.reset(seed=1)
    _, _, _, _, info = env.step(answer(solution))
    assert info["solved"]
    env.reset(seed=1)
    text = f"<code>state = {json.dumps(solution)}\nobserve()</code>"
    _, _, _, _, info = env.step(text)
    assert info["pieces_in_place"] == 6


def test_images_of_every_kind_make_puzzles(tmp_path):
    """Odd sizes and modes end to end; the pixels of each mode are tested with the image sources."""
    grey = Image.fromarray(photo()[..., 0])
    grey.save(tmp_path / "grey.png")
    Image.fromarray(photo(1)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(photo(2)).convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(photo()[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([photo(3), photo(3)[..., :1]]), "RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(photo(4, 1, 1)).save(tmp_path / "tiny.png")
    Image.fromarray(photo(5, 3, 200)).save(tmp_path / "long.png")
    with pytest.warns(SkippedImageWarning, match=r"1 image skipped \(tiny.png: it is too small: 1x1 pixels"):
        env = JigsawVisionEnv(images=tmp_path, grid=3, image_size=50, reveal=True)
    for index in range(6):
        observation, info = env.reset(seed=0, options={"image": index})
        assert observation in env.observation_space
        assert all(image.shape == (16, 16, 3) for image in info["images"])


def test_a_file_that_turns_out_to_be_corrupt_is_passed_over_alike_everywhere(tmp_path):
    for seed in range(4):
        Image.fromarray(photo(seed)).save(tmp_path / f"{seed}.png")
    data = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(data[: len(data) // 2])
    envs = [JigsawVisionEnv(images=tmp_path, **SMALL) for _ in range(2)]
    for seed in range(30):
        assert same(envs[0].reset(seed=seed), envs[1].reset(seed=seed))
    for name in "013":
        path = tmp_path / f"{name}.png"
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError):
        JigsawVisionEnv(images=tmp_path, **SMALL).reset(seed=0)


def test_splits_share_no_photograph():
    pictures = [photo(seed) for seed in range(30)]
    ids = {}
    for split in ("train", "test"):
        env = JigsawVisionEnv(images=pictures, split=split, **SMALL)
        ids[split] = {env.reset(seed=seed)[1]["image_id"] for seed in range(100)}
    assert ids["train"]
    assert ids["test"]
    assert not ids["train"] & ids["test"]


def test_rendering(capsys, monkeypatch):
    array = JigsawVisionEnv(render_mode="rgb_array", **SMALL)
    observation, _ = array.reset(seed=0)
    np.testing.assert_array_equal(array.render(), observation["image"])
    ansi = JigsawVisionEnv(render_mode="ansi", **SMALL)
    ansi.reset(seed=0)
    text = ansi.render()
    assert text.count("\u2580") == 64 * 32
    red, green, blue = observation["image"][0, 0]
    assert text.startswith(f"\x1b[38;2;{red};{green};{blue}m")
    monkeypatch.setenv("DISPLAY", ":987")  # a screen that does not exist: the picture goes to the terminal
    human = JigsawVisionEnv(render_mode="human", **SMALL)
    human.reset(seed=0)
    human.step(OBSERVE)
    human.close()
    assert "o: <image>" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="render_mode"):
        assert JigsawVisionEnv(**SMALL).render() is None


def test_sampled_actions_can_all_be_carried_out():
    for dialect in ("code", "tools"):
        for rotations in (False, True):
            env = JigsawVisionEnv(dialect=dialect, rotations=rotations, max_turns=1000, **SMALL)
            env.action_space.seed(1)
            env.reset(seed=0)
            kinds = set()
            for _ in range(60):
                text = env.action_space.sample()
                assert text in env.action_space
                _, _, terminated, _, info = env.step(text)
                assert info["error"] is None
                kinds |= {type(primitive).__name__ for primitive in info["primitives"]}
                if terminated:
                    env.reset()
            assert kinds == {"Swap", "Observe", "Crop", "Zoom", "Answer"}
    with pytest.raises(ValueError, match="neither a mask"):
        env.action_space.sample(mask=3)


def test_the_action_space_contains_any_unicode_up_to_its_length():
    space = JigsawVisionEnv(**SMALL).action_space
    assert "\u202e\U0001f9e9\x00" in space
    assert "x" * 32_768 in space
    assert "x" * 32_769 not in space
    assert 3 not in space


def test_the_largest_grid_with_the_longest_text_stays_in_the_space():
    env = gymnasium.make("agile_gym:JigsawVision-v0", grid=10, image_size=64, rotations=True, initial_view="both")
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    names = json.dumps([[name, 0] for name in env.unwrapped.episode.workspace.names])
    observation, *_ = env.step(f"<code>state = {names}\nobserve()</code>")
    assert observation in env.observation_space
