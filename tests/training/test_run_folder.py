"""The folder of a run: what is taken for one, what is removed, who may work in it, and damaged files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from agile_gym.errors import ConfigurationError
from agile_gym.outputs import MARK
from agile_gym.training.folder import KIND, STAGES, RunFolder, read_run_settings
from agile_gym.training.settings import read_settings

WRITTEN = (
    *("metrics.jsonl", "metrics.csv", "report.html", "wandb-id.txt", "wandb/run-1/files/config.yaml"),
    *("vision/checkpoint.pt", "vision/model/config.json", "vision/model/model.safetensors", "sft/model/tokenizer.json"),
    *("grpo/model/model-00001-of-00002.safetensors", "grpo/model/chat_template.jinja"),
    *("grpo/checkpoint/manifest.json", "grpo/checkpoint/learner_group/learner/rl_module/default_policy/metadata.json"),
    *("sft/checkpoint.partial/state.pkl", "sft/checkpoint.previous/env_runner/state.pkl"),
    *("cold-start/episodes.jsonl", "cold-start/cold_start.json", f"cold-start/images/ab/{'ab' * 32}.png"),
    *("replay/episodes-00000.parquet", "tensorboard/vision/events.out.tfevents.1.host"),
    *("vision/probe.json", "evaluation/grpo.jsonl", "evaluation/grpo-transcripts/episodes.jsonl"),
)


@pytest.fixture(scope="module")
def settings():
    return read_settings("tiny")


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def begin(folder, settings, content=None, **options):
    place = RunFolder(folder, **options)
    try:
        place.begin(settings, content or {})
    finally:
        place.close()
    return place


@pytest.fixture
def run(tmp_path, settings):
    """A run that has done some."""
    begin(tmp_path / "run", settings).finish("vision")
    fill(tmp_path / "run", *WRITTEN)
    return tmp_path / "run"


def refused(folder, match, **options):
    """Check that a folder is refused in one line, and stays as it is; return the line."""
    before = tree(folder)
    with pytest.raises(ConfigurationError, match=match) as caught:
        RunFolder(folder, **options)
    assert tree(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_run_is_marked_first_and_gone_on_with(tmp_path, settings):
    folder = tmp_path / "deep" / "run"
    place = begin(folder, settings)
    assert json.loads((folder / MARK).read_text()) == {"kind": KIND, "format": 1}
    place.finish("vision")
    refused(folder, "There is a run in .* already. Go on with it")
    place = begin(folder, settings, resume=True)
    assert place.done == ["vision"]
    assert place.is_done("vision")
    assert not place.is_done("sft")


def test_a_folder_that_is_empty_or_only_marked_is_used(tmp_path, settings):
    refused(tmp_path, "There is no run in .* that could be resumed", resume=True)
    RunFolder(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == [MARK]
    refused(tmp_path, "no run", resume=True)  # killed before it had settings
    begin(tmp_path, settings)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize(
    "names",
    [
        ("settings.toml", "main.py", "src/module.py"),  # of a project that has its own settings
        ("settings.toml",),
        ("report.html", "vision/model/config.json"),
        ("notes.txt",),
        (".git/HEAD", "README.md"),
        ("state.json", "metrics.jsonl"),
        ("empty/.keep",),
    ],
)
def test_a_folder_that_holds_no_run_is_left_alone(tmp_path, names, options):
    fill(tmp_path, *names)
    line = refused(tmp_path, "is not empty, and no run is there", **options)
    assert names[0].split("/")[0] in line
    assert "--overwrite" not in line


def test_a_run_is_replaced_with_all_that_it_wrote(run, settings):
    (run / f".report.html-{dead_process()}.new").write_text("half")
    begin(run, settings.changed({"seed": 5}), overwrite=True)
    assert sorted(tree(run)) == sorted([MARK, "settings.toml", "state.json"])
    assert read_run_settings(run).seed == 5


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "main.py", "vision/notes.txt", "grpo/model/notes.md", "grpo/checkpoint/mine.pkl", "src/a/b.py"),
        *("evaluation/mine.json", "evaluation/mine/vision.json", "cold-start/images/cat.png", "sft/model.safetensors"),
        *("tensorboard/mine/events.out.tfevents.1", "replay/cold-start/episodes.jsonl", "cold-start/page.html"),
    ],
)
def test_nothing_is_removed_where_anything_is_foreign(run, name):
    fill(run, name)
    line = refused(run, "Nothing was removed", overwrite=True)
    assert any(part in line for part in (f" {name}.", f" {name.rpartition('/')[0]}/.", f" {name.partition('/')[0]}/."))


def test_links_out_of_a_run_are_not_followed(run, settings, tmp_path):
    outside = tmp_path / "outside"
    fill(outside, "state.pkl", "thesis.tex")
    (run / "sft" / "checkpoint").symlink_to(outside)
    begin(run, settings, overwrite=True)
    assert sorted(tree(outside)) == ["state.pkl", "thesis.tex"]


def test_a_link_to_a_run_is_the_run(run, settings, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert begin(tmp_path / "link", settings, resume=True).done == ["vision"]
    begin(tmp_path / "link", settings, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert sorted(tree(run)) == sorted([MARK, "settings.toml", "state.json"])


def test_places_that_are_no_folders_of_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (tmp_path, Path("/"), tmp_path / "x" / ".."):
        with pytest.raises(ConfigurationError, match="is not a folder for a run alone"):
            RunFolder(place, overwrite=True)
    (tmp_path / "file").write_text("mine")
    for place, match in (
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "file" / "run", "is a file, not a folder"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            RunFolder(place)
    with pytest.raises(ConfigurationError, match="name is too long"):
        RunFolder(tmp_path / ("x" * 300))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_an_older_run_is_not_lost_and_the_line_says_how_to_go_on(run, settings, options):
    (run / MARK).unlink()
    line = refused(run, "a run of an older version", **options)
    (run / MARK).write_text(line.partition(f"{MARK}: ")[2].partition(" and give")[0])
    assert begin(run, settings, resume=True).done == ["vision"]


HOLDER = """
import sys, time
from pathlib import Path
from agile_gym.training.folder import RunFolder
place = RunFolder(Path(sys.argv[1]), resume=True)
print("taken", flush=True)
time.sleep(100)
"""


def test_two_processes_do_not_work_in_one_folder(run, settings):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "taken\n"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            refused(run, "Another process is training in", **options)
        refused(run.parent / "run" / ".." / "run", "Another process", resume=True)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    place = RunFolder(run, resume=True)
    refused(run, "Another process", resume=True)
    place.close()
    begin(run, settings, resume=True)


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"null", b"3", b'{"done": ["ey', b"\0\xff\0", b"[" * 100_000, b"{}", b'{"done": "vision"}'),
        *(b'{"done": [3]}', b'{"done": ["other"]}', b'{"done": [["vision"]]}', b'{"done": ["vision"], "content": []}'),
        None,
    ],
)
def test_a_damaged_state_is_told_with_what_mends_it(run, settings, content):
    (run / "state.json").unlink() if content is None else (run / "state.json").write_bytes(content)
    line = refused(run, r"state\.json is (damaged|missing): it must list the stages", resume=True)
    (run / "state.json").write_text(line[line.index('{"done"') :])
    done = begin(run, settings, resume=True).done
    # cold-start and replay have left episodes, sft a model: what follows a stage tells that it was done.
    assert done == ["vision", "cold-start", "replay", "grpo"]
    assert set(done) <= set(STAGES)


def test_a_state_that_is_no_file(run):
    (run / "state.json").unlink()
    (run / "state.json").mkdir()
    refused(run, "a folder is there, not a file", resume=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_settings_that_were_cut_are_not_taken_for_the_defaults(run, share):
    text = (run / "settings.toml").read_bytes()
    cut = min(int(share * len(text)), len(text) - 1)  # the last one lacks only the end of the line
    (run / "settings.toml").write_bytes(text[:cut])
    refused(run, "settings of the run.*(not whole|damaged).*Restore it from a copy", resume=True)


@pytest.mark.parametrize("content", [b"\0\xff\0", b"[]\n", b"seed = 1\n[grpo]\nlr = 'x'\n", b"[other]\n", None])
def test_settings_that_are_none(run, content):
    (run / "settings.toml").unlink() if content is None else (run / "settings.toml").write_bytes(content)
    refused(run, r"settings.*(missing|damaged|not whole)", resume=True)


def test_every_cut_of_the_settings_is_noticed(tmp_path, settings):
    text = settings.to_toml()
    begin(tmp_path, settings)
    for cut in range(1, len(text), 37):
        (tmp_path / "settings.toml").write_text(text[:-cut])
        with pytest.raises(ConfigurationError, match="settings"):
            read_run_settings(tmp_path)


def test_other_settings_are_named(run, settings):
    other = settings.changed({"grpo.lr": 0.5})
    place = RunFolder(run, resume=True)
    with pytest.raises(ConfigurationError, match=r"other settings in \[grpo\].*lr: .* there, 0.5 now"):
        place.begin(other, {})
    place.close()
    assert read_run_settings(run) == settings


def test_a_path_may_be_spelled_in_another_way_or_move_with_its_content(tmp_path, settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "moved", "others"):
        fill(tmp_path, f"{name}/one.png")
    fill(tmp_path, "model/config.json", "elsewhere/config.json", "changed/config.json")
    Path("elsewhere/config.json").write_text("model/config.json")

    def with_paths(images, model):
        return settings.changed({"images.train": images, "model.path": model})

    def content(images, model):
        from agile_gym.training.stages import fingerprints

        return {**fingerprints(with_paths(images, model).to_mapping()), "images.train": images, "images.test": "t"}

    same = {**content("photos", "model")}
    begin(Path("run"), with_paths("photos", "model"), same)
    for images, model in (
        ("photos/", "model"),
        (str(tmp_path / "photos"), str(tmp_path / "model")),
        ("others/../photos", "./elsewhere/../model"),
        ("moved", "elsewhere"),
    ):
        now = {**content(images, model), "images.train": "photos"}
        begin(Path("run"), with_paths(images, model), now, resume=True)
        assert read_run_settings(Path("run")).images.train == images
    for images, model, match in (("others", "elsewhere", "images"), ("moved", "changed", "model")):
        place = RunFolder(Path("run"), resume=True)
        now = {**content(images, model), "images.train": "photos" if images == "moved" else "others"}
        with pytest.raises(ConfigurationError, match=rf"other settings in \[{match}\]"):
            place.begin(with_paths(images, model), now)
        place.close()
    Path("elsewhere/config.json").write_text("trained anew")
    place = RunFolder(Path("run"), resume=True)
    with pytest.raises(ConfigurationError, match=r"model.*with other content"):
        place.begin(with_paths("moved", "elsewhere"), content("photos", "elsewhere"))


def test_the_command_refuses_a_project_that_has_its_own_settings(tmp_path):
    fill(tmp_path, "settings.toml", "main.py")
    before = tree(tmp_path)
    for flags in ([], ["--resume"], ["--overwrite"]):
        result = subprocess.run(
            [sys.executable, "-m", "agile_gym", "train", "--output", str(tmp_path), *flags],
            capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "holds main.py, settings.toml" in result.stderr
        assert tree(tmp_path) == before


@pytest.mark.parametrize("size", ["4k", "8k", "12k"])
def test_a_full_disk_leaves_a_run_that_is_gone_on_with(disk, settings, size):
    disk.resize(size)
    folder = disk.path / "run"
    (disk.path / "filler").write_bytes(b"x" * (int(size[:-1]) - 4) * 1024)
    with pytest.raises(ConfigurationError, match=r"cannot be written: .*the disk is full"):
        begin(folder, settings)
    assert not list(disk.path.rglob("*.new"))
    disk.resize("1m")
    begin(folder, settings, overwrite=(folder / "settings.toml").exists())
    assert read_run_settings(folder) == settings


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_stage_that_cannot_be_written_down_leaves_the_state_whole(disk, settings, room):
    folder = disk.path / "run"
    place = begin(folder, settings)
    used = sum(-(-path.stat().st_size // 4096) for path in folder.iterdir())
    disk.resize(f"{4 * used}k")
    with pytest.raises(OSError, match=r"state\.json"):
        place.finish("vision")
    assert json.loads((folder / "state.json").read_text())["done"] == []
    disk.resize("1m")
    again = begin(folder, settings, resume=True)
    again.finish("vision")
    assert begin(folder, settings, resume=True).done == ["vision"]
