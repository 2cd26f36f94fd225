"""Images to train on: procedural faces, folders and zips."""

from stylegan2.data.toyfaces import FACTORS, ToyFaces, draw_faces

__all__ = ["FACTORS", "ImageSource", "ToyFaces", "draw_faces", "open_source", "shuffled_indices"]
