"""AGILE's released conversations, as small files made by hand, and this library's own exports read back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ConfigurationError, TranscriptError
from agile_gym.transcripts import (
    TranscriptWriter,
    export_sharegpt,
    importing,
    read_agile_cold_start,
    read_transcripts,
)
from tests.helpers.made_transcripts import played

TASK = "Restore the picture. state = [A, B, C, D]\nA <image> B <image> C <image> D <image>"
SWAP = "state[0], state[1] = state[1], state[0]\nobservation_image_1 = observation(state)"
CROP = "crop_image_1 = crop(image_list[0], [0.5, 0.0, 1.0, 1.0])"
SHOWN = "The code is executed successfully. `observation_image_1` is<image>"


def think(block):
    return f"<think>Let me see.</think>{block}"


def picture(value, size=(6, 4)):
    return np.full((*size, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Make image folders as AGILE's are called, with the pictures 0 to 5 of different values."""
    for place in range(6):
        path = tmp_path / ("jigsaw" if place < 3 else "jigsaw2") / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(place)).save(path)
    return tmp_path


PATHS = [f"jigsaw/{place}.png" for place in range(3)] + [f"jigsaw2/{place}.png" for place in range(3, 6)]


def messages(*texts, keys=("role", "content"), names=("user", "assistant")):
    return [{keys[0]: names[place % 2], keys[1]: text} for place, text in enumerate(texts)]


TEXTS = (
    TASK,
    think(f"<code>{SWAP}</code>"),
    SHOWN,
    think(f"<code>{CROP}</code>"),
    "The code is executed successfully. `crop_image_1` is<image>",
    think('<answer>["B", "A", "C", "D"]</answer>'),
)


def write(folder, *entries):
    path = folder / "cold_start_2.json"
    path.write_text(json.dumps(list(entries)), encoding="utf-8")
    return path


def test_images_of_a_conversation_are_read_once_and_have_a_largest_sum(folder, monkeypatch):
    said = messages(TASK, *TEXTS[1:2], "<image>" * 20, TEXTS[-1])
    file = write(folder, {"messages": said, "images": PATHS[:4] + ["jigsaw/0.png", "./jigsaw/0.png"] * 10})
    (episode,) = read_agile_cold_start(file)
    assert len({id(image) for image in episode.images}) == 5
    monkeypatch.setattr(importing, "MAX_PIXELS", 24 * 24)
    assert len(next(read_agile_cold_start(file)).images) == 24
    monkeypatch.setattr(importing, "MAX_PIXELS", 24 * 24 - 1)
    with pytest.raises(TranscriptError, match=r"conversation 0 .*shows images of more than 575 pixels together"):
        next(read_agile_cold_start(file))


def test_answers_of_a_conversation_are_read_in_other_spellings(folder):
    answer = think("<answer>['Image B', 'a', 'c ', 'F', 'piece e', 'D']</answer>")
    entry = {"messages": messages(TASK.replace("<image>", "", 4) + "<image>" * 6, answer), "images": PATHS}
    (episode,) = read_agile_cold_start(write(folder, entry), grid="2x3")
    assert (episode.solution, episode.solved, episode.turns[0].error) == (tuple("BACFED"), True, None)


@pytest.mark.parametrize("style", ["messages", "conversations"])
def test_a_conversation_becomes_a_transcript(folder, style):
    if style == "messages":
        entry = {"messages": messages(*TEXTS), "images": PATHS}
    else:
        entry = {"conversations": messages(*TEXTS, keys=("from", "value"), names=("human", "gpt")), "images": PATHS}
    (episode,) = read_agile_cold_start(write(folder, entry))
    assert (episode.id, episode.policy, episode.system) == ("cold_start_2-000000", "agile-cold-start", None)
    assert episode.prompt == TASK
    assert [image[0, 0, 0] for image in episode.images] == [0, 1, 2, 3, 4, 5]
    assert len(episode.prompt_images) == 4
    assert [turn.text for turn in episode.turns] == list(TEXTS[1::2])
    assert [turn.feedback for turn in episode.turns] == [*TEXTS[2::2], ""]
    assert [len(turn.images) for turn in episode.turns] == [1, 1, 0]
    assert [turn.primitives for turn in episode.turns] == [("Swap", "Observe"), ("Crop",), ("Answer",)]
    assert [turn.error for turn in episode.turns] == [None, None, None]
    assert [turn.state for turn in episode.turns] == [("B", "A", "C", "D")] * 3
    assert (episode.solution, episode.solved, episode.score) == (("B", "A", "C", "D"), True, 1.0)
    assert episode.reward == pytest.approx(
        {"accuracy": 1.0, "format": 1.0, "step": -0.1, "score": 1.0, "total": 0.9}
    )  # two turns with code
    assert [turn.reward["total"] for turn in episode.turns] == pytest.approx([0, 0, 0.9])
    assert (episode.truncated, episode.segments) == (False, ())
    assert episode.details == {"file": "cold_start_2.json", "index": 0}
    assert episode.task == {
        "grid": "2x2",
        "level": 2,
        "names": ["A", "B", "C", "D"],
        "dialect": "code",
        "initial_view": "pieces",
        "piece_size": [6, 4],
        "rotations": False,
        "max_turns": 3,
        "seed": None,
        "policy_seed": None,
        "image_id": "",
    }
    assert [message.text for message in episode.messages()] == list(TEXTS)


def test_errors_unknown_code_and_system_prompts(folder):
    texts = (
        TASK,
        think("<code>import os</code>"),
        "Error: name 'os' is not defined",
        think("<code>observation_image_1 = paint(state)</code>"),  # AGILE ran it, this dialect has no such word
        SHOWN,
        "I give up.",
    )
    said = [{"role": "system", "content": "Be good."}, *messages(*texts)]
    (episode,) = read_agile_cold_start(write(folder, {"messages": said, "images": PATHS[:5]}))
    assert episode.system == "Be good."
    assert [turn.error for turn in episode.turns] == ["not_allowed", None, "no_action"]
    assert [turn.primitives for turn in episode.turns] == [(), (), ()]
    assert (episode.solved, episode.solution, episode.score, episode.truncated) == (False, (), 0.0, True)
    assert episode.task["level"] is None
    assert (episode.reward["accuracy"], episode.reward["format"]) == (0.0, 0.0)


def test_a_reference_image_is_no_piece(folder):
    texts = (TASK + " whole: <image>", "I give up.")
    (episode,) = read_agile_cold_start(write(folder, {"messages": messages(*texts), "images": PATHS[:5]}))
    assert episode.task["grid"] == "2x2"
    assert len(episode.prompt_images) == 5


def test_images_are_found_below_the_root_only(folder):
    root = folder
    (root / "elsewhere").mkdir()
    file = root / "elsewhere/data.json"
    inside = ["/home/someone/AGILE_Data/cold_start/jigsaw/0.png", "./jigsaw/1.png", "x\\jigsaw\\2.png", "jigsaw2/3.png"]
    entry = {"messages": messages(TASK, TEXTS[-1]), "images": inside}
    file.write_text(json.dumps([entry]))
    (episode,) = read_agile_cold_start(file, root)
    assert [image[0, 0, 0] for image in episode.images] == [0, 1, 2, 3]
    with pytest.raises(TranscriptError, match=r"conversation 0 .*'/home/someone.*which is not in .*elsewhere"):
        list(read_agile_cold_start(file))
    for path in ("../jigsaw/0.png", "jigsaw/../../../etc/passwd", "jigsaw\\..\\..\\x.png", "a\0b"):
        file.write_text(json.dumps([entry | {"images": [path, *inside[1:]]}]))
        with pytest.raises(TranscriptError, match="which leads out of the folder of images"):
            list(read_agile_cold_start(file, root))


def test_episodes_are_read_one_by_one(folder):
    good = {"messages": messages(*TEXTS), "images": PATHS}
    path = write(folder, good, good | {"images": ["gone.png", *PATHS[1:]]})
    episodes = read_agile_cold_start(path)
    assert next(episodes).solved
    with pytest.raises(TranscriptError, match=r"conversation 1 \(from 0\): it names the image 'gone.png'"):
        next(episodes)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (7, "has 7 where a dictionary must be"),
        ({}, "has no 'conversations'"),
        ({"messages": []}, "has no messages"),
        ({"messages": "hello"}, "has 'hello' as 'messages'"),
        ({"messages": [{"role": "user"}]}, "has no 'content'"),
        ({"messages": [{"role": "user", "content": [1]}]}, r"has \[1\] as 'content'"),
        ({"messages": messages("a", "b", names=("user", "tool"))}, "of the role 'tool'"),
        ({"messages": messages("a")}, "does not alternate"),
        ({"messages": messages("a", "b", names=("assistant", "user"))}, "does not alternate"),
        ({"messages": [{"role": "system", "content": "s"}]}, "does not alternate"),
        ({"messages": messages(TASK, "b"), "images": PATHS[:3]}, "has 4 image marks in the user's messages, and 3"),
        ({"messages": messages("a", "b"), "images": PATHS[:1]}, "has 0 image marks in the user's messages, and 1"),
        ({"messages": messages("a", think('<answer>["A", "B", "C"]</answer>'))}, "3 pieces, which make no square"),
    ],
)
def test_what_is_no_conversation_is_told(folder, entry, message):
    with pytest.raises(TranscriptError, match=rf"cold_start_2.json, conversation 0 \(from 0\): it .*{message}"):
        list(read_agile_cold_start(write(folder, entry)))


def test_files_that_cannot_be_read(folder):
    with pytest.raises(TranscriptError, match="cannot be read"):
        read_agile_cold_start(folder / "nothing.json")
    path = folder / "cold.json"
    for content, message in ((b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"{}", "not hold a list .* but a dict")):
        path.write_bytes(content)
        with pytest.raises(TranscriptError, match=message):
            read_agile_cold_start(path)
    with pytest.raises(ConfigurationError, match="grid='zwei' is not a grid"):
        read_agile_cold_start(write(folder), grid="zwei")
    (folder / "jigsaw/0.png").write_bytes(b"no image")
    with pytest.raises(TranscriptError, match=r"conversation 0 .*jigsaw/0.png.* cannot be used"):
        list(read_agile_cold_start(write(folder, {"messages": messages(*TEXTS), "images": PATHS})))


def test_an_imported_episode_can_be_stored(folder):
    (episode,) = read_agile_cold_start(write(folder, {"messages": messages(*TEXTS), "images": PATHS}))
    with TranscriptWriter(folder / "run") as writer:
        writer.append(episode)
    (back,) = read_transcripts(folder / "run")
    assert back.task == episode.task
    assert len(back.images) == 6


@pytest.mark.parametrize(("grid", "given"), [("2x2", None), ("3x3", None), ("2x3", "2x3")])
def test_an_export_for_llama_factory_reads_back(tmp_path, grid, given):
    episodes = [episode for episode in played(6, grid=grid) if episode.solved]
    export_sharegpt(episodes, tmp_path)
    back = list(read_agile_cold_start(tmp_path / "agile_gym.json", grid=given))
    assert len(back) == len(episodes) > 2
    for episode, first in zip(back, episodes, strict=True):
        assert [(m.role, m.text) for m in episode.messages()] == [(m.role, m.text) for m in first.messages()]
        assert all(map(np.array_equal, episode.images, first.images))
        assert (episode.solution, episode.solved, episode.reward) == (first.solution, True, first.reward)
        assert [t.primitives for t in episode.turns] == [t.primitives for t in first.turns]
        assert [t.state for t in episode.turns] == [t.state for t in first.turns]
        assert [t.error for t in episode.turns] == [t.error for t in first.turns]
        same = ("grid", "level", "names", "dialect", "piece_size", "rotations")
        assert {key: episode.task[key] for key in same} == {key: first.task[key] for key in same}


def test_reading_the_same_episode_twice_changes_nothing(folder):
    path = write(folder, {"messages": messages(*TEXTS), "images": PATHS})
    first, second = (next(read_agile_cold_start(path)) for _ in range(2))
    assert replace(first, turns=(), prompt_images=()).__dict__ == replace(second, turns=(), prompt_images=()).__dict__
