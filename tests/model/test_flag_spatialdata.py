"""SpatialData in and out: features on the way in, layers or a second table on the way out."""

import numpy as np
import pytest

import flagst
from flagst import FLAG


@pytest.fixture(scope="module")
def simulated():
    sdata = flagst.datasets.simulated_sections(n_sections=3, n_spots=30, n_genes=8)
    FLAG.setup_spatialdata(sdata)
    return sdata


@pytest.fixture(scope="module")
def model(simulated, make):
    made = FLAG(simulated, n_latent=4, network=make.SMALL)
    made.train(**make.QUICK)
    return made


@pytest.fixture
def slide(simulated):
    """A copy whose table tests may change; images and shapes are shared."""
    from spatialdata import SpatialData

    return SpatialData(
        images=dict(simulated.images),
        shapes=dict(simulated.shapes),
        tables={"table": simulated["table"].copy()},
    )


def test_setup_extracts_features_once(simulated, monkeypatch):
    table = simulated["table"]
    assert table.obsm["X_image"].shape[0] == table.n_obs
    assert table.uns["flagst"]["features"]["X_image"]["encoder"] == "handcrafted"

    def never(*args, **kwargs):
        raise AssertionError("features were extracted again")

    monkeypatch.setattr(flagst.pp, "image_features", never)
    FLAG.setup_spatialdata(simulated)


def test_predictions_are_written_into_the_table(model, slide):
    predicted = model.predict(slide)
    assert predicted is slide["table"] and set(slide.tables) == {"table"}
    assert {"flagst", "flagst_mean"} <= set(k for k in predicted.layers if k is not None)
    assert model.sample(slide, 2).shape == (2, *predicted.shape)
    assert model.get_latent_representation(slide).shape == (predicted.n_obs, 3 * 16)


def test_the_result_is_a_valid_spatialdata(model, slide, tmp_path):
    from spatialdata import read_zarr

    model.predict(slide)
    flagst.tl.evaluate(slide["table"])
    flagst.io.check(slide)
    slide.write(tmp_path / "slide.zarr")
    found = read_zarr(tmp_path / "slide.zarr")
    np.testing.assert_array_equal(found["table"].layers["flagst"], slide["table"].layers["flagst"])


def test_other_genes_give_a_second_table(model, slide, tmp_path):
    import anndata as ad
    import pandas as pd
    from spatialdata import read_zarr
    from spatialdata.models import TableModel

    table = slide["table"]
    extra = ad.AnnData(np.ones((table.n_obs, 2), np.float32), obs=table.obs, var=pd.DataFrame(index=["x1", "x2"]))
    wider = ad.concat([extra, table], axis=1, merge="first", uns_merge="first")
    wider.obsm.update({key: table.obsm[key] for key in table.obsm})
    slide.tables["table"] = wider
    predicted = model.predict(slide)
    assert set(slide.tables) == {"table", "flagst"} and slide["flagst"] is predicted
    assert list(predicted.var_names) == model.genes_ and "flagst" not in wider.layers
    TableModel().validate(predicted)
    assert predicted.uns["spatialdata_attrs"] == wider.uns["spatialdata_attrs"]
    slide.write(tmp_path / "slide.zarr")
    found = read_zarr(tmp_path / "slide.zarr")
    np.testing.assert_array_equal(found["flagst"].layers["flagst"], predicted.layers["flagst"])
    assert model.predict(slide, seed=1) is slide["flagst"]  # again, in its place


def test_a_slide_without_expression(model, slide, tmp_path):
    from spatialdata import read_zarr

    expected = model.predict(slide).layers["flagst"]
    slide.tables["table"] = model.prepare_query(slide)
    assert slide["table"].X is None
    np.testing.assert_array_equal(model.predict(slide).layers["flagst"], expected)
    slide.write(tmp_path / "slide.zarr")
    assert read_zarr(tmp_path / "slide.zarr")["table"].X is None


def test_images_and_shapes_are_untouched(model, slide):
    shapes = {name: frame.copy() for name, frame in slide.shapes.items()}
    pixels = np.asarray(slide.images["S1_image"]["scale0"]["image"])
    model.predict(slide)
    for name, frame in slide.shapes.items():
        assert frame.equals(shapes[name])
    np.testing.assert_array_equal(np.asarray(slide.images["S1_image"]["scale0"]["image"]), pixels)


def test_loading_with_a_spatialdata(model, simulated, tmp_path):
    model.save(str(tmp_path / "model"))
    assert FLAG.load(str(tmp_path / "model"), simulated).adata is simulated["table"]


def _without_features(slide):
    del slide["table"].obsm["X_image"]
    del slide["table"].uns["flagst"]["features"]


def _empty_gene(slide):
    slide["table"].X[:, 3] = 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_empty_gene, ValueError, "1 genes have no count"),
        (lambda s: s["table"].obsm.pop("spatial"), KeyError, "no 'spatial'"),
        (lambda s: s.images.pop("S2_image"), ValueError, r"1 of 3 sections have no image: \['S2'\]"),
    ],
    ids=["empty gene", "no coordinates", "no image"],
)
def test_what_cannot_be_right_is_refused_before_features_are_extracted(slide, change, error, message):
    _without_features(slide)
    change(slide)
    with pytest.raises(error, match=message):
        FLAG.setup_spatialdata(slide)
    assert "X_image" not in slide["table"].obsm
    assert "features" not in slide["table"].uns["flagst"]


def test_too_few_spots_are_refused_before_features_are_extracted():
    sdata = flagst.datasets.simulated_sections(n_sections=1, n_spots=40, n_genes=8)
    with pytest.raises(ValueError, match="at least 50 spots; got 40"):
        FLAG.setup_spatialdata(sdata)
    assert "X_image" not in sdata["table"].obsm


def test_positions_outside_the_image_are_refused(slide):
    _without_features(slide)
    table = slide["table"]
    table.obsm["spatial"][0] = 1e6
    with pytest.raises(ValueError, match="outside the image"):
        flagst.pp.image_features(table)
    with pytest.raises(ValueError, match="more than a pixel apart"):
        flagst.io.check(slide)
    assert "X_image" not in table.obsm


def test_a_table_of_another_name(slide, make):
    from spatialdata import SpatialData

    cells = slide["table"].copy()
    other = SpatialData(images=dict(slide.images), shapes=dict(slide.shapes), tables={"cells": cells})
    FLAG.setup_spatialdata(other, table_key="cells")
    model = FLAG(other, table_key="cells", n_latent=4, network=make.SMALL, diffusion=False)
    assert model.adata is other["cells"]
    model.train()
    assert model.predict(other, table_key="cells") is other["cells"]
    assert "flagst" in other["cells"].layers
    with pytest.raises(KeyError, match=r"no 'table'; found \['cells'\]"):
        FLAG(other)


def test_unknown_tables_are_named(model, slide):
    with pytest.raises(KeyError, match=r"no 'cells'; found \['table'\]"):
        model.predict(slide, table_key="cells")


def test_predictions_of_a_wider_table_stand_beside_each_other(model, slide):
    """In the second table, whatever was predicted first."""
    import anndata as ad
    import scipy.sparse as sp

    narrow = slide["table"]
    more = ad.AnnData(sp.csr_matrix((narrow.n_obs, 2), dtype=np.float32), obs=narrow.obs[[]].copy())
    more.var_names = ["extra0", "extra1"]
    wide = ad.concat([narrow, more], axis=1, merge="first", uns_merge="first")
    wide.obs, wide.uns = narrow.obs.copy(), dict(narrow.uns)
    slide.tables["table"] = wide
    model.predict(slide, layer="mean", structure=0)
    first = slide.tables["flagst"].layers["mean"].copy()
    scores = flagst.tl.evaluate(slide.tables["flagst"], "mean")
    model.predict(slide, layer="draw", structure=1, quantiles=(0.1, 0.9), n_samples=20)
    table = slide.tables["flagst"]
    assert {"mean", "mean_mean", "draw", "draw_mean", "draw_q10", "draw_q90"} <= {
        n for n in table.layers if n is not None
    }
    np.testing.assert_array_equal(table.layers["mean"], first)
    assert {"mean", "draw"} == set(table.uns["flagst"]["predictions"]) and "mean" in table.uns["flagst"]["metrics"]
    np.testing.assert_allclose(flagst.tl.evaluate(table, "mean"), scores)
    baseline = flagst.baselines.Mean(narrow)
    baseline.train()
    baseline.predict(slide, layer="average")
    table = slide.tables["flagst"]
    np.testing.assert_array_equal(table.layers["mean"], first)
    assert "average" in table.layers and "flagst_ood" in table.obs and "flagst_trained" in table.var
    model.predict(slide, layer="draw")  # in place of what was there
    assert "draw_q10" not in slide.tables["flagst"].layers and "average" in slide.tables["flagst"].layers
    slide.tables["table"] = wide[::-1].copy()  # other spots: nothing can be kept
    model.predict(slide, layer="new")
    assert "mean" not in slide.tables["flagst"].layers
