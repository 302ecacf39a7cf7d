"""Micrometres per pixel, as files record them."""

import pytest

from flagst.io.scale import from_aperio, from_ngff, from_ome, from_resolution, from_unit

#: A label that the file has no pixels of, before the slide.
TWO_IMAGES = (
    '<OME><Image><Pixels SizeX="90" SizeY="90" PhysicalSizeX="9"/></Image><Image><Pixels SizeX="700" SizeY="500" '
    'PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25" PhysicalSizeYUnit="µm"/></Image></OME>'
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (from_unit([250, 250], "nm", source=""), 0.25),
        (from_unit([1, 1], "pixel", source=""), None),
        (from_unit([0, 1], "um", source=""), None),
        (from_aperio("Aperio|MPP = 0.2520|AppMag = 40"), 0.252),
        (from_aperio("Aperio|AppMag = 40"), None),
        (from_aperio("Aperio|MPP = unknown"), None),
        (from_resolution([50800, 50800], 2), 0.5),
        (from_resolution([300, 300], 2), None),
        (from_resolution([20000, 20000], 1), None),
        (from_ome('<OME xmlns="a"><Image><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm"/></Image></OME>'), 0.25),
        (from_ome('<OME xmlns="a"><Image><Pixels SizeX="5"/></Image></OME>'), None),
        (from_ome("<OME><Image>"), None),
        (from_ome('<OME><Image><Pixels PhysicalSizeX=""/></Image></OME>'), None),
        (from_ome('<?xml version="1.0" encoding="ISO-8859-1"?><OME><Pixels PhysicalSizeX="0.5"/></OME>'), 0.5),
        (from_ome(TWO_IMAGES), 9.0),
        (from_ome(TWO_IMAGES, (700, 500)), 0.25),
        (from_ome(TWO_IMAGES, (500, 700)), None),
        (from_ngff({"axes": ["c", "y", "x"], "datasets": [{"path": "0"}]}), None),
    ],
)
def test_what_counts_as_a_recorded_scale(found, expected):
    assert found is None or found.x == pytest.approx(found.y)
    assert (None if found is None else found.x) == (None if expected is None else pytest.approx(expected))
