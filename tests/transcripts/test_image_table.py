"""Images that several episodes show are held once, and written once by pickle."""

import pickle

import numpy as np

from agile_gym.transcripts.record import ImageTable
from tests.helpers.made_transcripts import differences, made


def test_equal_images_are_one_array_and_written_once():
    table, size = ImageTable(), 100
    apart = [made(7, size=size) for _ in range(8)]
    assert len({id(image) for episode in apart for image in episode.images}) == 24
    shared = [table.share(episode) for episode in apart]
    assert len({id(image) for episode in shared for image in episode.images}) == 3
    assert all(differences(mine, other) == [] for mine, other in zip(shared, apart, strict=True))
    image = size * size * 3
    assert len(pickle.dumps(apart, protocol=5)) > 24 * image
    written = pickle.dumps(shared, protocol=5)
    assert len(written) < 3 * image + 30_000
    read = pickle.loads(written)
    assert len({id(image) for episode in read for image in episode.images}) == 3
    assert all(differences(mine, other) == [] for mine, other in zip(read, apart, strict=True))


def test_images_that_differ_in_a_pixel_or_in_shape_stay_apart():
    episodes = [made(number) for number in (1, 2)]
    black = np.zeros((4, 9, 3), np.uint8)
    spot = black.copy()
    spot[-1, -1, -1] = 1
    for episode, image in zip(episodes, (black, spot), strict=True):
        object.__setattr__(episode, "prompt_images", (image, image.reshape(9, 4, 3)))
    table = ImageTable()
    shared = [table.share(episode) for episode in episodes]
    assert len({id(image) for episode in shared for image in episode.prompt_images}) == 4
    assert all(differences(mine, other) == [] for mine, other in zip(shared, episodes, strict=True))


def test_parts_of_one_array_are_told_by_their_pixels():
    whole = np.arange(2 * 6 * 6 * 3, dtype=np.uint8).reshape(12, 6, 3)
    first, second = made(1), made(1)
    object.__setattr__(first, "prompt_images", (whole[:, ::2], whole[:6]))
    object.__setattr__(second, "prompt_images", (whole[:, ::2].copy(), whole[6:]))
    table = ImageTable()
    mine, other = table.share(first), table.share(second)
    assert mine.prompt_images[0] is other.prompt_images[0]
    assert mine.prompt_images[1] is not other.prompt_images[1]
