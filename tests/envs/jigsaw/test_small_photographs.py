"""Photographs that have not a pixel for each piece are left out and reported, in every kind of source."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agile_gym.envs.jigsaw import JigsawConfig, JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.envs.jigsaw.config import resolve, smallest_photo
from agile_gym.envs.jigsaw.env import open_source
from agile_gym.envs.jigsaw.wrappers import JigsawVisionDiscreteEnv
from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images import ImageCollection, SkippedImageWarning, open_images
from agile_gym.puzzle.pixels import choose_window

SMALL = {"image_size": 48}


def noise(height, width, seed=0):
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), np.uint8)


TOO_SMALL = [
    ((1, 1), 2),
    ((1, 100), 2),
    ((100, 1), 2),
    ((2, 2), 3),
    ((2, 500), 3),
    ((500, 2), (2, 3)),
    ((9, 300), 10),
    ((3, 3), (1, 4)),
]


def save(folder, *pictures):
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(("size", "grid"), TOO_SMALL)
@pytest.mark.parametrize("make", [JigsawVisionEnv, JigsawVisionVectorEnv, JigsawVisionDiscreteEnv])
def test_they_are_left_out_and_reported(size, grid, make, tmp_path):
    pictures = [noise(*size), noise(50, 60)]
    save(tmp_path, *pictures)
    encoded = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    for images in (
        tmp_path,
        sorted(tmp_path.iterdir()),
        pictures,
        encoded,
        [Image.fromarray(each) for each in pictures],
    ):
        with pytest.warns(SkippedImageWarning, match=f"1 image skipped.*it is too small: {size[1]}x{size[0]} pixels"):
            env = make(images=images, grid=grid, **SMALL)
        for seed in range(5):
            _, info = env.reset(seed=seed)
            assert env.reset(seed=seed)[0] is not None
            ids = info["image_id"] if make is JigsawVisionVectorEnv else [info["image_id"]]
            assert len(set(ids)) == 1


@pytest.mark.parametrize(("size", "grid"), TOO_SMALL)
def test_where_there_are_no_others_it_is_an_error_in_one_line(size, grid, tmp_path):
    save(tmp_path, noise(*size), noise(*size, seed=1))
    for images in (tmp_path, tmp_path / "0.png", [tmp_path / "0.png"], noise(*size), [noise(*size)]):
        with pytest.raises(ImageError, match="it is too small") as caught:
            JigsawVisionEnv(images=images, grid=grid, **SMALL)
        assert "\n" not in str(caught.value)


def test_datasets_leave_them_out():
    datasets = pytest.importorskip("datasets")
    rows = [Image.fromarray(noise(1, 1)), Image.fromarray(noise(30, 30))]
    dataset = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    with pytest.warns(SkippedImageWarning, match="1 image skipped .0: it is too small"):
        JigsawVisionEnv(images=dataset, **SMALL)


def test_the_orientation_counts(tmp_path):
    """A strip that stands upright in its file and lies down when it is shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(60, 2)).save(tmp_path / "0.jpg", exif=exif)
    options = {"images": tmp_path, "image_size": (8, 60)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedImageWarning)
        JigsawVisionEnv(grid=(1, 5), **options).reset(seed=0)
        for grid in ((5, 1), 3):
            with pytest.raises(ImageError, match="too small"):
                JigsawVisionEnv(images=tmp_path, grid=grid, image_size=60).reset(seed=0)


def test_sources_that_were_opened_before_are_drawn_from_all_the_same():
    pictures = [noise(1, 1), noise(2, 9), noise(40, 40)]
    source = open_images(pictures)
    assert isinstance(source, ImageCollection)
    assert len(source) == 3
    env = JigsawVisionEnv(images=source, grid=3, **SMALL)
    assert {env.reset(seed=seed)[1]["image_id"] for seed in range(20)} == {source.content_hash(2)}
    with pytest.raises(
        ImageError, match="cannot be cut into 3x3 pieces: it is too small: 9x2 pixels, 3x3 is the least"
    ):
        JigsawVisionEnv(images=open_images(pictures[:2]), grid=3, **SMALL).reset(seed=1)


def test_given_ones_are_refused():
    env = JigsawVisionEnv(images=open_images([noise(40, 40), noise(1, 1)]), **SMALL)
    for image in (noise(1, 1), noise(1, 70), 1):
        with pytest.raises(ConfigurationError, match="cannot be cut into 2x2 pieces: it is too small"):
            env.reset(seed=0, options={"image": image})
    env.reset(seed=0, options={"image": noise(2, 2)})


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 10),
    cols=st.integers(2, 10),
    height=st.integers(40, 90),
    width=st.integers(40, 90),
    rotations=st.booleans(),
)
def test_the_smallest_photograph_has_a_pixel_for_each_piece_and_a_smaller_one_has_not(
    rows, cols, height, width, rotations
):
    config = JigsawConfig(grid=(rows, cols), image_size=(height, width), rotations=rotations)
    rules, smallest = resolve(config), smallest_photo(config)
    layout = rules.layout
    aspect = (layout.piece_width * cols) / (layout.piece_height * rows)

    def part(size):
        return choose_window(np.random.default_rng(0), size, aspect, None)[2:]

    assert part(smallest)[0] >= rows
    assert part(smallest)[1] >= cols
    tall, wide = (smallest[0], 10**4), (10**4, smallest[1])
    for size in (tall, wide):
        assert part(size)[0] >= rows
        assert part(size)[1] >= cols
    exact = Fraction(layout.piece_width * cols, layout.piece_height * rows)
    for high, wide in ((smallest[0] - 1, 10**4), (10**4, smallest[1] - 1)):
        found = min(Fraction(high), wide / exact)
        assert found < rows or found * exact < cols


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gap": "wide"}, "gap='wide'"),
        ({"rotations": "yes"}, "rotations='yes'"),
        ({"image_size": "big"}, "image_size='big'"),
        ({"max_pixels": "many"}, "max_pixels='many'"),
        ({"canvas_size": 3}, "canvas_size=3"),
        ({"grid": "big"}, "grid='big'"),
    ],
)
def test_the_size_is_asked_for_before_other_options_are_checked(options, message):
    with pytest.raises(ConfigurationError, match=message):
        open_source(JigsawConfig(**options))


@pytest.mark.parametrize("grid", [2, 3, (1, 5), (6, 2), 10])
def test_any_aspect_ratio_has_its_smallest_photograph(grid):
    options = {"grid": grid, "max_pixels": 9000, "level": None}
    height, width = smallest_photo(JigsawConfig(**options))
    with pytest.raises(ImageError, match="too small"):
        JigsawVisionEnv(images=[noise(height - 1, 500)], **options)
    with pytest.raises(ImageError, match="too small"):
        JigsawVisionEnv(images=[noise(500, width - 1)], **options)
    for size in ((height, width), (height, 500), (500, width)):
        JigsawVisionEnv(images=[noise(*size)], **options).reset(seed=0)
