import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import families
import pytest
import torch
from packaging.requirements import Requirement

from agile_gym.errors import ModelError
from agile_gym.learner import MissingDependencyError
from agile_gym.models import VLM, load_processor, load_vlm
from agile_gym.models.sources import attention_reach, load_config, missing_package
from agile_gym.policies import make_policy
from agile_gym.policies.model import HFVLMPolicy

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


# --- names on the hub


ASK = """
import time
from agile_gym.cli import main
start = time.perf_counter()
status = main({command!r})
print(status, time.perf_counter() - start)
"""


def ask(command, **environment):
    """Run a command in a process of its own, and return its status, its time and what it says."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HTTP"))}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(command=command)],
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    status, seconds = done.stdout.splitlines()[-1].split()
    return int(status), float(seconds), done.stderr


@pytest.fixture
def hub(tmp_path):
    """Return a port of loopback that accepts connections and says nothing, and the environment that asks it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "cache")}


PLAN = ["plan", "--model", "some/model", "--image-size", "64", "--context", "99999"]


@pytest.mark.parametrize("command", [PLAN, ["eval", "--policy", "hf:some/model", "--output", "no.json"]])
def test_a_hub_that_does_not_answer_is_not_waited_for(hub, command):
    status, seconds, told = ask(command, **hub)
    assert status == 1
    assert told.count("\n") == 1
    assert told.startswith("agile-gym: There is no model at 'some/model': it is no folder")
    for words in (hub["HF_ENDPOINT"], "cannot be reached", "hf download some/model", "HF_ENDPOINT", "folder"):
        assert words in told
    assert 3 < seconds < 30  # one question of four seconds, and the imports


def test_a_hub_that_is_not_there_is_told_at_once(hub):
    hub["HF_ENDPOINT"] = "http://127.0.0.1:1"
    _, _, told = ask(PLAN, **hub)
    assert "cannot be reached" in told
    assert "Retry" not in told
    assert told.count("\n") == 1
    _, _, told = ask(PLAN, **hub, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in told
    assert told.count("\n") == 1


def test_a_model_in_the_cache_is_taken_from_there(saved, hub):
    """Also where the hub is out of reach; and what is missing there is not waited for."""
    folder = Path(hub["HF_HOME"]) / "hub" / "models--some--model"
    snapshot = shutil.copytree(saved("idefics3"), folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    hub["HF_ENDPOINT"] = "http://127.0.0.1:1"
    status, _, told = ask(PLAN, **hub)
    assert (status, told) == (0, "")
    (snapshot / "model.safetensors").unlink()
    status, _, told = ask(["eval", "--policy", "hf:some/model", "--output", "no.json"], **hub)
    assert status == 1
    assert "Retry" not in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("path", ["./nowhere/x", "a/b/c", "/nowhere", "~/models", "C:\\models\\mine"])
def test_what_can_be_no_name_is_not_asked_for(path):
    with pytest.raises(ModelError, match=r"no model at .*: there is no such folder\. Give a folder"):
        load_config(path)


def caused(message, cause):
    error = ModuleNotFoundError(message)
    error.__cause__ = cause
    return error


def test_packages_that_are_missing_are_named():
    for error, name in (
        (ImportError("\nFooProcessor requires the Torchvision library but it was not found in your environment. "
                     "Checkout the instructions"), "torchvision"),
        (ImportError("Package `num2words` is required to run SmolVLM processor. Install it with `pip install "
                     "num2words`."), "num2words"),
        (ModuleNotFoundError("No module named 'einops'", name="einops"), "einops"),
        (caused("Could not import module 'AutoProcessor'.", ModuleNotFoundError("No module named 'tiktoken'",
                name="tiktoken")), "tiktoken"),
        (ModuleNotFoundError("No module named 'einops.layers'", name="einops.layers"), "einops"),
        (ImportError("Using `bitsandbytes` quantization requires bitsandbytes: `pip install -U bitsandbytes>=0.46.1`"),
         "bitsandbytes"),
    ):  # fmt: skip
        told = str(missing_package(error, "the model 'x'"))
        assert told == f"The package {name!r} is needed for the model 'x'. Install it with: pip install {name}"
    assert "for the model 'x': what is this" in str(missing_package(ImportError("what\nis this"), "the model 'x'"))


BARE = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def needed(name):
    name = canonicalize_name(name)
    if name not in found:
        found.add(name)
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name)

found = set()
for name in EXTRA:
    needed(name)

class Known(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owners = owner.get(name.partition(".")[0])
        known = not owners or any(canonicalize_name(entry) in found for entry in owners)
        return super().find_spec(name, path, target) if known else None

owner = packages_distributions()
owner.pop("agile_gym", None)
sys.meta_path[sys.meta_path.index(PathFinder)] = Known
from agile_gym.models import load_vlm
for folder in FOLDERS:
    load_vlm(folder, device="cpu")
print("all loaded")
"""


def test_the_extra_has_all_that_the_families_need(saved):
    """Of what is installed here, the process sees only what the package, its extra and these need themselves."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [Requirement(text).name for text in project["dependencies"] + project["optional-dependencies"]["vlm"]]
    folders = [str(saved(name)) for name in families.FAMILIES]
    code = f"EXTRA, FOLDERS = {names}, {folders}\n{BARE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    assert "all loaded" in done.stdout, done.stderr


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

    from agile_gym.models.scoring import segment_logps

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

    vlm = load_vlm(saved("tiny"), device="cpu")
    sizes = {"num_layers": 4, "token_dim": 192, "num_attention_heads": 6}
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, **sizes)
    get_peft_model(vlm.model, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="adds tokens to each conversation"):
        load_vlm(saved("tiny"), device="cpu", adapter=tmp_path)


def test_policy_by_name(saved):
    policy = make_policy(f"hf:{saved('idefics3')}", temperature=0, max_new_tokens=5)
    assert policy.options.temperature == 0
    with pytest.raises(ModelError, match="no model at"):
        make_policy("hf:nowhere")


def test_processors_without_videos_are_saved_under_their_own_name(saved, tmp_path):
    processor = load_processor(saved("qwen2_5_vl"))
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "Qwen2_5_VLProcessor"
