"""Memory of a training by phase, against tensors that were counted, and the plan of AGILE's settings."""

import itertools
import re

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

pytest.importorskip("ray")

from agile_gym.cli import main
from agile_gym.errors import ConfigurationError
from agile_gym.learner.data import Sample
from agile_gym.learner.updating import ProcessGroup, StepOptions, Updater
from agile_gym.models.chat import ChatFormat
from agile_gym.models.loading import VLM
from agile_gym.models.scoring import Scorer
from agile_gym.training.checking import check_settings
from agile_gym.training.dry_run import describe_run
from agile_gym.training.fitting import check_memory
from agile_gym.training.memory import (
    GIB,
    GPU,
    EnginePool,
    Load,
    ModelShapes,
    iteration_time,
    layer_bytes,
    memory_phases,
)
from agile_gym.training.settings import read_settings
from agile_gym.transcripts.record import Segment
from tests.helpers import ROOT
from tests.helpers.families import qwen2_5_vl
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


EPISODE = 12_872
"""Tokens of the longest episode of the preset agile_7b."""


def changed(load=LOAD, **values):
    return Load(**{**vars(load), **values})


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


@pytest.mark.parametrize(("width", "inner"), [(256, 512), (128, 1024)])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_keeps_what_is_counted(width, inner, weights, masked):
    model, tokens = text_model(width, inner), 96
    model.train()
    if weights == "bfloat16":
        model = model.to(torch.bfloat16)
    kept = {}

    def keep(tensor):
        if {tokens, 2 * tokens} & set(tensor.shape):  # those of weights have other sizes
            kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    ids = torch.zeros(2, tokens, dtype=torch.long)
    used = torch.ones_like(ids)
    used[1, 50:] = 0 if masked else 1
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=weights == "mixed"),
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    ):
        model.model(input_ids=ids, attention_mask=used, use_cache=False)
    counted = sum(size for size, _ in kept.values()) / ids.numel() / 3
    shapes, load = ModelShapes.of(model), changed(half=weights != "float32")
    assert layer_bytes(shapes, load, row=tokens if masked else 0) == pytest.approx(counted, rel=0.12)


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


SHAPES = ModelShapes(
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
SHARED = changed(learners=4, sharded=True, half=True, checkpointed=True, packed=True, shared=True)


def test_memory_by_phase_in_literal_numbers():
    play, update = memory_phases(SHAPES, changed(packed=True))
    assert play.parts == {"player's weights": 4800, "keys and values": 4 * 100 * 2 * 2 * 4 * 4}
    assert update.parts["weights"] == 4400
    assert update.parts["gradients"] == 4000
    assert update.parts["optimiser"] == 8000
    assert update.parts["16-bit copies"] == 0
    assert update.parts["activations"] == 100 * 2 * 544  # 544: 24 numbers of 8 in norms, 24 in attention, 64 in the MLP
    assert update.parts["logits"] == 100 * 0.5 * 50 * (2 * 4 + 16)
    play, update = memory_phases(SHAPES, SHARED)
    assert [update.parts[name] for name in ("weights", "gradients", "optimiser")] == [1100, 1000, 2000]
    assert update.parts["gathered units"] == 2 * (600 + 2 * 300)
    assert update.parts["activations"] == 100 * (2 * 8 * 2 + 304)
    assert update.parts["player's weights"] == play.parts["player's weights"] == 2400
    assert play.parts["optimiser"] == 2000
    assert play.parts["gradients"] == 0
    (both,) = memory_phases(SHAPES, changed(SHARED, overlapping=True))
    assert both.total == update.total + play.parts["keys and values"]
    apart = changed(overlapping=True)  # on GPUs of their own
    assert [phase.parts for phase in memory_phases(SHAPES, apart)] == [p.parts for p in memory_phases(SHAPES, LOAD)]
    referring = [phase.parts["reference's weights"] for phase in memory_phases(SHAPES, changed(SHARED, referred=True))]
    assert referring == [2 * 1200 / 4] * 2  # of both phases, in 16 bit, divided among four
    (play, _) = memory_phases(SHAPES, changed(players=2))
    assert play.parts == {"player's weights": 9600, "keys and values": 2 * 4 * 100 * 2 * 2 * 4 * 4}
    (_, update) = memory_phases(SHAPES, changed(half=True, packed=True))  # float32 is handed on, products are in 16 bit
    assert update.parts["16-bit copies"] == 2000
    assert update.parts["activations"] == 100 * 2 * (208 + 2 * (24 + 64))


def test_micro_batches_that_are_packed_and_padded_in_literal_numbers():
    def learning(**values):
        parts = memory_phases(SHAPES, changed(opening=20, **values))[1].parts
        return parts["activations"], parts["logits"]

    assert learning(packed=True) == (108_800, 2 * 50 * 50 * 4 + 50 * 50 * 16)
    assert learning(packed=True, batch_tokens=60) == learning(packed=True)  # an episode by itself may have more
    assert learning(packed=True, batch_tokens=300) == (326_400, 2 * 150 * 50 * 4 + 150 * 50 * 16)
    # Two rows of 50: logits of all but two openings of 20.
    assert learning() == (108_800, (60 + 50) * 50 * 4 + 50 * 50 * 16)
    # Each token keeps 50 numbers of its row's mask, twice 4 more of keys and values, and 50 booleans once.
    assert learning(masked=True) == (100 * (2 * (544 + 4 * (50 + 8)) + 50), 62_000)
    # Rows of 100, as no episode has more.
    assert learning(masked=True, batch_tokens=300) == (
        300 * (2 * (544 + 4 * (100 + 8)) + 100),
        (240 + 150) * 50 * 4 + 150 * 50 * 16,
    )
    assert learning(masked=True, batch_tokens=30) == (108_800, 60_000)  # no two fit


def updater_of(model, processor, *, packed, tokens):
    parameters = [parameter for name, parameter in model.named_parameters() if "visual" not in name]
    vlm = VLM(model.train(), processor, "random")
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    options = StepOptions("grpo", micro_batch_tokens=tokens, grad_clip=None)
    alone = ProcessGroup(torch.device("cpu"), distributed=False)
    return Updater(Scorer(vlm, ChatFormat(processor), packing=packed), optimizer, options, alone)


def written(turns, opening=64, feedback=16):
    """Return a sample whose turns have numbers of tokens."""
    kinds = [-1] * opening
    for number, count in enumerate(turns):
        kinds += [-1] * feedback * bool(number) + [number] * count
    kinds = np.array(kinds, np.int16)
    mask = kinds >= 0
    ids = np.random.default_rng(0).integers(97, 122, len(kinds)).astype(np.int32)
    segment = Segment(ids, mask, -1.0 * mask.astype(np.float32), kinds, (), mask.astype(np.float32))
    return Sample(segment, (), int(mask.sum()), (0,))


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_step_takes_what_is_counted(packed):
    """A step of a random Qwen2.5-VL, whose allocations torch counts."""
    model, processor = qwen2_5_vl(head=32, intermediate_size=352, num_hidden_layers=6)
    samples = [written(turns) for turns in ([120, 200], [200, 130], [100, 100], [200, 200])]
    tokens = sum(map(len, samples)) if packed else 4 * 480
    updater = updater_of(model, processor, packed=packed, tokens=tokens)
    updater.step(samples)  # gradients are there
    updater._optimizer.zero_grad = lambda **_: None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        updater.step(samples)
    found = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())]
    taken = max(itertools.accumulate(changes))
    load = changed(
        batch_tokens=tokens,
        episode_tokens=480,
        written=1250 / tokens,
        opening=64,
        packed=packed,
        masked=not packed,
    )
    parts = memory_phases(ModelShapes.of(model), load)[1].parts
    assert parts["activations"] + parts["logits"] == pytest.approx(taken, rel=0.1)


def test_what_vllm_reserves_in_literal_numbers():
    pool = EnginePool(size=9000, weights=2400, context=100, token=32)
    assert pool.needed == 5600
    plain = {name: phase.total for name, phase in zip("pu", memory_phases(SHAPES, SHARED), strict=True)}
    cache = 4 * 100 * 2 * 2 * 4 * 2
    for load, parts in (
        (changed(SHARED, pool=pool), {"play": 9000, "update": 9000}),
        (changed(SHARED, pool=EnginePool(9000, 2400, 100, 32, sleeps=True)), {"play": 9000, "update": 0}),
        (changed(SHARED, pool=pool, players=2), {"play": 18000, "update": 18000}),
    ):
        phases = memory_phases(SHAPES, load)
        assert {phase.name: phase.parts["vLLM's pool"] for phase in phases} == parts
        assert phases[0].total == plain["p"] - 2400 - cache + parts["play"]  # it holds both
        assert phases[1].total == plain["u"] - 2400 + parts["update"]
    apart = changed(SHARED, pool=pool, shared=False)
    play, update = memory_phases(SHAPES, apart)
    assert play.total == 9000
    assert "vLLM's pool" not in update.parts
    play, _ = memory_phases(SHAPES, changed(apart, pool=EnginePool(9000, 2400, 100, 32, on_gpu=False)))
    assert play.parts == {"player's weights": 2400, "vLLM's pool": 9000}  # the memory of a CPU holds both


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
    assert "Batches     at most 16,384 tokens at a time, or one episode, padded to one length" in lines
    assert "            at most: every turn writes max_new_tokens = 2,048; shorter turns take less" in lines
    # the sharded weights and optimiser, the player's weights, and keys and values
    assert totals(lines)["Play"] == pytest.approx(3.86 + 7.09 + 15.4 + 32 * EPISODE * 57344 / GIB, abs=0.15)
    assert main(["train", "--preset", "agile_7b", "--model", str(seven), "--dry-run"]) == 0
    assert "8.29B parameters" in capsys.readouterr().out
    unsharded = settings.changed({"grpo.sharding": "none"})
    with pytest.raises(ConfigurationError, match=r"does not hold the phase 'update', which takes 1\d\d GiB") as error:
        check_settings(unsharded, elsewhere=True)
    assert "optimiser" in str(error.value)
    assert 'sharding = "full" in [grpo] with 8 learners' in str(error.value)
    offloaded = settings.changed({"grpo.cpu_offload": True})
    assert totals(describe_run(offloaded))["Play"] < totals(lines)["Play"] - 8  # the optimiser's state among others


@pytest.fixture(scope="module")
def pooled(seven):
    """Settings of AGILE's machine where vLLM plays beside the learners."""
    options = {"max_model_len": 16384}
    return read_settings("agile_7b", {"model.path": str(seven), "grpo.engine": "vllm", "grpo.engine_options": options})


def test_a_pool_of_vllm_beside_learners_is_refused_with_what_would_fit(pooled):
    with pytest.raises(ConfigurationError, match=r"does not hold the phase 'update'.*vLLM's pool 73\.6") as error:
        check_memory(pooled)
    told = str(error.value)
    assert "vLLM reserves 0.92 of each runner's GPU, its default, as gpu_memory_utilization is not in" in told
    assert "73.6 GiB (15.4 of them weights), also while learners compute (engine_sleep = false)" in told
    # 80 GiB less the sharded weights (3.86 GiB) and optimiser (7.09 GiB) are 69.0 GiB, 0.86 of 80
    assert "engine_sleep = true and gpu_memory_utilization = 0.86 in engine_options" in told
    share = float(re.search(r"; or gpu_memory_utilization = ([\d.]+) in engine_options", told)[1])
    options = {"max_model_len": 16384, "gpu_memory_utilization": share}
    check_memory(pooled.changed({"grpo.engine_options": options}))
    slept = {"grpo.engine_sleep": True, "grpo.engine_options": {**options, "gpu_memory_utilization": 0.86}}
    check_memory(pooled.changed(slept))
    for name, changes in (
        ("update", {"grpo.engine_options": {**options, "gpu_memory_utilization": share + 0.01}}),
        ("play", {**slept, "grpo.engine_options": {**options, "gpu_memory_utilization": 0.87}}),
    ):
        with pytest.raises(ConfigurationError, match=f"does not hold the phase '{name}'"):
            check_memory(pooled.changed(changes))
    lines = describe_run(pooled.changed(slept))
    assert any("of them weights), freed while learners compute" in line for line in lines)
    (play, update) = (line for line in lines if line.startswith(("Play", "Update")))
    assert "vLLM's pool 68.8" in play
    assert "vLLM's pool" not in update


def test_a_pool_that_does_not_hold_the_model_is_refused(pooled):
    small = {"max_model_len": 16384, "gpu_memory_utilization": 0.2}
    # 16 GiB, where weights take 15.4 and a context of 16384 tokens of 57344 bytes 0.875
    with pytest.raises(ConfigurationError, match=r"with 16 GiB.*16,384 tokens take 16\.3 GiB.*= 0\.21\.$"):
        check_memory(pooled.changed({"grpo.engine_options": small}))
    with pytest.raises(ConfigurationError, match=r"gpu_memory_utilization=1\.5 is not allowed"):
        check_memory(pooled.changed({"grpo.engine_options": {"gpu_memory_utilization": 1.5}}))
    own = {"grpo.engine_options": {"kv_cache_memory_bytes": 10 * GIB, "max_model_len": 16384}}
    lines = describe_run(pooled.changed(own))
    assert sum("vLLM's pool 25.4" in line for line in lines) == 2
    assert any("kv_cache_memory_bytes is given" in line for line in lines)


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
