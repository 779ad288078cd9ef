"""Play with vLLM in a process of its own, and print the results: ``python -m tests.helpers.vllm_player FAMILY``."""

import json
import sys

import numpy as np
import torch

from agile_gym.models import VLM, ChatFormat
from agile_gym.models.batch import HFGenerator
from agile_gym.models.cache import Context
from agile_gym.models.inputs import Reader
from agile_gym.models.sampling import SamplingOptions
from agile_gym.models.scoring import segment_logps
from agile_gym.models.vllm_engine import VLLMEngine, VLLMGenerator
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec, play_episodes
from tests.helpers.families import FAMILIES
from tests.helpers.tiny_learning import SMALL

TURNS, EPISODES, PUZZLES = 5, 3, 100
OPTIONS = {"max_model_len": 1024, "max_num_seqs": 128, "kv_cache_memory_bytes": 200_000_000}


def make_model(name):
    """Build a model whose heads are wide enough for vLLM on a CPU, and whose words depend on what it sees."""
    torch.manual_seed(0)
    model, processor = FAMILIES[name](**({} if name in ("tiny", "llava") else {"head": 32}))
    change(model, 0.02)
    return VLM(model.eval(), processor, name)


def change(model, size):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))


def episodes(vlm, chat, generator):
    """Play episodes of several images a turn in a batch, and return their contexts, images and turns."""
    rng = np.random.default_rng(0)
    reader = Reader(chat, vlm.model)
    contexts, shown = [Context() for _ in range(EPISODES)], [[] for _ in range(EPISODES)]
    turns = []
    for turn in range(TURNS):
        for number, context in enumerate(contexts):
            images = [rng.integers(0, 255, (*rng.integers(20, 120, 2), 3), np.uint8) for _ in range(2 - (turn > 0))]
            shown[number] += images
            if turn == 0:
                context.read(reader.opening("A <image> and <image>: go", images), reader.positions)
            else:
                chunk = reader.follow_up("see <image> now", images, after=context.last_token)
                context.read(chunk, reader.positions)
        turns.append(generator.generate(contexts, [np.random.default_rng([n, turn]) for n in range(EPISODES)]))
    return contexts, shown, turns


def apart(vlm, chat, generator):
    """Return the largest difference of log-probabilities from those of transformers, in any of the turns."""
    contexts, shown, _ = episodes(vlm, chat, generator)
    segments = [context.finished_segments()[0] for context in contexts]
    told = segment_logps(vlm, chat, segments, shown, temperature=generator._options.temperature)
    return max(float(np.abs(a - s.logps)[s.loss_mask].max()) for a, s in zip(told, segments, strict=True))


def play(vlm, **options):
    """Return the texts of puzzles that are played with the likeliest tokens."""
    policy = HFVLMPolicy(vlm, temperature=0.0, max_new_tokens=16, **options)
    specs = [EpisodeSpec("env", seed, {}, policy_seed=seed, name=str(seed)) for seed in range(PUZZLES)]
    played = play_episodes(policy, specs, {"env": SMALL}, batch=PUZZLES)
    return {spec.name: [turn.text for turn in episode.turns] for spec, episode in played}


def main(name):
    vlm = make_model(name)
    chat = ChatFormat(vlm.processor)
    engine = VLLMEngine(vlm, chat, options=OPTIONS)
    generator = VLLMGenerator(engine, chat, SamplingOptions(max_new_tokens=24, temperature=0.8))
    told = {"same": apart(vlm, chat, generator), "sent": []}
    _, _, turns = episodes(vlm, chat, generator)
    told["computed"] = [[turn.computed_tokens for turn in batch] for batch in turns]
    told["in_batch"] = [list(turn.ids) for batch in turns for turn in batch]
    told["forbidden"] = sum(bool(HFGenerator(vlm, chat, SamplingOptions()).forbidden[i]) for i in told["in_batch"][0])
    _, _, again = episodes(vlm, chat, generator)
    told["again"] = [list(turn.ids) for batch in again for turn in batch]
    told["stops"] = stops(vlm, chat, engine)
    for _ in range(3):
        change(vlm.model, 0.02)
        generator.take_weights()
        told["sent"].append(apart(vlm, chat, generator))
    one, other = play(vlm), play(vlm, engine=engine)
    told["greedy"] = sum(one[key] == other[key] for key in one) / len(one)
    told["stale"] = stale(vlm, chat, generator)
    print(json.dumps(told))


def stops(vlm, chat, engine):
    """Return turns of both engines that end at texts which the model happens to write, inside and out of thoughts."""
    told = []
    free = HFGenerator(vlm, chat, SamplingOptions(max_new_tokens=24, temperature=0.0))
    _, _, turns = episodes(vlm, chat, free)
    texts = [chat.decode_part(turn.ids) for batch in turns for turn in batch]
    signs = dict.fromkeys(sign for text in texts for sign in text[3:] if "!" <= sign <= "~")
    for sign in list(signs)[:4]:
        options = SamplingOptions(max_new_tokens=24, temperature=0.0, stop=(sign,))
        made = [
            episodes(vlm, chat, kind)[2]
            for kind in (HFGenerator(vlm, chat, options), VLLMGenerator(engine, chat, options))
        ]
        told.append([[[list(turn.ids), turn.stopped] for batch in one for turn in batch] for one in made])
    return told


def stale(vlm, chat, generator):
    """Return the difference after new weights if caches are not dropped, or the error that vLLM then raises."""
    before = VLLMEngine.reset
    apart(vlm, chat, generator)
    change(vlm.model, 0.1)
    VLLMEngine.reset = lambda self: None
    try:
        generator.take_weights()
        return apart(vlm, chat, generator)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        VLLMEngine.reset = before


if __name__ == "__main__":
    main(sys.argv[1])
