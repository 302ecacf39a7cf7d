"""The main benchmark: its command line, numbers of network evaluations, and a small run on real sections."""

import her2st
import numpy as np
import pytest


def test_command_lines_of_the_documentation():
    options = her2st.parse(["--data-dir", "PATH", "--rotate", "C2", "C3", "C4", "C5"])
    assert [split["test"] for split in options.splits] == ["C2", "C3", "C4", "C5"]
    assert options.evaluations is None and options.at_pcc is None and "FLAG" in options.methods
    options = her2st.parse("--train C2 C3 C4 C5 --test B4 --at-pcc 0.6 --set diffusion=false".split())
    assert options.splits == [{"train": ["C2", "C3", "C4", "C5"], "test": "B4"}] and options.at_pcc == 0.6
    assert options.set == ["diffusion=false"]
    assert her2st.parse("--evaluations 2 4 --methods Ridge".split()).methods == ["FLAG"]


def record(structure, evaluations, seed, test, gsc):
    scores = {"pcc": 0.5, "gsc": gsc, "ssc": 0.6, "seconds": 0.25}
    return {"structure": structure, "evaluations": evaluations, "seed": seed, "test": test} | scores


def test_evaluations_have_means_sd_and_differences_from_the_most():
    records = [record(1.0, 4, s, t, 0.7 + 0.02 * s + 0.1 * (t == "B")) for s in (0, 1) for t in "AB"]
    records += [record(1.0, 200, s, t, 0.8 + 0.1 * (t == "B")) for s in (0, 1) for t in "AB"]
    few, most = her2st.evaluations_table(records).splitlines()[1:]
    # seeds have 0.75 and 0.77, each the mean of two sections
    assert few.split()[:2] == ["1", "4"] and "0.760 ± 0.014" in few and "-0.0900" in few and few.endswith("0.25")
    assert most.split()[:2] == ["1", "200"] and "0.850 ± 0.000" in most and "+0.0000" in most


def test_one_training_serves_all_numbers_of_evaluations(tmp_path):
    import anndata as ad

    rng = np.random.default_rng(0)
    grid = 100.0 * np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2)
    image = rng.normal(size=(108, 4)).astype(np.float32)
    adata = ad.AnnData(rng.poisson(np.exp(1 + image @ rng.normal(size=(4, 6)) / 2)).astype(np.float32) + 1)
    adata.obs["section"] = np.repeat(["A", "B", "C"], 36)
    adata.obsm["spatial"], adata.obsm["X_image"] = np.tile(grid, (3, 1)), image
    adata.write_h5ad(tmp_path / "C.h5ad")
    job = {
        "method": "FLAG", "preset": "default", "settings": {"max_steps": 2}, "target": "log2", "seeds": [1],
        "structures": [0.5, 1.0], "evaluations": [2, 5],
        "splits": [{"train": ["A", "B"], "test": "C", "file": str(tmp_path / "C.h5ad")}],
    }  # fmt: skip
    with pytest.warns(UserWarning, match="2 section"):
        records = her2st.run(job)
    assert [(r["evaluations"], r["structure"], r["seed"]) for r in records] == [
        (2, 0.5, 1), (2, 1.0, 1), (5, 0.5, 1), (5, 1.0, 1),
    ]  # fmt: skip
    assert all(r["seconds"] > 0 for r in records)
    assert records[1]["gsc"] != records[3]["gsc"]


@pytest.mark.slow
def test_small_run_on_real_sections(her2st_dir, tmp_path, capsys):
    """Structure 0 of a sampler is ridge regression, and the lines below the table are there."""
    her2st.main(
        f"--data-dir {her2st_dir} --train C3 C4 --test C2 --n-genes 25 --seeds 0 1 --structures 0 1 "
        f"--target lognorm --methods Ridge IndependentNoise --cache {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    ridge, mean, sample = rows[1:4]
    assert ridge[0] == "Ridge" and mean[:2] == ["IndependentNoise", "0"] and sample[:2] == ["IndependentNoise", "1"]
    # PCC, PCC-50, MSE, GSC and SSC; a sampler has its sd between them
    assert ridge[1:6] == [mean[2], *mean[5:8], mean[10]] and float(ridge[1]) > 0.3
    # a baseline's process holds no torch, whatever the process that started it holds
    assert 50 < float(ridge[-1]) < 700
    for line in ("Replicate reference", "of the training sections against", "At equal PCC 0.24"):
        assert line in printed
