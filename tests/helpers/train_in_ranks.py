"""Train a small model in two processes, and write down what this one has of it: a script, not a test.

Arguments: the file that makes tables and models, a folder for the results, a strategy, and epochs.
"""

import os
import runpy
import sys
from pathlib import Path

import numpy as np


def main(tables: str, folder: str, strategy: str, n_epochs: str) -> None:
    make = runpy.run_path(tables)
    model = make["make_model"](make["make_table"]())
    seen = []
    module = type(model.module)
    loss = module.loss

    def recorded(self, tensors, *args):
        if self.training:
            seen.append([float(tensors["state"][0, 0]), int(tensors["network"])])
        return loss(self, tensors, *args)

    module.loss = recorded
    model.train(**make["QUICK"] | {"max_epochs": int(n_epochs)}, strategy=strategy, devices=2)
    query = make["make_table"](names=("X", "Y"), n_spots=24, seed=7)
    model.predict(query, n_samples=20, quantiles=(0.05, 0.95))
    rank = os.environ.get("LOCAL_RANK", "0")
    np.savez(
        Path(folder) / f"rank_{rank}.npz",
        weights=np.concatenate([p.detach().numpy().ravel() for p in model.module.parameters()]),
        prediction=query.layers["flagst"],
        upper=query.layers["flagst_q95"],
        shared_sd=model.fitted_.latent.shared_sd,
        seen=np.array(seen),
        **{name: frame.to_numpy().ravel() for name, frame in model.history_.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
