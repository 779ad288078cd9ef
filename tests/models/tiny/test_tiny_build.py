import json
import subprocess
import sys

import numpy as np
import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.models.tiny import TinySizes, build_tiny, save_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LOAD = """
import json, sys
import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
processor = AutoProcessor.from_pretrained(sys.argv[1])
rng = np.random.default_rng(0)
image = lambda height, width: Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
parts = [{"type": "text", "text": "2 x 2, 5 turns\\nA: "}, {"type": "image", "image": image(32, 32)},
         {"type": "text", "text": "\\nboard: "}, {"type": "image", "image": image(66, 130)}]
inputs = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True,
                                       return_dict=True, return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
print(json.dumps({
    "model": type(model).__name__, "processor": type(processor).__name__, "ids": inputs["input_ids"][0].tolist(),
    "image": processor.image_token_id, "written": out.shape[1] - inputs["input_ids"].shape[1],
    "logits": model(**inputs).logits[0, -1, :5].tolist(),
    "ours": [name for name in sys.modules if name.startswith("agile_gym")]}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", seed=3)


@pytest.mark.slow
def test_loads_with_the_auto_classes_in_a_fresh_process(saved):
    run = subprocess.run([sys.executable, "-c", LOAD, str(saved)], capture_output=True, text=True, check=True)
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["model"] == "Qwen2_5_VLForConditionalGeneration"
    assert told["processor"] == "PaddleOCRVLProcessor"
    assert told["ours"] == []  # nothing of this library is needed
    assert told["ids"].count(told["image"]) == 1 + 3  # a piece is one token, and the other one 1 x 3 windows
    assert 1 <= told["written"] <= 4
    model, processor = build_tiny(3)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((32, 32, 3), (66, 130, 3))]
    inputs = processor.image_processor(images, return_tensors="pt")
    ids = torch.tensor([told["ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids, **inputs, mm_token_type_ids=(ids == told["image"]).int()).logits[0, -1, :5]
    assert logits.tolist() == pytest.approx(told["logits"], abs=1e-6)


def test_stays_below_two_million_parameters():
    model, processor = build_tiny()
    assert 1_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert len(processor.tokenizer) == model.config.text_config.vocab_size <= 1500
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_weights_follow_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, _ = build_tiny(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build_tiny(1)[0], build_tiny(2)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("sizes", [{"width": 100, "heads": 6}, {"layers": 0}, {"vision_width": 40}, {"inner": 2.5}])
def test_refuses_sizes_that_do_not_fit(sizes):
    with pytest.raises(ConfigurationError, match=r"must be"):
        TinySizes(**sizes)


def test_other_sizes_are_built():
    model, _ = build_tiny(sizes=TinySizes(width=64, layers=2, heads=4, inner=96, vision_width=32))
    assert model.config.text_config.num_hidden_layers == 2
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
