"""flagst.io.check: valid objects pass without a change, others raise an error that says what to do."""

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from flagst.io import Section, build_sdata, check


@pytest.fixture
def sdata():
    rng = np.random.default_rng(0)
    sections = []
    for name in ("S1", "S2"):
        image = np.full((300, 500, 3), 245, dtype=np.uint8)
        image[50:250, 280:480] = (200, 120, 170)  # tissue to the right
        coords = np.column_stack([rng.uniform(300, 470, 8), rng.uniform(60, 240, 8)])
        sections.append(
            Section(
                name=name,
                coords=coords,
                counts=sp.csr_matrix(rng.poisson(3, (8, 5)) + 1),
                genes=list("abcde"),
                spot_diameter_px=30,
                um_per_px=1.0,
                image=image,
            )
        )
    return build_sdata(sections)


def test_a_good_object_passes_and_is_not_modified(sdata, caplog):
    before = sdata["table"].copy()
    with caplog.at_level(logging.WARNING, logger="flagst"):
        assert check(sdata) is None
    assert caplog.records == []
    after = sdata["table"]
    pd.testing.assert_frame_equal(after.obs, before.obs)
    assert (after.X != before.X).nnz == 0
    np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])


def _set_obs(column, row, value):
    def change(sdata):
        values = sdata["table"].obs[column].astype(object).copy()
        values.iloc[row] = value
        sdata["table"].obs[column] = values

    return change


def _swap(sdata):
    spatial = sdata["table"].obsm["spatial"][:, ::-1].copy()
    sdata["table"].obsm["spatial"] = spatial
    for name in ("S1", "S2"):
        shapes = sdata[f"{name}_spots"]
        rows = sdata["table"].obs_names.get_indexer(shapes.index)
        shapes["geometry"] = type(shapes.geometry).from_xy(*spatial[rows].T, index=shapes.index)


def _move_one_shape(sdata):
    shapes = sdata["S1_spots"]
    shapes.loc[shapes.index[0], "geometry"] = shapes.geometry.iloc[1]


def _single(sdata):
    sdata.tables["table"] = sdata["table"][:9].copy()


def _shift_outside(sdata):
    sdata["table"].obsm["spatial"][2] = (5000, 4000)
    import shapely

    shapes = sdata["S1_spots"]
    shapes.loc[sdata["table"].obs_names[2], "geometry"] = shapely.Point(5000, 4000)


def _drop(container, key):
    def change(sdata):
        del getattr(sdata["table"], container)[key]

    return change


def _set_x(row, column, value):
    def change(sdata):
        dense = sdata["table"].X.toarray()
        dense[row, column] = value
        sdata["table"].X = sp.csr_matrix(dense)
        sdata["table"].obs["total_counts"] = dense.sum(axis=1)

    return change


def _nan_position(sdata):
    sdata["table"].obsm["spatial"][0, 0] = np.nan


def _repeat(axis):
    def change(sdata):
        names = list(getattr(sdata["table"], axis))
        names[1] = names[0]
        setattr(sdata["table"], axis, names)

    return change


BAD = {
    "no coordinates": (_drop("obsm", "spatial"), KeyError, "no 'spatial'; found"),
    "no section": (_drop("obs", "section"), KeyError, "no 'section'; found"),
    "no total counts": (_drop("obs", "total_counts"), KeyError, "no 'total_counts'"),
    "no scale": (_drop("uns", "flagst"), KeyError, "um_per_px"),
    "no shapes": (lambda s: s.shapes.pop("S2_spots"), KeyError, "no 'S2_spots'"),
    "repeated spots": (_repeat("obs_names"), ValueError, "obs_names are not unique"),
    "repeated genes": (_repeat("var_names"), ValueError, "var_names are not unique"),
    "negative": (_set_x(0, 0, -1), ValueError, "negative"),
    "non-integer": (_set_x(0, 0, 0.5), ValueError, "non-integer"),
    "empty spot": (_set_x(3, slice(None), 0), ValueError, "1 of 16 spots have no counts: S1_3"),
    "low total": (_set_obs("total_counts", 4, 1.0), ValueError, "smaller than the row sum in 1 of 16"),
    "NaN total": (_set_obs("total_counts", 4, np.nan), ValueError, "NaN or infinite"),
    "NaN position": (_nan_position, ValueError, "NaN or infinite values in 1 of 16"),
    "single": (_single, ValueError, r"\['S2'\] have one spot"),
    "bad name": (_set_obs("section", slice(0, 3), "my section:1"), ValueError, "cannot name SpatialData"),
    "no name": (_set_obs("section", 0, None), ValueError, "empty for 1 spots"),
    "wrong region": (_set_obs("region", 0, "S2_spots"), ValueError, "must be 'S1_spots' for section 'S1'"),
    "renamed": (_set_obs("spot_id", 0, "other"), ValueError, "must equal adata.obs_names"),
    "row without shape": (
        lambda s: s["S1_spots"].drop(index="S1_0", inplace=True),
        ValueError,
        "1 spots of the table are not in sdata.shapes",
    ),
    "moved shape": (_move_one_shape, ValueError, "1 spots more than a pixel apart: S1_0"),
    "outside": (_shift_outside, ValueError, "1 of 8 spots lie outside .* 500 pixels wide and 300 high: S1_2"),
    "swapped": (_swap, ValueError, "With x and y swapped all are inside"),
    "scale": (
        lambda s: s["table"].uns["flagst"]["params"]["um_per_px"].update(S1=0.0),
        ValueError,
        "must be positive",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_objects_are_named(sdata, case):
    change, error, message = BAD[case]
    change(sdata)
    with pytest.raises(error, match=message):
        check(sdata)


def test_other_types_and_tables_are_named(sdata):
    with pytest.raises(TypeError, match="needs a SpatialData; got AnnData"):
        check(sdata["table"])
    with pytest.raises(KeyError, match="no 'counts'; found"):
        check(sdata, "counts")


def test_genes_without_counts_are_logged_only(sdata, caplog):
    _set_x(slice(None), 2, 0)(sdata)
    with caplog.at_level(logging.WARNING, logger="flagst"):
        check(sdata)
    assert "1 genes have no counts: c" in caplog.text


def test_swapped_coordinates_inside_a_square_image_are_logged(sdata, caplog):
    image = np.full((500, 500, 3), 245, dtype=np.uint8)
    image[20:200, 280:480] = (200, 120, 170)
    rng = np.random.default_rng(0)
    on_tissue = np.column_stack([rng.uniform(300, 470, 9), rng.uniform(30, 190, 9)])
    for coords, expected in ((on_tissue, 0), (on_tissue[:, ::-1], 1)):
        part = Section("S1", coords, np.ones((9, 2), int), ["a", "b"], 30, 1.0, image=image)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="flagst"):
            check(build_sdata([part]))
        assert len(caplog.records) == expected


def test_a_section_without_image_is_logged_or_refused(sdata, caplog):
    del sdata.images["S2_image"]
    for thumbnail in (True, False):  # an archive without the full resolution keeps its small image
        if not thumbnail:
            del sdata["table"].uns["spatial"]["S2"]["images"]
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="flagst"):
            check(sdata)
        assert caplog.text.count("'S2' has no image") == len(caplog.records) == 1
    with pytest.raises(KeyError, match="'S2' needs its image"):
        check(sdata, require_images=True)


def test_a_slide_without_expression_passes(sdata):
    sdata["table"].X = None
    check(sdata)
