import dataclasses
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageFont

from agile_gym.errors import ConfigurationError
from agile_gym.reporting import write_gif
from agile_gym.reporting.gif import HEIGHT, MARGIN, PANEL, PANEL_TOP, WIDTH, _wrapped, _written
from tests.helpers.viewer_samples import ERRS, HOSTILE, LOOKS, NEVER, Script, play


def frames_of(path):
    with Image.open(path) as gif:
        for number in range(gif.n_frames):
            gif.seek(number)
            yield np.asarray(gif.convert("RGB")).astype(int), gif.info["duration"]


@pytest.mark.slow
def test_gif_shows_every_turn(tmp_path):
    (transcript,) = play(LOOKS, [0])
    path = tmp_path / "episode.gif"
    assert write_gif(transcript, path, seconds=1.5) == 7
    frames = list(frames_of(path))
    assert [duration for _, duration in frames] == [1500] * 6 + [3000]
    assert all(frame.shape == (HEIGHT, WIDTH, 3) for frame, _ in frames)
    right = slice(MARGIN * 2 + PANEL, MARGIN * 2 + 2 * PANEL)
    for number, turn in enumerate(transcript.turns[:4], 1):
        shown = Image.fromarray(turn.images[0])
        scale = min(1, PANEL / max(shown.size))
        size = (round(shown.width * scale), round(shown.height * scale))
        panel = frames[number][0][PANEL_TOP : PANEL_TOP + size[1], right][:, : size[0]]
        expected = np.asarray(shown.resize(size, Image.Resampling.BOX)).astype(int)
        assert np.abs(panel - expected).mean() < 12, number
    assert (frames[5][0][PANEL_TOP : PANEL_TOP + PANEL, right] == 255).all()  # an answer is shown no image
    solution = frames[6][0][PANEL_TOP : PANEL_TOP + PANEL, right]
    assert (solution != 255).any(axis=2).mean() > 0.9
    assert 20_000 < path.stat().st_size < 2_000_000
    texts = [frame[PANEL_TOP + PANEL + 30 :] for frame, _ in frames]
    assert all((text < 128).any() for text in texts[1:])  # something is written below the panels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "count"),
    [
        (ERRS, {"max_turns": 4}, 6),
        (NEVER, {"max_turns": 2, "keep_images": False}, 4),
        (NEVER, {"max_turns": 1, "grid": 10}, 3),
        (NEVER, {"max_turns": 1, "grid": "1x2", "image_size": (40, 400)}, 3),
        (Script('<code>turn("A", 90)\nobserve()</code>'), {"max_turns": 1, "rotations": True}, 3),
        (Script(HOSTILE * 50, "", "\n" * 100, "x" * 30_000), {"max_turns": 4, "initial_view": "board"}, 6),
    ],
)
def test_any_episode_becomes_a_gif(tmp_path, script, options, count):
    (transcript,) = play(script, [3], **options)
    assert write_gif(transcript, tmp_path / "a.gif", seconds=0.1) == count
    assert len(list(frames_of(tmp_path / "a.gif"))) == count


def test_turned_pieces_are_drawn_turned(tmp_path):
    script = Script('<think>.</think><code>turn("B", 90)\nobserve()</code>')
    (transcript,) = play(script, [0], max_turns=1, rotations=True, gap=0)
    write_gif(transcript, tmp_path / "a.gif")
    frame = list(frames_of(tmp_path / "a.gif"))[1][0]
    half = PANEL // 2
    # The inside of the piece at the top right, without its name: on the board, and in the image that the model saw.
    inside = (slice(PANEL_TOP + 30, PANEL_TOP + half - 10), slice(half + 20, PANEL - 20))
    drawn, saw = (
        frame[inside[0], left + inside[1].start : left + inside[1].stop] for left in (MARGIN, 2 * MARGIN + PANEL)
    )
    assert np.abs(drawn - saw).mean() < 20
    assert np.abs(drawn - saw[::-1, ::-1]).mean() > 20


def test_long_texts_are_cut_to_their_room():
    font = ImageFont.load_default(16)
    for text in ("word " * 200, "x" * 3000, "a\n" * 30, "", "\u202e\ud800\x00", "one\ntwo"):
        for lines in (1, 3):
            wrapped = _wrapped(text, font, 200, lines)
            assert 1 <= len(wrapped) <= lines
            assert all(font.getlength(line) <= 200 for line in wrapped)
            assert all(line.isprintable() for line in wrapped)
    assert _wrapped("one\ntwo", font, 200, 3) == ["one", "two"]
    assert _wrapped("one\ntwo\nthree", font, 200, 2) == ["one", "two..."]


def test_mistakes(tmp_path):
    (transcript,) = play(NEVER, [0], max_turns=1, image_size=32)
    for seconds in (0, -1, 1000, float("nan")):
        with pytest.raises(ConfigurationError, match="seconds"):
            write_gif(transcript, tmp_path / "a.gif", seconds=seconds)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_gif(transcript, tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_gif(transcript, tmp_path / "missing" / "a.gif")
    broken = dataclasses.replace(transcript, task={**transcript.task, "grid": "round"})
    with pytest.raises(ConfigurationError, match="has the grid 'round'"):
        write_gif(broken, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_neither_turns_nor_names_without_end_are_drawn(tmp_path):
    (transcript,) = play(NEVER, [0], max_turns=1, image_size=128)
    names = ["A" * 10_000_000, "B\n", "", "D"]
    long = dataclasses.replace(transcript, task={**transcript.task, "names": names})
    tracemalloc.start()
    assert write_gif(long, tmp_path / "a.gif") == 3
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    many = dataclasses.replace(transcript, turns=transcript.turns * 1001)
    with pytest.raises(ConfigurationError, match="has 1,001 turns; a GIF shows at most 1,000"):
        write_gif(many, tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_what_was_thought_and_done_are_told_apart():
    (transcript,) = play(Script("<think>a <think>b</think> <code>c</code></think>d<code>e</code>"), [0], max_turns=1)
    assert [text for text, _ in _written(transcript.turns[0])] == ["a <think>b</think> <code>c</code>", "de"]
