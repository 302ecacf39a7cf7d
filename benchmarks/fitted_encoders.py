"""Image encoders fitted on the training sections, without a download, against the handcrafted features.

    python benchmarks/fitted_encoders.py --data-dir DIR --rotate C2 C3 C4 C5
    python benchmarks/fitted_encoders.py --data-dir DIR --train C2 C3 C4 C5 --test B4

Each section of the rotation, or one test section, is predicted by ``flagst.baselines.Ridge`` trained on the others;
scores are its PCC and MSE. Nothing of the test section has a part in fitting an encoder. ``k-means words``: whitened
patches of 8 px, 256 means, how far each position is from them (what is below its average distance), averaged over the
patch. ``network``: that of ``flagst.encoders.SelfSupervisedEncoder``. Both at the scales of the handcrafted features.
``stained otherwise``: the image of the test section gets a weaker stain and tinted glass. ``--save DIR`` writes the
fitted networks for ``her2st.py --encoders DIR``.
"""

import argparse
import sys
import time
from pathlib import Path

import _table
import numpy as np
import torch
from her2st import splits_of
from sklearn.cluster import MiniBatchKMeans
from torch import nn

from flagst import baselines, datasets, io, metrics, pp
from flagst._keys import LAYERS, OBS, OBSM, TABLE, VAR, image_element
from flagst.data.targets import to_target
from flagst.encoders import CallableEncoder, Handcrafted, SelfSupervisedEncoder

TARGETS = ("log2", "lognorm")
PATCHES, FITTED = "X_patches", "X_fitted"
#: Of k-means.
WORD_PX, N_WORDS, N_SAMPLED, STRIDE = 8, 256, 50_000, 2
#: Stain strength, and glass in red, green and blue.
OTHER_STAIN, OTHER_GLASS = 0.7, (0.97, 0.93, 0.90)


class Words:
    """Average activation of k-means words of whitened small patches."""

    def __init__(self, patches: torch.Tensor, seed: int):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, len(patches), N_SAMPLED)
        corner = rng.integers(0, patches.shape[-1] - WORD_PX + 1, (2, N_SAMPLED))
        cut = [
            patches[i, :, y : y + WORD_PX, x : x + WORD_PX].flatten() for i, y, x in zip(image, *corner, strict=True)
        ]
        sample = self._level(torch.stack(cut).float())
        self.mean = sample.mean(0)
        values, axes = torch.linalg.eigh(torch.cov((sample - self.mean).T))
        self.whiten = axes * (values.clip(min=0) + 0.1).rsqrt() @ axes.T
        white = (sample - self.mean) @ self.whiten
        found = MiniBatchKMeans(N_WORDS, random_state=seed, n_init=1, batch_size=4096).fit(white.numpy())
        self.words = torch.as_tensor(found.cluster_centers_, dtype=torch.float32)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        out = []
        for patch in patches.float():
            columns = nn.functional.unfold(patch[None], WORD_PX, stride=STRIDE)[0].T
            distance = torch.cdist((self._level(columns) - self.mean) @ self.whiten, self.words)
            out.append((distance.mean(1, keepdim=True) - distance).clip(min=0).mean(0))
        return torch.stack(out)

    @staticmethod
    def _level(columns: torch.Tensor) -> torch.Tensor:
        """Small patches ``(n, 3 * px * px)`` without their own brightness and, but for a tenth, contrast."""
        centred = columns - columns.mean(1, keepdim=True)
        return centred / (centred.std(1, keepdim=True) + 0.1)


def ridge_scores(train, test, target: str, genes: list[str]) -> tuple[float, float]:
    """PCC and MSE of ridge regression on ``obsm["X_fitted"]``."""
    baselines.Ridge.setup_anndata(train, image_key=FITTED, genes=genes)
    model = baselines.Ridge(train, target=target)
    model.train()
    predicted = model.predict(test.copy(), structure=0)[:, genes].layers[LAYERS.draw]
    depth = np.asarray(test.X.sum(axis=1), dtype=float).ravel()
    measured = to_target(test[:, genes].X, depth, target)
    return metrics.pcc(predicted, measured), metrics.mse(predicted, measured)


def stain_otherwise(sdata) -> None:
    """Give the image of every section another stain strength and another glass, in place."""
    value = np.arange(256) / 255
    tables = [np.round(255 * glass * value**OTHER_STAIN).astype(np.uint8) for glass in OTHER_GLASS]
    for section in sdata.tables[TABLE].obs[OBS.section].unique():
        tree = sdata.images[image_element(str(section))]
        for level in tree.children:
            image = tree[level]["image"]
            image.data = image.data.rechunk({0: 3}).map_blocks(
                lambda block: np.stack([table[colour] for table, colour in zip(tables, block, strict=True)]),
                dtype=np.uint8,
            )
    io.clear_image_cache()


def patches_of(sdata) -> torch.Tensor:
    """``(n_spots, n_scales, 3, px, px)`` float16, 0 to 1: what the handcrafted encoder sees."""
    px, um = Handcrafted.patch_px, Handcrafted.patch_um
    raw = CallableEncoder(
        lambda patches: patches.flatten(1), name="patches", patch_px=px, patch_um=um, mean=(0, 0, 0), std=(1, 1, 1)
    )
    pp.image_features(sdata, encoder=raw, key_added=PATCHES, progress=False)
    found = sdata.tables[TABLE].obsm.pop(PATCHES)
    return torch.as_tensor(found, dtype=torch.float16).reshape(len(found), len(um), 3, px, px)


def both_features(sdata) -> np.ndarray:
    """Write the handcrafted features; returns those of the stain as it is, ``(n_spots, n_features)``."""
    pp.image_features(sdata, stain_normalise=None, progress=False)
    as_is = np.asarray(sdata.tables[TABLE].obsm[OBSM.image])
    pp.image_features(sdata, progress=False)
    return as_is


def as_pixels(patches: torch.Tensor) -> np.ndarray:
    """Patches ``(n, 3, px, px)``, 0 to 1, as encoders take them: ``(n, px, px, 3)`` uint8."""
    return (255 * patches.float()).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def fitted_features(encoder, patches: torch.Tensor) -> np.ndarray:
    """``(n_spots, n_scales * n_features)`` of an encoder."""
    return np.concatenate([encoder(patches[:, scale]).numpy() for scale in range(patches.shape[1])], axis=1)


def run(table, as_is: np.ndarray, restained, patches: torch.Tensor, test: str, options) -> dict:
    """PCC and MSE of every row on one test section, by target and row."""
    held = (table.obs[OBS.section] == test).to_numpy()
    fitted_on = patches[torch.as_tensor(~held)].flatten(0, 1)
    words = fitted_features(Words(fitted_on, options.seed), patches)
    encoder = SelfSupervisedEncoder.fit(as_pixels(fitted_on), n_steps=options.n_steps, seed=options.seed)
    if options.save:
        encoder.save(options.save / f"{test}.safetensors")
    both = [encoder.encode(as_pixels(patches[:, scale])) for scale in range(patches.shape[1])]
    network = np.concatenate([part[:, Handcrafted().n_features :] for part in both], axis=1)
    start, other = np.asarray(table.obsm[OBSM.image]), restained[test]
    features = {
        "handcrafted": start,
        "handcrafted, stain as it is": as_is,
        "k-means words": words,
        "handcrafted and k-means words": np.concatenate([start, words], axis=1),
        "network": network,
        "handcrafted and network": np.concatenate(both, axis=1),
    }
    rows = {name: (values[~held], values[held]) for name, values in features.items()}
    rows["stained otherwise, handcrafted"] = start[~held], other.obsm[OBSM.image]
    rows["stained otherwise, stain as it is"] = as_is[~held], other.obsm[FITTED]
    train, query = table[~held].copy(), table[held].copy()
    pp.select_genes(train, options.n_genes)
    genes, found = [str(gene) for gene in train.var_names[train.var[VAR.panel]]], {}
    for name, (train.obsm[FITTED], query.obsm[FITTED]) in rows.items():
        for target in TARGETS:
            found[target, name] = ridge_scores(train, query, target, genes)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="HER2ST folder; without it files are downloaded")
    parser.add_argument("--rotate", nargs="+", metavar="S", help="sections, each tested in turn")
    parser.add_argument("--train", nargs="+", metavar="S", help="training sections of a single split")
    parser.add_argument("--test", metavar="S", help="test section of a single split")
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--n-steps", type=int, default=400, help="optimiser steps of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder for the fitted networks, one per test section")
    options, start = parser.parse_args(arguments), time.perf_counter()
    splits = splits_of(parser, options)
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
    tests = [split["test"] for split in splits]
    sections = tests if options.train is None else [*options.train, *tests]
    sdata = datasets.her2st(sections, data_dir=options.data_dir)
    patches, as_is = patches_of(sdata), both_features(sdata)
    restained = {}
    for test in tests:
        other = datasets.her2st(test, data_dir=options.data_dir)
        stain_otherwise(other)
        other.tables[TABLE].obsm[FITTED] = both_features(other)
        restained[test] = other.tables[TABLE]
    runs = []
    for test in tests:
        runs.append(run(sdata.tables[TABLE], as_is, restained, patches, test, options))
        print(f"  {test}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    for target in TARGETS:
        lines = [(f"Ridge, target {target}", "PCC", "MSE", "PCC, by test section")]
        for name in dict.fromkeys(name for _, name in runs[0]):
            each = np.array([found[target, name] for found in runs])
            lines.append((name, *(f"{v:.3f}" for v in each.mean(axis=0)), " ".join(f"{v:.3f}" for v in each[:, 0])))
        print(_table.aligned(lines) + "\n")
    print(f"Wall time {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
