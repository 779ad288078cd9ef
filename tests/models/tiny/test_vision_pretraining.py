import numpy as np
import pytest
from PIL import Image

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.images import open_images
from agile_gym.models.tiny import TinySizes, build_tiny
from agile_gym.models.tiny.pretraining import VisionPretrainingConfig, pretrain_vision
from agile_gym.models.tiny.puzzles import Lesson, PuzzleBatch, PuzzleDrawer, puzzle_config, training_images

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.models.tiny.build import image_features, last_hidden  # noqa: E402 -- after the skip
from agile_gym.models.tiny.exercises import (  # noqa: E402 -- after the skip
    Matching,
    answer_loss,
    answer_turns,
    as_pixels,
    pieces_right,
)

GRIDS = [(2, 2), (1, 3), (3, 3)]
SMALL = TinySizes(width=48, layers=2, heads=4, inner=96, vision_width=64, vision_inner=96)


@pytest.fixture(scope="module")
def images():
    return open_images()


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(0)


def messages(observation, info):
    """The first observation as a user's turn, with PIL images."""
    content, shown = [], iter(info["images"])
    for part in observation["text"].split("<image>"):
        content.append({"type": "text", "text": part})
        image = next(shown, None)
        if image is not None:
            content.append({"type": "image", "image": Image.fromarray(image)})
    return [{"role": "user", "content": [part for part in content if part.get("text") != ""]}]


def processed(processor, conversation, **options):
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt", **options)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("turns", [1, 5])
def test_a_lesson_is_what_processor_and_environment_make(grid, turns, images, tiny):
    model, processor = tiny
    options = {"images": images, "max_turns": turns, "reveal": True}
    env = JigsawVisionEnv(**(vars(puzzle_config(grid)) | options))
    observation, info = env.reset(seed=11)
    conversation = messages(observation, info)
    inputs = processed(processor, conversation, add_generation_prompt=True)

    lesson, batch = Lesson(processor, grid, turns), PuzzleDrawer(images, grid, 11).draw(1)
    np.testing.assert_array_equal(batch.pieces[0], np.stack(info["images"]))
    assert [lesson.names[piece] for piece in batch.solution[0]] == info["solution"]
    assert inputs["input_ids"][0].tolist() == lesson.prompt.tolist()
    assert (lesson.prompt == processor.image_token_id).nonzero()[0].tolist() == lesson.images.tolist()
    torch.testing.assert_close(inputs["pixel_values"], as_pixels(batch.pieces, "cpu"), rtol=0, atol=1e-6)

    answer = '", "'.join(info["solution"])
    conversation.append({"role": "assistant", "content": f'<think></think>\n<answer>["{answer}"]</answer>'})
    whole = processed(processor, conversation)
    ids = lesson.answers(batch.solution)
    assert whole["input_ids"][0].tolist() == [*lesson.prompt.tolist(), *ids[0].tolist()]

    # The loss is the one that the model itself computes on what the processor makes.
    labels = whole["input_ids"].clone()
    labels[:, : len(lesson.prompt)] = -100
    with torch.no_grad():
        features = image_features(model, as_pixels(batch.pieces, "cpu")).view(1, len(lesson.images), -1)
        loss = answer_loss(model, lesson, features, batch, whole=True)
        torch.testing.assert_close(loss, model(**whole, labels=labels).loss, rtol=1e-5, atol=1e-5)
        labels[:, -2:] = -100
        shorter = answer_loss(model, lesson, features, batch, whole=False)
        torch.testing.assert_close(shorter, model(**whole, labels=labels).loss, rtol=1e-5, atol=1e-5)
    assert env.step(conversation[1]["content"])[4]["solved"]


def test_a_board_is_what_the_processor_makes_of_an_observation(images, tiny):
    env = JigsawVisionEnv(**(vars(puzzle_config((2, 2))) | {"images": images}))
    _, info = env.reset(seed=3)
    drawer = PuzzleDrawer(images, (2, 2), 3)
    batch = drawer.draw(1)
    batch = PuzzleBatch(np.repeat(batch.pieces, 40, 0), np.repeat(batch.home, 40, 0))
    boards, arranged = drawer.boards(batch)
    assert {tuple(row) for row in arranged.tolist()} >= {(0, 1, 2, 3)}
    assert len({tuple(row) for row in arranged.tolist()}) > 5
    for board, row in zip(boards[:6], arranged[:6], strict=True):
        order = [info["task"].names[batch.solution[0][place]] for place in row]
        shown = env.step(f"<think></think><code>\nstate = {order}\nobservation_image_1 = observation(state)\n</code>")[
            4
        ]
        pixels = tiny[1].image_processor(Image.fromarray(shown["images"][0]), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, as_pixels(board, "cpu"), rtol=0, atol=1e-6)
        env.reset(seed=3)


def test_the_forward_pass_agrees_with_the_models_own(tiny):
    model, _ = tiny
    torch.manual_seed(0)
    start, rest, pixels = torch.randn(3, 192), torch.randn(5, 7, 192), torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        whole = torch.cat([start.expand(5, -1, -1), rest], 1)
        expected = model.model.language_model(inputs_embeds=whole, use_cache=False).last_hidden_state
        for keep in (1, 4, 7):
            torch.testing.assert_close(last_hidden(model, start, rest, keep), expected[:, -keep:], rtol=0, atol=2e-5)
        features = torch.cat(list(model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output))
        torch.testing.assert_close(image_features(model, pixels), features, rtol=0, atol=1e-5)


def test_the_loss_of_an_answer_after_a_thought_is_that_of_the_models_own_pass(images, tiny):
    model, processor = tiny
    lesson, batch = Lesson(processor, (2, 2), 5), PuzzleDrawer(images, (2, 2), 0).draw(3)
    thoughts = np.random.default_rng(0).choice(lesson.words, (3, 6))
    decoded = processor.tokenizer.decode(thoughts[0])
    assert not any(token in decoded for token in processor.tokenizer.all_special_tokens)
    rows, kept = [], []
    for answer, thought in zip(lesson.answers(batch.solution), thoughts, strict=True):
        opening, closing, *names = answer.tolist()
        assert processor.tokenizer.decode([opening]) == "<think>"
        assert processor.tokenizer.decode([closing]).startswith("</think>")
        rows.append([*lesson.prompt, opening, *thought, closing, *names])
        kept.append([False] * len(lesson.prompt) + [True] + [False] * 7 + [True] * len(names))
    ids, kept = torch.tensor(rows), torch.tensor(kept)
    pixels = as_pixels(batch.pieces, "cpu")
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
        expected = torch.nn.functional.cross_entropy(logits[:, :-1][kept[:, 1:]], ids[:, 1:][kept[:, 1:]])
        features = image_features(model, pixels).view(3, 4, -1)
        loss = answer_loss(model, lesson, features, batch, whole=True, thoughts=thoughts)
        plain = answer_loss(model, lesson, features, batch, whole=True, thoughts=thoughts[:, :0])
        assert plain == answer_loss(model, lesson, features, batch, whole=True)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    assert abs(float(loss - plain)) > 1e-4


def test_greedy_turns_are_those_that_generate_writes(images, tiny):
    model, processor = tiny
    lesson, batch = Lesson(processor, (2, 2), 5), PuzzleDrawer(images, (2, 2), 0).draw(3)
    turns = answer_turns(model, lesson, batch)
    prompt = torch.from_numpy(lesson.prompt).expand(3, -1)
    generated = model.generate(
        input_ids=prompt, pixel_values=as_pixels(batch.pieces, "cpu"), attention_mask=torch.ones_like(prompt),
        do_sample=False, min_new_tokens=8, max_new_tokens=8, pad_token_id=0,
    )  # fmt: skip
    assert turns.shape == (3, 8)
    assert generated[:, prompt.shape[1] :].tolist() == turns.tolist()


def test_pieces_right_reads_answers_as_the_environment_does(images, tiny):
    _, processor = tiny
    lesson, batch = Lesson(processor, (2, 2), 5), PuzzleDrawer(images, (2, 2), 0).draw(4)
    ids = torch.from_numpy(lesson.answers(batch.solution))
    assert pieces_right(processor, lesson, ids, batch) == [4, 4, 4, 4]
    ids[0, [2, 3]] = torch.from_numpy(lesson.answers(batch.solution[:, [1, 0, 2, 3]]))[0, [2, 3]]
    ids[1, 6] = processor.tokenizer.eos_token_id  # an answer that is not closed
    ids[2, 3] = processor.tokenizer.pad_token_id  # an answer of three pieces
    assert pieces_right(processor, lesson, ids, batch) == [2, 0, 0, 4]


@pytest.mark.parametrize("grid", [(2, 2), (1, 3), (3, 2)])
def test_the_loss_of_pieces_agrees_with_a_count_by_hand(grid):
    rows, cols = grid
    count = rows * cols
    torch.manual_seed(1)
    matching = Matching(16, grid, size=8)
    features = torch.randn(5, count, 16)
    home = torch.stack([torch.randperm(count) for _ in range(5)])
    right, left, lower, upper = (features @ weight.T for weight in matching.sides.weight.chunk(4))
    neighbours, of_place = {"across": [], "down": []}, []
    for n in range(5):
        at = {int(place): piece for piece, place in enumerate(home[n])}
        for piece in range(count):
            logits = features[n, piece] @ matching.place.weight.T + matching.place.bias
            of_place.append(-logits.log_softmax(0)[home[n, piece]])
        for name, one, other, step, fits in (
            ("across", right, left, 1, lambda place: place % cols < cols - 1),
            ("down", lower, upper, cols, lambda place: place + cols < count),
        ):
            for place in filter(fits, range(count)):
                a, b = at[place], at[place + step]
                forward = [(one[n, a] @ other[n, k]) / 8**0.5 for k in range(count) if k != a]
                backward = [(one[n, k] @ other[n, b]) / 8**0.5 for k in range(count) if k != b]
                truth = (one[n, a] @ other[n, b]) / 8**0.5
                neighbours[name].append((torch.stack(forward).logsumexp(0) - truth) / 2)
                neighbours[name].append((torch.stack(backward).logsumexp(0) - truth) / 2)
    parts = [2 * torch.stack(losses).mean() for losses in neighbours.values() if losses]
    expected = torch.stack(of_place).mean() + sum(parts)
    torch.testing.assert_close(matching.piece_loss(features, home), expected)


@pytest.mark.parametrize("grid", [(2, 2), (1, 3), (3, 2)])
def test_the_loss_of_boards_agrees_with_a_count_by_hand(grid):
    rows, cols = grid
    count = rows * cols
    torch.manual_seed(1)
    matching = Matching(16, grid, size=8)
    arranged = torch.stack([torch.arange(count), *(torch.randperm(count) for _ in range(20))])
    boards = torch.randn(21, 16)
    logits = boards @ matching.sound.weight.T + matching.sound.bias
    seams = [(p, p + 1, 0, 1) for p in range(count) if p % cols < cols - 1]
    seams += [(p, p + cols, 1, 0) for p in range(count - cols)]
    beside = [
        [divmod(int(row[q]), cols) == (row[p] // cols + down, row[p] % cols + over) for p, q, down, over in seams]
        for row in arranged
    ]
    truth = torch.tensor(beside)
    assert truth[0].all()
    assert not truth[1:].all()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.float())
    torch.testing.assert_close(matching.board_loss(boards, arranged), expected)


def test_training_images_are_small_and_mirrored(images):
    small = training_images(images)
    assert len(small) == 2 * len(images)
    assert all(min(small.load(index).shape[:2]) <= 256 for index in range(len(small)))
    np.testing.assert_array_equal(small.load(1), small.load(0)[:, ::-1])


QUICK = {"matching_steps": 12, "matching_batch": 24, "steps": 25, "batch": 16, "warmup": 2, "few": 0}


def trained(images, **options):
    model, processor = build_tiny(1, sizes=SMALL)
    history = pretrain_vision(model, processor, images, VisionPretrainingConfig(**(QUICK | options)))
    return model, history


@pytest.mark.slow
def test_training_lowers_the_loss_and_repeats_itself_bit_for_bit(images):
    torch.manual_seed(9)
    model, history = trained(images)
    torch.manual_seed(10)
    again, _ = trained(images)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    other, _ = trained(images, seed=1)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))

    assert [entry.stage for entry in history] == ["matching"] * 12 + ["answers"] * 25
    assert history[-1].puzzles == 12 * 24 + 25 * 16
    losses = [entry.loss for entry in history]
    assert np.mean(losses[9:12]) < np.mean(losses[:3])
    assert np.mean(losses[-4:]) < losses[12] - 2  # the form of an answer is learned at once
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "few"), [(1, 0), (3, 12), (4, 0), (5, 12), (8, 0)])
def test_goes_on_bit_for_bit_from_a_state(stop, few, images, tmp_path):
    options = {"matching_steps": 4, "steps": 5, "grids": ((2, 2), (1, 3)), "few": few}
    config = VisionPretrainingConfig(**(QUICK | options))
    whole, history = trained(images, **options)
    path, losses = tmp_path / "state.pt", []

    def interrupt(entry):
        losses.append(entry.loss)
        if len(losses) == stop:
            raise KeyboardInterrupt

    model, processor = build_tiny(1, sizes=SMALL)
    with pytest.raises(KeyboardInterrupt):
        pretrain_vision(model, processor, images, config, interrupt, save=lambda state: torch.save(state, path))
    state = torch.load(path, weights_only=True)
    other, _ = build_tiny(2, sizes=SMALL)  # other weights, which the state replaces
    left = pretrain_vision(other, processor, images, config, state=state)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    assert losses + [entry.loss for entry in left] == [entry.loss for entry in history]
    assert [(entry.stage, entry.step, entry.puzzles) for entry in left] == [
        (entry.stage, entry.step, entry.puzzles) for entry in history[stop:]
    ]
    with pytest.raises(ConfigurationError, match="other settings"):
        pretrain_vision(
            other, processor, images, VisionPretrainingConfig(**(QUICK | options | {"steps": 6})), state=state
        )


@pytest.mark.slow
@pytest.mark.parametrize("grids", [((1, 3),), ((2, 2), (2, 3))])
def test_other_grids_are_trained(grids, images):
    seen = []
    model, processor = build_tiny(1, sizes=SMALL)
    config = VisionPretrainingConfig(
        **(QUICK | {"grids": grids, "matching_steps": 4, "steps": 8, "precision": "float32"})
    )
    pretrain_vision(model, processor, images, config, seen.append)
    assert [entry.step for entry in seen] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]
    assert all(np.isfinite(entry.loss) for entry in seen)


def test_a_batch_of_one_puzzle_is_enough(images):
    _, history = trained(images, matching_steps=1, matching_batch=1, steps=2, batch=1)
    assert all(np.isfinite(entry.loss) for entry in history)


@pytest.mark.slow
def test_matching_leaves_the_language_model_alone(images):
    before, _ = build_tiny(1, sizes=SMALL)
    after, _ = trained(images, steps=0)
    same = {
        name: torch.equal(a, b)
        for (name, a), (_, b) in zip(before.named_parameters(), after.named_parameters(), strict=True)
    }
    assert all(value for name, value in same.items() if "language_model" in name)
    assert not same["model.vision_tower.embeddings.patch_embedding.weight"]


@pytest.mark.parametrize(
    "options",
    [
        {"grids": ()},
        {"steps": -1},
        {"batch": 0},
        {"lr": 0.0},
        {"turns": (0, 3)},
        {"turns": (4, 3)},
        {"thought": -1},
        {"few": -1},
        {"precision": "float16"},
    ],
)
def test_refuses_what_cannot_be_trained(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        VisionPretrainingConfig(**options)


def test_refuses_more_pieces_than_have_names_of_one_token(images):
    with pytest.raises(ConfigurationError, match="more than 26 pieces"):
        PuzzleDrawer(images, (6, 5), 0)
