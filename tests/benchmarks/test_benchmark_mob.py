"""The comparison below the table of the mouse olfactory bulb."""

import mob


def _record(method, structure, pcc, gsc, ssc, seed=0):
    scores = {"pcc": pcc, "gsc": gsc, "ssc": ssc}
    others = dict.fromkeys(("pcc50", "mse", "moran_pred", "moran_true", "seconds", "peak_mb"), 0.0)
    return {"method": method, "structure": structure, "seed": seed, "test": "MOB1", **scores, **others}


def test_a_structure_counts_when_nothing_is_worse():
    records = [
        _record("Ridge", None, 0.5, 0.8, 0.5),
        _record("IndependentNoise", 1.0, 0.3, 0.9, 0.95),
        _record("FLAG", 0.0, 0.5, 0.81, 0.51),  # the same PCC, better structure
        _record("FLAG", 0.5, 0.45, 0.9, 0.8),  # lower PCC than ridge
        _record("FLAG", 1.0, 0.35, 0.91, 0.9),  # lower SSC than the noise
    ]
    assert mob.better_at(records) == [("Ridge", [0.0]), ("IndependentNoise at 1", [])]


def test_means_over_seeds_are_compared():
    records = [_record("Ridge", None, 0.5, 0.8, 0.5)]
    records += [_record("FLAG", 0.0, pcc, 0.9, 0.9, seed) for seed, pcc in enumerate((0.4, 0.62))]
    assert mob.better_at(records) == [("Ridge", [0.0])]
    records[-1]["pcc"] = 0.58
    assert mob.better_at(records) == [("Ridge", [])]
