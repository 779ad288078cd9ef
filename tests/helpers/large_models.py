"""Configurations of large models, without weights, from which trainings are planned."""

import json

from tests.helpers.families import FAMILIES

SEVEN_B = {  # the sizes of Qwen2.5-VL-7B
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "tie_word_embeddings": False,
}


SIZES = {
    "qwen2_5_vl": SEVEN_B,
    "3b": {
        "text_config": {
            **SEVEN_B["text_config"],
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        "vision_config": {**SEVEN_B["vision_config"], "out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "qwen3_vl": {
        "text_config": {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rope_parameters": {"rope_type": "default", "mrope_section": [24, 20, 20], "rope_theta": 5e6},
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        "tie_word_embeddings": False,
    },
}
"""Sizes of Qwen2.5-VL-7B and 3B, and of Qwen3-VL-8B."""


def configured(folder, name):
    """Write a configuration of these sizes and a processor, without weights, into a folder."""
    model, processor = FAMILIES["qwen3_vl" if name == "qwen3_vl" else "qwen2_5_vl"]()
    values = model.config.to_dict()
    for key, value in SIZES[name].items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    for key in ("layer_types", "max_window_layers"):  # these follow from others
        values["text_config"].pop(key, None)
    processor.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values))
    return folder
