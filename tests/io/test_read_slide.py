"""read_slide: every format gives the same pixels, lazily, with the recorded scale."""

import pickle
import warnings

import numpy as np
import pytest
import spatialdata
import tifffile
import zarr

from flagst import io, pp
from flagst.io import tiff

TILED = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}
APERIO = "Aperio Image Library v12.0.15\n700x500 [0,0 700x500] (128x128)|AppMag = 20|MPP = 0.4990|Left = 25.7"


@pytest.fixture(scope="module")
def pixels():
    """Tissue on glass, and noise all over it: no two rows or columns are alike."""
    rng = np.random.default_rng(0)
    image = np.full((500, 700, 3), 235, np.uint8)
    image[100:420, 150:600] = (180, 120, 165)
    return image - rng.integers(0, 12, image.shape, dtype=np.uint8)


def write_pyramid(path, pixels, *, um_per_px=0.25, n_levels=3):
    size = {
        "PhysicalSizeX": um_per_px,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": um_per_px,
        "PhysicalSizeYUnit": "µm",
    }
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=n_levels - 1, metadata={"axes": "YXS", **size}, **TILED)
        for level in range(1, n_levels):
            file.write(pixels[:: 2**level, :: 2**level], subfiletype=1, **TILED)


def write_svs(path, pixels):
    """As Aperio lays it out: full resolution, thumbnail, then the smaller levels."""
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, description=APERIO, metadata=None, **TILED)
        file.write(pixels[::10, ::10], photometric="rgb", metadata=None)
        file.write(pixels[::4, ::4], metadata=None, **TILED)


def write_ome_zarr(path, pixels, *, unit="micrometer"):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level in range(2):
        part = pixels[:: 2**level, :: 2**level].transpose(2, 0, 1)[None]
        group.create_array(str(level), data=np.ascontiguousarray(part), chunks=(1, 1, 128, 128))
        scale = {"type": "scale", "scale": [1.0, 1.0, 0.5 * 2**level, 0.5 * 2**level]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name in "yx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]


def write(name, path, pixels):
    """Every kind of file; how many levels it has, and its micrometres per pixel."""
    from PIL import Image

    strips = {"photometric": "rgb", "compression": "zlib"}
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    alpha = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)
    known = {"resolution": (1e4 / 0.5, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    plain = {
        "flat.tif": lambda: tifffile.imwrite(path, pixels, photometric="rgb"),
        "strips.tif": lambda: tifffile.imwrite(path, pixels, rowsperstrip=37, **strips),
        "one_strip.tif": lambda: tifffile.imwrite(path, pixels, rowsperstrip=500, **strips),
        "planes.tif": lambda: tifffile.imwrite(path, planes, planarconfig="separate", **TILED),
        "flat_planes.tif": lambda: tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate"),
        "alpha.tif": lambda: tifffile.imwrite(path, alpha, extrasamples=["unassalpha"], **TILED),
        "channels.ome.tif": lambda: tifffile.imwrite(
            path, planes, metadata={"axes": "CYX"}, **TILED | {"photometric": "minisblack"}
        ),
        "screen.tif": lambda: tifffile.imwrite(path, pixels, resolution=(72, 72), resolutionunit="INCH", **TILED),
        "plain.png": lambda: Image.fromarray(pixels).save(path),
        "alpha.png": lambda: Image.fromarray(alpha).save(path),
        "unitless.ome.zarr": lambda: write_ome_zarr(path, pixels, unit=None),
    }
    recorded = {
        "pyramid.ome.tif": (lambda: write_pyramid(path, pixels), 0.25),
        "slide.svs": (lambda: write_svs(path, pixels), 0.499),
        "resolution.tif": (lambda: tifffile.imwrite(path, pixels, **known, **TILED), 0.5),
        "imagej.tif": (
            lambda: tifffile.imwrite(path, pixels, imagej=True, resolution=(2, 2), metadata={"unit": "um"}),
            0.5,
        ),
        "slide.ome.zarr": (lambda: write_ome_zarr(path, pixels), 0.5),
    }
    make, scale = recorded[name] if name in recorded else (plain[name], None)
    make()
    return scale


KINDS = [
    "flat.tif", "strips.tif", "one_strip.tif", "planes.tif", "flat_planes.tif", "alpha.tif", "channels.ome.tif",
    "screen.tif", "plain.png", "alpha.png", "unitless.ome.zarr", "pyramid.ome.tif", "slide.svs", "resolution.tif",
    "imagej.tif", "slide.ome.zarr",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_pixels_and_its_scale(kind, pixels, tmp_path):
    scale = write(kind, tmp_path / kind, pixels)
    if scale is None:
        with pytest.raises(ValueError, match=r"does not say how large its pixels are. Pass um_per_px="):
            io.read_slide(tmp_path / kind)
    slide = io.read_slide(tmp_path / kind, um_per_px=None if scale else 0.75)
    name = kind.split(".")[0]
    assert list(slide.images) == [f"{name}_image"] and slide.coordinate_systems == [name]
    assert slide.attrs["flagst"]["params"]["um_per_px"] == {name: pytest.approx(scale or 0.75)}
    element = slide.images[f"{name}_image"]
    full = element["scale0"]["image"]
    np.testing.assert_array_equal(full.transpose("y", "x", "c").to_numpy(), pixels)
    part = full.data[:, 90:333:3, 130:677:2]
    np.testing.assert_array_equal(part.compute(), pixels.transpose(2, 0, 1)[:, 90:333:3, 130:677:2])
    np.testing.assert_array_equal(full.data[:, 120, 200].compute(), pixels[120, 200])
    np.testing.assert_array_equal(full.data[1, ::-1].compute(), pixels[::-1, :, 1])
    for number, child in enumerate(element.children.values()):
        level = child["image"]
        assert level.dtype == np.uint8 and level.sizes["c"] == 3 and list(level["c"].values) == ["r", "g", "b"]
        if number:
            assert level.sizes["y"] < 500
            np.testing.assert_allclose(level["x"].values[[0, -1]].mean(), 350)


def test_levels_of_a_pyramid_are_those_of_the_file(pixels, tmp_path):
    write_pyramid(tmp_path / "a.ome.tif", pixels)
    write_svs(tmp_path / "b.svs", pixels)
    for file, factors in (("a.ome.tif", (1, 2, 4)), ("b.svs", (1, 4))):
        element = next(iter(io.read_slide(tmp_path / file).images.values()))
        assert len(element.children) == len(factors)
        for child, factor in zip(element.children.values(), factors, strict=True):
            level = child["image"].transpose("y", "x", "c").to_numpy()
            np.testing.assert_array_equal(level, pixels[::factor, ::factor])


def test_every_level_knows_its_way_to_full_resolution(pixels, tmp_path):
    from spatialdata import get_extent
    from spatialdata.transformations import get_transformation

    write_svs(tmp_path / "slide.svs", pixels)
    element = io.read_slide(tmp_path / "slide.svs").images["slide_image"]
    extent = get_extent(element, coordinate_system="slide")
    assert extent["x"] == (0, 700) and extent["y"] == (0, 500)
    small = element["scale1"]["image"]
    matrix = get_transformation(small, to_coordinate_system="slide").to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_allclose(matrix, np.diag([4, 4, 1]))


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"tile": (64, 64), "compression": "zlib"},
        {"planarconfig": "separate", "tile": (64, 64), "compression": "zlib"},
    ],
    ids=["in one piece", "tiles", "planes"],
)
def test_transparent_pixels_of_a_tiff_are_no_tissue(pixels, tmp_path, layout, kind):
    alpha = np.zeros((*pixels.shape[:2], 1), np.uint8)
    alpha[: len(alpha) // 2] = 255
    alpha[200:260] = 100
    share = alpha / 255
    values = np.concatenate([np.round(pixels * share) if kind == 1 else pixels * (alpha > 0), alpha], axis=2)
    values = values.astype(np.uint8)
    expected = np.round(pixels * share + 255 * (1 - share)).astype(int)
    for sample, wanted in ((kind, expected), (0, values[..., :3])):  # 0: a fourth channel that is no opacity
        stored = values.transpose(2, 0, 1) if "planarconfig" in layout else values
        path = tmp_path / f"{sample}.tif"
        tifffile.imwrite(path, stored, photometric="rgb", extrasamples=[sample], **layout)
        levels = io.read_slide(path, um_per_px=0.5).images[f"{sample}_image"]["scale0"]["image"]
        np.testing.assert_allclose(levels.transpose("y", "x", "c").values.astype(int), wanted, atol=sample > 0)


def test_transparent_pixels_are_no_tissue(pixels, tmp_path):
    """Glass that is left out: black where nobody looks, and not to be seen."""
    from PIL import Image

    alpha = np.zeros((*pixels.shape[:2], 1), np.uint8)
    alpha[: len(alpha) // 2] = 255
    Image.fromarray(np.concatenate([pixels * (alpha > 0), alpha], axis=2)).save(tmp_path / "slide.png")
    write_ome_zarr(tmp_path / "slide.zarr", np.concatenate([pixels * (alpha > 0), alpha], axis=2))
    for name in ("slide.png", "slide.zarr"):
        levels = io.read_slide(tmp_path / name, um_per_px=0.5).images["slide_image"]["scale0"]["image"]
        np.testing.assert_array_equal(levels.transpose("y", "x", "c").values, np.where(alpha > 0, pixels, 255))


def test_the_largest_image_of_a_file_is_the_slide(pixels, tmp_path):
    """Labels and overviews come first in some files; each has a scale of its own."""
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for image, um in ((pixels[::4, ::4], 8.0), (pixels, 0.5), (pixels[::2, ::2], 4.0)):
            size = {"PhysicalSizeX": um, "PhysicalSizeY": um}
            file.write(np.ascontiguousarray(image), metadata={"axes": "YXS", **size}, **TILED)
    slide = io.read_slide(tmp_path / "a.ome.tif")
    assert slide.attrs["flagst"]["params"]["um_per_px"] == {"a": 0.5}
    full = slide.images["a_image"]["scale0"]["image"].transpose("y", "x", "c")
    np.testing.assert_array_equal(full.to_numpy(), pixels)


def test_opening_decodes_nothing_and_a_region_only_its_tiles(pixels, tmp_path, monkeypatch):
    write_pyramid(tmp_path / "slide.ome.tif", pixels)
    decoded = []
    paste = tiff._Segments._paste
    monkeypatch.setattr(tiff._Segments, "_paste", lambda self, *args: (decoded.append(args[3]), paste(self, *args)))
    slide = io.read_slide(tmp_path / "slide.ome.tif")
    level = slide.images["slide_image"]["scale0"]["image"].data
    assert decoded == []
    region = level[:, 130:200, 300:380].compute(scheduler="synchronous")
    assert region.shape == (3, 70, 80)
    # row 1 of tiles, columns 2 of 6: the region lies in one tile of 128 pixels
    assert decoded == [6 + 2]


def test_spots_and_features_straight_from_a_file(pixels, tmp_path):
    """The scale comes along; the flat file and the pyramid place the same spots."""
    write_pyramid(tmp_path / "a.ome.tif", pixels, um_per_px=2.0)
    tifffile.imwrite(
        tmp_path / "b.tif", pixels, photometric="rgb", resolution=(5000, 5000), resolutionunit="CENTIMETER"
    )
    tables = []
    for file in ("a.ome.tif", "b.tif"):
        slide = io.read_slide(tmp_path / file, section="S")
        pp.tissue_spots(slide, pitch_um=80)
        pp.image_features(slide, progress=False, n_jobs=1)
        io.check(slide, require_images=True)
        tables.append(slide["table"])
    assert list(tables[0].obs_names) == list(tables[1].obs_names)
    inside = tables[0].obsm["spatial"]
    assert (inside > [140, 90]).all() and (inside < [610, 430]).all()
    assert tables[0].uns["flagst"]["params"]["um_per_px"] == {"S": 2.0}
    # 2 um per pixel is coarser than the encoder's finest scale: full resolution is read in both
    np.testing.assert_allclose(
        tables[0].obsm["X_image"][:, :118], tables[1].obsm["X_image"][:, :118], rtol=1e-4, atol=1e-4
    )


def test_a_slide_survives_zarr_and_is_read_again(pixels, tmp_path):
    write_svs(tmp_path / "case 7.svs", pixels)
    slide = io.read_slide(tmp_path / "case 7.svs")
    assert list(slide.images) == ["case_7_image"]
    slide.write(tmp_path / "slide.zarr")
    back = spatialdata.read_zarr(tmp_path / "slide.zarr")
    assert back.attrs["flagst"]["params"]["um_per_px"] == {"case_7": 0.499}
    again = io.read_slide(tmp_path / "slide.zarr", section="again", image_key="case_7_image")
    assert again.attrs["flagst"]["params"]["um_per_px"] == {"again": 0.499}
    level = again.images["again_image"]["scale0"]["image"].transpose("y", "x", "c")
    np.testing.assert_array_equal(level.to_numpy(), pixels)
    back.images["other_image"] = back.images["case_7_image"]
    back.write(tmp_path / "two.zarr")
    with pytest.raises(KeyError, match=r"2 images: \['case_7_image', 'other_image'\].*image_key="):
        io.read_slide(tmp_path / "two.zarr")
    with pytest.raises(KeyError, match="no 'third'"):
        io.read_slide(tmp_path / "two.zarr", image_key="third")
    with pytest.raises(ValueError, match="does not say"):
        io.read_slide(tmp_path / "two.zarr", image_key="other_image")


def test_a_given_scale_that_contradicts_the_file_is_used_with_a_warning(pixels, tmp_path):
    write_svs(tmp_path / "slide.svs", pixels)
    with pytest.warns(UserWarning, match=r"um_per_px=0.25 differs from what slide.svs records, 0.499 \(Aperio MPP\)"):
        slide = io.read_slide(tmp_path / "slide.svs", um_per_px=0.25)
    assert slide.attrs["flagst"]["params"]["um_per_px"] == {"slide": 0.25}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.read_slide(tmp_path / "slide.svs", um_per_px=0.5)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda p: p.astype(np.uint16), {}, TypeError, "pixels of type uint16; flagst needs uint8"),
        (lambda p: p[..., 0], {"photometric": "minisblack"}, ValueError, "1 channel"),
        (lambda p: np.concatenate([p, p], 2).transpose(2, 0, 1), {"photometric": "minisblack"}, ValueError, "6|axes"),
        (lambda p: np.concatenate([p, p[..., :1]], 2), {"photometric": "separated"}, ValueError, "not RGBA"),
        (lambda p: np.stack([p, p]), {}, ValueError, "one focal plane"),
    ],
)
def test_what_is_no_h_and_e_is_refused(change, options, error, message, pixels, tmp_path):
    tifffile.imwrite(tmp_path / "slide.tif", change(pixels), **{"photometric": "rgb"} | options)
    with pytest.raises(error, match=message) as caught:
        io.read_slide(tmp_path / "slide.tif", um_per_px=0.5)
    assert "slide.tif" in str(caught.value)


def test_files_that_cannot_be_read_are_named(pixels, tmp_path):
    from PIL import Image

    with pytest.raises(FileNotFoundError, match="none.svs does not exist"):
        io.read_slide(tmp_path / "none.svs")
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(ValueError, match="text.tif is not a TIFF"):
        io.read_slide(tmp_path / "text.tif")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is a folder but no zarr group"):
        io.read_slide(tmp_path / "folder")
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(KeyError, match="no OME-Zarr and no SpatialData"):
        io.read_slide(tmp_path / "empty.zarr")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match="mode L"):
        io.read_slide(tmp_path / "grey.png", um_per_px=1)
    write_svs(tmp_path / "slide.svs", pixels)
    with pytest.raises(ValueError, match="section='a/b' cannot name"):
        io.read_slide(tmp_path / "slide.svs", section="a/b")
    with pytest.raises(ValueError, match="um_per_px must be a positive"):
        io.read_slide(tmp_path / "slide.svs", um_per_px=-1)
    with pytest.raises(ValueError, match="reader must be one of"):
        io.read_slide(tmp_path / "slide.svs", reader="pillow")


def test_colours_of_aperio_that_would_come_out_wrong_are_refused(pixels, tmp_path):
    write_svs(tmp_path / "slide.svs", pixels)
    with tifffile.TiffFile(tmp_path / "slide.svs", mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(33003)
    with pytest.raises(ValueError, match=r'33003.*flagst\[wsi\].*reader="openslide"'):
        io.read_slide(tmp_path / "slide.svs")


def test_openslide_reads_what_nothing_else_does(pixels, tmp_path):
    pytest.importorskip("openslide", reason='OpenSlide is not installed: pip install "flagst[wsi]"')
    write_svs(tmp_path / "slide.svs", pixels)
    slide = io.read_slide(tmp_path / "slide.svs", reader="openslide")
    assert slide.attrs["flagst"]["params"]["um_per_px"] == {"slide": pytest.approx(0.499)}
    full = slide.images["slide_image"]["scale0"]["image"].transpose("y", "x", "c").to_numpy()
    np.testing.assert_array_equal(full, pixels)
    (tmp_path / "slide.mrxs").write_text("no slide")
    with pytest.raises(ValueError, match="no slide that OpenSlide can read"):
        io.read_slide(tmp_path / "slide.mrxs")


def test_without_openslide_the_message_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "slide.mrxs").write_text("a slide")
    with pytest.raises(ImportError, match=r'pip install "flagst\[wsi\]"'):
        io.read_slide(tmp_path / "slide.mrxs")


def test_levels_can_be_sent_to_other_processes(pixels, tmp_path):
    write_pyramid(tmp_path / "slide.ome.tif", pixels)
    level = io.read_slide(tmp_path / "slide.ome.tif").images["slide_image"]["scale1"]["image"].data
    again = pickle.loads(pickle.dumps(level))
    np.testing.assert_array_equal(again.compute(), level.compute())


def test_a_changed_file_is_read_again(pixels, tmp_path):
    write_pyramid(tmp_path / "slide.ome.tif", pixels)
    io.read_slide(tmp_path / "slide.ome.tif").images["slide_image"]["scale0"]["image"].compute()
    write_pyramid(tmp_path / "slide.ome.tif", pixels[::-1, :600])
    full = io.read_slide(tmp_path / "slide.ome.tif").images["slide_image"]["scale0"]["image"]
    np.testing.assert_array_equal(full.transpose("y", "x", "c").to_numpy(), pixels[::-1, :600])


def test_oblong_pixels_are_refused(pixels, tmp_path):
    tifffile.imwrite(tmp_path / "slide.tif", pixels, resolution=(20000, 10000), resolutionunit="CENTIMETER", **TILED)
    with pytest.raises(ValueError, match=r"0.5 x 1 um.*square"):
        io.read_slide(tmp_path / "slide.tif")
