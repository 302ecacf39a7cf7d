"""AnnData and SpatialData to arrays: targets, spatial graphs, patches, windows."""
