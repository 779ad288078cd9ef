import copy

import numpy as np
import pytest

from agile_gym.errors import ConfigurationError, ModelError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.learner.data import make_samples  # noqa: E402 -- after the skip
from agile_gym.learner.options import ModelOptions, build_vlm, part_of, resolve_autocast  # noqa: E402 -- after the skip
from agile_gym.learner.updating import ProcessGroup  # noqa: E402 -- after the skip
from tests.helpers.gloo_ranks import make_updater  # noqa: E402 -- needs torch
from tests.helpers.tiny_learning import load, samples  # noqa: E402 -- after the skip

ALONE = ProcessGroup(torch.device("cpu"), distributed=False)


def build(path, *, for_training=True, on_gpu=False, **options):
    return build_vlm(ModelOptions(path=str(path), **options), for_training=for_training, on_gpu=on_gpu)


def trained(vlm):
    return {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}


@pytest.fixture(params=["small_model", "qwen"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def qwen_samples(qwen):
    """Return samples that the tiny Qwen2.5-VL has played itself."""
    from functools import partial

    from agile_gym.policies.model import HFVLMPolicy
    from agile_gym.rollout import EpisodeSpec, play_episodes
    from tests.helpers.tiny_learning import SMALL

    policy = HFVLMPolicy(load(qwen), max_new_tokens=8)
    policy.reset(0)
    specs = [EpisodeSpec("env", seed, policy_seed=seed, name=str(seed)) for seed in range(3)]
    played = play_episodes(policy, specs, {"env": partial(SMALL, max_turns=2)}, batch=3)
    episodes = [transcript for _, transcript in sorted(played, key=lambda pair: pair[0].seed)]
    return [
        sample
        for episode, value in zip(episodes, (1.0, -2.0, 0.5), strict=True)
        for sample in make_samples(episode, value)
    ]


@pytest.fixture
def chosen(folder, small_model, request):
    return samples(3) if folder == small_model else request.getfixturevalue("qwen_samples")


@pytest.mark.slow
def test_all_of_it_is_trained_by_default(folder):
    vlm = build(folder)
    assert trained(vlm) == {name for name, _ in vlm.model.named_parameters()}
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.float32}


def test_every_parameter_belongs_to_a_part(folder):
    parts = {name: part_of(name) for name, _ in build(folder).model.named_parameters()}
    assert set(parts.values()) == {"vision", "projector", "language"}
    for name, part in parts.items():
        if "lm_head" in name or "embed_tokens" in name or ".language_model." in name:
            assert part == "language", name
        if "merger" in name or "multi_modal_projector" in name:
            assert part == "projector", name
        if "patch_embed" in name or "patch_embedding" in name:
            assert part == "vision", name


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [("vision",), ("language", "projector")])
def test_frozen_parts_do_not_change(folder, chosen, freeze):
    vlm = build(folder, freeze=freeze)
    names = {name for name, _ in vlm.model.named_parameters()}
    assert trained(vlm) == {name for name in names if part_of(name) not in freeze}
    before = copy.deepcopy(vlm.model.state_dict())
    make_updater(vlm, ALONE).step(chosen)
    for name, parameter in vlm.model.named_parameters():
        if part_of(name) in freeze:
            assert torch.equal(parameter, before[name]), name
    assert any(not torch.equal(p, before[name]) for name, p in vlm.model.named_parameters())


@pytest.mark.slow
def test_adapter_begins_as_the_model_itself_and_alone_is_trained(folder, chosen):
    pytest.importorskip("peft")
    plain, vlm = build(folder), build(folder, train="lora", lora_rank=4, lora_alpha=8)
    assert all("lora_" in name for name in trained(vlm))
    assert {parameter.shape[0] for name, parameter in vlm.model.named_parameters() if "lora_A" in name} == {4}
    first, second = make_updater(plain, ALONE)._scorer, make_updater(vlm, ALONE)._scorer
    rows = [first.prepare(sample.segment, sample.images) for sample in chosen]
    with torch.no_grad():
        assert torch.allclose(first(rows).logps, second(rows).logps, atol=1e-5)
    before = copy.deepcopy(vlm.model.state_dict())
    make_updater(vlm, ALONE).step(chosen)
    changed = {name for name, tensor in vlm.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= trained(vlm)


@pytest.mark.slow
def test_adapter_follows_from_the_seed_alone(small_model):
    pytest.importorskip("peft")
    torch.manual_seed(9)
    first = build(small_model, train="lora").model.state_dict()
    before = torch.random.get_rng_state()
    second = build(small_model, train="lora").model.state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    other = build(small_model, train="lora", seed=1).model.state_dict()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_adapter_of_some_layers_and_parts(small_model):
    pytest.importorskip("peft")
    vlm = build(small_model, train="lora", lora_targets=["q_proj", "v_proj"], freeze=["vision"])
    names = trained(vlm)
    assert names
    assert all("q_proj" in name or "v_proj" in name for name in names)
    assert {part_of(name) for name in names} == {"language"}
    with pytest.raises(ModelError, match=r"lora_targets.*no such layers"):
        build(small_model, train="lora", lora_targets=["w_q"])


@pytest.mark.slow
@pytest.mark.parametrize("train", ["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(folder, chosen, train):
    if train == "lora":
        pytest.importorskip("peft")
    found = []
    for checkpointing in (False, True):
        vlm = build(folder, gradient_checkpointing=checkpointing, train=train)
        vlm.model.train()  # as in training; transformers checkpoints nothing else
        layers = [module for module in vlm.model.modules() if getattr(module, "gradient_checkpointing", False)]
        assert bool(layers) == checkpointing
        make_updater(vlm, ALONE, grad_clip=None).step(chosen)
        found.append({name: p.grad for name, p in vlm.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any(float(gradient.abs().max()) > 0 for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-6, rtol=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "for_training", "on_gpu", "expected"),
    [
        ({}, True, True, torch.float32),
        ({}, False, True, torch.bfloat16),
        ({}, False, False, torch.float32),
        ({"dtype": "bfloat16"}, True, False, torch.bfloat16),
        ({"dtype": "float32"}, False, True, torch.float32),
    ],
)
def test_types_of_the_weights(small_model, options, for_training, on_gpu, expected):
    vlm = build(small_model, for_training=for_training, on_gpu=on_gpu, **options)
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {expected}


def test_adapter_on_a_gpu_keeps_its_base_small(small_model):
    pytest.importorskip("peft")
    vlm = build(small_model, train="lora", on_gpu=True)
    types = {name: parameter.dtype for name, parameter in vlm.model.named_parameters()}
    assert {kind for name, kind in types.items() if "lora_" not in name} == {torch.bfloat16}
    assert {kind for name, kind in types.items() if "lora_" in name} == {torch.float32}


def test_bfloat16_weights_are_trained(small_model):
    vlm = build(small_model, dtype="bfloat16")
    metrics = make_updater(vlm, ALONE, lr=1e-2).step(samples(3))
    assert np.isfinite(metrics["grad_norm"])


def test_type_of_matrix_products():
    assert resolve_autocast(ModelOptions(), on_gpu=True) == "bfloat16"
    assert resolve_autocast(ModelOptions(), on_gpu=False) is None
    assert resolve_autocast(ModelOptions(autocast="none"), on_gpu=True) is None
    assert resolve_autocast(ModelOptions(autocast="bfloat16"), on_gpu=False) == "bfloat16"


def test_tiny_model_needs_no_folder():
    assert sum(parameter.numel() for parameter in build("tiny").model.parameters()) > 1_000_000


def test_options_as_a_mapping():
    options = ModelOptions(train="lora", freeze=["vision"], lora_targets=["q_proj"])
    assert ModelOptions.from_mapping(options.to_mapping()) == options
    assert options.freeze == ("vision",)
    with pytest.raises(ConfigurationError, match=r"no option 'lora_rnak'. Did you mean 'lora_rank'"):
        ModelOptions.from_mapping({"lora_rnak": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "lroa"}, "Did you mean 'lora'"),
        ({"freeze": ["sight"]}, "freeze='sight'"),
        ({"freeze": "vision"}, r"freeze='vision'.*list"),
        ({"freeze": ["vision", "projector", "language"]}, "nothing to train"),
        ({"dtype": "float8"}, "dtype='float8'"),
        ({"autocast": True}, "autocast=True"),
        ({"lora_rank": 0}, "lora_rank=0"),
        ({"lora_rank": 2.5}, "lora_rank=2.5"),
        ({"lora_alpha": 0}, "lora_alpha=0"),
        ({"lora_dropout": 1}, "lora_dropout=1"),
        ({"lora_targets": "q_proj"}, r"lora_targets='q_proj'.*list"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ModelOptions(**options)


def test_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="There is no model"):
        build(tmp_path / "nothing")
