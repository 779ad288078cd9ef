"""Folders whose files are replaced together."""

import pytest

from agile_gym.files import filling


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_take_the_place_of_those_of_the_same_name(tmp_path):
    folder = tmp_path / "model"
    (folder / "parts").mkdir(parents=True)
    (folder / "weights").write_text("old")
    (folder / "parts" / "a").write_text("old")
    (folder / "notes").write_text("mine")
    with filling(folder) as beside:
        (beside / "parts").mkdir()
        (beside / "parts" / "a").write_text("new")
        (beside / "weights").write_text("new")
        assert (folder / "weights").read_text() == "old"
    assert names(folder) == ["notes", "parts/a", "weights"]
    assert [(folder / name).read_text() for name in names(folder)] == ["mine", "new", "new"]
    assert names(tmp_path) == ["model/notes", "model/parts/a", "model/weights"]


def test_a_writer_that_fails_changes_nothing(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")

    def fail_half_way():
        with filling(folder) as beside:
            (beside / "weights").write_text("ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        fail_half_way()
    assert names(tmp_path) == ["model/weights"]
    assert (folder / "weights").read_text() == "old"


def test_a_folder_is_made_with_those_above_it(tmp_path):
    with filling(tmp_path / "a" / "b") as beside:
        (beside / "weights").write_text("new")
    assert names(tmp_path) == ["a/b/weights"]
