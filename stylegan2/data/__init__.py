"""Images to train on: procedural faces, folders and zips."""

from stylegan2.data.source import DecodedImages, ImageSource, check_resolution, open_source, shuffled_indices
from stylegan2.data.toyfaces import FACTORS, ToyFaces, draw_faces

__all__ = ["FACTORS", "DecodedImages", "ImageSource", "ToyFaces", "check_resolution", "draw_faces", "open_source",
           "shuffled_indices"]
