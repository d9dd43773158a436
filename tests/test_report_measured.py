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
    "codebook": {"size": 16384, "share": 0.5, "perplexity": 8000.4},
}  # fmt: skip

DISTANCE = {
    "samples": {"name": "a", "pictures": 5000}, "pictures": [64, 32], "features": {"x": "none"},
    "reference": {"name": "r.npz", "pictures": 0, "moments": ["pool"]},
    "distances": {"fid_adm": {"value": 12.3456}},
}  # fmt: skip


def test_reconstruction_in_words():
    assert measured_text(RECONSTRUCTION) == """\
psnr (dB)                  33.39  [32.92, 33.86]
lpips_alex_v0.1          0.01235
rfid_clean                0.8765
rkid_x                 -0.000123  ± 0.02
verdicts kept, colors     0.6667  [0.2, 0.9] 2 of 3
verdicts kept             0.6667  [0.2, 0.9]
share of codes used          0.5  of 16,384
perplexity of codes        8,000

vae on 5,000 pictures, 320 x 256
2 came back exactly; PSNR is the mean of the others
[ ]: 95 %, over pictures
resized for their features; clean: bicubic
compared at 128 x 128"""


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
