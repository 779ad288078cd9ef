"""The cache of decoded images."""

import copy
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images import DEFAULT_CACHE_LIMIT, cache_info, clear_cache, open_images, set_cache_limit
from agile_gym.images.items import ImageCache

SIZE = 10 * 10 * 3


@pytest.fixture(autouse=True)
def fresh_cache():
    clear_cache()
    set_cache_limit(DEFAULT_CACHE_LIMIT)
    yield
    clear_cache()
    set_cache_limit(DEFAULT_CACHE_LIMIT)


@pytest.fixture
def folder(tmp_path):
    for index in range(6):
        Image.new("RGB", (10, 10), (index * 40, 0, 0)).save(tmp_path / f"{index}.png")
    return tmp_path


def filled(value):
    return lambda: np.full((10, 10, 3), value, np.uint8)


def test_default_limit_and_counts(folder):
    source = open_images(folder)
    assert cache_info() == (0, 0, 0, 0, 256 * 1024 * 1024)
    first = source.load(0)
    assert source.load(0) is first
    assert cache_info() == (1, 1, 1, SIZE, 256 * 1024 * 1024)


def test_two_sources_share_images(folder):
    assert open_images(folder).load(2) is open_images(str(folder)).load(2)
    assert open_images(folder).load(2) is open_images([folder / "2.png"]).load(0)
    assert open_images(folder).load(2) is open_images((folder / "2.png").read_bytes()).load(0)
    assert cache_info().misses == 1


def test_those_used_longest_ago_leave_first():
    cache = ImageCache(2 * SIZE)
    for value in (1, 2):
        cache.get(str(value), filled(value))
    cache.get("1", filled(99))
    cache.get("3", filled(3))
    assert cache.get("1", filled(99))[0, 0, 0] == 1
    assert cache.get("3", filled(99))[0, 0, 0] == 3
    assert cache.info().images == 2
    assert cache.get("2", filled(98))[0, 0, 0] == 98


def test_bytes_never_pass_the_limit(folder):
    set_cache_limit(3 * SIZE + 1)
    source = open_images(folder)
    for _ in range(2):
        for index in range(len(source)):
            source.load(index)
            assert cache_info().bytes <= 3 * SIZE + 1
    assert cache_info().images == 3
    set_cache_limit(SIZE)
    assert cache_info()[2:] == (1, SIZE, SIZE)
    set_cache_limit(0)
    assert cache_info()[2:] == (0, 0, 0)
    assert source.load(0) is not source.load(0)


def test_an_image_beyond_the_limit_is_not_kept_and_drives_out_no_other():
    cache = ImageCache(SIZE)
    cache.get("small", filled(1))
    large = cache.get("large", lambda: np.zeros((100, 100, 3), np.uint8))
    assert not large.flags.writeable
    assert cache.info()[2:4] == (1, SIZE)


@pytest.mark.parametrize("limit", [-1, 1.5, "1", None, True])
def test_limits_that_are_none(limit):
    with pytest.raises(ConfigurationError, match="cache limit"):
        set_cache_limit(limit)
    assert cache_info().limit == DEFAULT_CACHE_LIMIT


def test_errors_are_not_cached(folder):
    source = open_images(folder)
    content = (folder / "0.png").read_bytes()
    (folder / "0.png").unlink()
    with pytest.raises(ImageError, match=r"0\.png"):
        source.load(0)
    (folder / "0.png").write_bytes(content)
    assert source.load(0).shape == (10, 10, 3)


def test_a_file_that_has_changed_is_refused(folder):
    source = open_images(folder)
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
    with pytest.raises(ImageError, match=r"1\.png.*has changed"):
        source.load(1)


def test_loaded_images_cannot_be_written(folder):
    image = open_images(folder).load(3)
    assert image.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0, 0] = 1


def test_many_threads(folder):
    set_cache_limit(2 * SIZE)
    source = open_images(folder)
    start = threading.Barrier(8)

    def work(seed):
        start.wait()
        order = np.random.default_rng(seed).integers(0, len(source), 200)
        return all(source.load(index)[0, 0].tolist() == [index * 40, 0, 0] for index in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    info = cache_info()
    assert info.hits + info.misses == 1600
    assert info.bytes == info.images * SIZE <= 2 * SIZE


def test_the_cache_is_no_part_of_a_source(folder):
    source = open_images(folder)
    before = len(pickle.dumps(source))
    for index in range(len(source)):
        source.load(index)
    assert len(pickle.dumps(source)) == before
    assert copy.deepcopy(source).load(0) is source.load(0)
    assert pickle.loads(pickle.dumps(source)).load(0) is source.load(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_does_not_inherit_a_held_lock():
    cache = ImageCache()
    cache._lock.acquire()
    cache.renew_lock()
    assert cache.get("a", filled(5))[0, 0, 0] == 5
