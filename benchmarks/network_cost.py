"""What network evaluations cost: the published schedule against ours, and how busy the processor is in ours.

    python benchmarks/network_cost.py
    python benchmarks/network_cost.py --spots 5000 --threads 1 --compile

The first table times the draws of one section with random weights, which cost what trained ones do. *Published* is
8 draws of 201 evaluations, each with the graph encoded anew; one draw is timed, and counted eight times. *Ours* is one
draw of 20 evaluations with the graph encoded once, of the same network and of the default one.

The second predicts a slide in windows and compares the arithmetic of the network evaluations (matrix products alone, by
torch's own counter) per second with that of one large matrix product, measured before and after.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from scaling import D_IMAGE, PITCH, hex_grid, section, trained
from torch.utils.flop_counter import FlopCounterMode

#: Of the published recipe: draws that are averaged, and noise levels, which Heun's method makes 201 evaluations of.
N_DRAWS, N_LEVELS = 8, 101
#: Of ours.
N_STEPS = 20
#: Side of the matrices whose product is the machine's rate.
MATRIX = 2048


def inputs(n_spots: int, n_genes: int) -> dict[str, torch.Tensor]:
    """Tensors of one section on a hex grid, with random features and mean."""
    from flagst.data.graph import knn
    from flagst.data.inputs import N_EDGES, section_inputs

    rng = np.random.default_rng(0)
    neighbours, distances = knn(hex_grid(n_spots) / PITCH, N_EDGES)
    white, mean = rng.normal(size=(n_spots, D_IMAGE)), rng.normal(size=(n_spots, n_genes))
    return section_inputs(white, neighbours, distances, mean)


def published(module, tensors: dict, noise: torch.Tensor) -> None:
    """One draw with Heun's method, the graph encoded at every evaluation."""
    from flagst.diffusion import heun

    def raw(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return module.networks[0](x, sigma, module.context(tensors), None, None)[0]

    heun(module.process.denoiser(raw), noise, module.process.schedule(N_LEVELS))


@torch.no_grad()
def schedules(n_spots: int, n_genes: int, *, width: int, n_blocks: int) -> list[tuple[str, int, float]]:
    """Name, network evaluations and their seconds, of the published schedule and of ours."""
    from flagst.model.presets import PRESETS
    from flagst.module import FlagModule

    tensors = inputs(n_spots, n_genes)
    token = {"denoiser": "gene", "denoiser_kwargs": {"width": width, "n_blocks": n_blocks, "n_heads": 4}}
    tokens = FlagModule(D_IMAGE, n_genes, n_genes, process="ve", joint=False, **token).eval()
    n_latent, n_networks = PRESETS["default"].n_latent, 3
    latent = FlagModule(D_IMAGE, n_genes, n_latent, n_networks=n_networks).eval()
    noise, latent_noise = torch.randn(1, n_spots, n_genes), torch.randn(1, n_spots, n_latent)
    ours = {"solver": "dpm++2m", "n_steps": N_STEPS}
    return [
        (
            "gene tokens, published",
            N_DRAWS * (2 * N_LEVELS - 1),
            N_DRAWS * seconds(published, tokens, tensors, noise[0]),
        ),
        ("gene tokens, ours", N_STEPS, seconds(tokens.draw, tensors, noise, **ours)),
        ("latent, ours (default)", N_STEPS, seconds(latent.draw, tensors, latent_noise, n_times=10, **ours)),
    ]


def seconds(function: Callable, *args, n_times: int = 1, **kwargs) -> float:
    """Of one call, the median of so many."""
    found = []
    for _ in range(n_times):
        start = time.perf_counter()
        function(*args, **kwargs)
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def matrix_rate(n_times: int = 10) -> float:
    """Floating-point operations per second of a product of two matrices, float32."""
    a, b = torch.randn(2, MATRIX, MATRIX)
    a @ b
    return 2 * MATRIX**3 / seconds(torch.matmul, a, b, n_times=n_times)


class Draws:
    """Stands in for the function that makes the draws of a slide, and takes its time and counts its arithmetic."""

    def __init__(self, draw: Callable):
        self.draw, self.counting, self.seconds, self.operations = draw, False, 0.0, 0

    def __call__(self, *args, **kwargs) -> torch.Tensor:
        counter, start = FlopCounterMode(display=False), time.perf_counter()
        if self.counting:
            with counter:
                drawn = self.draw(*args, **kwargs)
            self.operations = counter.get_total_flops()
        else:
            drawn = self.draw(*args, **kwargs)
            self.seconds = time.perf_counter() - start
        return drawn


def slide(n_spots: int, n_genes: int, *, compiled: bool) -> dict:
    """Seconds and arithmetic of the network evaluations of a slide, and seconds of its whole prediction."""
    from flagst.model import slide as slides

    model = trained(n_genes, max_steps=20)
    query = model.prepare_query(section("slide", n_spots, 9))
    draws = slides.draw_in_windows = Draws(slides.draw_in_windows)
    try:
        draws.counting = True
        model.predict(query)
        draws.counting = False
        if compiled:
            for network in model.module.networks:
                network.denoiser.compile(dynamic=True)
            model.predict(query)  # compiles
        before = matrix_rate()
        whole = seconds(model.predict, query)
        rate = np.mean([before, matrix_rate()])
    finally:
        slides.draw_in_windows = draws.draw
    return {"seconds": draws.seconds, "whole": whole, "rate": draws.operations / draws.seconds, "matrix_rate": rate}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=20_000, help="of the slide")
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--section-spots", type=int, default=180, help="of the section of the first table")
    parser.add_argument("--width", type=int, default=128, help="of the gene-token network")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the denoisers for the slide")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    found = schedules(options.section_spots, options.genes, width=options.width, n_blocks=options.blocks)
    print(f"{options.section_spots} spots, {options.genes} genes, {options.threads} threads\n")
    print("| draws | network evaluations | seconds | published takes |\n|:--|--:|--:|--:|")
    for name, n_evaluations, taken in found:
        print(f"| {name} | {n_evaluations:,} | {taken:.3g} | {found[0][2] / taken:,.0f} times |")

    of = slide(options.spots, options.genes, compiled=options.compile)
    print(f"\n{options.spots:,} spots in windows{', compiled' if options.compile else ''}\n")
    print("| network s | of a prediction of s | Gflop/s | matrix product, Gflop/s | share |\n|--:|--:|--:|--:|--:|")
    rates = f"{of['rate'] / 1e9:.3g} | {of['matrix_rate'] / 1e9:.3g} | {of['rate'] / of['matrix_rate']:.2f}"
    print(f"| {of['seconds']:.1f} | {of['whole']:.1f} | {rates} |")


if __name__ == "__main__":
    main()
