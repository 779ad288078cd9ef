"""Only what this package wrote is replaced or removed, and only one process at a time writes."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agile_gym.errors import ConfigurationError, TranscriptError, explain_os_error, reason_of
from agile_gym.files import Lock, filling, replacing, sweep, write_text
from agile_gym.outputs import MARK, check_output, check_replaceable, clear_folder, read_mark, write_mark
from agile_gym.transcripts import TranscriptWriter, read_transcripts
from tests.helpers.made_transcripts import made

KNOWN = {"a.txt": None, "model/*.json": None, "deep/**/state.pkl": None, "page.html": lambda path: path.stat().st_size}


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_symlink()
    }


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_is_known_is_removed_and_the_folder_stays(tmp_path):
    write_mark(tmp_path, "thing")
    fill(tmp_path, "a.txt", "model/x.json", "deep/state.pkl", "deep/b/c/state.pkl", "page.html")
    fill(tmp_path, f".a.txt-{dead_process()}.new", f"model/.x.json-{dead_process()}.new")
    clear_folder(tmp_path, KNOWN, "it")
    assert list(tree(tmp_path)) == [MARK]
    assert read_mark(tmp_path, "thing")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("notes.txt", "notes.txt"),
        ("model/notes.md", "model/notes.md"),
        ("model/deeper/x.json", "model/deeper/"),
        ("src/main.py", "src/"),
        ("deep/b/mine.pkl", "deep/b/mine.pkl"),
        ("A.TXT", "A.TXT"),
        (".git/config", ".git/"),
        (".a.txt-1.new", ".a.txt-1.new"),  # of a process that lives
        ("page.html", "page.html"),  # known by its name, but not by its content
    ],
)
def test_nothing_is_removed_if_anything_is_foreign(tmp_path, name, told):
    fill(tmp_path, "a.txt", "model/x.json", name)
    if name == "page.html":
        (tmp_path / name).write_text("")
    before = tree(tmp_path)
    with pytest.raises(ConfigurationError, match=r"Nothing was removed") as caught:
        clear_folder(tmp_path, KNOWN, "it")
    assert f"did not write: {told}." in str(caught.value)
    assert tree(tmp_path) == before


def test_many_foreign_files_are_told_in_one_line(tmp_path):
    fill(tmp_path, *(f"{number}\n.py" for number in range(30)))
    with pytest.raises(ConfigurationError, match="and 27 more"):
        clear_folder(tmp_path, KNOWN, "it")


def test_links_are_removed_and_not_what_they_lead_to(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    fill(outside, "x.json", "precious.txt")
    fill(folder, "page.html")
    (folder / "model").symlink_to(outside)
    (folder / "a.txt").symlink_to(outside / "precious.txt")
    clear_folder(folder, KNOWN, "it")
    assert list(folder.iterdir()) == []
    assert sorted(tree(outside)) == ["precious.txt", "x.json"]


@pytest.mark.parametrize("content", [b"", b"\0\xff", b"[]", b"null", b'{"kind": "thing"}', b'{"kind": 3, "format": 1}'])
def test_a_damaged_mark_is_told_with_what_mends_it(tmp_path, content):
    (tmp_path / MARK).write_bytes(content)
    with pytest.raises(ConfigurationError, match="is damaged") as caught:
        read_mark(tmp_path, "thing")
    (tmp_path / MARK).write_text(str(caught.value).partition("into it: ")[2].partition("; or")[0])
    assert read_mark(tmp_path, "thing")


def test_a_mark_of_another_kind_or_version(tmp_path):
    assert not read_mark(tmp_path, "thing")
    write_mark(tmp_path, "thing")
    with pytest.raises(ConfigurationError, match="holds a thing, not a training run"):
        read_mark(tmp_path, "training run")
    (tmp_path / MARK).write_text('{"kind": "thing", "format": 7}')
    with pytest.raises(ConfigurationError, match="of format 7; this version of agile_gym reads 1"):
        read_mark(tmp_path, "thing")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_is_not_replaced(tmp_path, make):
    make(tmp_path / "x")
    for act in (
        lambda: check_replaceable(tmp_path / "x", lambda head: True, "a thing"),
        lambda: replacing(tmp_path / "x").__enter__(),
    ):
        with pytest.raises((ConfigurationError, IsADirectoryError)):
            act()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_devices_are_not_replaced():
    for name in ("/dev/null", "/dev/stdout", "/dev/full"):
        with pytest.raises(ConfigurationError, match="is a device or a pipe"), write_text(Path(name)):
            pass
        assert Path(name).exists()


@pytest.mark.parametrize(
    ("output", "images", "refused"),
    [
        ("photos", "photos", True),
        ("photos/run", "photos", True),
        ("photos/a/../../photos/run/deep", "photos/", True),
        ("link/run", "photos", True),
        ("photos/one.png", "photos/one.png", True),
        ("run", ".", True),
        ("run", "photos", False),
        ("photos-run", "photos", False),
        ("run", None, False),
        ("run", "hf:beans", False),
        ("run", "builtin", False),
    ],
)
def test_what_is_written_does_not_become_a_photograph(tmp_path, monkeypatch, output, images, refused):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "photos/one.png")
    Path("link").symlink_to("photos")
    if not refused:
        check_output(Path(output), images)
        return
    with pytest.raises(ConfigurationError, match="where the photographs are"):
        check_output(Path(output), images)


def test_what_killed_writers_have_left_is_removed(tmp_path):
    dead = dead_process()
    kept = {f".page.html-{os.getpid()}.new", ".page.html.new", ".other.new", "page.html-1.new", f".b-{dead}.new"}
    fill(tmp_path, f".page.html-{dead}.new", f".model-{dead}.new/weights", *kept)
    with write_text(tmp_path / "page.html") as file:
        file.write("whole")
    assert set(tree(tmp_path)) == {*kept - {f".page.html-{os.getpid()}.new"}, "page.html", f".model-{dead}.new",
                                   f".model-{dead}.new/weights"}  # fmt: skip
    with filling(tmp_path / "model") as beside:
        fill(beside, "weights")
    assert f".model-{dead}.new" not in tree(tmp_path)
    sweep(tmp_path)
    assert f".b-{dead}.new" not in tree(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from agile_gym.files import write_text
with write_text(Path(sys.argv[1])) as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_leaves_nothing_for_long(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("older")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2
    with write_text(path) as file:
        file.write("newer")
    assert tree(tmp_path) == {"page.html": b"newer"}


def test_files_that_shall_stay_are_not_replaced_by_a_folder(tmp_path):
    fill(tmp_path, "model/tokenizer.json", "model/notes.txt")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=r"tokenizer\.json"), filling(tmp_path / "model", replace=False) as beside:
        fill(beside, "config.json", "tokenizer.json")
    assert tree(tmp_path) == before


HOLDER = """
import os, sys, time
from pathlib import Path
from agile_gym.files import Lock
lock = Lock(Path(sys.argv[1]), "taken")
if sys.argv[2] == "fork":
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begun, b"x")  # the lock has been let go by now
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    print(child, flush=True)
else:
    import subprocess
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False).pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks of this kind")
@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("child", ["fork", "exec"])
def test_a_lock_ends_with_its_process_whatever_that_has_started(tmp_path, kind, child):
    path = tmp_path / "x"
    path.mkdir() if kind == "folder" else path.write_text("")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), child], stdout=subprocess.PIPE)
    other = int(holder.stdout.readline())
    try:
        with pytest.raises(ConfigurationError, match="taken"):
            Lock(path, "taken")
        holder.kill()
        holder.wait()
        os.kill(other, 0)  # what it has started lives
        lock = Lock(path, "taken")
        with pytest.raises(TranscriptError, match="again"):
            Lock(path, "again", TranscriptError)
        lock.let_go()
        lock.let_go()
        Lock(path, "taken")  # and is let go when nobody holds it any more
        Lock(path, "taken")
    finally:
        os.kill(other, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.parametrize(
    ("name", "content", "overwritten"),
    [
        ("episodes.jsonl", b'{"prompt": "mine"}\n' * 3, False),
        ("episodes.jsonl", b"\0\xff\n\0", False),
        ("episodes-00000.parquet", b"PAR1 mine", False),
        ("episodes.jsonl", b"", True),
        ("episodes.jsonl", b'{"format":1,"id"', True),  # cut short by a kill
    ],
)
def test_files_that_only_bear_the_names_of_transcripts_stay(tmp_path, name, content, overwritten):
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("mine")
    if overwritten:
        TranscriptWriter(tmp_path, overwrite=True).close()
        assert (tmp_path / "notes.txt").read_text() == "mine"
        return
    before = tree(tmp_path)
    with pytest.raises(ConfigurationError, match=f"no transcripts, and would be deleted: {name}"):
        TranscriptWriter(tmp_path, overwrite=True)
    assert tree(tmp_path) == before


def test_transcripts_do_not_go_where_an_export_has_its_images(tmp_path):
    from agile_gym.transcripts import export_sharegpt

    export_sharegpt([made(0)], tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ConfigurationError, match="agile-gym export wrote"):
        TranscriptWriter(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EACCES, "x"), "permission is denied"),
        (OSError(errno.EROFS, "x"), "read-only"),
        (OSError(errno.ENAMETOOLONG, "x"), "too long"),
        (OSError("Error while serializing: No space left on device (os error 28)"), "the disk is full"),
        (OSError("of its own"), "of its own"),
        (OSError(), "OSError"),
    ],
)
def test_reasons_of_the_system_are_words(error, reason):
    assert reason in reason_of(error)
    assert "Errno" not in explain_os_error(error)
    assert explain_os_error(error).endswith(".")


def test_the_reader_reads_what_stands_beside_other_files(tmp_path):
    with TranscriptWriter(tmp_path) as writer:
        writer.append(made(0))
    (tmp_path / "notes.txt").write_text("mine")
    with TranscriptWriter(tmp_path, overwrite=True) as writer:
        writer.append(made(1))
    assert [episode.id for episode in read_transcripts(tmp_path)] == ["episode-1"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])["id"] == "episode-1"
