import pickle
from functools import cache, partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from agile_gym.errors import ModelError  # noqa: E402 -- after the skip
from agile_gym.learner import sharding as module  # noqa: E402 -- after the skip
from agile_gym.learner.ratios import Totals  # noqa: E402 -- after the skip
from agile_gym.learner.sharding import Sharding, blank_sample, load_shards, missing_shards  # noqa: E402 -- likewise
from tests.helpers.sharded_ranks import (  # noqa: E402 -- needs torch
    CPU,
    KINDS,
    Learner,
    resumed,
    text_only,
    train_kind,
    work,
)
from tests.helpers.tiny_learning import small_vlm  # noqa: E402 -- after the skip

EXACT = [kind for kind in KINDS if kind != "bfloat16"]


def spawn(world, folder, jobs):
    torch.multiprocessing.spawn(work, args=(world, str(folder), jobs), nprocs=world)
    return [pickle.loads((folder / f"{world}-{rank}.pkl").read_bytes()) for rank in range(world)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def two(folder):
    """Return what two processes found."""
    return spawn(2, folder, [*KINDS, "snapshots", "taken_over", "stored", "unwritable"])


@pytest.fixture(scope="module")
def three(two, folder):
    """Return what three processes found, which go on from the checkpoint of the two."""
    return spawn(3, folder, ["full", "resumed"])


@pytest.fixture(scope="module")
def alone():
    """Return the training of one process, once a kind."""
    return cache(partial(train_kind, sharded=False))


def difference(first, second):
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT)
def test_two_sharded_processes_take_the_steps_of_one(two, alone, kind):
    one = alone(kind)
    start = Learner(kind, sharded=False).weights()
    assert difference(start, one["weights"]) > 1e-3  # there were steps
    for found in two:
        assert difference(found[kind]["weights"], one["weights"]) < 1e-5
        for mine, other in zip(found[kind]["metrics"], one["metrics"], strict=True):
            assert mine == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_two_sharded_processes_that_pack_take_the_steps_of_one_that_pads(two, alone):
    for found in two:
        assert difference(found["packed"]["weights"], alone("full")["weights"]) < 1e-5


@pytest.mark.slow
def test_three_processes_take_the_steps_of_one(three, alone):
    for found in three:
        assert difference(found["full"]["weights"], alone("full")["weights"]) < 1e-5


@pytest.mark.slow
def test_bfloat16_computes_in_it_and_keeps_float32(two, alone):
    rough, one, exact = two[0]["bfloat16"], alone("bfloat16"), alone("full")
    assert rough["bytes"] == two[0]["full"]["bytes"]  # parameters, gradients and moments have four bytes each
    norms = [[entry["grad_norm"] for entry in found["metrics"]] for found in (rough, one, exact)]
    assert norms[0] == pytest.approx(norms[1], rel=5e-3)
    assert norms[0] != pytest.approx(norms[2], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_process_holds_half(two, alone, kind):
    whole = alone(kind)["bytes"]
    for found in two:
        for name, size in found[kind]["bytes"].items():
            assert size == pytest.approx(whole[name] / 2, rel=0.01), name
    if kind == "full":
        assert whole["optimizer"] == pytest.approx(2 * whole["parameters"], rel=0.01)


@pytest.mark.slow
def test_a_snapshot_brings_a_step_back(two):
    for found in two:
        first, second = found["snapshots"]
        assert difference(first, second) == 0


@pytest.mark.slow
def test_the_state_of_an_unsharded_learner_is_taken_over(two):
    for found in two:
        sharded, whole = found["taken_over"]
        assert difference(sharded, whole) < 1e-5


@pytest.mark.slow
def test_one_and_three_go_on_from_a_checkpoint_of_two(two, three, folder):
    expected = two[0]["stored"]
    assert difference(expected["before"], expected["after"]) > 1e-4
    for found in (resumed(f"{folder}/shards", sharded=False), *(found["resumed"] for found in three)):
        assert difference(found["before"], expected["before"]) == 0
        assert difference(found["after"], expected["after"]) < 1e-5


@pytest.mark.slow
def test_all_are_told_that_one_cannot_write(two):
    for found in two:
        told, missing = found["unwritable"]
        assert told.startswith(("RuntimeError: ", "OSError: "))  # the second's, at both
        assert missing is None  # it was written again


@pytest.mark.slow
def test_checkpoint_with_missing_files_or_of_another_model(two, folder, tmp_path):
    learner = Learner("lora", sharded=False)
    with pytest.raises(ModelError, match="belong to another model"):
        load_shards(folder / "shards", learner.named, learner.optimizer)
    assert missing_shards(folder / "shards") is None
    assert missing_shards(tmp_path) == ".metadata"
    (tmp_path / ".metadata").write_bytes((folder / "shards" / ".metadata").read_bytes())
    assert missing_shards(tmp_path) == "__0_0.distcp"


@pytest.mark.parametrize("image", [True, False])
def test_blank_samples_change_no_gradient(image):
    learner = Learner("full", sharded=False)
    chat = learner.updater._scorer.chat
    blank = blank_sample(chat, image=image)
    assert (blank.trained, len(blank.images)) == (0, image)
    assert (blank.segment.ids == chat.image_token_id).any() == image

    def gradients(batch):
        learner.optimizer.zero_grad(set_to_none=True)
        learner.updater._loss(batch, Totals(10, 2)).loss.backward()
        return {name: None if p.grad is None else p.grad.numpy().copy() for name, p in learner.named}

    nothing = gradients([blank])
    for name, gradient in nothing.items():
        assert (gradient is None) == ("visual" in name and not image), name
        assert gradient is None or not gradient.any(), name
    own, more = gradients(text_only(1)), gradients([*text_only(1), blank])
    for name, gradient in own.items():
        if gradient is not None:
            assert np.abs(gradient - more[name]).max() <= 1e-6, name


def test_models_that_cannot_be_sharded_are_refused():
    model = small_vlm().model
    model.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(ModelError, match="'scale' is a single number"):
        Sharding(model, CPU, autocast=None, cpu_offload=False)
    model = small_vlm().model
    model.register_parameter("packed", torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False))
    with pytest.raises(ModelError, match=r"'packed' is quantised \(torch.uint8\)"):
        Sharding(model, CPU, autocast=None, cpu_offload=False)


def test_layers_are_those_of_the_vision_tower_and_of_the_language_model():
    layers = module._layers(small_vlm().model)
    assert len(layers) == 4
    assert {type(layer).__name__ for layer in layers} == {"Qwen2_5_VLVisionBlock", "Qwen2_5_VLDecoderLayer"}
