"""The tables of the simulation benchmark."""

import numpy as np
import simulated

from flagst import datasets


def _row(variant, structure, seed, gsc):
    return {
        "variant": variant, "structure": structure, "seed": seed, "seconds": 2.0, "pcc": 0.3, "mse": 1.0,
        "gsc": gsc, "ssc": 0.5, "moran_pred": 0.2, "moran_true": 0.25,
    }  # fmt: skip


def test_table_has_mean_and_sd_over_seeds():
    text = simulated.table([_row("FLAG", 1.0, 0, 0.8), _row("FLAG", 1.0, 1, 0.9), _row("redraw", None, 0, 0.95)])
    flag, redraw = text.splitlines()[1:]
    assert flag.startswith("FLAG") and "0.850 ± 0.071" in flag and "2.0" in flag
    assert redraw.startswith("redraw") and "0.950" in redraw and "±" not in redraw


def test_alignment_lines_average_validation_losses():
    rows = [_row("FLAG", 1.0, s, 0.8) | {"alignment": {"align_loss_validation": v, "align_loss_train": 9.0}}
            for s, v in enumerate((0.3, 0.5))]  # fmt: skip
    assert simulated.alignment_lines(rows) == "align_loss_validation: 0.400 ± 0.141"


def test_variants_are_settings_of_the_model():
    from flagst.settings import resolve

    for changes in simulated.VARIANTS.values():
        resolve("default", target="log2", gfm=changes.get("gfm", "coexpression"),
                **{k: v for k, v in changes.items() if k != "gfm"})  # fmt: skip


def test_second_counts_are_scored_against_the_first():
    test = datasets.simulated_sections(n_sections=1, n_spots=80, n_genes=15)["table"]
    rows = simulated.redraws(test, {"seed": 0, "target": "lognorm"})
    assert [row["variant"] for row in rows] == ["redraw", "redraw of hidden programs"]
    assert rows[0]["pcc"] > rows[1]["pcc"] > 0 and rows[0]["structure"] is None
    counts = datasets.redraw_counts(test, 0, hidden=True).toarray()
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(test.layers["redraw"], expected, rtol=1e-5)
