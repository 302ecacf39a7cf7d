"""HER2ST: a small copy of the folders, and the real sections."""

import gzip
import time
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from PIL import Image

import flagst
from flagst.datasets import _download, _her2st, her2st
from flagst.datasets._download import manifest
from flagst.io.validate import on_tissue

GENES = ["ERBB2", "GAPDH", "MT-CO1"]
SIDE = 5
PITCH = 40.0


def write_section(root, name: str, *, image: bool = True, labels: bool = False) -> SimpleNamespace:
    """5 x 5 spots in the upstream layout, jittered like the real arrays; one spot lacks counts."""
    rng = np.random.default_rng(ord(name[0]))
    x, y = (v.ravel() for v in np.meshgrid(np.arange(3, 3 + SIDE), np.arange(7, 7 + SIDE)))
    pixel = np.column_stack([x, y]) * PITCH + rng.uniform(-3, 3, (SIDE**2, 2))
    spots = pd.DataFrame({"x": x, "y": y, "new_x": x + 0.1, "new_y": y - 0.1, "selected": 1})
    spots[["pixel_x", "pixel_y"]] = pixel
    order = rng.permutation(SIDE**2)[:-1]
    counts = pd.DataFrame(rng.poisson(4, (len(order), 3)) + 1, columns=GENES)
    counts.index = [f"{a}x{b}" for a, b in zip(x[order], y[order], strict=True)]

    def put(kind, write):
        if (name, kind) in manifest():
            path = root / manifest()[name, kind].path
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)

    put("counts", lambda p: counts.to_csv(p, sep="\t"))
    put("spots", lambda p: spots.to_csv(p, sep="\t", index=False))
    if image:
        picture = np.full((500, 400, 3), 240, dtype=np.uint8)
        picture[240:480, 80:320] = (190, 110, 160)
        put("image", lambda p: Image.fromarray(picture).save(p, quality=95))
    if labels:
        known = spots.iloc[order[:10]]
        clusters = pd.DataFrame({"patient_id": name[0], "ids": name, "label": 3, "x": known.x, "y": known.y})
        put("cluster_labels", lambda p: clusters.to_csv(p, sep="\t"))
        seen = pd.DataFrame({"x": known.new_x, "y": known.new_y, "label": "invasive cancer"})
        seen = pd.concat([seen, pd.DataFrame({"label": ["adipose tissue"]})])  # upstream has empty positions
        put("pathologist_labels", lambda p: seen.to_csv(p, sep="\t", index=False))
    return SimpleNamespace(counts=counts, coords=pixel[order], order=order)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "her2st"
    written = {"A1": write_section(root, "A1", labels=True), "B2": write_section(root, "B2")}
    return SimpleNamespace(root=root, **written)


def test_counts_coordinates_and_names(folder):
    sdata = her2st(["A1", "B2"], folder.root)
    flagst.io.check(sdata)
    adata = sdata["table"]
    first = adata[adata.obs["section"] == "A1"]
    assert list(first.obs_names) == [f"A1_{name}" for name in folder.A1.counts.index]
    np.testing.assert_array_equal(first.X.toarray(), folder.A1.counts)
    np.testing.assert_allclose(first.obsm["spatial"], folder.A1.coords)
    assert list(adata.var_names) == GENES
    assert list(adata.obs["patient"].unique()) == ["A", "B"]
    assert (first.obs["array_col"].astype(str) + "x" + first.obs["array_row"].astype(str)).tolist() == list(
        folder.A1.counts.index
    )


def test_scale_comes_from_the_pitch_and_spots_have_their_true_diameter(folder):
    adata = her2st("A1", folder.root)["table"]
    params = adata.uns["flagst"]["params"]
    assert params["layout"] == {"A1": "square"}
    assert params["um_per_px"]["A1"] == pytest.approx(200 / PITCH, rel=0.01)
    diameter = adata.uns["spatial"]["A1"]["scalefactors"]["spot_diameter_fullres"]
    assert diameter == pytest.approx(PITCH / 2, rel=0.02)


def test_spots_without_any_count_are_left_out(folder):
    path = folder.root / manifest()["A1", "counts"].path
    counts = folder.A1.counts.copy()
    counts.iloc[3] = 0
    counts.to_csv(path, sep="\t")
    adata = her2st("A1", folder.root)["table"]
    assert list(adata.obs_names) == [f"A1_{name}" for name in counts.index.delete(3)]


def test_labels_where_they_exist(folder):
    obs = her2st(["A1", "B2"], folder.root)["table"].obs
    labelled = obs.index[:10]
    assert (obs.loc[labelled, "cluster"] == "A_3").all()
    assert (obs.loc[labelled, "pathologist_label"] == "invasive cancer").all()
    assert (obs.iloc[10:]["cluster"] == "unlabelled").all()
    assert (obs.iloc[10:]["pathologist_label"] == "unlabelled").all()
    assert "pathologist_label" not in her2st("B2", folder.root)["table"].obs


def test_data_dir_may_be_the_parent_or_come_from_the_environment(folder, monkeypatch):
    expected = her2st("A1", folder.root)["table"].to_df()
    pd.testing.assert_frame_equal(her2st("A1", folder.root.parent)["table"].to_df(), expected)
    monkeypatch.setenv("FLAGST_DATA_DIR", str(folder.root.parent))
    pd.testing.assert_frame_equal(her2st("A1")["table"].to_df(), expected)


def test_a_missing_image_warns_and_keeps_the_counts(tmp_path):
    write_section(tmp_path, "A1", image=False)
    with pytest.warns(UserWarning, match="'A1' has no image"):
        sdata = her2st("A1", tmp_path)
    assert list(sdata.images) == []
    assert sdata["table"].n_obs == SIDE**2 - 1


def test_bad_requests_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no section \['Z9'\]; known sections: \['A1'"):
        her2st(["A1", "Z9"], folder.root)
    with pytest.raises(ValueError, match="section names are not unique"):
        her2st(["A1", "A1"], folder.root)
    with pytest.raises(FileNotFoundError, match="holds no HER2ST data"):
        her2st("A1", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"C1.tsv.gz is missing; .* \['A1', 'B2'\]"):
        her2st("C1", folder.root)


def test_verify_refuses_other_files_in_place(folder):
    with pytest.raises(ValueError, match="has sha256"):
        her2st("A1", folder.root, verify=True)


def test_short_rows_are_named(folder):
    with gzip.open(folder.root / manifest()["A1", "counts"].path, "at") as handle:
        handle.write("9x9\t1\t2\n")
    with pytest.raises(ValueError, match="spot '9x9' has 2 counts for 3 genes"):
        her2st("A1", folder.root)


def test_download_falls_back_only_for_what_is_optional(folder, monkeypatch):
    monkeypatch.delenv("FLAGST_DATA_DIR", raising=False)
    offline = set()

    def fetch(entry):
        if entry.kind in offline:
            raise ConnectionError("Could not download it.")
        return folder.root / entry.path

    monkeypatch.setattr(_download, "fetch", fetch)
    assert list(her2st("A1").images) == ["A1_image"]
    offline.update({"image", "pathologist_labels"})
    with pytest.warns(UserWarning, match="'A1' is loaded without its image. Could not download"):
        sdata = her2st("A1")
    assert list(sdata.images) == [] and "cluster" in sdata["table"].obs
    offline.add("counts")
    with pytest.raises(ConnectionError):
        her2st("A1")


def test_round_trips(folder, tmp_path):
    sdata = her2st(["A1", "B2"], folder.root)
    sdata["table"].write_h5ad(tmp_path / "table.h5ad")
    sdata.write(tmp_path / "data.zarr")
    back = spatialdata.read_zarr(tmp_path / "data.zarr")
    flagst.io.check(back)
    for table in (ad.read_h5ad(tmp_path / "table.h5ad"), back["table"]):
        pd.testing.assert_frame_equal(table.to_df(), sdata["table"].to_df())
        for column in ("cluster", "pathologist_label", "patient", "section"):
            assert list(table.obs[column]) == list(sdata["table"].obs[column])
    np.testing.assert_array_equal(
        back["A1_image"]["scale1"]["image"].to_numpy(), sdata["A1_image"]["scale1"]["image"].to_numpy()
    )


# --- the real sections


@pytest.fixture(scope="module")
def real(her2st_dir):
    start = time.perf_counter()
    sdata = her2st(["C2", "B4"], her2st_dir)
    return SimpleNamespace(sdata=sdata, seconds=time.perf_counter() - start)


def test_real_sections_have_the_known_sizes_and_load_without_decoding(real):
    adata = real.sdata["table"]
    assert adata.obs["section"].value_counts().to_dict() == {"C2": 187, "B4": 283}
    genes = np.asarray((adata[adata.obs["section"] == "C2"].X).sum(axis=0)).ravel()
    assert adata.n_vars >= 15_706 and (genes > 0).sum() <= 15_706
    assert real.sdata["C2_image"]["scale0"]["image"].shape == (3, 9911, 9274)
    assert real.seconds < 30
    assert adata.uns["flagst"]["params"]["um_per_px"]["C2"] == pytest.approx(0.6875, abs=0.0025)
    assert real.sdata["C2_spots"]["radius"].iloc[0] == pytest.approx(145 / 2, abs=1)
    flagst.io.check(real.sdata)


def test_real_spots_lie_on_tissue_and_swapped_ones_do_not(real):
    adata = real.sdata["table"]
    hires = adata.uns["spatial"]["B4"]["images"]["hires"]
    coords = adata[adata.obs["section"] == "B4"].obsm["spatial"]
    factor = adata.uns["spatial"]["B4"]["scalefactors"]["tissue_hires_scalef"]
    assert on_tissue(hires, coords * factor).mean() > 0.95
    assert on_tissue(hires, coords[:, ::-1] * factor).mean() < 0.4


def test_real_level_1_agrees_with_full_resolution(real):
    x, y = real.sdata["table"].obsm["spatial"][0].astype(int) // 2 * 2
    full = real.sdata["C2_image"]["scale0"]["image"][:, y - 100 : y + 100, x - 100 : x + 100].to_numpy()
    half = real.sdata["C2_image"]["scale1"]["image"][:, y // 2 - 50 : y // 2 + 50, x // 2 - 50 : x // 2 + 50]
    averaged = full.reshape(3, 100, 2, 100, 2).mean(axis=(2, 4))
    assert np.abs(averaged - half.to_numpy()).mean() < 4
    flagst.io.clear_image_cache()


def test_real_counts_and_labels_join(her2st_dir):
    with pytest.warns(UserWarning, match="'A1' has no image"):
        adata = her2st("A1", her2st_dir)["table"]
    counts = pd.read_csv(her2st_dir / manifest()["A1", "counts"].path, sep="\t", index_col=0)
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert adata.obs["pathologist_label"].value_counts()["invasive cancer"] > 200
    assert (adata.obs["pathologist_label"] != _her2st.UNLABELLED).all()
