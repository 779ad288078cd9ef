import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from agile_gym.errors import ModelError
from agile_gym.learner import MissingDependencyError
from agile_gym.models import VLM, load_processor, load_vlm
from agile_gym.models.processors import save_processor
from agile_gym.models.sources import attention_reach, load_config
from agile_gym.policies import make_policy
from agile_gym.policies.model import HFVLMPolicy
from tests.helpers import families
from tests.helpers.asking import ask


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
        ("MllamaConfig", r"reads images through layers of their own"),
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
    with pytest.raises(ModelError, match=r"no image processor .*processor_config\.json"):
        load_vlm(model)


def test_damaged_weights(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"weights in .*model\.safetensors' are damaged .*Download or save"):
        load_vlm(model)


def test_weights_that_are_not_complete(model):
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({key: value for key, value in weights.items() if key != name}, model / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 are missing, such as .*q_proj\.weight.*would be random"):
        load_vlm(model)


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def remove(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()


def shard(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"
SHARDS = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
DAMAGES = {
    "sizes of a layer": (
        lambda folder: edit(folder, lambda config: config["text_config"].update(intermediate_size=128)),
        r"do not fit its config\.json: 6 have other sizes, such as '.*mlp.*', \(32, 64\) .* and \(32, 128\)",
    ),
    "size of the vocabulary": (
        lambda folder: edit(folder, lambda config: config["text_config"].update(vocab_size=999)),
        r"2 have other sizes",
    ),
    "weights cut short": (lambda f: truncate(f / "model.safetensors", -1000), "are damaged .* not fully covered"),
    "no byte of weights": (lambda f: truncate(f / "model.safetensors", 0), "are damaged"),
    "weights of nonsense": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 5000), "are damaged"),
    "a pointer instead of weights": (lambda f: (f / "model.safetensors").write_text(POINTER), "git lfs pull"),
    "a pointer instead of a tokenizer": (lambda f: (f / "tokenizer.json").write_text(POINTER), "git lfs pull"),
    "a pointer instead of a configuration": (lambda f: (f / "config.json").write_text(POINTER), "git lfs pull"),
    "no weights": (lambda f: remove(f, "*.safetensors"), r"has no weights \(model\.safetensors\)"),
    "shards that are not there": (lambda f: shard(f, SHARDS), "lacks 2 files of weights, such as 'model-00001"),
    "an index that is damaged": (lambda f: shard(f, "{"), "index of the weights, .* is damaged"),
    "no tokenizer": (lambda f: remove(f, "tokenizer*"), r"has no tokenizer \(tokenizer\.json\)\. Save"),
    "no tokenizer but its settings": (lambda f: remove(f, "tokenizer.json"), "has no tokenizer"),
    "a damaged tokenizer": (lambda f: truncate(f / "tokenizer.json", 50), "tokenizer's file .* is damaged"),
    "no configuration": (lambda f: remove(f, "config.json"), r"no model at .*has no config\.json"),
    "an adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "holds an adapter"),
    "nothing": (lambda f: remove(f, "*"), r"no model at .*has no config\.json"),
    "an unknown type": (
        lambda folder: edit(folder, lambda config: config.update(model_type="foo")),
        r"the type 'foo', which transformers .* does not have\. Install a newer",
    ),
    "no type": (lambda folder: edit(folder, lambda config: config.pop("model_type")), "names no model_type"),
    "no chat template": (lambda f: remove(f, "chat_template.jinja"), "has no chat template"),
    "a chat template that is none": (lambda f: (f / "chat_template.jinja").write_text("{% for x %}"), "cannot render"),
    "no image processor": (lambda f: remove(f, "processor_config.json"), "has no image processor"),
}


def truncate(path, size):
    content = path.read_bytes()
    path.write_bytes(content[:size])


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_with_a_folder_is_told_in_one_line(model, capfd, name):
    damage, message = DAMAGES[name]
    damage(model)
    with pytest.raises(ModelError, match=message) as caught:
        HFVLMPolicy(str(model), device="cpu")
    told = str(caught.value)
    assert "\n" not in told
    assert "model" in told
    assert len(told) < 500
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_nothing_but_the_line_is_printed(model):
    """In a process of its own, as transformers keeps the stream that it writes to."""
    DAMAGES["sizes of a layer"][0](model)
    status, _, told = ask(["eval", "--policy", f"hf:{model}", "--output", "no.json"])
    assert status == 1
    assert told.count("\n") == 1
    assert told.startswith("agile-gym: The weights of ")


def test_a_file_of_a_model_is_no_model(model):
    with pytest.raises(ModelError, match=r"is a file\. Give the folder that it is in"):
        HFVLMPolicy(str(model / "config.json"))


def test_pickles_are_not_read(model, saved, tmp_path):
    torch.save({}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model\.bin\).*safetensors only; save them as such"):
        load_vlm(model)
    (tmp_path / "adapter").mkdir()
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin.*not read.*safe_serialization=True"):
        load_vlm(saved("idefics3"), adapter=tmp_path / "adapter")


def test_processor_that_needs_a_missing_package(saved, monkeypatch):
    folder = saved("smolvlm")
    # What the module finds where num2words is not installed.
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(MissingDependencyError, match=r"'num2words' is needed for the processor of .*pip install num2w"):
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


def test_policy_by_name(saved):
    policy = make_policy(f"hf:{saved('idefics3')}", temperature=0, max_new_tokens=5)
    assert policy.options.temperature == 0
    with pytest.raises(ModelError, match="no model at"):
        make_policy("hf:nowhere")


def test_processors_without_videos_are_saved_under_their_own_name(saved, tmp_path):
    processor = load_processor(saved("qwen2_5_vl"))
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "Qwen2_5_VLProcessor"


@pytest.mark.parametrize(("family", "patches"), [("qwen2_5_vl", [14, 2, 2]), ("tiny", [16, 3, 1])])
def test_saved_processors_have_the_file_that_qwens_own_reads(saved, tmp_path, family, patches):
    save_processor(load_processor(saved(family)), tmp_path)
    values = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert [values[name] for name in ("patch_size", "merge_size", "temporal_patch_size")] == patches
    assert values["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert values["size"] == json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]["size"]


def test_other_processors_are_saved_as_they_are(saved, tmp_path):
    save_processor(load_processor(saved("llava")), tmp_path)
    assert not (tmp_path / "video_preprocessor_config.json").exists()
