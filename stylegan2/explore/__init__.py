"""Looking into a trained generator: mixing, truncation, interpolation, projection, directions,
blending."""

from stylegan2.explore.animation import check_film, save_animation
from stylegan2.explore.blend import blend
from stylegan2.explore.directions import Directions, along, effects, move, move_grid, pca, regress, sefa
from stylegan2.explore.grids import mix, mixing_grid, noise_variation, sheet, truncation_sweep, with_sources
from stylegan2.explore.interpolate import film, lerp, loop, slerp
from stylegan2.explore.latents import cell_side, draw_w, draw_z, image_side, layer_range, map_z, per_layer, synthesize
from stylegan2.explore.project import Projection, project, pyramid_distance

__all__ = [
    "Directions", "Projection", "along", "blend", "cell_side", "check_film", "draw_w", "draw_z", "effects", "film",
    "image_side",
    "layer_range", "lerp", "loop", "map_z", "mix", "mixing_grid", "move", "move_grid", "noise_variation", "pca",
    "per_layer", "project", "pyramid_distance", "regress", "save_animation", "sefa", "sheet", "slerp", "synthesize",
    "truncation_sweep", "with_sources",
]
