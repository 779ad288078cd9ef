"""Tensors that other processes receive or read, whole and equal."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agile_gym.learner.shared_weights import SharedTensors, TransferError, WeightsGroup  # noqa: E402 -- after the skip
from tests.helpers import weight_ranks  # noqa: E402 -- likewise

HALF = [[3 * n / 7 for n in range(8)], [3 * n / 7 + 3 for n in range(8)]]


def run(*calls):
    """Run functions in processes of their own."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=function, args=arguments) for function, *arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


def check(found, round_):
    assert list(found) == list(weight_ranks.NAMES)
    for name, values in weight_ranks.expected(round_).items():
        assert found[name][1] == list(values.shape)
        assert found[name][2] == values.reshape(-1).astype(np.float64).tolist()
    assert found["half"][:2] == ["torch.bfloat16", [2, 4]]
    assert found["half"][2] == pytest.approx(HALF[round_], rel=2**-8)


@pytest.mark.slow
def test_every_process_of_a_group_receives_the_tensors_of_the_first(tmp_path):
    run(*((weight_ranks.work, rank, 3, str(tmp_path)) for rank in range(3)))
    for rank in (1, 2):
        rounds = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(rounds) == 2
        for number, found in enumerate(rounds):
            check(found, number)


@pytest.mark.slow
def test_who_joins_alone_gives_up(tmp_path):
    run((weight_ranks.join_alone, str(tmp_path)))
    assert (tmp_path / "alone.txt").read_text() in ("DistStoreError", "DistBackendError", "RuntimeError")


@pytest.mark.slow
def test_another_process_reads_what_is_shared_until_it_is_closed(tmp_path):
    shared = SharedTensors(weight_ranks.entries(), weight_ranks.tensors(1).values())
    assert shared.where == "cpu"
    (tmp_path / "handles.json").write_text(json.dumps(shared.handles))
    run((weight_ranks.read, str(tmp_path)))
    check(json.loads((tmp_path / "read.json").read_text()), 1)
    file = Path(shared.handles[0][0])
    assert file.stat().st_mode & 0o777 == 0o600
    shared.close()
    assert not file.exists()


def test_memory_that_is_full_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("agile_gym.learner.shared_weights._SHARED", tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        SharedTensors(weight_ranks.entries(), weight_ranks.tensors(0).values())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_no_nccl(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    with pytest.raises(TransferError, match="no GPU"):
        WeightsGroup(store, 0, 1, "nccl")
