"""build_sdata: where everything is in the SpatialData."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import spatialdata
from spatialdata.transformations import get_transformation

import flagst
from flagst.io import Section, build_sdata


def make_section(name: str, genes: list[str], n_spots: int = 6, **changes) -> Section:
    rng = np.random.default_rng(len(name) + n_spots)
    values = {
        "name": name,
        "coords": rng.uniform(20, 380, (n_spots, 2)),
        "counts": sp.csr_matrix(rng.poisson(3, (n_spots, len(genes))) + 1),
        "genes": genes,
        "spot_diameter_px": 40.0,
        "um_per_px": 0.5,
        "layout": "square",
        "image": rng.integers(0, 255, (400, 520, 3), dtype=np.uint8),
    }
    return Section(**(values | changes))


def hires(table) -> np.ndarray:
    return table.uns["spatial"]["A1"]["images"]["hires"]


def test_table_joins_sections_on_gene_names_in_first_seen_order():
    first, second = make_section("A1", ["g2", "g1"]), make_section("B1", ["g3", "g1"], 4)
    adata = build_sdata([first, second])["table"]
    assert list(adata.var_names) == ["g2", "g1", "g3"]
    assert adata.X.dtype == np.float32 and sp.isspmatrix_csr(adata.X)
    counts = adata.to_df()
    np.testing.assert_array_equal(counts.iloc[:6, :2], first.counts.toarray())
    np.testing.assert_array_equal(counts.iloc[6:][["g3", "g1"]], second.counts.toarray())
    assert (counts.iloc[:6]["g3"] == 0).all() and (counts.iloc[6:]["g2"] == 0).all()
    np.testing.assert_allclose(adata.obs["total_counts"], counts.sum(axis=1))
    assert list(adata.obs["section"].cat.categories) == ["A1", "B1"]
    np.testing.assert_array_equal(adata.obsm["spatial"], np.concatenate([first.coords, second.coords]))
    assert adata.uns["flagst"]["params"]["um_per_px"] == {"A1": 0.5, "B1": 0.5}
    assert adata.uns["flagst"]["params"]["layout"] == {"A1": "square", "B1": "square"}


def test_elements_share_the_sections_coordinate_system_in_full_resolution_pixels():
    section = make_section("A1", ["g1", "g2"])
    sdata = build_sdata([section])
    assert sdata.coordinate_systems == ["A1"]
    for element in ("A1_image", "A1_spots"):
        transformation = get_transformation(sdata[element], to_coordinate_system="A1")
        matrix = transformation.to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_allclose(matrix, np.eye(3))
    spots = sdata["A1_spots"].loc[sdata["table"].obs["spot_id"]]
    np.testing.assert_allclose(np.stack([spots.geometry.x, spots.geometry.y], axis=1), section.coords)
    assert (spots["radius"] == 20).all()
    full = sdata["A1_image"]["scale0"]["image"]
    np.testing.assert_array_equal(full.transpose("y", "x", "c").to_numpy(), section.image)
    assert sdata["A1_image"]["scale1"]["image"].shape == (3, 200, 260)


def test_image_orientation_and_dask_do_not_matter():
    section = make_section("A1", ["g1"])
    lazy = da.from_array(section.image.transpose(2, 0, 1), chunks=(3, 128, 128))
    turned = build_sdata([make_section("A1", ["g1"], image=lazy)])["A1_image"]["scale0"]["image"]
    np.testing.assert_array_equal(turned.transpose("y", "x", "c").to_numpy(), section.image)


def test_given_levels_become_the_pyramid():
    image = make_section("A1", ["g1"]).image
    levels = [image, 255 - image[::2, ::2]]
    sdata = build_sdata([make_section("A1", ["g1"], image=levels)])
    reduced = sdata["A1_image"]["scale1"]["image"].transpose("y", "x", "c")
    np.testing.assert_array_equal(reduced.to_numpy(), levels[1])


def test_hires_image_and_scale_factors_are_what_squidpy_reads():
    big = np.zeros((1500, 2000, 3), dtype=np.uint8)
    slot = build_sdata([make_section("A1", ["g1"], image=big)])["table"].uns["spatial"]["A1"]
    assert slot["images"]["hires"].shape == (750, 1000, 3)
    assert slot["scalefactors"] == {"spot_diameter_fullres": 40.0, "tissue_hires_scalef": 0.5}


def test_a_section_without_image_keeps_its_rows_and_warns():
    sections = [make_section("A1", ["g1", "g2"]), make_section("A2", ["g1", "g2"], 5, image=None)]
    with pytest.warns(UserWarning, match="'A2' has no image"):
        sdata = build_sdata(sections)
    assert list(sdata.images) == ["A1_image"]
    assert set(sdata.shapes) == {"A1_spots", "A2_spots"}
    assert sdata["table"].n_obs == 11
    assert "images" not in sdata["table"].uns["spatial"]["A2"]
    flagst.io.check(sdata)


def test_obs_columns_survive_and_total_counts_over_all_genes_are_kept():
    obs = pd.DataFrame({"label": pd.Categorical(["a", "b", None]), "total_counts": [90, 80, 70]}, index=["x", "y", "z"])
    adata = build_sdata([make_section("A1", ["g1"], 3, obs=obs)])["table"]
    assert list(adata.obs_names) == ["x", "y", "z"] == list(adata.obs["spot_id"])
    assert list(adata.obs["total_counts"]) == [90, 80, 70]
    assert list(adata.obs["label"].dropna()) == ["a", "b"]


def test_h5ad_and_zarr_round_trips(tmp_path):
    import anndata as ad

    obs = pd.DataFrame({"label": ["a", None, "b"]}, index=["x", "y", "z"])
    sections = [make_section("A1", ["g1"], 3, obs=obs), make_section("A2", ["g2"])]
    sdata = build_sdata(sections)
    sdata["table"].write_h5ad(tmp_path / "table.h5ad")
    sdata.write(tmp_path / "data.zarr")
    back = spatialdata.read_zarr(tmp_path / "data.zarr")
    flagst.io.check(back)
    for table in (ad.read_h5ad(tmp_path / "table.h5ad"), back["table"]):
        pd.testing.assert_frame_equal(table.to_df(), sdata["table"].to_df())
        assert list(table.obs["label"].astype(object).fillna("-")) == ["a", "-", "b"] + ["-"] * 6
        assert table.uns["flagst"]["params"] == sdata["table"].uns["flagst"]["params"]
        np.testing.assert_array_equal(hires(table), hires(sdata["table"]))
    image = back["A1_image"]["scale0"]["image"].transpose("y", "x", "c")
    np.testing.assert_array_equal(image.to_numpy(), sections[0].image)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"counts": np.ones((6, 2), int), "genes": ["g1"] * 2}, ValueError, "gene names of section 'A1'"),
        ({"coords": np.zeros((5, 2))}, ValueError, "coords do not fit counts of shape"),
        ({"layout": "round"}, ValueError, "layout of section 'A1' must be one of"),
        ({"image": np.zeros((40, 40), np.uint8)}, ValueError, "needs an RGB image"),
        ({"image": np.zeros((40, 40, 3))}, TypeError, "needs uint8"),
        ({"image": [np.zeros((40, 40, 3), np.uint8)] * 2}, ValueError, "smaller than the one before"),
    ],
)
def test_bad_parts_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        build_sdata([make_section("A1", **({"genes": ["g1", "g2"]} | changes))])


def test_repeated_sections_and_spots_are_refused():
    section = make_section("A1", ["g1"])
    with pytest.raises(ValueError, match="section names are not unique"):
        build_sdata([section, section])
    obs = pd.DataFrame(index=list("abcdef"))
    with pytest.raises(ValueError, match="observation names are not unique"):
        build_sdata([make_section(name, ["g1"], obs=obs) for name in ("A1", "A2")])
    with pytest.raises(ValueError, match="sections is empty"):
        build_sdata([])
