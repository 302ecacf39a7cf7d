"""How long Geneformer's tokens take.

    python benchmarks/gene_tokens.py --data-dir DIR

Random counts as sparse as those of spots (a third of the entries), names and medians from the published V1
dictionaries, one core.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from flagst._files import load_json
from flagst.gfm import RankTokeniser


def main(arguments: list[str] | None = None) -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="folder with token and median dictionaries as .json")
    parser.add_argument("--n-spots", type=int, default=1000)
    parser.add_argument("--n-genes", type=int, default=15000)
    options = parser.parse_args(arguments)
    tokens, medians = (
        load_json(Path(options.data_dir) / f"{stem}_dictionary.json") for stem in ("token", "gene_median")
    )
    names = [name for name in tokens if name in medians][: options.n_genes]
    rng = np.random.default_rng(0)
    counts = sp.random(
        options.n_spots,
        len(names),
        density=1 / 3,
        format="csr",
        random_state=0,
        data_rvs=lambda n: 1.0 + rng.geometric(0.3, n),
    )
    start = time.perf_counter()
    cells = RankTokeniser(tokens, medians, 2048)(counts, names)
    seconds = time.perf_counter() - start
    print(
        f"{len(cells)} spots x {len(names)} genes: {seconds:.2f} s, {np.mean([len(c) for c in cells]):.0f} tokens each"
    )


if __name__ == "__main__":
    main()
