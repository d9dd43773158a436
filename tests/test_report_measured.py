"""The terminal's lines of `impasto measure`, from summaries written by hand."""

from impasto.report.measured import measured_text

SHARE = {"value": 2 / 3, "low": 0.2, "high": 0.9}
RECONSTRUCTION = {
    "model": "vae", "pictures": "photos", "number": 5000, "size": [256, 320], "measured": 128,
    "features": {"clean": "bicubic", "sticker_detector": "none"},
    "means": {"psnr": {"value": 33.391, "low": 32.916, "high": 33.862, "exact": 2},
              "lpips_alex_v0.1": {"value": 0.012345}},
    "distances": {"rfid_clean": {"value": 0.87654}, "rkid_x": {"value": -0.000123, "std": 0.02}},
    "verdicts": {"tasks": {"colors": {"kept": 2, "of": 3} | SHARE}, "overall": SHARE},
    "tokens": {"per_picture": 256, "ids": 320, "bits": 4480.0},
    "codebook": {"size": 16384, "ids": 90000, "distinct": 8192, "share": 0.5,
                 "perplexity": 8000.4},
    "maps": [{"size": [8, 8], "ids": 18000, "distinct": 70, "share": 70 / 16384,
              "perplexity": 60.4},
             {"size": [16, 16], "ids": 72000, "distinct": 8192, "share": 0.5,
              "perplexity": 7999.6}],
    "meaning": {"repeated": 0.9, "color_left": 0.0625, "same_class": 0.75, "chance": 0.5},
}  # fmt: skip

DISTANCE = {
    "samples": {"name": "a", "pictures": 5000}, "pictures": [64, 32], "features": {"x": "none"},
    "reference": {"name": "r.npz", "pictures": 0, "moments": ["pool"]},
    "distances": {"fid_adm": {"value": 12.3456}},
}  # fmt: skip


def test_reconstruction_in_words():
    assert measured_text(RECONSTRUCTION) == """\
psnr (dB)                           33.39  [32.92, 33.86]
lpips_alex_v0.1                   0.01235
rfid_clean                         0.8765
rkid_x                          -0.000123  ± 0.02
verdicts kept, colors              0.6667  [0.2, 0.9] 2 of 3
verdicts kept                      0.6667  [0.2, 0.9]
tokens a picture                      256
bits a picture                      4,480  0.0547 a pixel
codes used, map 8 x 8                  70  of 16,384, for 18,000 ids; perplexity 60.4
codes used, map 16 x 16             8,192  of 16,384, for 72,000 ids; perplexity 8,000
codes used                          8,192  of 16,384, for 90,000 ids; perplexity 8,000
same class within a code             0.75  by chance 0.5
colour variance left in a code     0.0625

vae on 5,000 pictures, 320 x 256
2 came back exactly; PSNR is the mean of the others
[ ]: 95 %, over pictures
resized for their features; clean: bicubic
compared at 128 x 128"""


def test_speed_is_said_with_its_gpu():
    speed = {"encode": 1234.5, "decode": 99.94, "batch": 8, "device": "Some GPU"}
    lines = measured_text(RECONSTRUCTION, speed).splitlines()
    assert [line.split() for line in lines if "a second" in line] == [
        ["pictures", "encoded", "a", "second", "1,234", "8", "at", "once", "on", "Some", "GPU"],
        ["pictures", "decoded", "a", "second", "99.94", "8", "at", "once", "on", "Some", "GPU"],
    ]  # fmt: skip


def test_distance_in_words():
    assert measured_text(DISTANCE) == """\
fid_adm  12.35

5,000 pictures of a, 32 x 64
from the moments in r.npz"""
    both = DISTANCE | {"reference": {"name": "r.npz", "pictures": 9, "moments": ["pool"]}}
    assert measured_text(both).endswith("from the moments in r.npz and 9 pictures of r.npz")


def test_all_exact_has_no_psnr():
    means = {"psnr": {"value": None, "exact": 1}}
    text = measured_text(RECONSTRUCTION | {"means": means, "number": 1})
    lines = text.splitlines()
    assert lines[0].split() == ["psnr", "(dB)", "-"]
    assert "1 came back exactly; no PSNR" in lines and "vae on 1 picture, 320 x 256" in lines
    assert "over pictures" not in text  # one has no interval
