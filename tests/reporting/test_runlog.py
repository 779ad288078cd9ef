"""Records of a run: on disk at once, whole after a crash, once each after a resumption."""

import csv
import importlib.util
import json
import math
import os
import signal
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.learner import MissingDependencyError
from agile_gym.reporting.runlog import RunLog, flatten_result, read_records


def test_records_are_in_the_file_at_once_and_in_the_table_after_flush(tmp_path):
    with RunLog(tmp_path / "run", tensorboard=False) as log:
        first = log.add("sft", 1, {"learner/loss": np.float32(0.5), "name": "x", "flag": True, "table": {"a": 1}})
        log.add("grpo", 1, {"return": 0.25, "nan": math.nan, "inf": -math.inf, "stage": 3.0}, seconds=90)
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == log.records
        assert first == {"stage": "sft", "iteration": 1, "seconds": first["seconds"], "learner/loss": 0.5}
        assert log.records[1] == {"stage": "grpo", "iteration": 1, "seconds": 90.0, "return": 0.25}
        assert log.history("grpo") == [log.records[1]]
        path = log.flush()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == ["stage", "iteration", "seconds", "learner/loss", "return"]
    assert [(row["stage"], row["learner/loss"], row["return"]) for row in rows] == [
        ("sft", "0.5", ""),
        ("grpo", "", "0.25"),
    ]
    assert read_records(path.with_name("metrics.jsonl")) == log.records


def test_a_torn_last_line_is_dropped_and_time_goes_on(tmp_path):
    with RunLog(tmp_path, tensorboard=False) as log:
        log.add("grpo", 1, {"acc": 0.1}, seconds=100)
        log.add("grpo", 2, {"acc": 0.2}, seconds=200)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole) - whole.index(b"\n") - 1):
        path.write_bytes(whole[:-cut])
        assert [record["iteration"] for record in read_records(path)] == [1]
    with RunLog(tmp_path, tensorboard=False) as log:
        assert [record["iteration"] for record in log.records] == [1]
        assert 100 <= log.seconds < 160
        log.add("grpo", 2, {"acc": 0.3})
    assert [record["acc"] for record in read_records(path)] == [0.1, 0.3]


def test_a_killed_process_loses_no_record(tmp_path):
    code = """
        import sys
        from agile_gym.reporting.runlog import RunLog
        log = RunLog(sys.argv[1], tensorboard=False)
        for number in range(1, 10**6):
            log.add("grpo", number, {"acc": number / 1e6})
            print(number, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    told = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    kept = [record["iteration"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) >= len(told) >= 20


def test_damage_within_the_file_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = '{"stage": "grpo", "iteration": 1, "seconds": 1.0}\n'
    for line in ("{}", "[1]", "not json", '{"stage": "grpo", "iteration": 1, "seconds": "x"}', "[" * 100_000, "\xff"):
        path.write_text(f"{good}{line}\n{good}", encoding="latin-1")
        with pytest.raises(ConfigurationError, match="Line 2 of"):
            RunLog(tmp_path, tensorboard=False)


def test_iterations_come_in_order_once_each(tmp_path):
    with RunLog(tmp_path, tensorboard=False) as log:
        for stage, count in (("vision", 3), ("sft", 2), ("grpo", 5)):
            for number in range(1, count + 1):
                log.add(stage, number, {"x": number}, seconds=10 * len(log.records))
        with pytest.raises(ConfigurationError, match="does not come after iteration 5 of grpo"):
            log.add("grpo", 5, {})
        with pytest.raises(ConfigurationError, match="does not come after"):
            log.add("sft", 9, {})
        with pytest.raises(ConfigurationError, match="not known"):
            log.add("rl", 1, {})
        log.truncate_after("grpo", 3)
        assert [record["iteration"] for record in log.history("grpo")] == [1, 2, 3]
        assert 70 <= log.seconds < 100
        log.add("grpo", 4, {"x": 40})
        assert read_records(tmp_path / "metrics.jsonl") == log.records
        log.truncate_after("sft", 0)
        assert [record["stage"] for record in log.records] == ["vision"] * 3
        log.add("sft", 1, {"x": 7})
    assert [record["x"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 7]


def events_of(folder):
    """Read TensorBoard's files: {tag: [(step, value)]}, in the order written."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_has_each_iteration_once_after_a_resumption(tmp_path):
    pytest.importorskip("tensorboardX")
    with RunLog(tmp_path) as log:
        log.add("sft", 1, {"learner/loss": 2.0})
        for number in range(1, 5):
            log.add("grpo", number, {"return": number / 4})
    with RunLog(tmp_path) as log:
        log.truncate_after("grpo", 2)
        log.add("grpo", 3, {"return": -1})
    assert events_of(tmp_path / "tensorboard" / "sft")["learner/loss"] == [(1, 2.0)]
    assert events_of(tmp_path / "tensorboard" / "grpo")["return"] == [(1, 0.25), (2, 0.5), (3, -1.0)]


def test_tensorboard_is_left_out_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with RunLog(tmp_path) as log:
        log.add("grpo", 1, {"return": 1.0})
        log.truncate_after("grpo", 0)
    assert not (tmp_path / "tensorboard").exists()


def test_wandb_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="pip install wandb"):
        RunLog(tmp_path / "run", wandb=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_goes_on_with_the_same_run(tmp_path):
    code = """
        import sys
        from agile_gym.reporting.runlog import RunLog
        with RunLog(sys.argv[1], tensorboard=False, wandb=True, settings={"lr": 1e-4}) as log:
            log.add("grpo", len(log.records) + 1, {"return": 0.5})
            assert log._run.config["lr"] == 1e-4
            print(log._run.id)
    """
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    ids = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout.split()[-1]
        for _ in range(2)
    ]  # fmt: skip
    assert ids == [(tmp_path / "wandb-id.txt").read_text()] * 2
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_results_of_rllib_become_flat_figures():
    result = {
        "grpo": {
            "return": np.float64(0.25), "episodes": 64.0, "tokens_written": 1200.0, "groups_played": 8.0,
            "groups_constant": np.int64(2), "seconds_rollout": 4.0, "seconds_update": 3.0, "seconds_sync": 1.0,
            "crop": math.nan,
        },
        "learners": {
            "default_policy": {
                "entropy": np.float32(0.5), "tokens": 900, "grad_norm": math.inf, "lr": 1e-4, "text": "x",
                "nested": {"a": 1.0}, "loss": math.nan, "weights_seq_no": 3.0, "module_throughput": math.nan,
            },
            "__all_modules__": {"tokens": 1},
        },
        "evaluation": {"acc": 0.5, "acc_low": 0.4, "acc_high": 0.6, "acc/2x2 L0": 0.7},
        "timers": {"x": 1.0},
    }  # fmt: skip
    assert flatten_result(result) == {
        "return": 0.25, "episodes": 64.0, "tokens_written": 1200.0, "groups_played": 8.0, "groups_constant": 2.0,
        "seconds_rollout": 4.0, "seconds_update": 3.0, "seconds_sync": 1.0,
        "learner/entropy": 0.5, "learner/tokens": 900.0, "learner/grad_norm": math.inf, "learner/lr": 1e-4,
        "learner/not_finite": 2.0,
        "eval/acc": 0.5, "eval/acc_low": 0.4, "eval/acc_high": 0.6, "eval/acc/2x2 L0": 0.7,
        "episodes_per_second": 8.0, "tokens_per_second": 300.0, "trained_tokens_per_second": 300.0,
        "share_constant": 0.25,
    }  # fmt: skip
    assert all(type(value) is float for value in flatten_result(result).values())
    ahead = flatten_result({**result, "grpo": {**result["grpo"], "lag_max": 1.0}})
    assert ahead["tokens_per_second"] == 150.0  # of the whole iteration, as it plays all the time
    assert flatten_result({}) == {}
    supervised = {"grpo": {"seconds_update": 2.0}, "learners": {"default_policy": {"loss": 1.0, "tokens": 10}}}
    assert flatten_result(supervised)["trained_tokens_per_second"] == 5.0


@pytest.fixture
def logged(tmp_path):
    """A folder with a good log and its table."""
    with RunLog(tmp_path, tensorboard=False) as log:
        for number in range(1, 6):
            log.add("grpo", number, {"acc": number / 10}, seconds=10 * number)
    return tmp_path


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: data.index(b"\n") + 1],
        lambda data: bytes(range(256)) * 3,
        lambda data: b"\xff" * 50,
        lambda data: data[: len(data) // 2] + b"\xff\0\x01",
        lambda data: data + b"not a record",
        lambda data: data + b'{"iteration"',
        None,
    ],
)
def test_nothing_good_is_replaced_where_the_records_are_damaged(logged, damage):
    path = logged / "metrics.jsonl"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    before = {path.name: path.read_bytes() for path in logged.iterdir()}
    with pytest.raises(ConfigurationError, match=r"metrics\.jsonl (has lost records|is no record)"):
        RunLog(logged, tensorboard=False)
    assert {path.name: path.read_bytes() for path in logged.iterdir()} == before


def test_a_log_that_is_no_file(logged):
    (logged / "metrics.jsonl").unlink()
    (logged / "metrics.jsonl").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read: it is not a file"):
        RunLog(logged, tensorboard=False)


def test_a_table_that_is_damaged_is_written_anew(logged):
    table = (logged / "metrics.csv").read_bytes()
    for content in (b"", b"\0\xff", b"stage,iter", table + table.splitlines(keepends=True)[0]):
        (logged / "metrics.csv").write_bytes(content)
        RunLog(logged, tensorboard=False).close()
        assert (logged / "metrics.csv").read_bytes() == table


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_a_kill_while_records_are_dropped_leaves_a_log_that_can_be_gone_on_with(logged, kept, monkeypatch):
    def killed(path, *args):
        if path.name == "metrics.jsonl":
            raise KeyboardInterrupt
        return written(path)

    import agile_gym.reporting.runlog as runlog

    written = runlog.write_text
    log = RunLog(logged, tensorboard=False)
    monkeypatch.setattr(runlog, "write_text", killed)
    if kept < 5:
        with pytest.raises(KeyboardInterrupt):
            log.truncate_after("grpo", kept)
    monkeypatch.undo()
    log._file.close()
    with RunLog(logged, tensorboard=False) as again:
        assert len(again.records) == 5
        again.truncate_after("grpo", kept)
    assert len(read_records(logged / "metrics.jsonl")) == kept


def test_tensorboards_folder_loses_nothing_of_others(tmp_path):
    pytest.importorskip("tensorboardX")
    mine = tmp_path / "tensorboard" / "sft" / "notes.txt"
    with RunLog(tmp_path) as log:
        log.add("sft", 1, {"x": 1.0})
        mine.write_text("mine")
        log.truncate_after("sft", 0)
    assert mine.read_text() == "mine"
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("size", ["4k", "8k", "20k"])
@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_costs_no_record_that_was_written(disk, size, tensorboard):
    disk.resize(size)
    figures = {f"metric/{number}": number / 7 for number in range(40)}

    def fill():
        with RunLog(disk.path, tensorboard=tensorboard) as log:
            for number in range(1, 100):
                log.add("grpo", number, figures)

    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        fill()
    kept = [record["iteration"] for record in read_records(disk.path / "metrics.jsonl")]
    assert kept == list(range(1, len(kept) + 1))
    assert (disk.path / "metrics.jsonl").read_bytes().endswith(b"\n" if kept else b"")
    assert not list(disk.path.rglob("*.new"))
    disk.resize("2m")
    with RunLog(disk.path, tensorboard=tensorboard) as log:
        log.add("grpo", len(kept) + 1, figures)
    assert len(read_records(disk.path / "metrics.jsonl")) == len(kept) + 1
    assert (disk.path / "metrics.csv").read_text().count("\n") == len(kept) + 2
