"""GenEval's folders: whole sets in order, everything else by name."""

import json

import pytest

from impasto.bench import IncompleteError, Picture, geneval, scan
from impasto.bench.layout import metadata_name, picture_name, write_metadata

SPECS = geneval(limit=6).specs[:3]


@pytest.fixture
def images(tmp_path):
    """Three prompts, two samples each; scanning never opens a picture."""
    for i, spec in enumerate(SPECS):
        write_metadata(tmp_path, i, spec)
        for k in range(2):
            path = tmp_path / picture_name(i, k)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    return tmp_path


def test_a_whole_set_in_order(images):
    assert scan(images, SPECS, 2) == [
        Picture(f"{i:05d}/samples/{k:05d}.png", i, k) for i in range(3) for k in range(2)
    ]


def test_metadata_is_what_the_official_script_writes(images):
    text = (images / metadata_name(1)).read_text()
    assert text == json.dumps(SPECS[1].to_dict())


def test_other_files_are_not_pictures(images):
    (images / "00000/grid.png").touch()
    (images / "00000/samples/00000.json").touch()
    (images / "00000/samples/.00001.png.x.tmp").touch()
    (images / "notes").mkdir()
    (images / "results.jsonl").touch()
    assert len(scan(images, SPECS, 2)) == 6


def test_four_digits_and_names_that_only_begin_so_are_read(images):
    samples = images / "00000/samples"
    (samples / "00000.png").rename(samples / "0000.png")
    (samples / "00001.png").rename(samples / "1.png.bak")
    (images / "00002").rename(images / "2")
    names = [p.filename for p in scan(images, SPECS, 2)]
    assert names[:2] == ["00000/samples/0000.png", "00000/samples/1.png.bak"]
    assert names[4] == "2/samples/00000.png"


def test_metadata_and_not_the_number_says_which_prompt(images):
    (images / "00001").rename(images / "77")
    (images / "77/metadata.jsonl").write_text(json.dumps(SPECS[1].to_dict(), indent=1) + "\n")
    assert scan(images, SPECS, 2)[2] == Picture("77/samples/00000.png", 1, 0)


def test_missing_pictures_are_named_in_order(images):
    (images / picture_name(2, 1)).unlink()
    (images / picture_name(0, 1)).unlink()
    with pytest.raises(IncompleteError, match=r"^4/6 pictures; missing: 00000/samples/00001.png, "
                       r"00002/samples/00001.png\. Finish the run,") as error:  # fmt: skip
        scan(images, SPECS, 2)
    assert (error.value.found, error.value.expected) == (4, 6)
    assert len(scan(images, SPECS, 2, allow_incomplete=True)) == 4


def test_many_missing_pictures_are_counted(tmp_path):
    with pytest.raises(
        IncompleteError, match=r"0/12 pictures; .*00001/samples/00000.png and 7 more"
    ):
        scan(tmp_path, SPECS, 4)
    assert scan(tmp_path, SPECS, 4, allow_incomplete=True) == []


def test_a_renamed_picture_is_named_beside_what_is_missing(images):
    (images / picture_name(0, 1)).rename(images / "00000/samples/img1.png")
    with pytest.raises(IncompleteError, match=r"Also: 00000/samples/img1.png is not named DIGITS"):
        scan(images, SPECS, 2)
    with pytest.raises(ValueError, match=r"img1\.png is not named DIGITS\.png"):
        scan(images, SPECS, 2, allow_incomplete=True)


@pytest.mark.parametrize("name", ["00002.png", "a.png", "00000.PNG", "00000.jpg", "b.webp"])
def test_an_extra_picture_is_refused_by_name_unless_a_part_is_wanted(images, name):
    (images / "00001/samples" / name).touch()
    with pytest.raises(ValueError, match=f"00001/samples/{name}"):
        scan(images, SPECS, 2)
    assert len(scan(images, SPECS, 2, allow_extra=True)) == 6


def test_another_prompts_folder_is_refused_by_name_unless_a_part_is_wanted(images):
    with pytest.raises(ValueError, match=r"00002/metadata\.jsonl is none of the bench's specs"):
        scan(images, SPECS[:2], 2)
    assert len(scan(images, SPECS[:2], 2, allow_extra=True)) == 4


def test_a_rewritten_prompt_is_another_prompt(images):
    values = SPECS[1].to_dict() | {"prompt": "a long and beautiful description"}
    (images / metadata_name(1)).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"00001/metadata\.jsonl is none"):
        scan(images, SPECS, 2, allow_incomplete=True)


def test_a_folder_named_by_more_than_digits_is_named(images):
    (images / "00001").rename(images / "00001_old")
    with pytest.raises(IncompleteError, match="00001_old/ is not named by digits only"):
        scan(images, SPECS, 2)


def test_two_files_for_one_sample_or_prompt_are_refused(images):
    (images / "00000/samples/0001.png").touch()
    with pytest.raises(ValueError, match=r"0001\.png are the same sample"):
        scan(images, SPECS, 2, allow_extra=True)
    (images / "00000/samples/0001.png").unlink()
    write_metadata(images, 9, SPECS[0])
    with pytest.raises(ValueError, match="00009 and 00000 hold the same prompt"):
        scan(images, SPECS, 2, allow_incomplete=True)


@pytest.mark.parametrize("part", ["00001", "00001/samples", "00001/samples/00000.png"])
def test_links_out_of_the_folder_are_refused(images, tmp_path_factory, part):
    """Of a set from elsewhere: what else is on this machine does not get into its report."""
    outside = tmp_path_factory.mktemp("outside") / "x"
    (images / part).rename(outside)
    (images / part).symlink_to(outside)
    with pytest.raises(ValueError, match=r"00001/samples/00000\.png lies outside the folder"):
        scan(images, SPECS, 2)


def test_the_folder_itself_may_be_a_link(images, tmp_path):
    (tmp_path / "link").symlink_to(images)
    assert scan(tmp_path / "link", SPECS, 2) == scan(images, SPECS, 2)


@pytest.mark.parametrize("text", ["", '{"tag": "single_object', "\x00"])
def test_unreadable_metadata_is_refused_by_name(images, text):
    (images / metadata_name(1)).write_text(text)
    with pytest.raises(ValueError, match=r"00001/metadata\.jsonl is not one JSON object"):
        scan(images, SPECS, 2, allow_incomplete=True, allow_extra=True)


def test_missing_metadata_or_folder_is_refused_by_name(images):
    (images / metadata_name(1)).unlink()
    with pytest.raises(ValueError, match=r"00001/metadata\.jsonl is not there"):
        scan(images, SPECS, 2)
    with pytest.raises(ValueError, match="is not a folder"):
        scan(images / "nowhere", SPECS, 2)


def test_equal_specs_are_told_apart_by_number(tmp_path):
    for i in range(2):
        write_metadata(tmp_path, i, SPECS[0])
        (tmp_path / picture_name(i, 0)).parent.mkdir()
        (tmp_path / picture_name(i, 0)).touch()
    assert [p.spec for p in scan(tmp_path, (SPECS[0], SPECS[0]), 1)] == [0, 1]
