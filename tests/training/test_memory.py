"""Memory of a training by phase, against tensors that were counted, and the plan of AGILE's settings."""

import re

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

pytest.importorskip("ray")

from agile_gym.cli import main
from agile_gym.errors import ConfigurationError
from agile_gym.training.checking import check_settings
from agile_gym.training.dry_run import describe_run
from agile_gym.training.memory import GIB, GPU, Load, ModelShapes, iteration_time, layer_bytes, memory_phases
from agile_gym.training.settings import read_settings
from tests.helpers import ROOT
from tests.helpers.large_models import configured

LOAD = Load(
    learners=1,
    runners=1,
    sharded=False,
    offloaded=False,
    half=False,
    checkpointed=False,
    batch_tokens=100,
    written=0.5,
    episode_tokens=100,
    episodes=4,
    shared=False,
)


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    return configured(tmp_path_factory.mktemp("seven"), "qwen2_5_vl")


def text_model(width, inner, *, layers=3, heads=4, key_values=2):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_values,
    )
    return Qwen2ForCausalLM(config)


@pytest.mark.parametrize(("width", "inner"), [(64, 256), (256, 512), (128, 1024)])
@pytest.mark.parametrize("half", [False, True])
def test_a_layer_keeps_what_is_counted(width, inner, half):
    model, tokens = text_model(width, inner), 96
    model.train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    if half:
        model = model.to(torch.bfloat16)
        parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.shape[-2:] != (tokens, tokens):
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model.model(input_ids=ids, use_cache=False)
    counted = sum(size for size, _ in kept.values()) / tokens / 3
    shapes, load = ModelShapes.of(model), LOAD.__class__(**{**vars(LOAD), "half": half})
    assert layer_bytes(shapes, load) == pytest.approx(counted, rel=0.15)


def test_shapes_are_those_of_the_model(seven):
    from agile_gym.models.loading import load_shapes

    model = load_shapes(seven, dtype="bfloat16").model
    shapes = ModelShapes.of(model)
    assert shapes.total == pytest.approx(8.292e9, rel=1e-3)  # as its model card has it
    assert shapes.weight_bytes == 2 * shapes.total
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert shapes.unit == 3584 * (3584 + 1) + 2 * 512 * (3584 + 1) + 3584**2 + 3 * 3584 * 18944 + 2 * 3584
    assert shapes.root == shapes.total - 28 * shapes.unit
    assert shapes.cached == 2 * 28 * 4 * 128


def test_memory_by_phase_in_literal_numbers():
    shapes = ModelShapes(
        parameters={"language": 1000, "vision": 200},
        trained=1000,
        weight_bytes=4 * 1000 + 2 * 200,
        trained_bytes=4000,
        unit=300,
        root=600,
        layers=2,
        width=8,
        inner=16,
        key_values=4,
        vocabulary=50,
    )
    play, update = memory_phases(shapes, LOAD)
    assert play.parts == {"player's weights": 4800, "keys and values": 4 * 100 * 2 * 2 * 4 * 4}
    assert update.parts["weights"] == 4400
    assert update.parts["gradients"] == 4000
    assert update.parts["optimiser"] == 8000
    assert update.parts["16-bit copies"] == 0
    assert update.parts["logits"] == 100 * 0.5 * 50 * (4 * 4 + 16)
    spread = Load(**{**vars(LOAD), "learners": 4, "sharded": True, "half": True, "checkpointed": True, "shared": True})
    play, update = memory_phases(shapes, spread)
    assert [update.parts[name] for name in ("weights", "gradients", "optimiser")] == [1100, 1000, 2000]
    assert update.parts["gathered units"] == 2 * (600 + 2 * 300)
    assert update.parts["activations"] == 100 * (2 * 8 * 2 + layer_bytes(shapes, spread))
    assert update.parts["player's weights"] == play.parts["player's weights"] == 2400
    assert play.parts["optimiser"] == 2000
    assert play.parts["gradients"] == 0
    (both,) = memory_phases(shapes, Load(**{**vars(spread), "overlapping": True}))
    assert both.total == update.total + play.parts["keys and values"]
    apart = Load(**{**vars(LOAD), "overlapping": True})  # on GPUs of their own
    assert [phase.parts for phase in memory_phases(shapes, apart)] == [p.parts for p in memory_phases(shapes, LOAD)]


def test_time_in_literal_numbers():
    shapes = ModelShapes({"language": 10**9}, 10**9, 4 * 10**9, 4 * 10**9, 0, 10**9, 1, 1, 1, 0, 1)
    load = Load(**{**vars(LOAD), "half": True, "learners": 2, "runners": 2, "episodes": 4})
    took = iteration_time(shapes, load, 16, 50, GPU(flops=1e12, bandwidth=1e9, used=0.5, read=0.5))
    assert took.play == pytest.approx(2 * 50 * 2e9 / 0.5e9)  # two rounds of 50 steps, each reads 2 GB
    assert took.update == pytest.approx(6 * 1e9 * 16 * 100 / (2 * 0.5e12))


def totals(lines):
    found = {}
    for line in lines:
        match = re.match(r"(Play|Update)\s+([\d.]+) GiB", line)
        if match:
            found[match[1]] = float(match[2])
    return found


def test_agile_fits_its_own_machine_sharded_only(seven, capsys):
    changes = {"model.path": str(seven)}
    settings = read_settings("agile_7b", changes)
    lines = describe_run(settings)
    assert set(totals(lines)) == {"Play", "Update"}
    assert max(totals(lines).values()) < 80
    assert any("not measured" in line for line in lines)
    assert main(["train", "--preset", "agile_7b", "--model", str(seven), "--dry-run"]) == 0
    assert "8.29B parameters" in capsys.readouterr().out
    unsharded = settings.changed({"grpo.sharding": "none"})
    with pytest.raises(ConfigurationError, match=r"does not hold the phase 'update', which takes 1\d\d GiB") as error:
        check_settings(unsharded, elsewhere=True)
    assert "optimiser" in str(error.value)
    assert 'sharding = "full" in [grpo] with 8 learners' in str(error.value)
    offloaded = settings.changed({"grpo.cpu_offload": True})
    assert totals(describe_run(offloaded))["Play"] < totals(lines)["Play"] - 8  # the optimiser's state among others


def test_what_does_not_fit_is_refused_with_what_would(seven):
    small = read_settings("agile_7b", {"model.path": str(seven), "resources.gpu_memory": 40})
    with pytest.raises(ConfigurationError, match="a GPU of 40 GiB does not hold"):
        check_settings(small, elsewhere=True)
    lora = small.changed({"model.train": "lora", "resources.gpus_per_runner": 1, "grpo.rollout_batch": 8})
    check_settings(lora.changed({"grpo.max_new_tokens": 512, "grpo.micro_batch_tokens": 4096}), elsewhere=True)


def test_gib():
    assert GIB == 1024**3


@pytest.mark.parametrize(
    ("preset", "name", "parameters"),
    [("agile_3b_lora", "3b", "3.92B"), ("qwen3_vl", "qwen3_vl", "8.76B")],
)
def test_presets_fit_the_gpus_that_they_are_for(tmp_path, capsys, preset, name, parameters):
    assert main(["train", "--preset", preset, "--model", str(configured(tmp_path, name)), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f": {parameters} parameters" in printed
    assert max(totals(printed.splitlines()).values()) < read_settings(preset).resources.gpu_memory


EXAMPLES = {
    # file: (the preset that it is built on, sizes of its model, lines of its plan, what differs)
    "one_gpu": (
        *("agile_3b_lora", "3b", ["3.92B parameters", "(lora)", "this process does both"]),
        {"grpo": {"max_new_tokens", "rollout_batch", "micro_batch_tokens", "packing"}, "evaluation": {"batch"}}
        | {"resources": {"gpu_memory"}},
    ),
    "eight_gpus": (
        *("agile_7b", "qwen2_5_vl", ["8.29B parameters", "(full)", "4 runners and 4 learners"]),
        {"grpo": {"engine", "engine_options", "mismatch_correction", "mismatch_cap"}}
        | {"resources": {"runners", "learners", "gpus_per_runner", "gpus_per_learner"}},
    ),
    "two_nodes": (
        *("agile_7b", "qwen2_5_vl", ["8.29B parameters", "(full)", "16 runners and 16 learners"]),
        {"resources": {"runners", "learners"}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_planned_and_fit_their_machines(tmp_path, capsys, name):
    preset, model, words, differences = EXAMPLES[name]
    path = str(ROOT / "examples" / f"{name}.toml")
    assert main(["train", "--preset", path, "--model", str(configured(tmp_path, model)), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)
    settings = read_settings(path)
    found = totals(printed.splitlines())
    assert set(found) == {"Play", "Update"}
    assert max(found.values()) < settings.resources.gpu_memory
    mine, base = settings.to_mapping(), read_settings(preset).to_mapping()
    changed = {
        section: {key for key in values.keys() | base[section].keys() if values.get(key) != base[section].get(key)}
        for section, values in mine.items()
        if section != "seed" and values != base[section]
    }
    assert changed == differences


def test_every_example_of_settings_is_planned():
    assert {path.stem for path in (ROOT / "examples").glob("*.toml")} == EXAMPLES.keys()


def test_an_adapter_fits_24_gb_as_its_preset_says(tmp_path):
    changes = {"grpo.rollout_batch": 8, "grpo.max_new_tokens": 1024, "grpo.micro_batch_tokens": 8192}
    model = {"model.path": str(configured(tmp_path, "3b")), "resources.gpu_memory": 24}
    check_settings(read_settings("agile_3b_lora", model | changes), elsewhere=True)
