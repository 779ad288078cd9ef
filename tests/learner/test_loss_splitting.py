"""However a batch is split, its parts add up to the gradient of the whole."""

import multiprocessing

import pytest

torch = pytest.importorskip("torch")

from tests.helpers.split_losses import NAMES, accumulate, small_batch, work  # noqa: E402 -- after the skip

PROCESSES = 2


def partitions(items):
    """Yield every way to split items into parts."""
    if not items:
        yield []
        return
    first, *rest = items
    for parts in partitions(rest):
        yield [[first], *parts]
        for number, part in enumerate(parts):
            yield [*parts[:number], [first, *part], *parts[number + 1 :]]


def agree(first, second):
    assert first[0] == pytest.approx(second[0], rel=1e-12)
    assert first[1] == pytest.approx(second[1], rel=1e-12)
    assert torch.allclose(first[2], second[2], rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_micro_batches(name):
    arrays = small_batch(5, 6)
    whole = accumulate(name, arrays, [range(5)])
    ways = list(partitions(list(range(5))))
    assert len(ways) == 52  # Bell's number
    for parts in ways:
        agree(accumulate(name, arrays, parts), whole)
    # The test would notice: the mean of each micro-batch's own gradient is another one.
    own = [accumulate(name, arrays, [part]) for part in ([0], [1, 2, 3, 4])]
    assert not torch.allclose((own[0][2] + own[1][2]) / 2, whole[2], rtol=0.01)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "sft"])
def test_episodes_that_are_cut_into_rows(name):
    arrays = small_batch(3, 6)
    whole = accumulate(name, arrays, [range(3)])
    for cut in range(7):
        first = torch.arange(6) < cut
        # Each episode as two rows; here the tokens of the other are only masked, as if they were read.
        rows = {key: torch.cat([array, array]) for key, array in arrays.items()}
        rows["loss_mask"] = torch.cat([arrays["loss_mask"] & first, arrays["loss_mask"] & ~first])
        rows["lengths"] = arrays["loss_mask"].sum(1).repeat(2)
        for parts in ([range(6)], [[0, 1], [2, 3, 4], [5]], [[5, 0], [4], [3], [2], [1]]):
            agree(accumulate(name, rows, parts), whole)


@pytest.mark.slow
def test_processes_with_unequal_shares(tmp_path):
    arrays = small_batch(5, 6)
    parts = [[[4, 1]], [[0], [3], [2]]]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    address = f"file://{tmp_path / 'meeting'}"
    processes = [
        context.Process(target=work, args=(rank, PROCESSES, address, arrays, parts, answers))
        for rank in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    try:
        told = dict(answers.get(timeout=120) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()
    for name in NAMES:
        _, metrics, gradient = accumulate(name, arrays, [range(5)])
        for rank in range(PROCESSES):
            theirs, their_metrics = told[rank][name]
            assert theirs == pytest.approx(gradient.tolist(), rel=1e-10)
            assert their_metrics == pytest.approx(metrics, rel=1e-10)
