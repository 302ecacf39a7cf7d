"""tl.domain_agreement and tl.marker_overlap on sections whose domains and markers are known."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from flagst.tl import domain_agreement, domains, evaluate, marker_overlap


@pytest.fixture
def tissue():
    """Two sections of 90 spots in three domains with 8 marker genes each of 40; layers good, noise, flat."""
    rng = np.random.default_rng(0)
    domain = np.tile(np.repeat([0, 1, 2], 30), 2)
    expression = rng.normal(size=(180, 40))
    for d in range(3):
        expression[np.ix_(domain == d, np.arange(8 * d, 8 * d + 8))] += 2.5
    obs = pd.DataFrame({"section": np.repeat(["S1", "S2"], 90)}, index=[f"s{i}" for i in range(180)])
    obs["label"] = pd.Categorical(np.array(["a/b", "tumour", "zone"])[domain])
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    adata.obsm["spatial"] = rng.random((180, 2))
    adata.layers["measured"] = expression
    adata.layers["good"] = expression + 0.3 * rng.normal(size=expression.shape)
    adata.layers["noise"] = rng.normal(size=expression.shape)
    adata.layers["flat"] = np.ones_like(expression)
    return adata


def test_agreement_follows_the_prediction(tissue):
    good = domain_agreement(tissue, "good", truth="measured", label_key="label", n_seeds=3)
    noise = domain_agreement(tissue, "noise", truth="measured", label_key="label", n_seeds=3)
    flat = domain_agreement(tissue, "flat", truth="measured", label_key="label", n_seeds=3)
    assert list(good.index) == ["S1", "S2", "mean"] and (good["n_clusters"] == 3).all()
    for name in ("ari", "nmi", "ari_label", "nmi_label", "ari_label_measured", "ari_self"):
        assert good.loc["mean", name] > 0.95, name
    assert noise.loc["mean", "ari"] < 0.2 and noise.loc["mean", "ari_label_measured"] > 0.95
    assert flat.loc["mean", ["ari", "nmi", "ari_label"]].abs().max() < 1e-9


def test_agreement_is_the_mean_over_seeds(tissue):
    tissue.layers["hard"] = tissue.layers["measured"] + 2.5 * np.random.default_rng(1).normal(size=(180, 40))
    table = domain_agreement(tissue, "hard", truth="measured", n_clusters=5, n_components=4, n_seeds=4)
    rows = tissue.obs["section"] == "S2"
    found = [
        domains._clusters(tissue.layers[name][rows], n_clusters=5, n_components=4, n_seeds=4)
        for name in ("hard", "measured")
    ]
    pairs = [(found[0][seed], found[1][(seed + 1) % 4]) for seed in range(4)]
    ari = [adjusted_rand_score(m, p) for p, m in pairs]
    nmi = [normalized_mutual_info_score(m, p) for p, m in pairs]
    assert table.loc["S2", "ari"] == pytest.approx(np.mean(ari))
    assert table.loc["S2", "ari_sd"] == pytest.approx(np.std(ari)) and table.loc["S2", "ari_sd"] > 0
    assert table.loc["S2", "nmi"] == pytest.approx(np.mean(nmi))
    own = [adjusted_rand_score(found[1][seed], found[1][(seed + 1) % 4]) for seed in range(4)]
    assert table.loc["S2", "ari_self"] == pytest.approx(np.mean(own))
    assert np.mean(own) < 0.99  # seeds do differ here
    perfect = domain_agreement(tissue, "measured", truth="measured", n_clusters=5, n_components=4, n_seeds=4)
    for score in ("ari", "nmi"):
        assert perfect.loc["S2", score] == pytest.approx(perfect.loc["S2", f"{score}_self"])
    assert not [name for name in table if "label" in name] and (table["n_spots"] == 90).all()
    again = domain_agreement(tissue, "hard", truth="measured", n_clusters=5, n_components=4, n_seeds=4)
    pd.testing.assert_frame_equal(again, table)


def test_agreement_by_counting_pairs_and_bits():
    """Adjusted Rand index from pairs of spots, mutual information from the table of both labels, no library's score."""
    rng = np.random.default_rng(3)
    true = rng.integers(0, 4, size=(3, 40))
    guess = np.where(rng.random((3, 40)) < 0.6, true, rng.integers(0, 3, size=(3, 40)))
    ari, nmi = [], []
    for a, b in zip(guess, np.roll(true, -1, axis=0), strict=True):
        pairs = [(a[i] == a[j], b[i] == b[j]) for i in range(40) for j in range(i)]
        both, left, right = (sum(found) for found in zip(*[(x and y, x, y) for x, y in pairs], strict=True))
        chance = left * right / len(pairs)
        ari.append((both - chance) / ((left + right) / 2 - chance))
        joint = np.array([[np.mean((a == i) & (b == j)) for j in range(4)] for i in range(4)])
        rows, columns = joint.sum(1), joint.sum(0)
        shared = sum(p * np.log(p / (rows[i] * columns[j])) for (i, j), p in np.ndenumerate(joint) if p > 0)
        entropies = [-sum(p * np.log(p) for p in side if p > 0) for side in (rows, columns)]
        nmi.append(shared / np.mean(entropies))
    found = domains._agreement(guess, true, None)
    assert found["ari"] == pytest.approx(np.mean(ari)) and found["ari_sd"] == pytest.approx(np.std(ari))
    assert found["nmi"] == pytest.approx(np.mean(nmi)) and found["nmi_sd"] == pytest.approx(np.std(nmi))


def test_components_keep_distances():
    """All components of standardised genes: distances between spots stay what they were."""
    values = np.random.default_rng(2).normal(size=(12, 5)) * [1, 10, 100, 1, 0] + 7
    scores = domains._components(values, 20)
    unit = (values[:, :4] - values[:, :4].mean(0)) / values[:, :4].std(0)
    np.testing.assert_allclose(scores @ scores.T, unit @ unit.T, atol=1e-8)
    one = domains._components(values, 1)
    assert np.var(one) == pytest.approx(np.linalg.eigvalsh(np.cov(unit.T, bias=True))[-1])


def test_spots_without_label(tissue):
    labels = tissue.obs["label"].astype(object)
    labels.iloc[:10], labels.iloc[10:20] = None, "undetermined"
    tissue.obs["label"] = pd.Categorical(labels)
    options = {"truth": "measured", "label_key": "label", "n_seeds": 2}
    table = domain_agreement(tissue, "good", ignore_labels=["undetermined"], **options)
    assert (table["n_clusters"] == 3).all() and table.loc["S1", "ari_label"] > 0.9
    assert domain_agreement(tissue, "good", **options).loc["S1", "n_clusters"] == 4


def ranked_by_hand(values, inside):
    """Genes by the tie-corrected rank-sum score of the spots ``inside``, best first."""
    scores = []
    for gene in values.T:
        ranks, n, m = rankdata(gene), inside.sum(), len(gene)
        _, ties = np.unique(gene, return_counts=True)
        correction = 1 - np.sum(ties**3 - ties) / (m**3 - m)
        sd = np.sqrt(correction * n * (m - n) * (m + 1) / 12)
        scores.append((ranks[inside].sum() - n * (m + 1) / 2) / sd if sd else 0.0)
    return np.argsort(-np.array(scores), kind="stable")


def test_overlap_equals_rank_sums_by_hand(tissue):
    measured = np.round(tissue.layers["measured"], 1)  # ties
    tissue.layers["measured"] = measured
    tissue.layers["fair"] = measured + 2 * np.random.default_rng(3).normal(size=measured.shape)
    table = marker_overlap(tissue, "fair", groupby="label", n_top=(5, 20), truth="measured")
    assert list(table["group"]) == ["a/b", "tumour", "zone"] * 2
    for _, row in table.iterrows():
        rows = (tissue.obs["section"] == row["section"]).to_numpy()
        inside = (tissue.obs["label"][rows] == row["group"]).to_numpy()
        for n in (5, 20):
            top = [set(ranked_by_hand(tissue.layers[x][rows], inside)[:n]) for x in ("fair", "measured")]
            assert row[f"overlap{n}"] == pytest.approx(len(top[0] & top[1]) / n)
            assert row[f"chance{n}"] == n / 40
    assert table["n_genes"].eq(40).all() and table["n_spots"].eq(30).all()


def test_overlap_follows_the_prediction(tissue):
    same = marker_overlap(tissue, "measured", groupby="label", truth="measured")
    assert same["overlap20"].eq(1).all() and same["overlap50"].eq(1).all() and same["chance50"].eq(1).all()
    good = marker_overlap(tissue, "good", groupby="label", n_top=(8,), truth="measured")
    noise = marker_overlap(tissue, "noise", groupby="label", n_top=(8,), truth="measured")
    assert good["overlap8"].mean() > 0.9
    assert noise["overlap8"].mean() == pytest.approx(8 / 40, abs=0.15)


def test_small_groups_and_constant_genes_are_left_out(tissue):
    labels = tissue.obs["label"].astype(object)
    labels.iloc[:25] = "zone"  # 5 spots of a/b stay in the first section
    labels.iloc[120:125] = None
    tissue.obs["label"] = labels
    tissue.layers["measured"][:90, 3] = 1.0
    options = {"groupby": "label", "n_top": (8,), "truth": "measured"}
    table = marker_overlap(tissue, "good", ignore_groups=["tumour"], **options)
    # zone is then alone in the first section: no contrast there
    assert list(zip(table["section"], table["group"], strict=True)) == [("S2", "a/b"), ("S2", "zone")]
    table = marker_overlap(tissue, "good", **options)
    assert list(table["n_spots"]) == [30, 55, 30, 25, 30] and list(table["n_genes"]) == [39, 39, 40, 40, 40]


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_records_survive_storage_and_a_new_evaluation(tissue, tmp_path, container):
    domains_table = domain_agreement(tissue, "good", truth="measured", label_key="label", n_seeds=2)
    markers_table = marker_overlap(tissue, "good", groupby="label", truth="measured")
    evaluate(tissue, "good", truth="measured")
    path = tmp_path / f"tissue.{container}"
    getattr(tissue, f"write_{container}")(path)
    stored = getattr(ad, f"read_{container}")(path).uns["flagst"]["metrics"]["good"]
    assert dict(stored["domains"]["mean"]) == pytest.approx(domains_table.loc["mean"].to_dict())
    assert stored["domains"]["label_key"] == "label" and "pcc" in stored["mean"]
    assert list(stored["markers"]["table"]["group"]) == list(markers_table["group"])
    assert stored["markers"]["mean"]["overlap20"] == pytest.approx(markers_table["overlap20"].mean())


def test_errors(tissue):
    with pytest.raises(KeyError, match="no 'flagst'"):
        domain_agreement(tissue, truth="measured")
    with pytest.raises(KeyError, match="no 'tissue'.*label_key="):
        domain_agreement(tissue, "good", truth="measured", label_key="tissue")
    with pytest.raises(ValueError, match="n_seeds must be at least 2"):
        domain_agreement(tissue, "good", truth="measured", n_seeds=1)
    with pytest.raises(ValueError, match="Section 'S1': .*at least 2 groups; got 1"):
        domain_agreement(tissue, "good", truth="measured", n_clusters=1)
    with pytest.raises(ValueError, match="more spots than the 90"):
        domain_agreement(tissue, "good", truth="measured", n_clusters=90)
    with pytest.raises(KeyError, match="no 'tissue'.*groupby="):
        marker_overlap(tissue, "good", groupby="tissue", truth="measured")
    with pytest.raises(ValueError, match="n_top must be positive"):
        marker_overlap(tissue, "good", groupby="label", n_top=(0,), truth="measured")
    with pytest.raises(ValueError, match="no contrast, no markers"):
        marker_overlap(tissue, "good", groupby="section", truth="measured")
    assert "flagst" not in tissue.uns
