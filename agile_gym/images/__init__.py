"""Images for puzzles: opened from folders, lists and datasets, decoded, cached and split into train and test.

formats      file formats that are read, and their headers
decode       `decode_image`: bytes, files, PIL images and arrays to one form
items        one image, and the cache of decoded images
sources      collections of images, and the split by content
rows         images in the rows of tables and Parquet files
folder       image files on disk, and the built-in photographs (photographs/)
huggingface  datasets
opening      `open_images`
"""

from agile_gym.images.decode import Decodable, decode_image
from agile_gym.images.formats import DEFAULT_MAX_PIXELS
from agile_gym.images.items import (
    DEFAULT_CACHE_LIMIT,
    CacheInfo,
    SkippedImage,
    cache_info,
    clear_cache,
    set_cache_limit,
)
from agile_gym.images.opening import ImagesLike, SkippedImageWarning, open_images
from agile_gym.images.sources import ImageCollection, ImageSource, ImageSubset, Split, split_of

__all__ = [
    "DEFAULT_CACHE_LIMIT",
    "DEFAULT_MAX_PIXELS",
    "CacheInfo",
    "Decodable",
    "ImageCollection",
    "ImageSource",
    "ImageSubset",
    "ImagesLike",
    "SkippedImage",
    "SkippedImageWarning",
    "Split",
    "cache_info",
    "clear_cache",
    "decode_image",
    "open_images",
    "set_cache_limit",
    "split_of",
]
