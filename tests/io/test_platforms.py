"""Visium HD bins and Xenium cells, in the structure of spatialdata-io."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from shapely import Polygon, box
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation

from flagst import io, pp

UM_PER_PX = 0.8  # of the Visium HD image
MORPHOLOGY_UM = 0.2125  # a pixel of Xenium's morphology image
N_GENES, N_CONTROLS = 6, 2


def tissue_image(height, width, seed=0):
    image = np.full((3, height, width), 235, np.uint8)
    image[:, 20:-20, 20:-20] = np.array([180, 120, 165], np.uint8)[:, None, None]
    return image - np.random.default_rng(seed).integers(0, 12, image.shape, dtype=np.uint8)


def features(n_spots, seed=0, **columns):
    rng = np.random.default_rng(seed)
    counts = sp.csr_matrix(rng.poisson(2, (n_spots, N_GENES + N_CONTROLS)).astype(np.float32))
    kinds = ["Gene Expression"] * N_GENES + ["Negative Control Probe"] * N_CONTROLS
    var = pd.DataFrame({"feature_types": kinds}, index=[f"g{i}" for i in range(N_GENES)] + ["NC1", "NC2"])
    return anndata.AnnData(counts, obs=pd.DataFrame(columns, index=[f"b{i}-1" for i in range(n_spots)]), var=var)


def visium_hd(*, squares=True, dataset="HD", system=None, bin_um=16, full_image=True):
    """One bin size of a capture area of 24 x 20 bins; one bin empty, one off the tissue, one off the image."""
    side = bin_um / UM_PER_PX
    row, column = (values.ravel() for values in np.meshgrid(np.arange(20), np.arange(24), indexing="ij"))
    table = features(len(row), in_tissue=1, array_row=row, array_col=column, location_id=np.arange(len(row)))
    coords = np.column_stack([(column + 2) * side, (row + 2) * side])
    coords[7] = (1e5, 50)
    counts = table.X.toarray()
    counts[3] = 0
    counts[3, N_GENES] = 5  # a control, no gene
    table.X = sp.csr_matrix(counts)
    table.obs.loc[table.obs_names[5], "in_tissue"] = 0
    table.obsm["spatial"] = coords
    key, shapes_key = f"square_{bin_um:03d}um", f"{dataset}_square_{bin_um:03d}um"
    table.obs["region"] = pd.Categorical([shapes_key] * len(row))
    where = {system or dataset: Identity(), "downscaled_hires": Scale([0.1, 0.1], axes=("x", "y"))}
    if squares:
        half = side / 2
        geometry = [box(x - half, y - half, x + half, y + half) for x, y in coords]
        shapes = ShapesModel.parse(pd_geo(geometry, table.obs["location_id"]), transformations=where)
    else:
        index = table.obs["location_id"].to_numpy()
        shapes = ShapesModel.parse(coords, geometry=0, radius=side / 2, index=index, transformations=where)
    image = tissue_image(int(24 * side), int(28 * side))
    parse = {"dims": ("c", "y", "x"), "transformations": {system or dataset: Identity()}}
    images = {f"{dataset}_hires_image": Image2DModel.parse(image[:, ::10, ::10], **parse)}
    if full_image:
        images[f"{dataset}_full_image"] = Image2DModel.parse(image, scale_factors=[2, 2], **parse)
    table = TableModel.parse(table, region=shapes_key, region_key="region", instance_key="location_id")
    return SpatialData(images=images, shapes={shapes_key: shapes}, tables={key: table})


def pd_geo(geometry, index):
    from geopandas import GeoDataFrame

    return GeoDataFrame(geometry=geometry, index=pd.Index(np.asarray(index)))


def xenium(*, annotates="cell_circles", n_cells=300, image_key="he_image", aligned=True):
    """Cells of very uneven density in micrometres, and an H&E image that is turned by 90 degrees against them."""
    rng = np.random.default_rng(3)
    um = np.concatenate([rng.normal(150, 25, (n_cells - 4, 2)), [[60, 60], [240, 60], [60, 240], [-500, 100]]])
    ids = [f"aaaa{i:04d}-1" for i in range(n_cells)]
    table = features(n_cells, cell_id=ids, cell_area=np.full(n_cells, 50.0), total_counts=9999)
    counts = table.X.toarray()
    counts[10] = 0
    table.X = sp.csr_matrix(counts)
    table.obsm["spatial"] = um
    table.obs["region"] = pd.Categorical([annotates] * n_cells)
    to_global = {"global": Scale([1 / MORPHOLOGY_UM] * 2, axes=("x", "y"))}
    octagon = np.column_stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)]) * 4
    shapes = {
        "cell_circles": ShapesModel.parse(um, geometry=0, radius=4.0, index=ids, transformations=to_global),
        "cell_boundaries": ShapesModel.parse(
            pd_geo([Polygon(octagon + centre) for centre in um], ids), transformations=to_global
        ),
    }
    # H&E at 0.5 um per pixel, 300 um wide and high: (x, y) of its pixels lie at (y, 600 - x) x 0.5 um
    turn = np.array([[0, 0.5, 0], [-0.5, 0, 300], [0, 0, 1]]) / MORPHOLOGY_UM
    turn[2, 2] = 1
    affine = {"global": Affine(turn, input_axes=("x", "y"), output_axes=("x", "y"))} if aligned else {"he": Identity()}
    images = {
        image_key: Image2DModel.parse(tissue_image(600, 600), dims=("c", "y", "x"), transformations=affine),
        "morphology_focus": Image2DModel.parse(
            np.zeros((4, 300, 300), np.uint16), dims=("c", "y", "x"), transformations={"global": Identity()}
        ),
    }
    table = TableModel.parse(table, region=annotates, region_key="region", instance_key="cell_id")
    return SpatialData(images=images, shapes=shapes, tables={"table": table})


@pytest.mark.parametrize("squares", [True, False])
@pytest.mark.parametrize("system", [None, "global"])
def test_visium_hd_bins_become_square_spots(squares, system, caplog):
    data = visium_hd(squares=squares, system=system)
    with caplog.at_level(logging.WARNING, logger="flagst"):
        sdata = io.from_visium_hd(data, bin_um=16)
    assert "left out 3 of 480 spots: 1 without counts, 1 off the image" in caplog.text
    io.check(sdata, require_images=True)
    table, source = sdata["table"], data.tables["square_016um"]
    assert table.n_obs == 477 and list(table.var_names) == [f"g{i}" for i in range(N_GENES)]
    assert list(sdata.images) == ["HD_image"] and list(sdata.shapes) == ["HD_spots"]
    kept = np.delete(np.arange(480), [3, 5, 7])
    assert list(table.obs_names) == [f"HD_b{i}-1" for i in kept]
    np.testing.assert_array_equal(table.X.toarray(), source.X[kept][:, :N_GENES].toarray())
    np.testing.assert_array_equal(table.obs["total_counts"], source.X[kept][:, :N_GENES].sum(axis=1).A1)
    np.testing.assert_allclose(table.obsm["spatial"], source.obsm["spatial"][kept])
    np.testing.assert_array_equal(table.obs["array_col"], source.obs["array_col"].iloc[kept])
    params = table.uns["flagst"]["params"]
    assert params["um_per_px"] == {"HD": pytest.approx(UM_PER_PX)} and params["layout"] == {"HD": "square"}
    assert sdata.shapes["HD_spots"].radius.to_numpy() == pytest.approx(8 / UM_PER_PX)
    full = sdata["HD_image"]["scale0"]["image"].to_numpy()
    np.testing.assert_array_equal(full, data["HD_full_image"]["scale0"]["image"].to_numpy())
    assert table.uns["spatial"]["HD"]["images"]["hires"].dtype == np.uint8


def test_what_was_read_is_not_changed():
    for data, convert in ((visium_hd(), lambda d: io.from_visium_hd(d, bin_um=16)), (xenium(), io.from_xenium)):
        before = {name: (t.X.copy(), t.obs.copy(), t.obsm["spatial"].copy()) for name, t in data.tables.items()}
        systems = {
            name: list(get_transformation(element, get_all=True)) for _, name, element in data.gen_spatial_elements()
        }
        convert(data)
        for name, (counts, obs, coords) in before.items():
            assert (data.tables[name].X != counts).nnz == 0
            pd.testing.assert_frame_equal(data.tables[name].obs, obs)
            np.testing.assert_array_equal(data.tables[name].obsm["spatial"], coords)
        for _, name, element in data.gen_spatial_elements():
            assert list(get_transformation(element, get_all=True)) == systems[name]


def test_several_capture_areas_are_joined_by_name():
    data = {"A": visium_hd(dataset="x"), "B": visium_hd(dataset="y", squares=False)}
    sdata = io.from_visium_hd(data, bin_um=16)
    io.check(sdata, require_images=True)
    assert sdata["table"].obs["section"].value_counts().to_dict() == {"A": 477, "B": 477}
    with pytest.raises(ValueError, match=r"section='C'.*\['A', 'B'\]"):
        io.from_visium_hd(data, bin_um=16, section="C")


def test_visium_hd_says_what_is_missing():
    with pytest.raises(KeyError, match=r"no 'square_008um'; found \['square_016um'\].*bin_um="):
        io.from_visium_hd(visium_hd())
    with pytest.raises(KeyError, match=r"no 'HD_full_image'; found \['HD_hires_image'\].*fullres_image_file"):
        io.from_visium_hd(visium_hd(full_image=False), bin_um=16)
    with pytest.raises(ValueError, match="none is left. Is the image the one"):
        data = visium_hd()
        data.tables["square_016um"].obsm["spatial"] += 1e6
        io.from_visium_hd(data, bin_um=16)


@pytest.mark.parametrize("annotates", ["cell_circles", "cell_boundaries", "cell_labels"])
def test_xenium_cells_lie_where_the_alignment_puts_them(annotates, caplog):
    data = xenium(annotates="cell_circles" if annotates == "cell_labels" else annotates)
    if annotates == "cell_labels":  # newer readers: the table annotates a raster of cells
        data["table"].obs["region"] = pd.Categorical(["cell_labels"] * 300)
        data["table"].uns["spatialdata_attrs"]["region"] = "cell_labels"
    with caplog.at_level(logging.WARNING, logger="flagst"):
        sdata = io.from_xenium(data, section="X")
    assert "left out 2 of 300 spots: 1 without counts, 1 off the image" in caplog.text
    io.check(sdata, require_images=True)
    table = sdata["table"]
    kept = np.delete(np.arange(300), [10, 299])
    um = data["table"].obsm["spatial"][kept]
    np.testing.assert_allclose(table.obsm["spatial"], np.column_stack([600 - 2 * um[:, 1], 2 * um[:, 0]]), atol=1e-6)
    params = table.uns["flagst"]["params"]
    assert params["um_per_px"] == {"X": pytest.approx(0.5)} and params["layout"] == {"X": "irregular"}
    assert sdata.shapes["X_spots"].radius.to_numpy() == pytest.approx(2 * np.sqrt(50 / np.pi))
    np.testing.assert_array_equal(table.obs["total_counts"], table.X.sum(axis=1).A1)
    assert list(table.obs["cell_id"].astype(str)) == [f"aaaa{i:04d}-1" for i in kept]


def test_xenium_says_what_is_missing():
    with pytest.raises(KeyError, match="no 'he_image'; found.*xenium_aligned_image"):
        io.from_xenium(xenium(image_key="other"))
    with pytest.raises(ValueError, match="share no coordinate system 'global'"):
        io.from_xenium(xenium(aligned=False))
    with pytest.raises(ValueError, match="need RGB|uint8"):
        bad = xenium()
        bad.images["he_image"] = Image2DModel.parse(np.zeros((1, 600, 600), np.uint8), dims=("c", "y", "x"))
        io.from_xenium(bad)
    with pytest.raises(KeyError, match="no 'cell_circles'; found"):
        bare = xenium()
        del bare.shapes["cell_circles"], bare.shapes["cell_boundaries"]
        io.from_xenium(bare)


def test_the_result_survives_zarr_and_gets_features(tmp_path):
    import spatialdata

    sdata = io.from_visium_hd(visium_hd(), bin_um=16)
    pp.image_features(sdata, progress=False, n_jobs=1)
    sdata.write(tmp_path / "hd.zarr")
    back = spatialdata.read_zarr(tmp_path / "hd.zarr")
    io.check(back, require_images=True)
    np.testing.assert_array_equal(back["table"].obsm["X_image"], sdata["table"].obsm["X_image"])
