"""Weights, images and arguments for vLLM, none of which needs it."""

import copy
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.errors import ConfigurationError, MissingDependencyError, ModelError  # noqa: E402 -- after the skip
from agile_gym.models import ChatFormat  # noqa: E402 -- after the skip
from agile_gym.models.chat import Chunk  # noqa: E402 -- after the skip
from agile_gym.models.sampling import SamplingOptions  # noqa: E402 -- after the skip
from agile_gym.models.vllm_engine import VLLMGenerator  # noqa: E402 -- after the skip
from agile_gym.models.vllm_inputs import (  # noqa: E402 -- after the skip
    GPU_SHARE,
    check_family,
    check_options,
    check_version,
    image_ranges,
    named_weights,
    vllm_name,
)
from agile_gym.policies.model import HFVLMPolicy  # noqa: E402 -- after the skip
from tests.helpers.families import built  # noqa: E402 -- after the skip
from tests.helpers.tiny_learning import small_vlm  # noqa: E402 -- after the skip


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("qwen2_5_vl", "model.visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
        ("qwen3_vl", "lm_head.weight", "lm_head.weight"),
        (
            "llava",
            "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
            "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        ),
        ("llava", "model.language_model.norm.weight", "model.language_model.norm.weight"),
    ],
)
def test_parameters_get_the_names_of_vllm(kind, name, wanted):
    assert vllm_name(name, kind) == wanted


@pytest.mark.parametrize("name", ["tiny", "qwen2_5_vl", "qwen3_vl"])
def test_all_weights_are_given_tied_ones_under_each_name(name):
    model, _ = built(name)
    given = dict(named_weights(model))
    assert given.keys() == model.state_dict().keys()
    assert "lm_head.weight" in given


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_merged_and_the_model_stays_as_it_is():
    peft = pytest.importorskip("peft")
    model = small_vlm().model
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "fc1", "up_proj"])
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    given = {name: tensor.clone() for name, tensor in named_weights(adapted)}
    merged = copy.deepcopy(adapted).merge_and_unload().state_dict()
    assert given.keys() == merged.keys() == plain.keys()
    for name, tensor in merged.items():
        assert torch.allclose(given[name], tensor, atol=1e-6), name
    changed = [name for name in plain if not torch.equal(plain[name], given[name])]
    assert any("q_proj" in name for name in changed)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())


def test_images_are_told_apart_by_their_placeholders():
    def chunk(mask, images):
        mask = np.array(mask, np.bool_)
        return Chunk(np.zeros(len(mask), np.int32), mask, {}, images)

    assert image_ranges(chunk([0, 1, 1, 0, 1, 0], 2)) == [(1, 2), (4, 1)]
    assert image_ranges(chunk([1, 1, 1, 1, 0, 1, 1], 3)) == [(0, 2), (2, 2), (5, 2)]
    with pytest.raises(ModelError, match="cannot be told apart"):
        image_ranges(chunk([1, 1, 1], 2))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tensor_parallel_size": 2}, "more runners"),
        ({"model": "x"}, "set by this library"),
        ({"enable_prefix_caching": False}, "set by this library"),
    ],
)
def test_options_that_cannot_be_handed_on_are_refused(options, told):
    with pytest.raises(ConfigurationError, match=told):
        check_options(options)


def test_a_version_that_is_not_tested_is_refused():
    check_version("0.32.0")
    check_version("0.32.1+cpu")
    for version in ("0.3", "0.31.9", "0.320.0", "1.0.0"):
        with pytest.raises(ConfigurationError, match=rf"vLLM {version} is installed.*0\.32 is.*constraints-vllm.txt"):
            check_version(version)


def test_a_family_that_is_not_known_is_refused():
    with pytest.raises(ModelError, match=r"'idefics3'.*Set engine='hf'"):
        check_family("idefics3", "m")


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 5}])
def test_vllm_draws_from_all_tokens(sampling):
    with pytest.raises(ConfigurationError, match="top_p"):
        VLLMGenerator(None, ChatFormat(small_vlm().processor), SamplingOptions(**sampling))


def test_an_engine_is_known_by_its_name():
    with pytest.raises(ConfigurationError, match=r"'vllm'"):
        HFVLMPolicy(small_vlm(), engine="vlm")
    with pytest.raises(ConfigurationError, match="engine='vllm'"):
        HFVLMPolicy(small_vlm(), engine_options={"max_model_len": 10})


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_share_of_a_gpu_is_that_of_vllm():
    text = (Path(find_spec("vllm").origin).parent / "config" / "cache.py").read_text("utf-8")
    assert float(re.search(r"gpu_memory_utilization: float = Field\(default=([\d.]+)", text)[1]) == GPU_SHARE


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_a_missing_vllm_is_named_with_its_extra():
    with pytest.raises(MissingDependencyError, match=r"agile-gym\[vllm\]"):
        HFVLMPolicy(small_vlm(), engine="vllm")
