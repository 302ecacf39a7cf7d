"""Ridge and FLAG from an npz of features, counts and graph: numpy, torch and torch_geometric only.

For machines that have an accelerator but not the single-cell packages. A plain training loop over the
same networks, noise process and regression as ``flagst.FLAG``, three networks that each leave out every third
section and take turns in a draw, with its default choices but for two that are not done here: the spread of the
draws set on held-out tissue, and less trust in the training sections' spatial order where tissue is unlike theirs.
Numbers are close to the full path's but not identical. All sections are taken to have the layout of the first.

Keys of the npz (``her2st.py --export FILE`` writes one), all spots of a section in consecutive rows:

``sections``           (n_sections,) str
``section``            (n_spots,) int, index into ``sections``
``spot_names``         (n_spots,) str
``coords``             (n_spots, 2) float, x then y, any unit of length
``features``           (n_spots, d_image) float32
``counts``             (n_spots, n_genes) raw counts
``total_counts``       (n_spots,) counts over all genes, panel or not
``neighbours``         (n_spots, k) int, nearest first, counted from the first spot of the section
``distances``          (n_spots, k) float, unit of ``coords``
``moran_neighbours``   (n_sections,) int, neighbours in the graph of Moran's I: 4 on square arrays, else 6
``genes``              (n_genes,) str
``panel_<test>``       (n_genes,) bool, optional: the panel chosen without section ``<test>``; else all genes
"""

import time
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from flagst import metrics
from flagst._keys import TENSOR
from flagst.data.inputs import N_EDGES, section_inputs, window
from flagst.data.noise import shared_noise, spot_noise
from flagst.data.section import Section, stack_targets
from flagst.data.targets import to_target
from flagst.diffusion import EDM, denoising_loss, dpm_solver_pp_2m
from flagst.gfm import coexpression
from flagst.nn import AlignmentHead, FlagNetwork
from flagst.regression import (
    RegressionStage,
    ResidualModel,
    count_networks,
    leading_scores,
    match_draw_order,
    neighbour_moran,
    network_folds,
)

N_LATENT, MAX_WHITE, MAX_STEPS, N_SOLVER_STEPS = 16, 50, 1200, 20
LEARNING_RATE, WEIGHT_DECAY, CLIP, EMA_DECAY, ALIGN_WEIGHT = 1e-3, 0.1, 1.0, 0.985, 0.5


def run(job: dict) -> list[dict]:
    """Records of one method; ``job`` as in ``_methods.run``, but ``features`` and ``device``, not files."""
    with np.load(job["features"], allow_pickle=False) as stored:
        data = {key: stored[key] for key in stored.files}
    records = []
    for split in job["splits"]:
        train = [read_section(data, name, split["test"], job["target"]) for name in split["train"]]
        test = read_section(data, split["test"], split["test"], job["target"])
        graph = moran_graph(data, test)
        for seed in job["seeds"]:
            start = time.perf_counter()
            if job["method"] == "Ridge":
                model, structures = PlainRidge.fit(train), [None]
            else:
                near = [moran_neighbours(data, section) for section in train]
                model = PlainFlag.fit(train, near, seed=seed, device=job["device"], **job["settings"])
                structures = job["structures"]
            fit_seconds = time.perf_counter() - start
            for structure in structures:
                start = time.perf_counter()
                predicted = model.predict(test, structure=structure or 0, seed=seed)
                records.append(
                    {
                        "method": job["method"],
                        "structure": structure,
                        "target": job["target"],
                        "seed": seed,
                        "test": test.name,
                        "n_genes": predicted.shape[1],
                        **score(predicted, test.target, graph),
                        "seconds": fit_seconds + time.perf_counter() - start,
                    }
                )
    return records


def read_section(data: dict[str, np.ndarray], name: str, test: str, target: str) -> Section:
    """A section with the panel of the split that tests on ``test``."""
    names = [str(section) for section in data["sections"]]
    if name not in names:
        raise ValueError(f"The file has no section {name!r}; found {names}.")
    rows = np.flatnonzero(data["section"] == names.index(name))
    panel = data.get(f"panel_{test}", np.ones(len(data["genes"]), dtype=bool))
    totals = data["total_counts"][rows]
    return Section(
        name=name,
        spot_names=data["spot_names"][rows],
        coords=data["coords"][rows].astype(np.float64),
        image=data["features"][rows].astype(np.float32),
        neighbours=data["neighbours"][rows].astype(np.int64),
        distances=data["distances"][rows].astype(np.float64),
        target=to_target(data["counts"][rows][:, panel], totals, target),
        depth=totals,
    )


def moran_neighbours(data: dict[str, np.ndarray], section: Section) -> np.ndarray:
    """The neighbours Moran's I is taken over, ``(n_spots, k)``."""
    k = int(data["moran_neighbours"][[str(name) for name in data["sections"]].index(section.name)])
    return section.neighbours[:, :k]


def moran_graph(data: dict[str, np.ndarray], section: Section) -> np.ndarray:
    """Row-normalised weights to the nearest spots, ``(n_spots, n_spots)`` dense."""
    near = moran_neighbours(data, section)
    graph = np.zeros((len(section), len(section)))
    np.put_along_axis(graph, near, 1 / near.shape[1], axis=1)
    return graph


def score(predicted: np.ndarray, measured: np.ndarray, graph: np.ndarray) -> dict[str, float]:
    """Scores of one test section, defined as in ``flagst.tl.evaluate``."""
    per_gene = metrics.per_gene_pcc(predicted, measured)
    varies = ~np.isnan(per_gene)
    return {
        "pcc": metrics.pcc(predicted, measured),
        "pcc50": float(np.sort(per_gene[varies])[-50:].mean()),
        "mse": metrics.mse(predicted, measured),
        "gsc": metrics.gsc(predicted, measured),
        "ssc": metrics.ssc(predicted, measured, graph),
        "moran_pred": float(metrics.morans_i(predicted, graph)[varies].mean()),
        "moran_true": float(metrics.morans_i(measured, graph)[varies].mean()),
    }


def fit_stage(train: list[Section], regression: str) -> tuple[RegressionStage, np.ndarray]:
    """Regression mean and its cross-fitted predictions, standardised units."""
    parts = ([getattr(s, name) for s in train] for name in ("image", "neighbours", "coords", "target"))
    return RegressionStage.fit(*parts, regression=regression)


@dataclass
class PlainRidge:
    """``flagst.baselines.Ridge`` without AnnData."""

    stage: RegressionStage

    @classmethod
    def fit(cls, train: list[Section]) -> "PlainRidge":
        return cls(fit_stage(train, "ridge")[0])

    def predict(self, section: Section, *, structure: float, seed: int) -> np.ndarray:
        """``(n_spots, n_genes)`` in the unit of the target."""
        return self.stage.scaler.restore(self.stage.predict(section.image, section.neighbours))


@dataclass
class PlainFlag:
    """``flagst.FLAG`` without scvi-tools and Lightning."""

    stage: RegressionStage
    residual: ResidualModel
    networks: list[FlagNetwork]
    process: EDM
    d_image: int
    device: str
    order: np.ndarray
    n_near: int

    @classmethod
    def fit(
        cls,
        train: list[Section],
        near: list[np.ndarray],
        *,
        seed: int,
        device: str,
        max_steps: int = MAX_STEPS,
    ) -> "PlainFlag":
        """``near``: the neighbours Moran's I is taken over, per section ``(n_spots, k)``."""
        stage, mean = fit_stage(train, "mixed")
        expression = stage.scaler.standardise(stack_targets(train))
        names = np.repeat(np.arange(len(train)), [len(s) for s in train])
        residual, state = ResidualModel.fit(expression - mean, names, n_latent=N_LATENT)
        torch.manual_seed(seed)
        d_image = min(MAX_WHITE, train[0].image.shape[1])
        n_networks = count_networks(len(train), cross_fit=True)
        networks = [FlagNetwork(d_image, expression.shape[1], N_LATENT).to(device) for _ in range(n_networks)]
        order = np.mean([neighbour_moran(s.target, n) for s, n in zip(train, near, strict=True)], axis=0)
        model = cls(stage, residual, networks, EDM(), d_image, device, order, near[0].shape[1])
        vectors = torch.as_tensor(coexpression(stack_targets(train), names), device=device)
        heads = [
            AlignmentHead(network.width, vectors, vectors.any(dim=1), weight=ALIGN_WEIGHT).to(device)
            for network in networks
        ]
        windows = model.windows(train, mean, _pad(state, N_LATENT), expression)
        optimise(networks, heads, windows, model.process, max_steps)
        return model

    def windows(
        self, train: list[Section], mean: np.ndarray, state: np.ndarray, expression: np.ndarray
    ) -> list[tuple[int, dict[str, Tensor]]]:
        """What each network is trained on, with its number: every section, less the network's fold."""
        out, start = [], 0
        for section, fold in zip(train, network_folds([s.coords for s in train]), strict=True):
            rows = slice(start, start + len(section))
            start = rows.stop
            tensors = self.inputs(section, mean[rows]) | {
                TENSOR.state: torch.as_tensor(state[rows], dtype=torch.float32),
                TENSOR.expression: torch.as_tensor(expression[rows], dtype=torch.float32),
            }
            for number in range(len(self.networks)):
                kept = np.flatnonzero(fold != number)
                if len(kept):
                    out.append((number, _to(window(tensors, kept, n_hops=0), self.device)))
        return out

    def inputs(self, section: Section, mean: np.ndarray) -> dict[str, Tensor]:
        """Tensors of a whole section."""
        white = _pad(self.stage.context.whiten(section.image), self.d_image)
        return section_inputs(white, section.neighbours[:, :N_EDGES], section.distances[:, :N_EDGES], mean)

    @torch.no_grad()
    def predict(self, section: Section, *, structure: float, seed: int) -> np.ndarray:
        """``(n_spots, n_genes)`` in the unit of the target."""
        mean = self.stage.predict(section.image, section.neighbours)
        if structure == 0:
            return self.stage.scaler.restore(mean)
        tensors = _to(self.inputs(section, mean), self.device)
        widths = (N_LATENT, mean.shape[1])
        start, noise = spot_noise(section.name, section.spot_names, seed=f"{seed}/0", widths=widths)
        shared = shared_noise(section, section.around(N_EDGES), seed=f"{seed}/0", width=N_LATENT)
        turns = cycle([(network, _encode(network, tensors)) for network in self.networks])

        def raw(x: Tensor, sigma: Tensor) -> Tensor:
            network, context = next(turns)
            return _denoise(network, x, sigma, context, tensors)[0]

        sigmas = self.process.schedule(N_SOLVER_STEPS).to(self.device)
        start = torch.as_tensor(start, device=self.device)
        state = dpm_solver_pp_2m(self.process.denoiser(raw), start, sigmas).cpu().numpy()
        drawn = self.residual.decode(*self.residual.decodable(state, noise, shared, leading_scores(mean)))
        restore = self.stage.scaler.restore
        drawn = match_draw_order(mean, drawn, restore, section.nearest(self.n_near), self.order)
        return restore(mean + structure * drawn)


def optimise(
    networks: list[FlagNetwork],
    heads: list[AlignmentHead],
    windows: list[tuple[int, dict[str, Tensor]]],
    process: EDM,
    max_steps: int,
) -> None:
    """AdamW with one cycle; the networks end with the moving average of their weights, ready to draw from."""
    modules = torch.nn.ModuleList([*networks, *heads])
    parameters, averaged = list(modules.parameters()), [p for n in networks for p in n.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_steps = max(max_steps, 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=n_steps, pct_start=max(0.1, 1.5 / n_steps)
    )
    average = [p.detach().clone() for p in averaged]
    modules.train()
    order: list[int] = []
    for step in range(max_steps):
        order = order or torch.randperm(len(windows)).tolist()
        number, part = windows[order.pop()]
        optimiser.zero_grad()
        _loss(networks[number], heads[number], part, process).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        schedule.step()
        if step % len(networks) == 0:
            with torch.no_grad():
                torch._foreach_lerp_(average, averaged, 1 - EMA_DECAY)
    with torch.no_grad():
        for parameter, value in zip(averaged, average, strict=True):
            parameter.copy_(value)
    modules.eval()


def _loss(network: FlagNetwork, head: AlignmentHead, part: dict[str, Tensor], process: EDM) -> Tensor:
    state, context, hidden = part[TENSOR.state], _encode(network, part), []
    sigma = process.sample_sigma(len(state)).to(state)

    def raw(x: Tensor, level: Tensor) -> Tensor:
        output, state_of_block = _denoise(network, x, level, context, part)
        hidden.append(state_of_block)
        return output

    loss = denoising_loss(process.denoiser(raw), state, sigma, torch.randn_like(state), process=process).mean()
    return loss + head.weight * head(hidden[0], part[TENSOR.expression])["align_loss"].mean()


def _encode(network: FlagNetwork, tensors: dict[str, Tensor]) -> Tensor:
    return network.encode(*(tensors[key] for key in (TENSOR.image, TENSOR.edge_index, TENSOR.edge_attr, TENSOR.mean)))


def _denoise(network: FlagNetwork, x: Tensor, sigma: Tensor, context: Tensor, tensors: dict[str, Tensor]):
    return network(x, sigma, context, tensors[TENSOR.mix_index], tensors[TENSOR.mix_weight])


def _to(tensors: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {key: value.to(device) for key, value in tensors.items()}


def _pad(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))
