import json
import shutil
import warnings
from types import SimpleNamespace

import families
import pytest
import torch

from agile_gym.errors import ModelError
from agile_gym.policies import make_policy
from agile_gym.policies.hf import HFVLMPolicy
from agile_gym.policies.vlm import VLM, load_processor, load_vlm
from agile_gym.policies.vlm.configs import attention_reach, load_config

PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""PEFT uses a name that transformers gives up."""


@pytest.fixture
def model(saved, tmp_path):
    """A copy of a model that a test may damage."""
    return shutil.copytree(saved("idefics3"), tmp_path / "model")


def test_saved_and_loaded_models_are_the_same(saved, family):
    torch.manual_seed(0)
    vlm = load_vlm(saved(family), device="cpu")
    assert not vlm.model.training
    assert vlm.model.dtype == torch.float32
    assert vlm.processor.chat_template
    again = load_vlm(saved(family), device="cpu")
    for one, other in zip(vlm.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_dtype_and_attention_are_those_asked_for(saved):
    vlm = load_vlm(saved("qwen2_5_vl"), device="cpu", dtype="bfloat16", attention="eager")
    assert vlm.model.dtype == torch.bfloat16
    assert vlm.text_config._attn_implementation == "eager"


def test_nothing_at_the_path(tmp_path):
    with pytest.raises(ModelError, match=r"no model at .*nowhere.*save_pretrained"):
        load_vlm(tmp_path / "nowhere")


def test_text_only_model(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**families.TEXT, vocab_size=64)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'llama', which takes no images.*Qwen2\.5-VL"):
        load_vlm(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("vocab_size", "many"), ("hidden_size", [1])])
def test_configuration_with_a_field_of_the_wrong_type(model, field, value):
    path = model / "config.json"
    config = json.loads(path.read_text())
    config["text_config"][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"configuration in .*model.* cannot be read: .*" + field):
        load_config(model)


def test_configuration_that_is_no_json(model):
    (model / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"configuration in .*model.* cannot be read"):
        load_config(model)


def test_code_that_comes_with_a_model_is_not_run(model, tmp_path):
    (model / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    (model / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}})
    )
    with pytest.raises(ModelError, match=r"code of its own, which is not run\. Choose"):
        load_vlm(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Qwen3_5Config", r"'qwen3_5', which has layers of the kind 'linear_attention'.* Choose another"),
        ("Lfm3VlConfig", r"'conv'"),
        ("Florence2Config", r"has an encoder and a decoder"),
        ("MllamaConfig", r"looks at images through layers of their own"),
    ],
)
def test_models_whose_memory_is_not_keys_and_values(saved, tmp_path, kind, message):
    import transformers

    if not hasattr(transformers, kind):
        pytest.skip(f"this version of transformers has no {kind}")
    config = getattr(transformers, kind)()
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_config(tmp_path)
    loaded = VLM(SimpleNamespace(config=config), load_processor(saved("idefics3")), "mine")
    with pytest.raises(ModelError, match=message):
        HFVLMPolicy(loaded)


def test_how_far_attention_reaches():
    from transformers import Gemma3TextConfig, Llama4TextConfig, MistralConfig, Qwen2Config

    assert attention_reach(MistralConfig(sliding_window=300)) == 300  # names no kinds of layers
    assert attention_reach(MistralConfig(sliding_window=None)) is None
    assert attention_reach(Gemma3TextConfig(sliding_window=400)) == 400
    assert attention_reach(Gemma3TextConfig(num_hidden_layers=1, layer_types=["full_attention"])) is None
    assert attention_reach(Llama4TextConfig(attention_chunk_size=500)) == 500
    assert attention_reach(Qwen2Config(sliding_window=600, use_sliding_window=False)) is None


def test_model_without_chat_template(model):
    (model / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"has no chat template\. Save one"):
        load_vlm(model)


def test_template_for_plain_texts_only(model):
    (model / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ 'U: ' + message['content'] }}{% endfor %}"
    )
    with pytest.raises(ModelError, match="list of text and image parts"):
        HFVLMPolicy(str(model))


def test_template_that_hides_what_the_assistant_wrote(model):
    (model / "chat_template.jinja").write_text("{% for message in messages %}{{ message['role'] }}{% endfor %}")
    with pytest.raises(ModelError, match="does not show the assistant's turn"):
        HFVLMPolicy(str(model))


def test_folder_without_an_image_processor(model):
    (model / "processor_config.json").unlink()
    with pytest.raises(ModelError, match=r"processor of .*(cannot be loaded|takes no images)"):
        load_vlm(model)


def test_damaged_weights(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vlm(model)


def test_weights_that_are_not_complete(model):
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({key: value for key, value in weights.items() if key != name}, model / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 are missing, such as .*q_proj\.weight.*would be random"):
        load_vlm(model)


def test_pickles_are_not_read(model, saved, tmp_path):
    torch.save({}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded: .*safetensors only; save them as such"):
        load_vlm(model)
    (tmp_path / "adapter").mkdir()
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin.*not read.*safe_serialization=True"):
        load_vlm(saved("idefics3"), adapter=tmp_path / "adapter")


def test_processor_that_needs_a_missing_package(saved, monkeypatch):
    folder = saved("smolvlm")
    # What the module finds where num2words is not installed.
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(ModelError, match="pip install num2words"):
        load_processor(folder)


def test_gpu_that_is_not_there(saved):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match="finds no GPU"):
        load_vlm(saved("idefics3"), device="cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "give one of 'float32', 'bfloat16', 'float16'"),
        ({"device": "cpu:x"}, "give 'cpu', 'cuda', 'cuda:1' or 'auto'"),
        ({"device": "gpu"}, "give 'cpu', 'cuda', 'cuda:1' or 'auto'"),
        ({"attention": "flash"}, "cannot be loaded: .*attn_implementation"),
    ],
)
def test_options_that_are_not_allowed(saved, options, message):
    with pytest.raises(ModelError, match=message):
        load_vlm(saved("idefics3"), **options)


def make_adapter(model_folder, folder, *, width=4):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(1)
    base = AutoModelForImageTextToText.from_pretrained(model_folder)
    adapted = get_peft_model(base, LoraConfig(r=width, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(folder)
    return folder


@PEFT_WARNS
def test_adapter_changes_what_is_written_and_keeps_parity(saved, tmp_path):
    import numpy as np
    from playing import play

    from agile_gym.policies.vlm.scoring import segment_logps

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


@PEFT_WARNS
def test_adapter_that_adds_tokens(saved, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    vlm = load_vlm(saved("llava"), device="cpu")
    sizes = {"num_layers": 4, "token_dim": 192, "num_attention_heads": 6}
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, **sizes)
    get_peft_model(vlm.model, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="adds tokens to each conversation"):
        load_vlm(saved("llava"), device="cpu", adapter=tmp_path)


def test_policy_by_name(saved):
    policy = make_policy(f"hf:{saved('idefics3')}", temperature=0, max_new_tokens=5)
    assert policy.options.temperature == 0
    with pytest.raises(ModelError, match="no model at"):
        make_policy("hf:nowhere")


def test_processors_without_videos_are_saved_under_their_own_name(saved, tmp_path):
    processor = load_processor(saved("qwen2_5_vl"))
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "Qwen2_5_VLProcessor"
