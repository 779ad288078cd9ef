"""A tiny model that was taught one episode by heart: look twice, then answer by the colour of the pieces.

It is a real vision-language model with real weights, and its answer shows whether the images have reached it.
"""

import functools
import json

import numpy as np
from PIL import Image

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.models.tiny import TinySizes, build_tiny
from agile_gym.rollout import EpisodeRecorder

RED, BLUE = (np.full((64, 64, 3), colour, np.uint8) for colour in ((220, 30, 30), (30, 30, 220)))
ANSWERS = {"red": ["B", "A", "D", "C"], "blue": ["D", "C", "B", "A"]}
LOOK = "<think>Look.</think>\n<code>\nobservation_image_{} = observation(state)\n</code>"
TURNS = 2
OPTIONS = {"image_size": 64, "prompt": "short", "max_turns": 4, "level": None, "equal_pieces": "names"}


def lesson(colour):
    """Return the turns that the model is to write, for a photograph of one colour."""
    return [
        *(LOOK.format(turn + 1) for turn in range(TURNS)),
        f"<think>So.</think>\n<answer>{json.dumps(ANSWERS[colour])}</answer>",
    ]


def make_env(colour):
    """Make the environment of a colour."""
    return JigsawVisionEnv(images=[RED if colour == "red" else BLUE], **OPTIONS)


def conversation(colour, seed):
    """Play the lesson, and return its messages and images."""
    recorder = EpisodeRecorder(make_env(colour))
    recorder.reset(seed=seed)
    for text in lesson(colour):
        recorder.step(text)
    messages = recorder.finish("teacher").messages()
    return messages, [Image.fromarray(image) for message in messages for image in message.images]


def teach(folder, *, seed=0, steps=300):
    """Train a model on the lessons until it knows them by heart, and save it.

    Returns:
        The folder.
    """
    import torch

    torch.manual_seed(seed)
    sizes = TinySizes(width=64, layers=2, heads=2, inner=128, vision_width=32)
    model, processor = build_tiny(seed, sizes=sizes)
    batches = [_batch(processor, colour, start) for colour in ANSWERS for start in range(2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        inputs, labels = batches[step % len(batches)]
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19 and all(_loss(model, batch) < 0.01 for batch in batches):
            break
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _loss(model, batch):
    import torch

    with torch.no_grad():
        return model(**batch[0], labels=batch[1]).loss.item()


def _batch(processor, colour, seed):
    """Return a conversation's inputs, and labels that are the tokens of the model's turns."""
    import torch

    messages, images = conversation(colour, seed)
    render = functools.partial(processor.apply_chat_template, tokenize=False)
    chat = [{"role": message.role, "content": message.text} for message in messages]
    text = render(chat)
    inputs = dict(processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False))
    labels = torch.full_like(inputs["input_ids"], -100)
    for turn, message in enumerate(chat):
        if message["role"] == "assistant":
            start, end = (
                processor(
                    text=[part],
                    images=images[: part.count("<image>")],
                    return_tensors="pt",
                    add_special_tokens=False,
                )["input_ids"].shape[1]
                for part in (render(chat[:turn], add_generation_prompt=True), render(chat[: turn + 1]))
            )
            labels[0, start:end] = inputs["input_ids"][0, start:end]
    return inputs, labels
