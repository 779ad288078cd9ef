"""Cold starts: balance, filters, repetition, interruption."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agile_gym.cli import main
from agile_gym.coldstart import ColdStartConfig, make_cold_start
from agile_gym.coldstart.making import count_episodes
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import AgileGymError, ConfigurationError
from agile_gym.images import open_images
from agile_gym.policies import RandomPolicy
from agile_gym.transcripts import export_sharegpt, read_transcripts
from tests.helpers.expert_episodes import content, stored
from tests.helpers.teachers import Clever, Failing

SMALL = {"image_size": 48}
HERE = Path(__file__).parent


def make(folder, count=20, **settings):
    playing = {name: settings.pop(name) for name in list(settings) if name in PLAYING}
    settings["options"] = {**SMALL, **settings.get("options", {})}
    return make_cold_start(folder, ColdStartConfig(count=count, **settings), **playing)


PLAYING = ("teacher_policy", "batch", "workers", "format", "resume", "overwrite", "on_attempt", "teacher_object")


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
    assert {transcript.task["image_id"] for transcript in read_transcripts(tmp_path, images=False)} == allowed
    assert len(allowed) < len(everything)
    with pytest.raises(ConfigurationError, match="training images only"):
        ColdStartConfig(split="test")


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


def noise(side=64, seed=0):
    return np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)


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


def test_filters_of_errors_and_form(tmp_path):
    settings = {"teacher_options": {"right": 0.8, "errs": 0.3}, "grid": 2, "turns": 2, "balance": "none"}
    rules = {"teacher": "tests.helpers.teachers:Clever", "distinct_texts": False, "max_attempts": 100}
    strict = make(tmp_path / "a", 1000, **settings, **rules)
    lenient = make(tmp_path / "b", 1000, **settings, **rules, allow_errors=True)
    draws = np.array([np.random.default_rng(t.task["policy_seed"]).random(2) for t in read_transcripts(tmp_path / "b")])
    assert lenient.kept == len(draws) == 100 - lenient.rejected["unsolved"]
    assert (draws[:, 0] < 0.8).all()
    assert strict.kept == int((draws[:, 1] >= 0.3).sum()) < lenient.kept
    assert strict.rejected["error"] == lenient.kept - strict.kept
    report = make(tmp_path / "c", 10, teacher="tests.helpers.teachers:careless", grid="1x2", turns=1, max_attempts=5)
    assert report.rejected == {"unsolved": 5}
    env = JigsawVisionEnv(grid="1x2", reveal=True)
    env.reset(seed=0)
    report = make_cold_start(
        tmp_path / "d",
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


def test_parquet_is_resumed_too(tmp_path):
    pytest.importorskip("pyarrow")
    seen = []

    def interrupt(attempts, kept):
        seen.append(attempts)
        if attempts == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", format="parquet", on_attempt=interrupt)
    assert seen == list(range(1, 14))
    report = make(tmp_path / "a", format="parquet", resume=True)
    make(tmp_path / "b")
    assert report.complete
    assert stored(tmp_path / "a") == stored(tmp_path / "b")


KILLED = {"count": 40, "options": {"image_size": 120}}


def command(folder, *words):
    arguments = ["coldstart", "--output", str(folder), "--count", "40", "--option", "image_size=120", *words]
    return [sys.executable, "-m", "agile_gym", *arguments]


@pytest.mark.parametrize(("workers", "times"), [("1", 2), ("2", 1)])
def test_a_cold_start_that_is_killed_again_and_again_resumes_to_the_same(tmp_path, workers, times):
    make(tmp_path / "whole", **KILLED)
    rng, lines = random.Random(1), 0
    path = tmp_path / "part" / "episodes.jsonl"
    for kill in range(times):
        process = subprocess.Popen(
            command(tmp_path / "part", "--workers", workers, *(["--resume"] if kill else [])),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        goal, deadline = lines + rng.randint(1, 12), time.monotonic() + 60
        while (path.read_bytes().count(b"\n") if path.exists() else 0) < goal:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        lines = path.read_bytes().count(b"\n")
    assert times <= lines < 40
    assert make(tmp_path / "part", **KILLED, resume=True, batch=3).complete
    assert stored(tmp_path / "part") == stored(tmp_path / "whole")
    figures = [json.loads((tmp_path / name / "cold_start.json").read_text()) for name in ("part", "whole")]
    assert figures[0] == figures[1]


def test_a_finished_cold_start_is_resumed_without_playing(tmp_path):
    first = make(tmp_path)
    before = (tmp_path / "episodes.jsonl").read_bytes()
    again = make(tmp_path, resume=True, on_attempt=lambda *_: pytest.fail("it played"))
    assert again == first
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


def test_what_is_there_is_not_mixed_with_other_settings(tmp_path):
    make(tmp_path / "a")
    for settings, word in (
        ({"seed": 1}, "seed"),
        ({"count": 21}, "count"),
        ({"grid": 3}, "grid"),
        ({"images": [noise(), noise(seed=1)], "split": None}, "images"),
        ({"options": {"gap": 0.0}}, "options"),
    ):
        with pytest.raises(ConfigurationError, match=rf"cannot be resumed: .*\({word}"):
            make(tmp_path / "a", **{"count": 20, **settings}, resume=True)
    with pytest.raises(ConfigurationError, match="holds transcripts already"):
        make(tmp_path / "a")
    before = stored(tmp_path / "a")
    make(tmp_path / "a", overwrite=True)
    assert stored(tmp_path / "a") == before
    (tmp_path / "a" / "cold_start.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="is damaged"):
        make(tmp_path / "a", resume=True)
    (tmp_path / "a" / "cold_start.json").unlink()
    with pytest.raises(ConfigurationError, match="no cold start"):
        make(tmp_path / "a", resume=True)


LOST = {"count": 8, "options": {"image_size": 64}}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A cold start that was interrupted, so that its manifest counts what was played."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(attempts, kept):
        if kept == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(folder, **LOST, on_attempt=stop)
    return folder


@pytest.mark.parametrize("lost", ["all", "first", "third", "last", "file"])
def test_episodes_that_were_lost_are_not_made_up_for_by_others(tmp_path, stopped, lost):
    folder = shutil.copytree(stopped, tmp_path / "a")
    path = folder / "episodes.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    if lost == "file":
        path.unlink()
    else:
        number = {"first": 0, "third": 2, "last": 5}.get(lost)
        path.write_bytes(b"" if number is None else b"".join(lines[:number] + lines[number + 1 :]))
    with pytest.raises(ConfigurationError, match="has lost episodes"):
        make(folder, **LOST, resume=True)
    with pytest.raises(ConfigurationError, match=r"has lost episodes|holds no transcripts"):
        count_episodes(folder)
    path.write_bytes(b"".join(lines))
    assert make(folder, **LOST, resume=True).complete
    assert count_episodes(folder) == 8


@pytest.mark.parametrize("number", [0, 2, 4])
def test_an_episode_that_was_lost_after_a_kill_is_missed(tmp_path, stopped, number):
    folder = shutil.copytree(stopped, tmp_path / "a")
    manifest = json.loads((folder / "cold_start.json").read_text())
    (folder / "cold_start.json").write_text(json.dumps({**manifest, "kept": 0, "attempts": 0, "rejected": {}}))
    lines = (folder / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "episodes.jsonl").write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    with pytest.raises(ConfigurationError, match="has lost episodes: an episode is missing before"):
        make(folder, **LOST, resume=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"3",
        b"\0\xff",
        b'{"config": {',
        b'{"config": 1}',
        b"[" * 100_000,
        "rejected",
        "kept",
        "dir",
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, stopped, content):
    folder = shutil.copytree(stopped, tmp_path / "a")
    path = folder / "cold_start.json"
    manifest = json.loads(path.read_text())
    path.unlink()
    if content == "dir":
        path.mkdir()
    elif isinstance(content, str):
        path.write_text(json.dumps({**manifest, content: {"surplus": "x"}}))
    else:
        path.write_bytes(content)
    before = (folder / "episodes.jsonl").read_bytes()
    with pytest.raises(ConfigurationError, match=r"cold_start\.json (is damaged|cannot be read)"):
        make(folder, **LOST, resume=True)
    assert (folder / "episodes.jsonl").read_bytes() == before


def test_a_file_that_is_no_manifest_is_not_replaced(tmp_path):
    (tmp_path / "cold_start.json").write_text('{"mine": 1}')
    for options in ({}, {"overwrite": True}):
        with pytest.raises(ConfigurationError, match="is not what agile-gym coldstart wrote"):
            make(tmp_path, count=2, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["cold_start.json"]


def test_photographs_that_moved_and_a_folder_among_them(tmp_path, monkeypatch):
    for number, name in enumerate(("one", "two", "three")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(noise(100, number)).save(tmp_path / "photos" / f"{name}.png")
    settings = {"count": 6, "split": None, "options": {"image_size": 64}}

    def stop(attempts, kept):
        if kept == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "photos" / "made"  # its images are not taken for photographs
    with pytest.raises(KeyboardInterrupt):
        make(folder, images=str(tmp_path / "photos"), **settings, on_attempt=stop)
    (tmp_path / "photos").rename(tmp_path / "moved")
    folder = tmp_path / "moved" / "made"
    monkeypatch.chdir(tmp_path)
    for images in ("moved", "moved/", "./x/../moved", str(tmp_path / "moved")):
        (tmp_path / "x").mkdir(exist_ok=True)
        make(folder, images=images, **settings, resume=True)
    Image.fromarray(noise(100, 9)).save(tmp_path / "moved" / "four.png")
    with pytest.raises(ConfigurationError, match="other photographs"):
        make(folder, images=str(tmp_path / "moved"), **settings, resume=True)


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
        ({"options": {"reveal": False}}, "a teacher may know"),
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


def test_the_command(tmp_path, capsys, monkeypatch):
    Image.fromarray(noise(200)).save(tmp_path / "noise.png")
    Image.fromarray(noise(200, 1)).save(tmp_path / "more.png")
    words = ["--images", str(tmp_path), "--split", "all", "--option", "image_size=64", "--option", "prompt=short"]
    assert main(["coldstart", "--output", str(tmp_path / "a"), "--count", "18", "--turns", "2", "5", *words]) == 0
    printed = capsys.readouterr()
    assert "2x2, turns:           2      3      4      5    all" in printed.out
    assert f"Written: {tmp_path / 'a'} (18 episodes)" in printed.out
    transcripts = list(read_transcripts(tmp_path / "a"))
    assert len({transcript.task["image_id"] for transcript in transcripts}) == 2
    assert all(turn.text.index("</think>") < 80 for transcript in transcripts for turn in transcript.turns)
    assert export_sharegpt(read_transcripts(tmp_path / "a"), tmp_path / "export") == 18

    monkeypatch.chdir(HERE)
    words = ["--teacher", "random", "--grid", "1x2", "--turns", "1", "--same-texts", "--max-attempts", "9"]
    assert main(["coldstart", "--output", str(tmp_path / "b"), "--count", "9", *words]) == 1
    assert "9 episodes were wanted and" in capsys.readouterr().err
    assert main(["coldstart", "--output", str(tmp_path / "c"), "--style", "short", *words]) == 1
    assert "--style is an option of the expert" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "part"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    path = tmp_path / "part" / "episodes.jsonl"
    while not path.exists() or not path.read_bytes():
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, 2)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "episodes are kept; add --resume to go on." in printed


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
