import json
import shutil

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.learner.checkpoints import MANIFEST, check_checkpoint, replace_checkpoint


def writer(text, *, fail=False):
    def write(folder):
        (folder / "part").mkdir()
        (folder / "part" / "weights.pkl").write_text(text)
        (folder / "state.pkl").write_text(text)
        if fail:
            raise OSError(28, "No space left on device")

    return write


def content(path):
    return (path / "part" / "weights.pkl").read_text()


def test_written_and_whole(tmp_path):
    path = tmp_path / "deep" / "one"
    replace_checkpoint(path, writer("a"))
    check_checkpoint(path)
    assert sorted(json.loads((path / MANIFEST).read_text())["files"]) == ["part/weights.pkl", "state.pkl"]
    assert [entry.name for entry in path.parent.iterdir()] == ["one"]
    replace_checkpoint(path, writer("b"))
    check_checkpoint(path)
    assert content(path) == "b"
    assert [entry.name for entry in path.parent.iterdir()] == ["one"]


def test_former_one_stays_if_writing_fails(tmp_path):
    path = tmp_path / "one"
    with pytest.raises(OSError, match="No space"):
        replace_checkpoint(path, writer("a", fail=True))
    assert list(tmp_path.iterdir()) == []
    replace_checkpoint(path, writer("a"))
    with pytest.raises(OSError, match="No space"):
        replace_checkpoint(path, writer("b", fail=True))
    check_checkpoint(path)
    assert content(path) == "a"
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_what_a_process_that_was_killed_left_behind(tmp_path):
    path = tmp_path / "one"
    replace_checkpoint(path, writer("a"))
    half = tmp_path / "one.partial"  # killed while it wrote
    half.mkdir()
    (half / "state.pkl").write_text("half")
    check_checkpoint(path)
    replace_checkpoint(path, writer("b"))
    assert content(path) == "b"
    path.rename(tmp_path / "one.previous")  # killed between the two renames
    check_checkpoint(path)
    assert content(path) == "b"
    shutil.copytree(path, tmp_path / "one.previous")  # killed before the former one was removed
    replace_checkpoint(path, writer("c"))
    check_checkpoint(path)
    assert content(path) == "c"
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_empty_folder_and_one_with_other_files(tmp_path):
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    for path in (empty, other):
        replace_checkpoint(path, writer("a"))
        check_checkpoint(path)
    assert (other / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["state.pkl", "part/weights.pkl"])
@pytest.mark.parametrize("text", ["", "a" * 99, "b", None])
def test_damage_is_found(tmp_path, name, text):
    path = tmp_path / "one"
    replace_checkpoint(path, writer("a"))
    (path / name).unlink() if text is None else (path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=f"is damaged: {name} "):
        check_checkpoint(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": {"a": 3}}', '{"files": {"a": {}}}', "\0"])
def test_damaged_manifest(tmp_path, text):
    path = tmp_path / "one"
    replace_checkpoint(path, writer("a"))
    (path / MANIFEST).write_text(text)
    with pytest.raises(ConfigurationError, match=f"is damaged: {MANIFEST}"):
        check_checkpoint(path)


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(ConfigurationError, match="There is no checkpoint"):
        check_checkpoint(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="not a checkpoint of GRPO"):
        check_checkpoint(tmp_path)
