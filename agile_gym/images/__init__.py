"""Images for puzzles: opened from folders, lists and datasets, decoded, cached and split into train and test.

formats      which files are read, and their headers
pixels       all modes and types to 8-bit RGB
decode       `decode_image`: bytes, files, PIL images and arrays to one form
cache        decoded images shared by all environments of a process
split        train and test by content
items        one image
sources      collections of images
rows         images in the rows of a table
folder       image files on disk
builtin      photographs that need no download
parquet      Parquet files
huggingface  datasets
opening      `open_images`: the way in
"""

from agile_gym.images.cache import DEFAULT_CACHE_LIMIT, CacheInfo, cache_info, clear_cache, set_cache_limit
from agile_gym.images.decode import Decodable, decode_image
from agile_gym.images.formats import DEFAULT_MAX_PIXELS
from agile_gym.images.items import SkippedImage
from agile_gym.images.opening import ImagesLike, SkippedImageWarning, open_images
from agile_gym.images.sources import ImageCollection, ImageSource, ImageSubset
from agile_gym.images.split import Split, split_of

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
