"""Tiny random models of each family, built in code, with their real processors."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from agile_gym.models.processors import without_video

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>{% else %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 4096}


def make_tokenizer(specials, **names):
    """Return a tokenizer with a token a byte, and the special tokens given."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _chatml_tokenizer(*more, **extra):
    return make_tokenizer(
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>", *more],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        **extra,
    )


def _ids(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }


def qwen2_5_vl(*, head=8, **text):
    """Qwen2.5-VL, with heads of a width, and other sizes of its text; vLLM takes heads of 32 and more on a CPU."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    tokenizer = _chatml_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = _with_qwen_images(Qwen2_5_VLProcessor, tokenizer, template, patch_size=14)
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            **_ids(tokenizer),
            "hidden_size": TEXT["num_attention_heads"] * head,
            "rope_parameters": {"rope_type": "default", "mrope_section": _mrope_section(head), "rope_theta": 10000.0},
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 4 * head,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": TEXT["num_attention_heads"] * head,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        **_qwen_ids(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl(*, head=8):
    """Qwen3-VL, with heads of a width; see `qwen2_5_vl`."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    tokenizer = _chatml_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = _with_qwen_images(Qwen3VLProcessor, tokenizer, template, patch_size=16)
    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            **_ids(tokenizer),
            "hidden_size": 4 * head,
            "head_dim": head,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [head // 4, head // 8, head // 8],
                "mrope_interleaved": True,
                "rope_theta": 10000.0,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 4 * head,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 4 * head,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **_qwen_ids(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _mrope_section(head):
    half = head // 2
    return [half - 2 * (half // 3), half // 3, half // 3]


def _qwen_ids(tokenizer):
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _with_qwen_images(kind, tokenizer, template, *, patch_size):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        patch_size=patch_size, min_pixels=4 * patch_size**2, max_pixels=448 * 448, merge_size=2
    )
    return without_video(kind)(images, tokenizer, chat_template=template)


def idefics3():
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = make_tokenizer(
        [
            "<|im_start|>",
            "<end_of_utterance>",
            "<|endoftext|>",
            "<fake_token_around_image>",
            "<image>",
            "<global-img>",
            *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
        ],
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|endoftext|>",
    )
    template = CHATML.replace("IMAGE", "<image>").replace("<|im_end|>", "<end_of_utterance>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    config = Idefics3Config(
        text_config={"model_type": "llama", **TEXT, **_ids(tokenizer)},
        vision_config={**SMALL, "image_size": 56, "patch_size": 14},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Idefics3ForConditionalGeneration(config), processor


def smolvlm():
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    other, processor = idefics3()
    images = SmolVLMImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    tokenizer = processor.tokenizer
    tokenizer.image_token, tokenizer.fake_image_token = "<image>", "<fake_token_around_image>"
    tokenizer.global_image_token, tokenizer.end_of_utterance_token = "<global-img>", "<end_of_utterance>"
    template = processor.chat_template
    processor = without_video(SmolVLMProcessor)(images, tokenizer, None, image_seq_len=4, chat_template=template)
    config = SmolVLMConfig(
        text_config=other.config.text_config.to_dict(),
        vision_config={**SMALL, "image_size": 56, "patch_size": 14},
        image_token_id=other.config.image_token_id,
        scale_factor=2,
        pad_token_id=other.config.pad_token_id,
    )
    return SmolVLMForConditionalGeneration(config), processor


def gemma3(*, sliding_window=4096):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = make_tokenizer(
        [
            *("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
            *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        ],
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )
    images = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor = Gemma3Processor(images, tokenizer, chat_template=GEMMA, image_seq_length=4)
    config = Gemma3Config(
        text_config={
            **TEXT,
            **_ids(tokenizer),
            "head_dim": 8,
            "sliding_window": sliding_window,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={**SMALL, "image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_id=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    return Gemma3ForConditionalGeneration(config), processor


def gemma3_sliding():
    """Gemma3 with a sliding window that is shorter than an episode."""
    return gemma3(sliding_window=64)


def llava_onevision():
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    tokenizer = _chatml_tokenizer("<image>", "<video>")
    images = LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]]
    )
    processor = without_video(LlavaOnevisionProcessor)(
        images,
        tokenizer,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHATML.replace("IMAGE", "<image>"),
    )
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **TEXT, **_ids(tokenizer)},
        vision_config={"model_type": "siglip_vision_model", **SMALL, "image_size": 28, "patch_size": 14},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def internvl():
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = _chatml_tokenizer(
        "<img>",
        "</img>",
        "<IMG_CONTEXT>",
        "<video>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4)
    processor = without_video(InternVLProcessor)(
        images, tokenizer, image_seq_length=1, chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>")
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT, **_ids(tokenizer)},
        vision_config={**SMALL, "image_size": [28, 28], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
        downsample_ratio=0.5,
        vision_feature_layer=-1,
    )
    return InternVLForConditionalGeneration(config), processor


def llava():
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = _chatml_tokenizer("<image>")
    side = {"height": 28, "width": 28}
    images = SiglipImageProcessorPil(size=side, crop_size=side)  # LlavaProcessor counts tokens by the crop's size
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        chat_template=CHATML.replace("IMAGE", "<image>"),
    )
    config = LlavaConfig(
        text_config={"model_type": "llama", **TEXT, **_ids(tokenizer)},
        vision_config={"model_type": "siglip_vision_model", **SMALL, "image_size": 28, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config), processor


def tiny():
    """Qwen2-VL, as which the tiny model is built."""
    from agile_gym.models.tiny import build_tiny

    return build_tiny()


FAMILIES = {
    function.__name__: function
    for function in (
        *(qwen2_5_vl, qwen3_vl, idefics3, smolvlm, gemma3, gemma3_sliding, llava, llava_onevision, internvl),
        tiny,
    )
}


@cache
def built(name):
    """Return a model of a family and its processor, once for all tests: leave them as they are."""
    model, processor = FAMILIES[name]()
    return model.eval(), processor


def save(name, folder, *, seed=0):
    """Build a tiny random model of a family and save it with its processor."""
    import torch

    torch.manual_seed(seed)
    model, processor = FAMILIES[name]()
    # Random models are nearly uniform; larger weights make what they sample depend on what they see.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
            if not parameter.any():  # Gemma3's projector begins as zeros
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
