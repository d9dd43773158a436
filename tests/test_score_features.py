"""FID's flavours, their Inception and the package's own extractors.

Recorded: with the weights of tests/random_weights.py, torch-fidelity 0.4.0's
FeatureExtractorInceptionV3 ("torch", "adm" and the network), pytorch-fid 0.3.0's InceptionV3([3]),
and clean-fid 0.1.35's resizers before torch-fidelity's or, for legacy_pytorch, pytorch-fid's
network; on 8-bit noise of 50 x 40 (two pictures) and 400 x 320, torch.randint with seed 11.
"""

import pytest
import torch

from impasto.bench.measures import MEASURES
from impasto.files import sha256_file
from impasto.images import centre_crop
from impasto.score.features import FLAVOURS, InceptionExtractor
from impasto.score.features.inception import Inception, load_inception
from impasto.score.features.networks import OWN
from impasto.zoo.registry import FEATURES
from tests import tiny_clip
from tests.random_weights import random_state

# flavour -> first four and mean of the pool features of both small pictures, of the large one
GRAPH = ([3.76724958, 0.07748798, 0.05734343, 0.12609690], 0.75106591,
         [4.53468990, 0.09404363, 0.06860598, 0.11525162], 0.87955630)  # fmt: skip
PYTORCH = ([3.84544802, 0.08618921, 0.06033008, 0.12916398], 0.75989401,
           [4.57536840, 0.09453235, 0.06967137, 0.11254331], 0.88432263)  # fmt: skip
CLEAN = ([4.53022480, 0.11158185, 0.05053176, 0.15519585], 0.88505547,
         [4.65629578, 0.09312168, 0.06688745, 0.11868422], 0.89514658)  # fmt: skip
POOL = {"adm": GRAPH, "torch-fidelity": GRAPH, "clean-legacy-tensorflow": GRAPH,
        "pytorch-fid": PYTORCH, "clean-legacy-pytorch": PYTORCH, "clean": CLEAN}  # fmt: skip
LOGITS = ([-0.21788573, 1.24216318, -0.43105316, -0.68078518], 0.04756543)
SPATIAL = ([0.67044240, 0.0, 1.50544500, 0.15017831, 0.0, 0.17342089, 0.0], 0.46446727)


@pytest.fixture(scope="module")
def state():
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in Inception().state_dict().items()}
    return random_state(shapes)


@pytest.fixture
def weights(state, tmp_path, monkeypatch):
    """A small file that stands for the 96 MB which hold `state`."""
    (tmp_path / "random.pth").write_text("random")
    monkeypatch.setattr("impasto.score.features.flavours.read_tensors", lambda path: state)
    return tmp_path / "random.pth"


@pytest.fixture
def believed(weights, monkeypatch):
    """The random file taken for the published one."""
    monkeypatch.setattr("impasto.score.features.flavours.SHA256", sha256_file(weights)[:8])
    return f"weights={weights}"


@pytest.fixture(scope="module")
def noise():
    generator = torch.Generator().manual_seed(11)
    shapes = (2, 3, 50, 40), (1, 3, 400, 320)
    return [torch.randint(0, 256, s, generator=generator, dtype=torch.uint8) / 255 for s in shapes]


def near(values):
    return pytest.approx(values, rel=2e-4, abs=2e-5)


def test_every_flavour_is_recorded():
    assert set(POOL) == set(FLAVOURS)


@pytest.mark.parametrize("prepare", ["adm", "pytorch-fid", "clean"])
def test_features_are_those_of_the_published_code(state, noise, prepare):
    """One flavour of each resizing; that the others share it is tested below."""
    model = load_inception(state, "random")
    small, small_mean, large, large_mean = POOL[prepare]
    seen = model(torch.cat([FLAVOURS[prepare].prepare(part * 255) for part in noise]))
    pool = seen["pool"]
    assert pool[0, :4].tolist() == near(small) and float(pool[:2].mean()) == near(small_mean)
    assert pool[2, :4].tolist() == near(large) and float(pool[2].mean()) == near(large_mean)
    if prepare == "adm":
        logits, spatial = seen["logits"][:2], seen["spatial"][:2]
        assert logits[0, :4].tolist() == near(LOGITS[0])
        assert float(logits.mean()) == pytest.approx(LOGITS[1], rel=1e-3)
        assert spatial.shape == (2, 2023)
        assert spatial[0, :7].tolist() == near(SPATIAL[0])  # one place's seven channels
        assert float(spatial.mean()) == near(SPATIAL[1])


def test_flavours_that_share_a_resizing(noise):
    for name, recorded in POOL.items():
        same = [other for other in POOL if POOL[other] is recorded]
        inputs = [FLAVOURS[other].prepare(noise[0] * 255) for other in (name, *same)]
        assert all(torch.equal(inputs[0], x) for x in inputs[1:])


def test_flavours_have_their_published_measures(believed):
    made = FEATURES.create(f"adm:{believed}", device="cpu")
    assert made.name == "adm" and made.measures["is"] == {"size": 5000}
    assert list(made.measures) == ["fid", "sfid", "is", "precision_recall"]
    made = FEATURES.create(f"torch-fidelity:{believed},measures=kid+is", device="cpu")
    assert made.name == "torch_fidelity" and made.measures == {
        "kid": {"subsets": 100, "size": 1000, "seed": 2020}, "is": {"splits": 10, "seed": 2020}}
    with pytest.raises(ValueError, match="has no measure 'kid'"):
        FEATURES.create(f"clean:{believed},measures=kid", device="cpu")
    record = made.provenance()
    assert record["sha256"] == sha256_file(believed.removeprefix("weights="))
    assert record["resize"] == "bilinear, TensorFlow 1" and "fid" not in record["measures"]


def test_an_extractor_gives_the_streams_that_its_measures_need(believed, noise):
    made = FEATURES.create(f"adm:{believed}", device="cpu")
    seen = made(noise[0][:1])
    assert {key: tuple(value.shape) for key, value in seen.items()} == {
        "pool": (1, 2048), "logits": (1, 1008), "spatial": (1, 2023)}
    assert seen["pool"][0, :4].tolist() == near(GRAPH[0])
    made = FEATURES.create(f"clean:{believed}", device="cpu")
    assert list(made(noise[0][:1])) == ["pool"]


def test_other_weights_are_refused_and_never_give_fid(weights):
    with pytest.raises(ValueError, match="not the published file: its sha256 begins with"):
        InceptionExtractor("clean", weights)
    digits = sha256_file(weights)[:8]
    for flavour in FLAVOURS:
        made = InceptionExtractor(flavour, weights, any_weights=True)
        assert made.name == f"inception_{flavour.replace('-', '_')}_{digits}"
        assert set(made.measures) <= {"fd", "sfd", "kd", "precision_recall"}
        assert "fd" in made.measures


def test_another_network_is_refused(state):
    with pytest.raises(ValueError, match=r"x\.pth is no FID Inception: 1 tensors .* as fc\.w"):
        load_inception({k: v for k, v in state.items() if k != "fc.weight"}, "x.pth")
    with pytest.raises(ValueError, match=r"such as fc\.bias"):
        load_inception(state | {"fc.bias": torch.zeros(1000)}, "x.pth")


def test_extractors_name_measures_that_there_are():
    named = {key for flavour in FLAVOURS.values() for key in flavour.measures}
    assert named | set(OWN) | {"cmmd", "sfd"} == set(MEASURES)
    assert all(FEATURES.describe(name).endswith(".") for name in FEATURES)


def test_sticker_extractors(sprites):
    from impasto.score.check import task_scene
    from impasto.world import Renderer

    scenes = [task_scene(i, 1, sprites)[0] for i in range(4)]
    images = Renderer(sprites)(scenes).images
    detector = FEATURES.create("sticker-detector", device="cpu")
    clip = FEATURES.create("sticker-clip:measures=fd+cmmd", device="cpu")
    assert detector.name == "sticker_detector" and list(clip.measures) == ["fd", "cmmd"]
    pool = detector(images)["pool"]
    assert pool.shape == (4, detector.widths["pool"]) == (4, 128)
    assert torch.allclose(detector(images[1:2])["pool"], pool[1:2], atol=1e-4)
    assert float(pool.std(0).min()) > 0  # no feature is dead
    features = clip(images)["pool"]
    assert features.shape == (4, clip.widths["pool"])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    assert not detector.model.mid_block._forward_hooks


def test_cmmds_network_is_known_by_its_architecture(tmp_path):
    folder = tiny_clip.saved(tmp_path / "clip")
    made = FEATURES.create(f"clip:folder={folder},measures=cmmd", device="cpu")
    digits = sha256_file(folder / "model.safetensors")[:8]
    assert made.name == f"clip_{digits}" and made.provenance()["resize"].startswith("bicubic, not")


def test_adms_centre_crop_by_hand():
    """20 x 9 to 4: halved once by 2 x 2 means to 10 x 4 (9 // 2), its middle is columns 3 to 6."""
    levels = torch.arange(10).repeat_interleave(2).mul(20).expand(3, 9, 20) / 255
    assert centre_crop(levels, 4)[0, 0].mul(255).tolist() == pytest.approx([60, 80, 100, 120])
    assert centre_crop(torch.rand(3, 7, 5), 16).shape == (3, 16, 16)
