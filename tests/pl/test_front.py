"""pl.front: lines through means over sections, reference values as horizontal lines."""

import numpy as np
import pandas as pd
import pytest

from flagst import pl

METHODS = {"FLAG": (0.0, 0.5, 1.0), "IndependentNoise": (0.0, 1.0), "Ridge": (np.nan,)}


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    rows = []
    for method, structures in METHODS.items():
        for structure in structures[::-1]:
            for section in ("A", "B"):
                scores = {name: rng.uniform(0.3, 0.9) for name in ("pcc", "gsc", "ssc")}
                rows.append({"method": method, "structure": structure, "section": section} | scores)
    return pd.DataFrame(rows)


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def test_one_line_per_method_through_the_means(frame):
    axes = pl.front(frame, show=False)
    assert [ax.get_ylabel() for ax in axes] == ["GSC", "SSC"] and axes[0].get_xlabel() == "PCC"
    for ax, column in zip(axes, ("gsc", "ssc"), strict=True):
        lines = lines_of(ax)
        assert set(lines) == set(METHODS)
        for method, structures in METHODS.items():
            own = frame[frame["method"] == method]
            for point, structure in zip(lines[method].get_xydata(), structures, strict=True):
                rows = own if np.isnan(structure) else own[own["structure"] == structure]
                np.testing.assert_allclose(point, rows[["pcc", column]].mean())


def test_structures_of_the_first_method_are_marked(frame):
    axes = pl.front(frame, show=False)
    for ax in axes:
        assert [text.get_text() for text in ax.texts] == ["0", "0.5", "1"]
        marked = {text.get_text(): text.xy for text in ax.texts}
        np.testing.assert_allclose(marked["0.5"], lines_of(ax)["FLAG"].get_xydata()[1])


def test_reference_values_are_horizontal(frame):
    extra = pd.DataFrame(
        {
            "method": ["replicate", "replicate", "ceiling"],
            "structure": np.nan,
            "section": ["A", "B", "A"],
            "pcc": np.nan,
            "gsc": [0.7, 0.8, 0.95],
            "ssc": [0.6, 0.5, 0.9],
        }
    )
    figure = pl.front(pd.concat([frame, extra]), return_fig=True)
    for ax, expected in zip(figure.axes, ({"replicate": 0.75, "ceiling": 0.95}, {"replicate": 0.55}), strict=True):
        for name, height in expected.items():
            np.testing.assert_allclose(lines_of(ax)[name].get_ydata(), height)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["FLAG", "IndependentNoise", "Ridge", "replicate", "ceiling"]


def test_a_reference_value_without_a_score_is_left_out(frame):
    nothing = {"method": "replicate", "structure": np.nan, "section": "A", "pcc": np.nan, "gsc": np.nan, "ssc": np.nan}
    axes = pl.front(pd.concat([frame, pd.DataFrame([nothing])]), show=False)
    assert all(set(lines_of(ax)) == set(METHODS) for ax in axes)


def test_it_is_saved(frame, tmp_path):
    pl.front(frame, save=tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_bad_frames(frame):
    with pytest.raises(KeyError, match="frame has no 'ssc'; found"):
        pl.front(frame.drop(columns="ssc"))
    with pytest.raises(ValueError, match=r"No method.*accuracy; found \['FLAG'"):
        pl.front(frame.assign(pcc=np.nan))
