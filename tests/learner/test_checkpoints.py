import json
import os
import shutil

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.learner.checkpoint import MANIFEST, check_checkpoint, replace_checkpoint


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


def damage(path):
    (path / "state.pkl").write_text("x")


@pytest.mark.parametrize("name", ["one.previous", "one.partial", "two", None])
def test_the_advice_names_the_newest_whole_one_that_is_there(tmp_path, name):
    path = tmp_path / "one"
    replace_checkpoint(path, writer("a"))
    for number, other in enumerate(("older", name, "damaged")):
        if other is not None and (name is not None or other == "damaged"):
            shutil.copytree(path, tmp_path / other)
            os.utime(tmp_path / other / MANIFEST, (number * 1000, number * 1000))
    damage(tmp_path / "damaged")
    damage(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MANIFEST).write_text("[]")
    with pytest.raises(ConfigurationError, match=r"is damaged: state\.pkl") as caught:
        check_checkpoint(path)
    if name is None:
        assert "There is no other whole one" in str(caught.value)
    else:
        assert repr(str(tmp_path / name)) in str(caught.value)
        check_checkpoint(tmp_path / name)
    assert "damaged'" not in str(caught.value).partition("is damaged")[2]


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_checkpoint_of_another_version(tmp_path, version):
    path = tmp_path / "one"
    replace_checkpoint(path, writer("a"))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "version": version}))
    with pytest.raises(ConfigurationError, match=r"has the version .* reads 1"):
        check_checkpoint(path)


@pytest.mark.parametrize("suffix", [".partial", ".previous"])
@pytest.mark.parametrize("name", ["thesis.tex", "part/thesis.tex", "deep/er/weights.bin"])
def test_folders_that_are_no_checkpoints_are_not_removed(tmp_path, suffix, name):
    path, other = tmp_path / "one", tmp_path / f"one{suffix}"
    replace_checkpoint(path, writer("a"))
    (other / name).parent.mkdir(parents=True)
    (other / name).write_text("mine")
    (other / "state.pkl").write_text("half")
    with pytest.raises(OSError, match="Nothing was removed"):
        replace_checkpoint(path, writer("b"))
    assert (other / name).read_text() == "mine"
    assert (other / "state.pkl").exists()
    check_checkpoint(path)


def test_a_link_to_a_checkpoint_is_followed_and_kept(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "one").symlink_to(tmp_path / "disk" / "real")
    for text in ("a", "b", "c"):
        replace_checkpoint(tmp_path / "one", writer(text))
        check_checkpoint(tmp_path / "one")
        assert content(tmp_path / "one") == content(tmp_path / "disk" / "real") == text
    assert (tmp_path / "one").is_symlink()
    assert [entry.name for entry in (tmp_path / "disk").iterdir()] == ["real"]
