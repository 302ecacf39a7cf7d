"""What every method is given: image features, the gene panel of each split, and the replicate reference.

Runs in a process of its own, from nothing: images are decoded and features computed on every run.
"""

import time
from pathlib import Path

import numpy as np

from flagst import datasets, metrics, pp
from flagst._keys import OBS, OBSM, TABLE, UNS, VAR
from flagst.data.graph import MORAN_NEIGHBOURS, knn, moran_graph
from flagst.data.measured import measured_expression, section_layout, section_rows
from flagst.data.section import N_NEIGHBOURS
from flagst.encoders import SelfSupervisedEncoder


def prepare(job: dict) -> dict:
    """Write one h5ad per split into ``job["folder"]``: training and test sections, panel genes only.

    Returns
    -------
    ``"files"``: test section -> h5ad; ``"replicates"``: one record per pair of training and test section;
    ``"seconds"``: load, features, panel.
    """
    seconds, start = {}, time.perf_counter()
    sections = list(dict.fromkeys(s for split in job["splits"] for s in [*split["train"], split["test"]]))
    sdata = getattr(datasets, job["dataset"])(sections, data_dir=job["data_dir"])
    seconds["load"], start = time.perf_counter() - start, time.perf_counter()
    if not job.get("encoders"):
        pp.image_features(sdata, n_jobs=job["n_jobs"], progress=False)
    seconds["features"], start = time.perf_counter() - start, time.perf_counter()
    table = sdata.tables[TABLE]
    files, replicates, panels = {}, [], {}
    for split in job["splits"]:
        if job.get("encoders"):
            encoder = SelfSupervisedEncoder(Path(job["encoders"]) / f"{split['test']}.safetensors")
            pp.image_features(sdata, encoder=encoder, n_jobs=job["n_jobs"], progress=False)
        pp.select_genes(table, job["n_genes"], train_sections=split["train"])
        panels[split["test"]] = table.var[VAR.panel].to_numpy(bool)
        rows = table.obs[OBS.section].isin([*split["train"], split["test"]]).to_numpy()
        part = table[rows, panels[split["test"]]].copy()
        part.uns.pop(UNS.spatial, None)
        files[split["test"]] = str(Path(job["folder"]) / f"{split['test']}.h5ad")
        part.write_h5ad(files[split["test"]])
        replicates += replicate_reference(part, split, job["target"])
    seconds["panel"] = time.perf_counter() - start
    if job.get("export"):
        export(table, panels, Path(job["export"]))
    return {"files": files, "replicates": replicates, "seconds": seconds}


def replicate_reference(adata, split: dict, target: str) -> list[dict]:
    """How well *measured* training sections stand in for the test section: GSC and SSC.

    Of each pair of sections and, with ``"section": None``, of the training sections' average correlations and
    average Moran's I. Yardsticks, not ceilings. Spots do not correspond, so there is no PCC.
    """
    values, rows = measured_expression(adata, target=target), section_rows(adata, OBS.section)
    parts, graphs = {}, {}
    for section in [*split["train"], split["test"]]:
        parts[section] = values[rows[section]]
        graphs[section] = moran_graph(adata.obsm[OBSM.spatial][rows[section]], section_layout(adata, section))
    truth, graph = parts[split["test"]], graphs[split["test"]]
    varies = truth.std(axis=0) > 0
    pairs = np.triu_indices(varies.sum(), 1)

    def against_test(of) -> float:
        average = np.mean([of(section) for section in split["train"]], axis=0)
        return float(np.corrcoef(average, of(split["test"]))[0, 1])

    average = {
        "gsc": against_test(lambda section: metrics.gene_correlation(parts[section][:, varies])[pairs]),
        "ssc": against_test(lambda section: metrics.morans_i(parts[section][:, varies], graphs[section])),
    }
    return [{"test": split["test"], "section": None} | average] + [
        {
            "test": split["test"],
            "section": section,
            "gsc": metrics.replicate_gsc(parts[section], truth),
            "ssc": metrics.replicate_ssc(parts[section], truth, graphs[section], graph),
        }
        for section in split["train"]
    ]


def export(table, panels: dict[str, np.ndarray], path: Path) -> None:
    """Write the npz that ``--features`` reads; its keys are described in ``_features_only.py``."""
    sections = section_rows(table, OBS.section)
    rows = np.concatenate(list(sections.values()))
    genes = np.logical_or.reduce(list(panels.values()))
    coords = np.asarray(table.obsm[OBSM.spatial], dtype=np.float64)
    k = min(N_NEIGHBOURS, min(map(len, sections.values())) - 1)
    graphs = [knn(coords[part], k) for part in sections.values()]
    moran = [min(k, MORAN_NEIGHBOURS[section_layout(table, name)]) for name in sections]
    np.savez_compressed(
        path,
        sections=np.array(list(sections)),
        section=np.repeat(np.arange(len(sections)), [len(part) for part in sections.values()]),
        spot_names=table.obs_names[rows].to_numpy(dtype=str),
        coords=coords[rows],
        features=np.asarray(table.obsm[OBSM.image], dtype=np.float32)[rows],
        counts=np.asarray(table.X[rows][:, genes].todense(), dtype=np.int32),
        total_counts=table.obs[OBS.total_counts].to_numpy(dtype=np.float64)[rows],
        neighbours=np.concatenate([indices for indices, _ in graphs]),
        distances=np.concatenate([distances for _, distances in graphs]),
        moran_neighbours=np.array(moran),
        genes=table.var_names[genes].to_numpy(dtype=str),
        **{f"panel_{test}": panel[genes] for test, panel in panels.items()},
    )
