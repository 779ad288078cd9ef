import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 -- after the check that it is there

from agile_gym.learner import updating as module  # noqa: E402 -- after the skip
from agile_gym.learner.updating import ProcessGroup  # noqa: E402 -- after the skip

ARANGE = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


@pytest.mark.slow
def test_know_each_other(two_ranks):
    assert [found["rank"] for found in two_ranks] == [0, 1]
    assert [found["size"] for found in two_ranks] == [2, 2]


@pytest.mark.slow
def test_add_numbers(two_ranks):
    for found in two_ranks:
        assert found["sums"] == [4.0, 2.0**61]


@pytest.mark.slow
def test_reduce_statistics_and_leave_what_they_were_given(two_ranks):
    for rank, found in enumerate(two_ranks):
        assert found["reduced"] == ([3.0], [7.0])
        assert found["kept"] == ([1.0 + rank], [7.0 - rank])


@pytest.mark.slow
def test_add_gradients_of_all_types_and_of_parameters_that_had_none(two_ranks):
    for found in two_ranks:
        first, second, third, fourth = found["gradients"]
        assert first == [[2 * value + 10 for value in row] for row in ARANGE]
        assert second == [10.0, 11.0, 12.0, 13.0, 14.0]  # only the second process had one
        assert third == [[10.0, 12.0], [14.0, 16.0]]
        assert fourth == [0.0] * 4
        assert found["types"] == ["torch.float32", "torch.float32", "torch.bfloat16", "torch.float32"]


@pytest.mark.slow
def test_begin_with_the_weights_of_the_first(two_ranks):
    for found in two_ranks:
        assert found["shared"] == [[1.0]] * 4


def test_alone_nothing_is_sent():
    alone = ProcessGroup(torch.device("cpu"), distributed=False)
    parameter = nn.Parameter(torch.ones(2))
    alone.add_gradients([parameter])
    alone.share([parameter])
    assert (alone.size, alone.rank, alone.add([1, 2.5])) == (1, 0, [1, 2.5])
    assert parameter.grad is None
    sums, maxima = alone.reduce(torch.ones(2), torch.zeros(1))
    assert (sums.tolist(), maxima.tolist()) == ([1, 1], [0])


@pytest.mark.parametrize("limit", [1, 30, 10**9])
def test_buckets_hold_each_parameter_once_and_one_type_each(limit, monkeypatch):
    monkeypatch.setattr(module, "_BUCKET_BYTES", limit)
    types = [torch.float32, torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    parameters = [nn.Parameter(torch.zeros(3 + number, dtype=kind)) for number, kind in enumerate(types)]
    buckets = list(module._buckets(parameters))
    assert sorted(id(p) for bucket in buckets for p in bucket) == sorted(map(id, parameters))
    assert all(len({p.dtype for p in bucket}) == 1 for bucket in buckets)
    assert len(buckets) == {1: 5, 30: 3, 10**9: 2}[limit]
