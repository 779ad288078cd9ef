"""Encoded images of every mode, decoded to pixel values worked out by hand."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images import decode_image


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(rows):
    """The RGB array of a grey picture given as rows of values."""
    return np.stack([np.array(rows, dtype=np.uint8)] * 3, axis=2)


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def raw_png(width, height, depth, colour, lines=b"", *extra):
    """A PNG file put together from its specification."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(lines)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class TestModes:
    def test_rgb(self):
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        result = decode_image(encode(Image.fromarray(pixels), "PNG"))
        np.testing.assert_array_equal(result, pixels)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous
        assert not result.flags.writeable

    def test_grey(self):
        image = Image.new("L", (3, 1))
        image.putdata([0, 100, 255])
        np.testing.assert_array_equal(decode_image(encode(image, "PNG")), grey([[0, 100, 255]]))

    def test_one_bit(self):
        data = raw_png(8, 1, 1, 0, b"\x00\xa5")
        np.testing.assert_array_equal(decode_image(data), grey([[255, 0, 255, 0, 0, 255, 0, 255]]))

    def test_grey_with_alpha_lies_over_white(self):
        # filter byte, then (value, alpha) pairs: opaque, clear, half
        data = raw_png(3, 1, 8, 4, bytes([0, 40, 255, 40, 0, 40, 51]))
        # alpha 51 is exactly one fifth: 40 / 5 + 255 * 4 / 5 = 212
        np.testing.assert_array_equal(decode_image(data), grey([[40, 255, 212]]))

    def test_rgba_lies_over_white(self):
        pixels = [10, 20, 30, 255, 10, 20, 30, 0, 10, 20, 30, 51, 0, 0, 0, 128]
        data = raw_png(4, 1, 8, 6, bytes([0, *pixels]))
        expected = [[[10, 20, 30], [255, 255, 255], [206, 208, 210], [127, 127, 127]]]
        np.testing.assert_array_equal(decode_image(data), expected)

    def test_every_alpha_is_rounded_to_the_nearest(self):
        alpha, value = np.meshgrid(np.arange(256), np.arange(0, 256, 5))
        rgba = np.stack([value, value, value, alpha], axis=2).astype(np.uint8)
        exact = (value * alpha + 255 * (255 - alpha)) / 255
        result = decode_image(Image.fromarray(rgba))
        np.testing.assert_array_equal(result[..., 0], np.rint(exact))

    def test_palette(self):
        palette = png_chunk(b"PLTE", bytes([1, 2, 3, 40, 50, 60, 200, 100, 0]))
        data = raw_png(3, 1, 8, 3, bytes([0, 2, 0, 1]), palette)
        np.testing.assert_array_equal(decode_image(data), [[[200, 100, 0], [1, 2, 3], [40, 50, 60]]])

    def test_palette_with_transparency_lies_over_white(self):
        palette = png_chunk(b"PLTE", bytes([1, 2, 3, 40, 50, 60, 200, 100, 0]))
        transparency = png_chunk(b"tRNS", bytes([255, 0, 51]))
        data = raw_png(3, 1, 8, 3, bytes([0, 0, 1, 2]), palette, transparency)
        np.testing.assert_array_equal(decode_image(data), [[[1, 2, 3], [255, 255, 255], [244, 224, 204]]])

    def test_one_transparent_colour(self):
        data = raw_png(2, 1, 8, 2, bytes([0, 9, 8, 7, 6, 5, 4]), png_chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7)))
        np.testing.assert_array_equal(decode_image(data), [[[255, 255, 255], [6, 5, 4]]])

    def test_16_bit_grey_is_scaled_not_clipped(self):
        values = [0, 128, 129, 257, 32768, 65278, 65535]
        data = raw_png(7, 1, 16, 0, b"\x00" + struct.pack(">7H", *values))
        np.testing.assert_array_equal(decode_image(data), grey([[0, 0, 1, 1, 128, 254, 255]]))

    def test_mode_i_is_scaled_like_16_bits(self):
        image = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32))
        assert image.mode == "I"
        np.testing.assert_array_equal(decode_image(image), grey([[0, 1, 255]]))

    def test_wider_integers_are_stretched(self):
        image = Image.fromarray(np.array([[-100, 0, 100, 154]], dtype=np.int32))
        np.testing.assert_array_equal(decode_image(image), grey([[0, 100, 201, 255]]))

    @pytest.mark.parametrize("mode", ["I;16", "I;16B"])
    def test_byte_orders_of_16_bit_images(self, mode):
        order = ">" if mode.endswith("B") else "<"
        image = Image.frombytes(mode, (2, 1), struct.pack(order + "2H", 257, 25700))
        np.testing.assert_array_equal(decode_image(image), grey([[1, 100]]))

    @pytest.mark.parametrize(
        ("values", "expected"),
        [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 99.6, 255.0], [0, 100, 255]), ([-1.0, 0.0, 4.0], [0, 51, 255])],
    )
    def test_float_tiff(self, values, expected):
        image = Image.fromarray(np.array([values], dtype=np.float32))
        assert image.mode == "F"
        np.testing.assert_array_equal(decode_image(encode(image, "TIFF")), grey([expected]))

    def test_float_tiff_with_nan(self):
        image = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
        with pytest.raises(ImageError, match="not all finite"):
            decode_image(encode(image, "TIFF"))

    def test_constant_values_out_of_range(self):
        image = Image.fromarray(np.full((1, 2), 1000.0, dtype=np.float32))
        np.testing.assert_array_equal(decode_image(image), grey([[0, 0]]))

    def test_cmyk(self):
        image = Image.new("CMYK", (4, 1))
        image.putdata([(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)])
        expected = [[[255, 255, 255], [0, 255, 255], [255, 0, 0], [0, 0, 0]]]
        np.testing.assert_array_equal(decode_image(encode(image, "TIFF")), expected)

    def test_ycbcr(self):
        image = Image.new("YCbCr", (2, 1))
        image.putdata([(77, 128, 128), (76, 85, 255)])
        result = decode_image(image).astype(int)
        np.testing.assert_array_equal(result[0, 0], [77, 77, 77])
        assert np.abs(result[0, 1] - [254, 0, 0]).max() <= 1

    def test_lab(self):
        if not ImageCms.core:  # pragma: no cover
            pytest.skip("Pillow without colour management")
        image = Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 0, 0, 0]))
        result = decode_image(image).astype(int)
        assert result[0, 0].min() >= 250
        assert result[0, 1].max() <= 5

    @pytest.mark.parametrize("mode", ["La", "RGBa"])
    def test_premultiplied_alpha(self, mode):
        straight = Image.new("LA" if mode == "La" else "RGBA", (1, 1), (100, 0) if mode == "La" else (1, 2, 3, 0))
        np.testing.assert_array_equal(decode_image(straight.convert(mode)), grey([[255]]))

    def test_hsv_and_pa(self):
        np.testing.assert_array_equal(decode_image(Image.new("HSV", (1, 1), (0, 255, 255))), [[[255, 0, 0]]])
        np.testing.assert_array_equal(decode_image(Image.new("L", (1, 1), 7).convert("PA")), grey([[7]]))

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
    def test_animation_gives_its_first_frame(self, kind):
        frames = [Image.new("RGB", (3, 2), colour) for colour in ((255, 0, 0), (0, 0, 255))]
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(decode_image(data), np.full((2, 3, 3), [255, 0, 0]))

    def test_jpeg_is_close(self):
        pixels = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
        result = decode_image(encode(Image.fromarray(pixels), "JPEG", quality=95))
        assert np.abs(result.astype(int) - pixels).max() <= 4


class TestOrientation:
    # The letters of a 2 x 3 picture as they are stored, and as EXIF says they are to be seen.
    STORED = ("ABC", "DEF")
    SEEN = {  # noqa: RUF012 -- never changed
        1: ("ABC", "DEF"),
        2: ("CBA", "FED"),
        3: ("FED", "CBA"),
        4: ("DEF", "ABC"),
        5: ("AD", "BE", "CF"),
        6: ("DA", "EB", "FC"),
        7: ("FC", "EB", "DA"),
        8: ("CF", "BE", "AD"),
    }

    @staticmethod
    def picture(rows):
        return grey([[ord(letter) for letter in row] for row in rows])

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    def test_all_orientations(self, kind, orientation):
        image = Image.fromarray(self.picture(self.STORED))
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
        result = decode_image(data)
        np.testing.assert_array_equal(result, self.picture(self.SEEN[orientation]))
        assert result.flags.c_contiguous
        assert not result.flags.writeable

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_jpeg_agrees_with_pillow(self, orientation):
        gradient = np.add.outer(np.arange(8) * 8, np.arange(16) * 10).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(Image.fromarray(gradient), "JPEG", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        np.testing.assert_array_equal(decode_image(data), expected)

    @pytest.mark.parametrize("orientation", [0, 9, 77])
    def test_unknown_orientation_is_upright(self, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(Image.fromarray(self.picture(self.STORED)), "PNG", exif=exif)
        np.testing.assert_array_equal(decode_image(data), self.picture(self.STORED))

    def test_broken_exif_does_not_cost_the_pixels(self):
        data = raw_png(1, 1, 8, 0, b"\x00\x09", png_chunk(b"eXIf", b"no exif at all"))
        np.testing.assert_array_equal(decode_image(data), grey([[9]]))


class TestRefusals:
    def test_truncated_file_is_named(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        for kind in ("PNG", "JPEG", "TIFF"):
            path = tmp_path / f"cut.{kind.lower()}"
            data = encode(Image.fromarray(noise), kind)
            path.write_bytes(data[: len(data) // 2])
            with pytest.raises(ImageError, match=rf"cut\.{kind.lower()}"):
                decode_image(path)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False

    @pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", bytes(1000)])
    def test_not_an_image(self, data):
        with pytest.raises(ImageError):
            decode_image(data)

    def test_bomb_is_refused_from_its_header(self):
        limit = Image.MAX_IMAGE_PIXELS
        with pytest.raises(ImageError, match="100000x100000"):
            decode_image(raw_png(100_000, 100_000, 8, 2))
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_max_pixels_is_inclusive(self):
        image = Image.new("L", (10, 10))
        assert decode_image(image, max_pixels=100).shape == (10, 10, 3)
        with pytest.raises(ImageError, match="max_pixels is 99"):
            decode_image(image, max_pixels=99)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
    @pytest.mark.parametrize("share", [1.5, 2.5])
    def test_raised_limit_allows_what_pillow_warns_about(self, monkeypatch, kind, share):
        data = encode(Image.new("L", (50, 50), 80), kind)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(2500 / share))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if kind == "TIFF" and share > 2:  # Pillow gives its reader no way around its own limit
                with pytest.raises(ImageError, match="Pillow itself refuses"):
                    decode_image(data, max_pixels=2500)
            else:
                np.testing.assert_array_equal(decode_image(data, max_pixels=2500), grey(np.full((50, 50), 80)))
            with pytest.raises(ImageError, match="too large"):
                decode_image(data, max_pixels=2499)

    def test_limit_of_pillow_is_not_needed(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert decode_image(encode(Image.new("L", (5, 4)), "PNG")).shape == (4, 5, 3)

    @pytest.mark.parametrize("value", [0, -1, 1.5, "many", None, True])
    def test_max_pixels_has_to_be_a_positive_integer(self, value):
        with pytest.raises(ConfigurationError, match="max_pixels"):
            decode_image(Image.new("L", (1, 1)), max_pixels=value)

    def test_missing_file_and_folder(self, tmp_path):
        with pytest.raises(ImageError, match=r"nothing\.png.*does not exist"):
            decode_image(tmp_path / "nothing.png")
        with pytest.raises(ImageError, match="is a folder"):
            decode_image(tmp_path)

    def test_zero_size_and_closed_images(self, tmp_path):
        with pytest.raises(ImageError, match="no pixels"):
            decode_image(Image.new("RGB", (0, 5)))
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        image = Image.open(tmp_path / "a.png")
        image.close()
        with pytest.raises(ImageError):
            decode_image(image)

    @pytest.mark.parametrize("data", [None, 3, [1, 2], {"a": 1}, object()])
    def test_other_types(self, data):
        with pytest.raises(ImageError, match="is not an image"):
            decode_image(data)

    def test_drawings_for_other_programs_are_not_opened(self):
        script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
        with pytest.raises(ImageError, match="not an image in a supported format"):
            decode_image(script)

    def test_name_appears_in_errors(self):
        with pytest.raises(ImageError, match="my picture"):
            decode_image(b"nothing", name="my picture")


def test_paths_as_text_and_bytearrays(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.save(tmp_path / "a.bmp")
    for data in (str(tmp_path / "a.bmp"), tmp_path / "a.bmp", bytearray((tmp_path / "a.bmp").read_bytes())):
        np.testing.assert_array_equal(decode_image(data), [[[1, 2, 3], [1, 2, 3]]])


class TestDepths:
    """Values of fewer bits in files of 16; the right result is that of the same picture in the full range."""

    RAMP = np.add.outer(np.arange(24) * 40, np.arange(32) * 3) / (23 * 40 + 31 * 3)  # 0 to 1, all over the picture

    def values(self, bits, channels=0):
        ramp = self.RAMP if not channels else np.dstack([self.RAMP, self.RAMP[::-1], self.RAMP[:, ::-1]])
        return np.round(ramp * (2**bits - 1)).astype(np.uint16)

    def files(self, values, kinds):
        """Encode 16-bit values, as other programs do: by hand, with Pillow or with OpenCV."""
        height, width = values.shape[:2]
        big = values.astype(">u2")
        colour = {2: 0, 3: 2}[values.ndim]
        lines = b"".join(b"\x00" + row.tobytes() for row in big)
        if "png" in kinds:
            yield raw_png(width, height, 16, colour, lines)
        for compression in ("raw", "tiff_lzw") if "tiff" in kinds and values.ndim == 2 else ():
            yield encode(Image.fromarray(values), "TIFF", compression=compression)
        if "tiff" in kinds and values.ndim == 3:
            cv2 = pytest.importorskip("cv2")
            for compression in (1, 5, 8):  # none, LZW, Deflate
                yield cv2.imencode(".tiff", values[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1].tobytes()
        if "pnm" in kinds:
            yield b"P%d %d %d 65535\n" % (5 if values.ndim == 2 else 6, width, height) + big.tobytes()

    @pytest.mark.parametrize("channels", [0, 3])
    @pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
    def test_pictures_look_the_same_whatever_their_depth(self, bits, channels):
        expected = np.round(self.values(16, channels) / 257.0)
        expected = expected if channels else np.dstack([expected] * 3)
        values = self.values(bits, channels)
        for data in (*self.files(values, ("png", "tiff", "pnm")), values):
            difference = np.abs(decode_image(data).astype(int) - expected)
            assert difference.max() <= 1
        assert len(list(self.files(values, ("png", "tiff", "pnm")))) >= 4

    def test_dark_pictures_of_16_bits_keep_their_differences(self):
        dark = (self.values(16) // 80).astype(np.uint16)  # up to 819: a night of 16 bits, or a day of 10
        for data in (*self.files(dark, ("png", "tiff")), dark):
            assert len(np.unique(decode_image(data))) > 150
        bright = np.maximum(dark, np.uint16(1 << 14))  # it has 16 bits, so it stays as it was
        np.testing.assert_array_equal(decode_image(bright)[..., 0], (bright.astype(int) + 128) // 257)

    def test_full_range_is_as_ever(self):
        every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        np.testing.assert_array_equal(decode_image(every)[..., 0], (every.astype(int) + 128) // 257)
        colours = np.dstack([every, every[::-1], every.T])
        lines = b"".join(b"\x00" + row.tobytes() for row in colours.astype(">u2"))
        np.testing.assert_array_equal(decode_image(raw_png(256, 256, 16, 2, lines)), colours >> 8)  # as Pillow has it

    @pytest.mark.parametrize("alpha_bits", [12, 16])
    def test_colours_of_12_bits_with_alpha(self, alpha_bits):
        opaque = np.full((24, 32), 2**alpha_bits - 1, np.uint16)
        opaque[:, :16] = 0
        for colours in (self.values(12, 3), self.values(12)):
            whole = np.dstack([colours, opaque])
            lines = b"".join(b"\x00" + row.tobytes() for row in whole.astype(">u2"))
            result = decode_image(raw_png(32, 24, 16, 6 if colours.ndim == 3 else 4, lines))
            assert (result[:, :16] == 255).all()  # clear: white
            expected = np.round(colours[:, 16:] / 4095 * 255)
            expected = expected if colours.ndim == 3 else np.dstack([expected] * 3)
            assert np.abs(result[:, 16:].astype(int) - expected).max() <= 1
        array = decode_image(np.dstack([self.values(12, 3), opaque]))
        np.testing.assert_array_equal(array[:, 20:], decode_image(self.values(12, 3))[:, 20:])

    def test_the_orientation_is_kept(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        values = self.values(12, 3)
        lines = b"".join(b"\x00" + row.tobytes() for row in values.astype(">u2"))
        tag = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\x00\x00"))
        turned, upright = (decode_image(raw_png(32, 24, 16, 2, lines, *extra)) for extra in ((tag,), ()))
        np.testing.assert_array_equal(turned, np.rot90(upright, -1))
        assert upright.max() == 255

    def test_an_open_pillow_image_is_read_the_same(self):
        (data,) = self.files(self.values(12, 3), ("png",))
        np.testing.assert_array_equal(decode_image(Image.open(io.BytesIO(data))), decode_image(data))

    def test_without_another_reader_there_are_fewer_levels(self, monkeypatch):
        cv2 = pytest.importorskip("cv2")
        (data,) = self.files(self.values(12, 3), ("png",))
        monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
        result = decode_image(data)
        assert result.max() > 230
        assert len(np.unique(result)) == 16

    @pytest.mark.parametrize(("value", "expected"), [(0, 0), (700, 174), (4095, 255), (40_000, 156), (65_535, 255)])
    def test_constant_pictures(self, value, expected):
        values = np.full((5, 4), value, np.uint16)
        for data in (*self.files(values, ("png", "tiff", "pnm")), values):
            assert np.unique(decode_image(data)).tolist() == [expected]
        (data,) = self.files(np.dstack([values] * 3), ("png",))
        assert abs(int(decode_image(data).max()) - expected) <= 1

    @pytest.mark.parametrize("bits", [16, 32])
    def test_signed_values(self, bits):
        """Negative ones are stretched from the least to the largest; others are as without a sign."""
        for values in (self.values(12).astype(np.int32) - 2048, self.values(12).astype(np.int32)):
            data = encode(Image.fromarray(values), "TIFF")
            if bits == 16:
                cv2 = pytest.importorskip("cv2")
                data = cv2.imencode(".tiff", values.astype(np.int16))[1].tobytes()
            result = decode_image(data)
            assert np.abs(result[..., 0].astype(int) - np.round(self.RAMP * 255)).max() <= 1

    @pytest.mark.parametrize("scale", [1, 1.2, 5, 255, 1000, 4095, 1e6, 1e-3])
    def test_float_files_of_any_range(self, scale):
        image = Image.fromarray((self.RAMP * scale).astype(np.float32))
        result = decode_image(encode(image, "TIFF"))
        if scale == 1e-3:
            assert result.max() == 0  # a share of light: it is dark
        else:
            assert np.abs(result[..., 0].astype(int) - np.round(self.RAMP * 255)).max() <= 1
