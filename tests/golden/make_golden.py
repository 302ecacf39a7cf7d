"""Golden numbers of training and prediction: one simulated data set, both targets, fixed seeds.

``python tests/golden/make_golden.py`` writes ``golden.npz`` and ``golden.json`` (where the numbers come from) beside
this file. ``test_golden.py`` computes the same numbers again and compares. Write the file anew only when a change of
numbers is meant, and say in the commit which numbers changed and why.
"""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata
import numpy as np

import flagst

HERE = Path(__file__).parent
FILE, PROVENANCE = HERE / "golden.npz", HERE / "golden.json"

TARGETS = ("lognorm", "log2")
N_GENES, N_FEATURES, SMALL_SPOTS, LARGE_SPOTS = 12, 24, 60, 180
#: The large section is predicted in windows of so many spots.
WINDOW_SPOTS = 50
TRAINING = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
NETWORK = {"d_context": 16, "denoiser_kwargs": {"width": 32, "n_blocks": 2}}
REQUEST = {"structure": 0.5, "seed": 3, "n_samples": 20, "return_std": True, "quantiles": (0.05, 0.95)}


def training_table() -> anndata.AnnData:
    """Two small simulated sections and a large one; image features are their programs, mixed, and noise.

    Features of images would differ by the rounding of another BLAS, and those that hardly vary by more than that.
    """
    sdata = flagst.datasets.simulated_sections(n_sections=3, n_spots=LARGE_SPOTS, n_genes=N_GENES, seed=11)
    table = sdata.tables["table"]
    rng = np.random.default_rng(0)
    programs = table.obsm["true_programs"][:, :5]
    mixed = programs @ rng.normal(size=(programs.shape[1], N_FEATURES))
    features = mixed + rng.normal(size=mixed.shape)
    table.obsm["X_image"] = features.astype(np.float32)
    number = table.obs.groupby("section", observed=True).cumcount().to_numpy()
    large = (table.obs["section"] == "S3").to_numpy()
    return table[large | (number < SMALL_SPOTS)].copy()


def predict(table: anndata.AnnData, target: str, folder: Path) -> dict[str, np.ndarray]:
    """Everything that is compared, by name."""
    flagst.FLAG.setup_anndata(table)
    model = flagst.FLAG(table, target=target, n_latent=4, network=NETWORK)
    model.train(**TRAINING)
    whole = model.predict(table.copy(), **REQUEST)
    large = table[table.obs["section"] == "S3"].copy()
    windows = model.predict(large.copy(), window_spots=WINDOW_SPOTS, **REQUEST)
    model.predict_to_zarr(large, folder / target, window_spots=WINDOW_SPOTS, progress=False, **REQUEST)
    streamed = anndata.read_zarr(folder / target)
    found = {"sample": model.sample(table.copy(), 1, seed=5)[0]}
    for name, made in (("whole", whole), ("windows", windows), ("zarr", streamed)):
        found[f"{name}/ood"] = made.obs["flagst_ood"].to_numpy()
        found |= {f"{name}/{key}": np.asarray(made.layers[key]) for key in made.layers.keys() if key is not None}
    return {f"{target}/{name}": values.astype(np.float32) for name, values in found.items()}


def compute() -> dict[str, np.ndarray]:
    """Golden numbers as this version of flagst has them."""
    table = training_table()
    with TemporaryDirectory() as folder:
        parts = [predict(table.copy(), target, Path(folder)) for target in TARGETS]
    return {name: values for part in parts for name, values in part.items()}


def main() -> int:
    np.savez_compressed(FILE, **compute())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    packages = ("numpy", "scipy", "torch", "anndata", "scvi-tools")
    made_with = {name: version(name) for name in packages}
    text = {"commit": commit, "python": platform.python_version(), "machine": platform.machine()} | made_with
    PROVENANCE.write_text(json.dumps(text, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
