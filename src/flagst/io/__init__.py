"""Read, build and check the SpatialData structure that flagst uses."""

from flagst.io.build import Section, build_sdata
from flagst.io.images import clear_image_cache, lazy_pyramid
from flagst.io.platforms import from_visium_hd, from_xenium
from flagst.io.slides import read_slide
from flagst.io.validate import check

__all__ = [
    "Section",
    "build_sdata",
    "check",
    "clear_image_cache",
    "from_visium_hd",
    "from_xenium",
    "lazy_pyramid",
    "read_slide",
]
