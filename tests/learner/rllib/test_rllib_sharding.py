"""Learners in processes of their own that share one model's parameters: the same training as one learner's."""

import os
import signal
from functools import partial

import numpy as np
import pytest

from agile_gym.errors import ConfigurationError, ModelError
from tests.helpers.rllib_parts import Watched, difference, texts, train, weights
from tests.helpers.sharded_ranks import text_only
from tests.helpers.tiny_learning import samples

ITERATIONS = 3
LORA = {"train": "lora", "lora_rank": 4}
MODELS = {"full": {}, "lora": LORA}


def watched(config, **training):
    config.algo_class = Watched
    return config.training(**training)


@pytest.fixture(scope="module")
def expected(make_config):
    """Return what one learner in this process tells, its texts and its weights, for each kind of model."""
    found = {}
    for kind, vlm in MODELS.items():
        algorithm = watched(make_config(vlm=vlm, lr=1e-4)).build_algo()
        told = train(algorithm, ITERATIONS)
        found[kind] = {"told": told, "texts": texts(algorithm), "weights": weights(algorithm)}
        found[kind]["bytes"] = held(algorithm.learner_group._learner)
        algorithm.stop()
    return found


@pytest.fixture(scope="module")
def algorithms(make_config, tmp_path_factory):
    """Two sharded learners for each kind of model, and a checkpoint of the beginning."""
    made = {}

    def of(kind):
        if kind not in made:
            config = watched(make_config(learners=2, vlm=MODELS[kind], lr=1e-4), sharding="full")
            algorithm = few_cpus(config).build_algo()
            made[kind] = algorithm, algorithm.save_to_path(tmp_path_factory.mktemp(kind) / "beginning")
        return made[kind]

    yield of
    for algorithm, _ in made.values():
        algorithm.stop()


@pytest.fixture
def begun(algorithms):
    """Return what brings the two learners back to their beginning."""

    def at(kind):
        algorithm, path = algorithms(kind)
        algorithm.restore_from_path(path)
        algorithm.__dict__["seen"] = []
        return algorithm

    return at


def few_cpus(config):
    """Let several algorithms fit into the cluster of the tests."""
    return config.learners(num_cpus_per_learner=0.1).env_runners(num_cpus_per_env_runner=0.1)


def assert_same(told, algorithm, expected, tolerance=1e-4):
    assert texts(algorithm) == expected["texts"]
    assert difference(weights(algorithm), expected["weights"]) <= tolerance
    for mine, other in zip(told, expected["told"], strict=True):
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-4)


def held(learner):
    """Return the bytes of parameters, gradients and the optimiser's state in a learner's process."""

    def size(tensors):
        return sum(getattr(t, "to_local", lambda t=t: t)().nbytes for t in tensors)

    parameters = list(learner._vlm_module.parameters())
    state = learner.get_optimizer("default_policy").state
    assert len(state) > 5
    return {
        "parameters": size(parameters),
        "gradients": size(p.grad for p in parameters if p.grad is not None),
        "optimizer": size(value for entry in state.values() for value in entry.values()),
    }


def ask(algorithm, function):
    return [result.get() for result in algorithm.learner_group.foreach_learner(function).result_or_errors]


@pytest.mark.parametrize("kind", MODELS)
def test_two_sharded_learners_train_as_one_and_hold_half(begun, expected, kind):
    algorithm = begun(kind)
    assert_same(train(algorithm, ITERATIONS), algorithm, expected[kind])
    whole = expected[kind]["bytes"]
    for found in ask(algorithm, held):
        for name, size in found.items():
            assert size == pytest.approx(whole[name] / 2, rel=0.01), name


def test_a_learner_without_images_and_one_without_samples(begun, make_config, build):
    algorithm, alone = begun("full"), build(make_config(lr=1e-4))
    before = weights(algorithm)
    for chosen in ([samples()[0], *text_only(1)], text_only(2), samples()[:1]):
        chosen = [sample.__class__(sample.segment, sample.images, sample.length, (0, 1)) for sample in chosen]
        for learner in (algorithm, alone):
            learner.learn(chosen)
        assert difference(weights(algorithm), weights(alone)) < 1e-5
    assert difference(before, weights(algorithm)) > 1e-4


def test_checkpoints_go_from_any_number_of_learners_to_any_other(begun, make_config, build, expected, tmp_path):
    algorithm, path = begun("full"), tmp_path / "checkpoint"
    told, seen = train(algorithm), algorithm.seen
    for number, learners in enumerate((3, 1, 0, 2)):  # that in this process is not sharded
        stored = weights(algorithm)
        algorithm.save_to_path(path)
        sharded = "shards" in {entry.name for entry in (path / "learner_group" / "learner").iterdir()}
        assert sharded == (learners != 2)
        algorithm = build(few_cpus(watched(make_config(learners=learners, lr=1e-4), sharding="full")))
        algorithm.restore_from_path(path)
        assert difference(weights(algorithm), stored) == 0
        if number in (0, 3):
            algorithm.__dict__["seen"] = list(seen)
            told += train(algorithm)
            seen = algorithm.seen
    assert_same(told, algorithm, expected["full"], tolerance=2e-5)


def die_in_step(count, learner):
    """Let a learner die in the middle of an update, in its step of this number, after its first micro-batch."""
    real, steps = learner._updater._loss, []

    def loss(*args):
        steps.append(1)
        if len(steps) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    learner._updater._loss = loss


@pytest.mark.parametrize("victim", [0, 1])
def test_a_sharded_learner_that_dies_in_an_update_changes_nothing(begun, expected, victim):
    algorithm = begun("full")
    told = train(algorithm, 2)
    rebuilt = algorithm.learners_rebuilt
    algorithm.learner_group.foreach_learner(partial(die_in_step, 2), remote_actor_ids=[victim])
    told += train(algorithm)
    assert_same(told, algorithm, expected["full"])
    assert algorithm.learners_rebuilt == rebuilt + 1


def test_a_sharded_learner_that_dies_between_iterations_changes_nothing(begun, expected):
    algorithm = begun("lora")
    told = train(algorithm, 2)
    os.kill(ask(algorithm, lambda learner: os.getpid())[0], signal.SIGKILL)
    told += train(algorithm)
    assert_same(told, algorithm, expected["lora"])


@pytest.mark.parametrize(("kind", "merge"), [("full", False), ("lora", True), ("lora", False)])
def test_saved_model_has_the_weights_of_all_learners(begun, make_config, build, small_model, tmp_path, kind, merge):
    from safetensors.numpy import load_file

    algorithm = begun(kind)
    train(algorithm)
    folder = algorithm.save_pretrained(tmp_path / "model", merge=merge)
    alone = build(make_config(vlm=MODELS[kind], lr=1e-4))
    train(alone)
    other = alone.save_pretrained(tmp_path / "other", merge=merge)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in other.iterdir())
    name = "adapter_model.safetensors" if kind == "lora" and not merge else "model.safetensors"
    assert difference(load_file(folder / name), load_file(other / name)) < 1e-5
    if name == "model.safetensors":
        assert difference(load_file(folder / name), load_file(small_model / name)) > 1e-5


def test_kl_divergence_from_a_sharded_reference(make_config, build):
    told = []
    for learners in (0, 2):
        config = watched(make_config(learners=learners, kl_coef=0.1, lr=1e-3), sharding="full")
        algorithm = build(few_cpus(config))
        told.append([float(algorithm.train()["learners"]["default_policy"]["kl_ref"]) for _ in range(2)])
    assert told[1] == pytest.approx(told[0], rel=1e-3)
    assert told[0][1] > 1e-4


def test_runners_play_with_the_weights_that_are_gathered(make_config, build, expected):
    config = watched(make_config(runners=1, learners=2, lr=1e-4), sharding="full", cpu_offload=True)
    algorithm = build(few_cpus(config))
    assert_same(train(algorithm, ITERATIONS), algorithm, expected["full"])


def limit_files(size, learner):
    """Let a learner write no file of more bytes, or of any number again."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_of_one_learner_leaves_the_former_checkpoint(begun, tmp_path):
    algorithm, path = begun("full"), tmp_path / "checkpoint"
    train(algorithm)
    algorithm.save_to_path(path)
    kept, before = path.joinpath("manifest.json").read_bytes(), weights(algorithm)
    train(algorithm)
    algorithm.learner_group.foreach_learner(partial(limit_files, 20000), remote_actor_ids=[1])
    with pytest.raises(OSError, match="could not write its part"):
        algorithm.save_to_path(path)
    algorithm.learner_group.foreach_learner(partial(limit_files, -1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]
    assert path.joinpath("manifest.json").read_bytes() == kept
    algorithm.restore_from_path(path)
    assert difference(weights(algorithm), before) == 0
    algorithm.save_to_path(path)  # in the place of the former one


def test_a_checkpoint_of_another_model_is_refused(begun, algorithms, tmp_path):
    path = begun("lora").save_to_path(tmp_path / "checkpoint")
    algorithm = begun("full")
    before = weights(algorithm)
    with pytest.raises(ModelError, match="belong to another model"):
        algorithm.restore_from_path(path)
    algorithm.restore_from_path(algorithms("full")[1])
    assert difference(weights(algorithm), before) == 0


def test_a_learner_in_this_process_has_all_of_the_model(make_config, build):
    algorithm = build(make_config().training(sharding="full"))
    assert algorithm.learner_group._learner._vlm_module.sharding is None
    assert np.isfinite(train(algorithm)[0]["loss"])


@pytest.mark.parametrize(
    ("learners", "gpus", "training", "message"),
    [
        (2, 0, {"sharding": "half"}, r"sharding='half' is not allowed.*'full'"),
        (2, 0, {"sharding": True}, "sharding=True"),
        (2, 0, {"cpu_offload": True}, "cpu_offload=True with sharding='none'"),
        (0, 0, {"sharding": "full", "cpu_offload": True}, "cpu_offload=True with num_learners=0"),
        (2, 0.5, {}, "num_gpus_per_learner=0.5 with 2 learners: Ray may give two of them one GPU"),
        (8, 1, {"sharding": "full"}, r"needs 8 GPUs \(8 learners with 1\), and Ray has 0"),
    ],
)
def test_bad_settings(make_config, learners, gpus, training, message):
    with pytest.raises(ConfigurationError, match=message):
        make_config(learners=learners).learners(num_gpus_per_learner=gpus).training(**training).build_algo()
