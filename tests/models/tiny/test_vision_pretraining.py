"""Vision pretraining of the tiny model: what it computes, what it changes, and that it goes on where it was."""

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ConfigurationError
from agile_gym.images import open_images
from agile_gym.models.tiny import TinySizes, build_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.models.tiny.build import WINDOW, as_pixels, image_features, window_grid  # noqa: E402 -- after the skip
from agile_gym.models.tiny.exercises import Heads, exercise_loss  # noqa: E402 -- after the skip
from agile_gym.models.tiny.pretraining import (  # noqa: E402 -- after the skip
    VisionPretraining,
    VisionPretrainingConfig,
    hold_out,
    pretrain_vision,
)
from agile_gym.models.tiny.puzzles import BoardDrawer  # noqa: E402 -- after the skip

SMALL = TinySizes(width=48, layers=2, heads=4, inner=96, vision_width=32)


@pytest.fixture(scope="module")
def images():
    """Eight photographs, of which one is held out."""
    photos = open_images()
    return open_images([photos.load(number) for number in range(8)])


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(0)


def picture(height, width, seed=0):
    """A picture with soft and with hard parts."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    shown = np.array(small)
    shown[height // 3 :, : width // 2] = rng.integers(0, 256, 3)
    return shown


SHAPES = [(32, 32), (64, 64), (96, 96), (32, 64), (20, 90), (130, 131), (33, 300), (71, 72), (72, 72), (48, 48), (9, 7)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_pixels_and_vectors_are_those_of_processor_and_model(height, width, tiny):
    model, processor = tiny
    images = np.stack([picture(height, width, seed) for seed in range(3)])
    made = processor.image_processor([Image.fromarray(image) for image in images], return_tensors="pt")
    high, wide = window_grid(height, width)
    assert made["image_grid_thw"].tolist() == [[1, 3 * high, 3 * wide]] * 3
    patches = made["pixel_values"].view(3, high, wide, 3, 3, 3, 16, 16)
    pixels = patches.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(3, 3, high * WINDOW, wide * WINDOW)
    with torch.no_grad():
        expected = model.model.get_image_features(
            made["pixel_values"], made["image_grid_thw"], return_dict=True
        ).pooler_output
        vectors = image_features(model, pixels)
    assert vectors.shape == (3, high * wide, 128)
    for own, theirs in zip(vectors, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-5)
    own = as_pixels(images, "cpu")
    assert own.shape == pixels.shape
    apart = (own - pixels).abs() * 127.5
    assert apart.max() < 2.01  # where a level lies between two whole ones, twice
    assert apart.mean() < 0.1


@pytest.mark.parametrize("grid", [(2, 2), (1, 3), (3, 2)])
def test_losses_agree_with_a_count_by_hand(grid):
    rows, cols = grid
    count = rows * cols
    torch.manual_seed(1)
    heads = Heads(16, grid, size=8)
    features = torch.randn(5, count, 16)
    home = torch.stack([torch.randperm(count) for _ in range(5)])
    right, left, lower, upper = (features @ weight.T for weight in heads.sides.weight.chunk(4))
    neighbours, of_place = {"across": [], "down": []}, []
    for n in range(5):
        at = {int(place): piece for piece, place in enumerate(home[n])}
        for piece in range(count):
            logits = features[n, piece] @ heads.place.weight.T + heads.place.bias
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
    torch.testing.assert_close(heads.piece_loss(features, home), expected)

    arranged = torch.stack([torch.arange(count), *(torch.randperm(count) for _ in range(20))])
    boards = torch.randn(21, heads.tokens, 16)
    read = heads.board(boards.flatten(1))
    seams = [(p, p + 1, 0, 1) for p in range(count) if p % cols < cols - 1]
    seams += [(p, p + cols, 1, 0) for p in range(count - cols)]
    assert read.shape[1] == 1 + len(seams) + count**2
    losses = {"right": [], "seams": [], "places": []}
    for row, logits in zip(arranged.tolist(), read, strict=True):
        signs = [1 if row == sorted(row) else -1]
        signs += [
            1 if divmod(row[q], cols) == (row[p] // cols + down, row[p] % cols + over) else -1
            for p, q, down, over in seams
        ]
        told = [-torch.nn.functional.logsigmoid(sign * logit) for sign, logit in zip(signs, logits, strict=False)]
        losses["right"].append(told[0])
        losses["seams"] += told[1:]
        places = logits[1 + len(seams) :].view(count, count).log_softmax(1)
        losses["places"] += [-places[place, home] for place, home in enumerate(row)]
    expected = sum(torch.stack(part).mean() for part in losses.values())
    torch.testing.assert_close(heads.board_loss(boards, arranged.numpy()), expected)
    expected = sum(
        weight * torch.stack(losses[name]).mean() for name, weight in (("right", 1), ("seams", 1), ("places", 0.25))
    )
    torch.testing.assert_close(heads.board_loss(boards, arranged.numpy(), 0.25), expected)


def test_the_loss_takes_the_weight_of_places_from_the_settings(images, tiny):
    losses = []
    for places in (0.0, 0.5, 1.0):
        model, _ = build_tiny(1, sizes=SMALL)
        history = []
        pretrain_vision(
            model, images, VisionPretrainingConfig(**QUICK | {"steps": 1, "places": places}), history.append
        )
        losses.append(history[0].loss)
    none, half, whole = losses
    assert half == pytest.approx((none + whole) / 2, abs=1e-5)
    assert whole - none == pytest.approx(np.log(4), abs=0.5)  # nothing is learned yet


def test_the_loss_has_a_part_for_boards_one_for_seams_and_one_for_pieces(images, tiny):
    heads = Heads(128, (2, 2))
    photos = [picture(80, 90)]
    losses = {}
    for seams, pieces in ((0, 0), (8, 0), (0, 8), (8, 8)):
        boards = BoardDrawer(photos, (2, 2), 0).draw(8, seams=seams, pieces=pieces)
        with torch.no_grad():
            losses[seams, pieces] = float(exercise_loss(tiny[0], heads, boards))
    assert losses[0, 0] < losses[8, 0]
    assert losses[0, 0] < losses[0, 8]
    with torch.no_grad():
        boards = BoardDrawer(photos, (2, 2), 0).draw(8, seams=8)
        read = [heads.read_seam(image_features(tiny[0], as_pixels(view.images, "cpu"))) for view in boards.seams]
        fits = torch.from_numpy(np.concatenate([view.sound for view in boards.seams])).float()
        added = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat(read), fits)
    assert losses[8, 0] - losses[0, 0] == pytest.approx(float(added), abs=1e-5)  # as many as boards: weight 1


QUICK = {"steps": 8, "batch": 16, "warmup": 2, "few": 0, "probes": 64}


def trained(images, **options):
    model, _ = build_tiny(1, sizes=SMALL)
    history = []
    pretrain_vision(model, images, VisionPretrainingConfig(**(QUICK | options)), history.append)
    return model, history


def test_training_lowers_the_loss(images):
    model, history = trained(images, steps=60, batch=32)
    assert [(entry.step, entry.steps, entry.boards) for entry in history] == [(n, 60, 32 * n) for n in range(1, 61)]
    losses = [entry.loss for entry in history]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert not model.training


def test_training_repeats_itself_bit_for_bit(images):
    torch.manual_seed(9)
    model, history = trained(images)
    torch.manual_seed(10)
    again, repeated = trained(images)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert [entry.loss for entry in history] == [entry.loss for entry in repeated]
    other, _ = trained(images, seed=1)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("stop", "few"), [(1, 0), (3, 9), (5, 0)])
def test_goes_on_bit_for_bit_from_a_state(stop, few, images, tmp_path):
    options = {"steps": 6, "grids": ((2, 2), (1, 3)), "few": few}
    config = VisionPretrainingConfig(**(QUICK | options))
    whole, history = trained(images, **options)
    path, losses = tmp_path / "state.pt", []

    def interrupt(entry):
        losses.append(entry.loss)
        if len(losses) == stop:
            raise KeyboardInterrupt

    model, _ = build_tiny(1, sizes=SMALL)
    with pytest.raises(KeyboardInterrupt):
        pretrain_vision(model, images, config, interrupt, save=lambda state: torch.save(state, path))
    state = torch.load(path, weights_only=True)
    other, _ = build_tiny(1, sizes=SMALL)
    with torch.no_grad():
        for parameter in other.model.visual.parameters():  # other weights, which the state replaces
            parameter.add_(1)
    left = []
    pretrain_vision(other, images, config, left.append, state=state)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    assert losses + [entry.loss for entry in left] == [entry.loss for entry in history]
    assert [(entry.step, entry.boards) for entry in left] == [(entry.step, entry.boards) for entry in history[stop:]]
    with pytest.raises(ConfigurationError, match="other settings"):
        pretrain_vision(other, images, VisionPretrainingConfig(**(QUICK | options | {"steps": 7})), state=state)


@pytest.mark.parametrize(("grids", "tokens"), [(((1, 3),), [2]), (((2, 2), (3, 3)), [1, 4]), (((2, 3),), [2])])
def test_other_grids_are_trained_and_probed(grids, tokens, images):
    seen = []
    model, _ = build_tiny(1, sizes=SMALL)
    probes = pretrain_vision(
        model, images, VisionPretrainingConfig(**(QUICK | {"grids": grids, "steps": 4})), seen.append
    )
    assert [entry.step for entry in seen] == [1, 2, 3, 4]
    assert all(np.isfinite(entry.loss) for entry in seen)
    assert [probe.grid for probe in probes] == ["x".join(map(str, grid)) for grid in grids]
    assert [probe.tokens for probe in probes] == tokens


def test_a_batch_of_one_board_is_enough(images):
    _, history = trained(images, steps=2, batch=1, seams=1.0, pieces=1.0)
    assert all(np.isfinite(entry.loss) for entry in history)


def test_the_language_model_is_left_alone(images):
    before, _ = build_tiny(1, sizes=SMALL)
    after, _ = trained(images, steps=3)
    same = {
        name: torch.equal(a, b)
        for (name, a), (_, b) in zip(before.named_parameters(), after.named_parameters(), strict=True)
    }
    assert all(value for name, value in same.items() if "visual" not in name)
    assert not any(value for name, value in same.items() if "visual" in name)


def grating(period, seed):
    """Stripes of one colour, one of two widths."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(96)[:, None] / period + rng.uniform(0, 6)) * 60 + np.linspace(-60, 60, 96)[None]
    return np.clip(wave[..., None] + rng.uniform(90, 160, 3), 0, 255).astype(np.uint8)


def test_the_probe_tells_a_model_that_sees_from_one_that_does_not():
    photos = open_images([grating(3 + seed % 5, seed) for seed in range(20)])
    config = VisionPretrainingConfig(steps=80, batch=64, grids=((1, 2),), few=0, probes=512, lr=3e-3, warmup=10)
    model, _ = build_tiny(1, sizes=SMALL)
    training = VisionPretraining(model, photos, config)
    (before,) = training.probe()
    for _ in training.run():
        pass
    (after,) = training.probe()
    assert before.held_out == after.held_out == 2
    assert before.right < 0.7
    assert after.right > 0.9
    assert after.order > 0.9
    assert after.order_misplaced > 0.85
    assert after == training.probe()[0]  # it draws the same boards each time
    assert after.boards == 512


@pytest.mark.parametrize(
    ("count", "share", "held"), [(140, 0.2, 28), (8, 0.1, 1), (7, 0.5, 0), (100, 0.0, 0), (40, 0.3, 12)]
)
def test_photographs_that_are_held_out_are_not_learned_from(count, share, held):
    config = VisionPretrainingConfig(held_out=share, seed=3)
    numbers = hold_out(count, config)
    assert len(set(numbers)) == held
    assert all(0 <= number < count for number in numbers)
    if held > 1:
        assert hold_out(count, VisionPretrainingConfig(held_out=share, seed=4)) != numbers


def test_what_is_learned_from_holds_no_pixel_of_what_is_held_out():
    shades = [np.full((64, 64, 3), 10 * number, np.uint8) for number in range(1, 21)]
    config = VisionPretrainingConfig(held_out=0.25, few=0, batch=400)
    training = VisionPretraining(build_tiny(1, sizes=SMALL)[0], open_images(shades), config)
    held = {10 * (number + 1) for number in hold_out(20, config)}
    drawn = next(training._drawer.draw_ahead(1)).boards
    assert len(held) == 5
    assert set(np.unique(drawn.images)) == {10 * number for number in range(1, 21)} - held
    assert {int(photo[0, 0, 0]) for photo in training._probed} == held


@pytest.mark.parametrize(
    "options",
    [
        {"grids": ()},
        {"grids": ((6, 6),)},
        {"steps": 0},
        {"batch": 0},
        {"lr": 0.0},
        {"seams": 1.5},
        {"pieces": -0.1},
        {"held_out": 1.0},
        {"few": -1},
        {"probes": 0},
    ],
)
def test_refuses_what_cannot_be_trained(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        VisionPretrainingConfig(**options)
