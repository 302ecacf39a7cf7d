"""How well ``obs["flagst_ood"]`` tells other tissue from a section of the same patient.

    python benchmarks/out_of_distribution.py --data-dir DIR --train C2 C3 C4 --test C5 --other B4

FLAG is fitted on the training sections, without its diffusion. AUROC of the test section's spots against those of
another patient's section and of simulated sections. "above 1" is the share of spots that are further away than 95 % of
the spots of a left-out training section. The number of components and the mean of the two distances in the score were
chosen by the AUROC of B4, so that the first row is optimistic.
"""

import common
import numpy as np

import flagst


def row_of(name: str, usual: np.ndarray, other: np.ndarray) -> tuple[str, str, str]:
    """Name, AUROC of other spots against usual ones, and share of other spots above 1."""
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([0, 1], [len(usual), len(other)])
    auroc = roc_auc_score(truth, np.concatenate([usual, other]))
    return name, f"{auroc:.3f}", f"{(other > 1).mean():.3f}"


def scores_of(model, table) -> np.ndarray:
    """Score of every spot, ``(n_spots,)``."""
    return model.predict(model.prepare_query(table), structure=0).obs["flagst_ood"].to_numpy()


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    names = "data-dir", "cache", "train", "test", "n-genes", "jobs"
    parser = common.parser(__doc__, *names, train=["C2", "C3", "C4"], test="C5")
    parser.add_argument("--other", default="B4", help="section of another patient")
    options = parser.parse_args(arguments)
    table = common.load([*options.train, options.test, options.other], options)
    train = common.part_of(table, options.train)
    flagst.FLAG.setup_anndata(train, genes=common.panel_of(train, options.n_genes))
    model = flagst.FLAG(train, diffusion=False, gfm=None)
    model.train(accelerator="cpu", enable_progress_bar=False)
    simulated = flagst.datasets.simulated_sections(n_sections=2)
    flagst.pp.image_features(simulated, n_jobs=options.jobs, progress=False)
    usual, other = (scores_of(model, common.part_of(table, [name])) for name in (options.test, options.other))
    print(f"trained on {', '.join(options.train)}; {options.test}: {(usual > 1).mean():.3f} of spots above 1")
    rows = [row_of(f"{options.other}, another patient", usual, other)]
    rows.append(row_of("simulated sections", usual, scores_of(model, simulated.tables["table"])))
    print(common.aligned([("against", "AUROC", "above 1"), *rows]))


if __name__ == "__main__":
    main()
