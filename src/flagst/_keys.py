"""Every name flagst reads from or writes to an AnnData or SpatialData object, once."""

from types import SimpleNamespace

#: ``adata.obs`` columns.
OBS = SimpleNamespace(
    section="section",
    patient="patient",
    region="region",
    spot_id="spot_id",
    total_counts="total_counts",
    cluster="cluster",
    pathologist="pathologist_label",
    array_row="array_row",
    array_col="array_col",
    domain="domain",
    true_depth="true_depth",
    ood="flagst_ood",
)

#: ``adata.obsm`` arrays. ``spatial``: (n_spots, 2), x then y, full-resolution pixels.
OBSM = SimpleNamespace(
    spatial="spatial",
    image="X_image",
    programs="true_programs",
    gene_context="X_gene_context",  # (n_spots, n_genes, d) float16, lazy; zeros where a gene has no vector in a spot
    cell="X_cell",  # (n_spots, d)
)

#: ``adata.var`` columns.
VAR = SimpleNamespace(
    panel="flagst_panel",
    train_pcc="flagst_train_pcc",
    measured="flagst_measured",
    has_vector="flagst_has_vector",
    trained="flagst_trained",
    pcc="flagst_pcc",
    moran_pred="flagst_moran_pred",
    moran_true="flagst_moran_true",
)

#: ``adata.varm`` arrays.
VARM = SimpleNamespace(program_loadings="program_loadings", gene="X_gene")

#: ``adata.layers``.
LAYERS = SimpleNamespace(draw="flagst", mean="flagst_mean", std="flagst_std", true_rate="true_rate")

#: Top-level ``adata.uns`` slots.
UNS = SimpleNamespace(flagst="flagst", spatial="spatial", truth="flagst_truth")

#: Keys inside ``adata.uns["spatial"][section]``, the layout squidpy and scanpy read.
LIBRARY = SimpleNamespace(
    images="images",
    hires="hires",
    scalefactors="scalefactors",
    hires_scale="tissue_hires_scalef",
    spot_diameter="spot_diameter_fullres",
)

#: Keys inside ``adata.uns["flagst"]``.
SLOT = SimpleNamespace(
    params="params",  # of the sections, of what was registered, and of the last prediction
    predictions="predictions",  # {layer: how it was made}
    features="features",
    genes="genes",
    gene_embeddings="gene_embeddings",  # {key in varm or obsm: provenance}
    metrics="metrics",
    calibration="calibration",
    history="history",
    setup="setup",  # what was registered for baselines; for FLAG, scvi-tools keeps it
    version="version",
    ceiling="ceiling",  # of the measurement, whatever the prediction
    request="request",  # hash of the model and the arguments behind a prediction that was streamed
)

#: Keys inside ``adata.uns["flagst"]["metrics"][layer]`` that are not there after every evaluation.
RECORD = SimpleNamespace(
    intervals="intervals",  # {section: {score: jackknife interval}}
    nulls="nulls",  # {section: {score: permutation test}}
    domains="domains",
    markers="markers",
)

#: Keys inside ``adata.uns["flagst"]["params"]``.
PARAM = SimpleNamespace(
    um_per_px="um_per_px",  # {section: float}, micrometres per full-resolution pixel
    layout="layout",  # {section: "square" | "hex" | "irregular" | "other"}
    target="target",
    section_key="section_key",
    structure="structure",
    seed="seed",
    n_samples="n_samples",
    layer="layer",
    counts_layer="counts_layer",  # of raw counts, where they are not in X
    model="model",  # name of the class that predicted
)

#: What messages call the record of micrometres per full-resolution pixel of every section.
SCALES = f'adata.uns["{UNS.flagst}"]["{SLOT.params}"]["{PARAM.um_per_px}"]'

#: Name of a target, as recorded in ``params`` -> its unit as written on axes.
TARGETS = {
    "lognorm": "log1p(counts per 10,000)",
    "log2": "log2(count + 1)",
    "identity": "expression",
}

#: Keys inside ``adata.uns["flagst"]["features"][key_added]``.
FEATURES = SimpleNamespace(
    encoder="encoder",
    version="version",
    params="encoder_params",
    licence="licence",  # of the encoder's weights; says nothing about the numbers, and is not compared
    patch_um="patch_um",  # [float], one per scale
    patch_px="patch_px",
    stain_normalise="stain_normalise",
    source="source",  # "image" | "hires"
    um_per_px="um_per_px",  # {section: float}, of the full-resolution image
    positions="positions",  # {section: str}, hash of its spot centres and image size
    stain="stain",  # {section: [red, green, blue of the background, strength]}
    names="feature_names",  # [str], one per column
)

#: Keys inside ``encoder_params`` of the features of a network; those that apply.
NETWORK = SimpleNamespace(
    sha256="sha256",  # of the file of the weights, or of the weights themselves
    structure="structure_sha256",  # of the layers of a module, as text
    architecture="architecture",
    settings="settings",  # of the architecture, as JSON
    pooling="pooling",
    handcrafted="handcrafted",  # version of the handcrafted features beside, or "none"
    mean="mean",  # [red, green, blue], of colours from 0 to 1
    std="std",
)

#: Keys inside ``adata.uns["flagst"]["genes"]``.
GENES = SimpleNamespace(
    flavor="flavor",
    n_genes="n_genes",
    sections="sections",  # [str], the sections that were looked at
    names="names",  # [str], in the order of ``var``
    sha256="sha256",  # of the sorted names, one per line
)

#: Keys inside ``adata.uns["flagst"]["gene_embeddings"][key_added]``; of an encoder, those that apply.
EMBEDDINGS = SimpleNamespace(
    encoder="encoder",
    file="file",
    sha256="sha256",
    kind="kind",
    licence="licence",
    key="key",
    sections="sections",
    n_components="n_components",
    n_genes="n_genes",
    n_found="n_found",
    missing="missing",  # [str], genes asked for that have no vector
    mode="mode",  # "contextual" | "cell"; static vectors do not say
    hidden_layer="hidden_layer",
    pooling="pooling",
    max_length="max_length",
    settings="settings_sha256",  # of what the model reads besides its weights
    half="half",
    counts_layer="counts_layer",
    inputs="inputs_sha256",  # of spots, genes, counts and the vectors that genes start from
    genes="genes",  # [str], along the second axis
    shape="shape",
    folder="folder",
    array="array",  # file in the folder
)

#: What keys of ``adata.uns`` start with that scvi-tools knows a table by.
SCVI_PREFIX = "_scvi"

#: Keys inside ``adata.uns["flagst_truth"]``, the truth of simulated sections.
TRUTH = SimpleNamespace(
    program_names="program_names",
    program_visible="program_visible",
    program_length_um="program_length_um",
    gene_names="gene_names",
    baseline="baseline",
    dispersion="dispersion",
    correlation="log_rate_correlation",
    seed="seed",
)

#: SpatialData element names.
TABLE = "table"
PREDICTION_TABLE = "flagst"


def image_element(section: str) -> str:
    """Name of a section's image element."""
    return f"{section}_image"


def shapes_element(section: str) -> str:
    """Name of a section's spot shapes element."""
    return f"{section}_spots"


def quantile_part(quantile: float) -> str:
    """Name of a quantile: ``q05`` of 0.05, ``q50`` of 0.5, ``q975`` of 0.975."""
    return "q" + f"{quantile:.10f}".split(".")[1].rstrip("0").ljust(2, "0")


def prediction_layers(layer: str, quantiles: tuple[float, ...] = ()) -> dict[str, str]:
    """Names of the layers beside ``layer``: its mean, its standard deviation, its quantiles."""
    names = {"mean": f"{layer}_mean", "std": f"{layer}_std"}
    return names | {part: f"{layer}_{part}" for part in map(quantile_part, quantiles)}


def is_beside(name: str | None, layer: str) -> bool:
    """Whether a layer is the standard deviation or a quantile of ``layer``."""
    part = (name or "").removeprefix(f"{layer}_")
    return name == prediction_layers(layer)["std"] or (name != part and part[:1] == "q" and part[1:].isdigit())


#: Tensors of a section or window.
TENSOR = SimpleNamespace(
    image="image",  # (n_spots, d_image) whitened image features
    edge_index="edge_index",  # (2, n_edges) source, target
    edge_attr="edge_attr",  # (n_edges, 2) distance kernel, image cosine
    mix_index="mix_index",  # (2, n_mix_edges)
    mix_weight="mix_weight",  # (n_mix_edges,)
    mean="mean",  # (n_spots, n_genes) standardised regression mean
    state="state",  # (n_spots, d_state) clean diffusion state
    expression="expression",  # (n_spots, n_genes) standardised measured expression
    table_row="table_row",  # (n_spots,) int64 rows of the training table
    embedding="embedding",  # (n_spots, n_read, d_gene) or (n_spots, d_cell) of a gene model
    read_genes="read_genes",  # (n_read,) int64, places in the panel of the genes that were read
    core="core",  # (n_spots,) bool, spots that count in the loss, or that are predicted
    rows="rows",  # (n_spots,) int64, places in the section
    network="network",  # () int64, the network trained on the window
)
