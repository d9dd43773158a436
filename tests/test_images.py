"""impasto.images: one reader, one writer, one range."""

import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.images import (
    ImageError,
    centre_crop,
    from_pil,
    image_size,
    quantise,
    read_image,
    resize_float,
    to_pil,
    write_png,
)

PICTURE = torch.arange(3 * 5 * 7).reshape(3, 5, 7).float().div(255)


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_png_round_trip_is_exact(tmp_path):
    path = tmp_path / "x.png"
    write_png(path, PICTURE)
    assert torch.equal(read_image(path), PICTURE)
    assert read_image(path).dtype == torch.float32


def test_same_picture_same_bytes(tmp_path):
    write_png(tmp_path / "a.png", PICTURE)
    write_png(tmp_path / "b.png", PICTURE + 0.001)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_quantise_clamps_and_is_idempotent():
    q = quantise(torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5, 1.0, 9.0]))
    assert q.tolist() == pytest.approx([0, 0, 0, 128 / 255, 1, 1])
    assert torch.equal(quantise(PICTURE), PICTURE) and torch.equal(quantise(q), q)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_pictures_are_refused(tmp_path, bad):
    picture = PICTURE.clone()
    picture[0, 0, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_png(tmp_path / "x.png", picture)
    assert not (tmp_path / "x.png").exists()


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 5, 7\)"):
        to_pil(PICTURE[:1])


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
def test_format_is_told_by_content(tmp_path, format):
    path = save(tmp_path / "x.png", Image.new("RGB", (6, 4), (200, 30, 30)), format=format)
    assert read_image(path).shape == (3, 4, 6)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "PPM", "ICO"])
def test_other_formats_are_refused_whatever_the_name(tmp_path, format):
    path = save(tmp_path / "x.png", Image.new("RGB", (16, 16)), format=format)
    with pytest.raises(ImageError, match=r"x\.png: not a PNG, JPEG or WEBP"):
        read_image(path)


@pytest.mark.parametrize("data", [b"8BPS\0\1" + bytes(64), b"<svg xmlns='x'/>", b"%PDF-1.7"])
def test_so_are_files_of_other_programs(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"x\.png: not a PNG, JPEG or WEBP"):
        read_image(tmp_path / "x.png")


def test_exif_orientation_is_applied(tmp_path):
    image = to_pil(PICTURE)
    exif = image.getexif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    path = save(tmp_path / "x.png", image, exif=exif)
    assert torch.equal(read_image(path), PICTURE.rot90(-1, (1, 2)))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    path = save(tmp_path / "x.webp", frames[0], save_all=True, append_images=frames[1:],
                lossless=True)  # fmt: skip
    assert read_image(path)[:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 51400, np.uint16))
    else:
        image = Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode)
    path = save(tmp_path / "x", image, format="JPEG" if mode == "CMYK" else "PNG")
    picture = read_image(path)
    assert picture.shape == (3, 4, 6)
    expected = 255 if mode == "1" else 200
    assert abs(picture.max().item() * 255 - expected) <= 6


def test_sixteen_bits_of_colour_keep_their_high_byte(tmp_path):
    """Pillow writes no such file, so it is put together here: RGB, and RGBA's colours alone."""
    values = np.array([[[0x1234, 0xC8FF, 0xFFFF], [0x00FF, 0x0100, 0x8000]]], ">u2")
    for kind, extra in ((2, None), (6, 0x4000)):
        pixels = values if extra is None else np.concatenate(
            [values, np.full((1, 2, 1), extra, ">u2")], axis=2)
        head = struct.pack(">IIBBBBB", 2, 1, 16, kind, 0, 0, 0)
        data = zlib.compress(b"\0" + pixels.astype(">u2").tobytes())
        (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
                                         + chunk(b"IDAT", data) + chunk(b"IEND", b""))
        levels = (255 * read_image(tmp_path / "x.png")).round().permute(1, 2, 0)[0]
        assert levels.tolist() == [[0x12, 0xC8, 0xFF], [0x00, 0x01, 0x80]]


def test_a_strip_is_not_enlarged_to_gigapixels():
    assert centre_crop(torch.zeros(3, 1, 100), 8).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="100000 x 1 pixels is too narrow"):
        centre_crop(torch.zeros(3, 1, 100_000), 256)


def test_from_pil_inverts_to_pil():
    assert torch.equal(from_pil(to_pil(PICTURE)), PICTURE)


def noise(format):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.97])
def test_truncated_files_are_named(tmp_path, format, keep):
    data = noise(format)
    path = tmp_path / "00003.png"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ImageError, match=r"00003\.png"):
        read_image(path)


def test_flipped_bits_of_a_png_are_found(tmp_path):
    data = noise("PNG")
    for position in range(20, len(data), len(data) // 40):
        broken = bytearray(data)
        broken[position] ^= 0x10
        (tmp_path / "x.png").write_bytes(broken)
        with pytest.raises(ImageError):
            read_image(tmp_path / "x.png")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    """50,000 x 50,000 pixels in less than a megabyte."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + 50_000 // 8) * 50_000)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", rows),
                     chunk(b"IEND", b"")])  # fmt: skip


def test_decompression_bomb_is_refused_at_once(tmp_path):
    data = bomb()
    assert len(data) < 1_000_000
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    before = time.perf_counter()
    with pytest.raises(ImageError, match=r"bomb\.png: too many pixels"):
        read_image(path)
    assert time.perf_counter() - before < 1


MEASURED = """
import resource, sys, time
from impasto.images import ImageError, read_image
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    read_image(sys.argv[1])
except ImageError:
    pass
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown / (2**20 if sys.platform == "darwin" else 1024), time.perf_counter() - start)
"""


@pytest.mark.parametrize("kind", ["bomb", "animation"])
def test_neither_a_bomb_nor_ten_thousand_frames_take_memory_or_time(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "bomb":
        path.write_bytes(bomb())
    else:
        frames = [Image.new("RGB", (64, 64), (i % 256, 0, i // 256)) for i in range(10_000)]
        frames[0].save(path, format="WEBP", save_all=True, append_images=frames[1:], method=0)
        assert read_image(path).shape == (3, 64, 64)
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True,
                          check=True)  # fmt: skip
    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < 200 and seconds < 1


def test_bounds_are_checked_before_decoding(tmp_path):
    path = save(tmp_path / "x.png", Image.new("RGB", (101, 100)))
    with pytest.raises(ImageError, match="101 x 100 pixels are more than the 10,000"):
        read_image(path, max_pixels=100 * 100)
    assert read_image(path, max_pixels=101 * 100).shape == (3, 100, 101)


def test_absurdly_long_file_is_not_even_read(tmp_path):
    path = tmp_path / "x.png"
    with open(path, "wb") as file:
        file.truncate(2**31)
    with pytest.raises(ImageError, match="bytes are too many"):
        read_image(path)


def test_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")


def test_size_from_the_head_is_that_of_the_picture(tmp_path):
    """Also of a picture that its EXIF turns by a quarter."""
    image = Image.fromarray(np.zeros((10, 30, 3), np.uint8))
    image.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "b.jpg", exif=exif)
    for name, size in (("a.png", (10, 30)), ("b.jpg", (30, 10))):
        assert image_size(tmp_path / name) == size
        assert read_image(tmp_path / name).shape[1:] == size
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"c\.png"):
        image_size(tmp_path / "c.png")
    with pytest.raises(FileNotFoundError):
        image_size(tmp_path / "d.png")


def test_resizing_in_float_neither_rounds_nor_overshoots():
    """clean-fid 0.1.35's build_resizer("clean") on a 4 x 4 picture to 299 x 299, recorded at two
    places; bicubic would leave [0, 1] beside the edge."""
    image = torch.zeros(3, 4, 4)
    image[:, :, 2:] = 1
    out = resize_float(image, 299, 299)
    assert out.shape == (3, 299, 299) and float(out.min()) == 0 and float(out.max()) == 1
    assert float(out[0, 150, 140]) * 255 == pytest.approx(89.56714630126953, rel=1e-5)
    assert float(out[2, 7, 155]) * 255 == pytest.approx(152.9534149169922, rel=1e-5)


def test_rounding_is_llamagens_conversion():
    """LlamaGen's and TokenFlow's uint8: clamp(127.5 x + 128, 0, 255), cut off, x = 2 u - 1."""
    u = torch.rand(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = (u * 1.2 - 0.1).float()
    theirs = (127.5 * (2 * u.double() - 1) + 128).clamp(0, 255).to(torch.uint8)
    assert torch.equal((quantise(u) * 255).round().to(torch.uint8), theirs)
