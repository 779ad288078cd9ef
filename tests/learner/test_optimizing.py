import pytest

torch = pytest.importorskip("torch")

from agile_gym.learner.options import learning_rate_ratio, make_optimizer  # noqa: E402 -- needs torch


def shares(steps, **options):
    return [learning_rate_ratio(step, **{"warmup": 0, "total": None, "lowest": 0.0, **options}) for step in steps]


def test_warm_up_then_constant():
    assert shares(range(6), warmup=4, schedule="constant") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear():
    assert shares([0, 1, 2, 4, 6, 10, 99], warmup=2, total=10, schedule="linear") == [0.5, 1, 1, 0.75, 0.5, 0, 0]
    assert shares([0, 5, 10], total=10, schedule="linear", lowest=0.2) == pytest.approx([1.0, 0.6, 0.2])


def test_cosine():
    expected = [1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0, 0.0]
    assert shares([0, 2, 4, 6, 8, 50], total=8, schedule="cosine") == pytest.approx(expected)
    assert shares([4, 8], total=8, schedule="cosine", lowest=0.1) == pytest.approx([0.55, 0.1])


def test_warm_up_as_long_as_all_steps():
    assert shares([0, 1, 2], warmup=2, total=2, schedule="cosine") == [0.5, 1.0, 1.0]


def test_only_matrices_that_are_trained_decay():
    named = {
        "weight": torch.nn.Parameter(torch.ones(2, 2)),
        "bias": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2, 2), requires_grad=False),
    }
    optimizer = make_optimizer(named.items(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.5)
    assert isinstance(optimizer, torch.optim.AdamW)
    for parameter in named.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert named["weight"].flatten().tolist() == pytest.approx([0.95] * 4)
    assert named["bias"].tolist() == [1, 1]
    assert named["frozen"].flatten().tolist() == [1] * 4
    assert [group["betas"] for group in optimizer.param_groups] == [(0.8, 0.9)] * 2


def test_one_kind_of_parameter_alone():
    bias = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([("bias", bias)], lr=0.1, betas=(0.9, 0.999), weight_decay=0.5)
    assert [group["params"] for group in optimizer.param_groups] == [[bias]]
