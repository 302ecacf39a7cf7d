"""An image encoder fitted on the training sections, without a download, against the handcrafted features.

    python benchmarks/fitted_encoders.py --data-dir DIR --rotate C2 C3 C4 C5
    python benchmarks/fitted_encoders.py --data-dir DIR --train C2 C3 C4 C5 --test B4

Each section of the rotation, or one test section, is predicted by ``flagst.baselines.Ridge`` trained on the others;
scores are its PCC and MSE. ``network``: ``flagst.pp.fit_encoder`` on the training sections alone. ``stained
otherwise``: the image of the test section has a weaker stain and tinted glass. ``--save DIR`` writes the fitted
networks for ``her2st.py --encoders DIR``.
"""

import argparse
import sys
from pathlib import Path

import common
import numpy as np

#: Stain strength, and glass in red, green and blue.
OTHER_STAIN, OTHER_GLASS = 0.7, (0.97, 0.93, 0.90)
UNMODIFIED = {"stain_normalise": None}


def stain_otherwise(sdata) -> None:
    """Give the image of every section another stain strength and another glass, in place."""
    from flagst import io
    from flagst._keys import image_element

    value = np.arange(256) / 255
    tables = [np.round(255 * glass * value**OTHER_STAIN).astype(np.uint8) for glass in OTHER_GLASS]
    for section in sdata.tables["table"].obs["section"].unique():
        tree = sdata.images[image_element(str(section))]
        for level in tree.children:
            image = tree[level]["image"]
            image.data = image.data.rechunk({0: 3}).map_blocks(
                lambda block: np.stack([table[colour] for table, colour in zip(tables, block, strict=True)]),
                dtype=np.uint8,
            )
    io.clear_image_cache()


def ridge_scores(train, test, target: str, genes: list[str]) -> tuple[float, float]:
    """PCC and MSE of ridge regression on ``obsm["X_image"]``."""
    from flagst import baselines, metrics

    baselines.Ridge.setup_anndata(train, genes=genes)
    model = baselines.Ridge(train, target=target)
    model.train()
    predicted = model.predict(test.copy(), structure=0)[:, genes]
    measured = common.measured_expression(predicted, target=target)
    return metrics.pcc(predicted.layers["flagst"], measured), metrics.mse(predicted.layers["flagst"], measured)


def run(sections: list[str], split: dict, options: argparse.Namespace) -> dict:
    """PCC and MSE of every row on one test section, by target and row."""
    from flagst import datasets, pp

    start, unmodified = common.load(sections, options), common.load(sections, options, **UNMODIFIED)
    sdata = datasets.her2st(split["train"], data_dir=options.data_dir)
    encoder = pp.fit_encoder(sdata, n_steps=options.n_steps, seed=options.seed, progress=False)
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        encoder.save(options.save / f"{split['test']}.safetensors")
    both = common.load(sections, options, encoder=encoder)
    # features of one scale stand side by side: handcrafted, then the network's
    scales = np.asarray(both.obsm["X_image"]).reshape(both.n_obs, len(encoder.patch_um), encoder.n_features)
    n_handcrafted = start.obsm["X_image"].shape[1] // len(encoder.patch_um)
    network = both.copy()
    network.obsm["X_image"] = scales[:, :, n_handcrafted:].reshape(both.n_obs, -1)
    other = [common.load([split["test"]], options, change=stain_otherwise, **how) for how in ({}, UNMODIFIED)]
    rows = {
        "handcrafted": (start, start),
        "handcrafted, unmodified stain": (unmodified, unmodified),
        "network": (network, network),
        "handcrafted and network": (both, both),
        "stained otherwise, handcrafted": (start, other[0]),
        "stained otherwise, unmodified stain": (unmodified, other[1]),
    }
    genes, found = common.panel_of(common.part_of(start, split["train"]), options.n_genes), {}
    for name, (learned, tested) in rows.items():
        train, test = common.part_of(learned, split["train"]), common.part_of(tested, [split["test"]])
        for target in common.TARGETS:
            found[target, name] = ridge_scores(train.copy(), test[:, genes].copy(), target, genes)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    names = "data-dir", "cache", "rotate", "train", "test", "n-genes", "jobs"
    parser = common.parser(__doc__, *names, rotate=None)
    parser.add_argument("--n-steps", type=int, default=400, help="optimiser steps of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder for the fitted networks, one per test section")
    options = parser.parse_args(arguments)
    splits, runs = common.splits_of(parser, options), []
    sections = list(dict.fromkeys([split["test"] for split in splits] if not options.train else options.train))
    for split in splits:
        runs.append(run(list(dict.fromkeys([*sections, split["test"]])), split, options))
        print(f"  {split['test']}", file=sys.stderr, flush=True)
    for target in common.TARGETS:
        lines = [(f"Ridge, target {target}", "PCC", "MSE", "PCC, by test section")]
        for name in dict.fromkeys(name for _, name in runs[0]):
            each = np.array([found[target, name] for found in runs])
            lines.append((name, *(f"{v:.3f}" for v in each.mean(axis=0)), " ".join(f"{v:.3f}" for v in each[:, 0])))
        print(common.aligned(lines) + "\n")


if __name__ == "__main__":
    main()
