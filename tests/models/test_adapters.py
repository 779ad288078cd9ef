"""Adapters: loaded with their model, or refused with what does not fit."""

import warnings

import pytest
import torch

from agile_gym.errors import ModelError
from agile_gym.models import load_vlm
from agile_gym.policies.model import HFVLMPolicy

PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""PEFT uses a name that transformers gives up."""


def make_adapter(model_folder, folder, *, width=4):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(1)
    base = AutoModelForImageTextToText.from_pretrained(model_folder)
    adapted = get_peft_model(base, LoraConfig(r=width, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.slow
@PEFT_WARNS
def test_adapter_changes_what_is_written_and_keeps_parity(saved, tmp_path):
    import numpy as np

    from agile_gym.models.scoring import segment_logps
    from tests.helpers.prompted_episodes import play

    adapter = make_adapter(saved("qwen3_vl"), tmp_path / "adapter")
    plain = HFVLMPolicy(str(saved("qwen3_vl")), device="cpu", max_new_tokens=12)
    adapted = HFVLMPolicy(str(saved("qwen3_vl")), device="cpu", max_new_tokens=12, adapter=adapter)
    without, with_adapter = play(plain), play(adapted)
    assert [t.segments[0].ids.tolist() for t in without] != [t.segments[0].ids.tolist() for t in with_adapter]
    for transcript in with_adapter:
        (segment,) = transcript.segments
        (logps,) = segment_logps(adapted.vlm, adapted.chat, [segment], [transcript.images])
        np.testing.assert_allclose(logps, segment.logps, atol=1e-4)


@PEFT_WARNS
def test_adapter_of_another_model(saved, tmp_path):
    adapter = make_adapter(saved("qwen3_vl"), tmp_path / "adapter")
    with pytest.raises(ModelError, match="does not fit the model"):
        load_vlm(saved("gemma3"), device="cpu", adapter=adapter)


def test_adapter_that_is_not_there(saved, tmp_path):
    with pytest.raises(ModelError, match=r"adapter .*nothing.* does not fit the model, or is not one"):
        load_vlm(saved("gemma3"), device="cpu", adapter=tmp_path / "nothing")


@PEFT_WARNS
def test_adapter_whose_weights_have_other_names(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(saved("idefics3"), tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("text_model", "language_model"): value for name, value in weights.items()}
    assert set(renamed) != set(weights)
    save_file(renamed, adapter / "adapter_model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of tests
        with pytest.raises(ModelError, match=r"does not fit the model.*missing adapter keys"):
            load_vlm(saved("idefics3"), device="cpu", adapter=adapter)


@pytest.mark.slow
@PEFT_WARNS
def test_adapter_that_adds_tokens(saved, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    vlm = load_vlm(saved("tiny"), device="cpu")
    sizes = {"num_layers": 3, "token_dim": 128, "num_attention_heads": 4}
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, **sizes)
    get_peft_model(vlm.model, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="adds tokens to each conversation"):
        load_vlm(saved("tiny"), device="cpu", adapter=tmp_path)
