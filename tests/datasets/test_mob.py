"""Mouse olfactory bulb: a small copy of the folder, and the real sections."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import flagst
from flagst.datasets import mob
from flagst.io.validate import on_tissue

GENES = ["ENSMUSG00000000001.4", "ENSMUSG00000000003.15", "ENSMUSG00000000028.14"]
STEP_PX = 20.0


def write_section(folder, name):
    """A checkerboard of 72 spots, 20 px per step, the left half under tissue; the first of these has no counts."""
    rng = np.random.default_rng(0)
    x, y = (v.ravel() for v in np.meshgrid(np.arange(1, 13), np.arange(1, 13)))
    used = (x + y) % 2 == 0
    spots = pd.DataFrame({"x": x[used], "y": y[used], "new_x": x[used] + 0.01, "new_y": y[used]})
    spots["pixel_x"], spots["pixel_y"] = spots["x"] * STEP_PX, spots["y"] * STEP_PX
    spots["selected"] = (spots["x"] <= 6).astype(int)
    counts = pd.DataFrame(rng.poisson(5, (len(spots), 3)) + 1, columns=GENES)
    counts.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    counts.iloc[np.flatnonzero(spots["selected"])[0]] = 0
    counts = counts.sample(frac=1, random_state=0)
    folder.mkdir(parents=True, exist_ok=True)
    counts.to_csv(folder / f"{name}.tsv.gz", sep="\t")
    spots.to_csv(folder / f"alignment_table_{name}.tsv", sep="\t", index=False)
    Image.fromarray(np.full((260, 260, 3), 180, np.uint8)).save(folder / f"{name}.jpg")
    return counts, spots


def test_spots_under_tissue_are_joined_by_name(tmp_path):
    counts, spots = write_section(tmp_path / "mob", "MOB1")
    sdata = mob("MOB1", data_dir=tmp_path)
    flagst.io.check(sdata)
    table = sdata.tables["table"]
    spots = spots.set_index(spots["x"].astype(str) + "x" + spots["y"].astype(str))
    names = [name.removeprefix("MOB1_") for name in table.obs_names]
    assert table.n_obs == spots["selected"].sum() - 1 and list(table.var_names) == GENES
    np.testing.assert_array_equal(table.X.toarray(), counts.loc[names].to_numpy())
    np.testing.assert_array_equal(table.obsm["spatial"], spots.loc[names, ["pixel_x", "pixel_y"]].to_numpy())
    np.testing.assert_array_equal(table.obs["array_col"], spots.loc[names, "x"])
    params = table.uns["flagst"]["params"]
    assert params["um_per_px"]["MOB1"] == pytest.approx(100 / STEP_PX) and params["layout"]["MOB1"] == "square"


def test_the_folder_of_the_environment_is_read(tmp_path, monkeypatch):
    for name in ("MOB1", "MOB2"):
        write_section(tmp_path, name)
    monkeypatch.setenv("FLAGST_DATA_DIR", str(tmp_path))
    assert list(mob().tables["table"].obs["section"].cat.categories) == ["MOB1", "MOB2"]


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("FLAGST_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match="No folder holds no MOB1.tsv.gz.*STUtility"):
        mob()
    write_section(tmp_path, "MOB1")
    with pytest.raises(FileNotFoundError, match=r"MOB2.tsv.gz is missing"):
        mob("MOB2", data_dir=tmp_path)
    (tmp_path / "MOB1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"MOB1.jpg is missing"):
        mob("MOB1", data_dir=tmp_path)
    for unknown, said in (("MOB3", r"has no section \['MOB3'\]"), ([], "No section was named")):
        with pytest.raises(ValueError, match=f"{said}; known sections"):
            mob(unknown, data_dir=tmp_path)


def test_spots_that_are_left_out_are_named(tmp_path, caplog):
    counts, spots = write_section(tmp_path, "MOB1")
    counts.loc["40x40"] = 3  # has no position
    counts.to_csv(tmp_path / "MOB1.tsv.gz", sep="\t")
    empty = counts.index[(counts == 0).all(axis=1)]
    with caplog.at_level(logging.WARNING, logger="flagst"):
        table = mob("MOB1", data_dir=tmp_path).tables["table"]
    left_out = caplog.text.split("left out: ")[1].split("\n")[0]
    assert sorted(re.findall(r"\d+x\d+", left_out)) == sorted([*empty, "40x40"])
    assert table.n_obs == spots["selected"].sum() - 1


def test_the_real_sections_lie_on_tissue(mob_dir):
    sdata = mob(data_dir=mob_dir)
    flagst.io.check(sdata)
    table = sdata.tables["table"]
    assert table.obs["section"].value_counts().to_dict() == {"MOB2": 407, "MOB1": 379} and table.n_vars == 1000
    assert all(4.3 < value < 4.5 for value in table.uns["flagst"]["params"]["um_per_px"].values())
    for name in ("MOB1", "MOB2"):
        slot = table.uns["spatial"][name]
        coords = table.obsm["spatial"][(table.obs["section"] == name).to_numpy()]
        small = coords * slot["scalefactors"]["tissue_hires_scalef"]
        hires = slot["images"]["hires"]
        # the tissue lies near the diagonal, so that swapped coordinates would not miss it by much
        assert on_tissue(hires, small).mean() > 0.98
        assert max(on_tissue(hires, small[:, ::-1]).mean(), on_tissue(hires, small + 40).mean()) < 0.98
