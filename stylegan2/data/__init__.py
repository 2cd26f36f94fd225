"""Images to train on: procedural faces, folders, zips, arrays, public sets; and the way from there to the device."""

from stylegan2.data.loader import Loader
from stylegan2.data.opening import channels_of, check_resolution, open_source, shuffled_indices
from stylegan2.data.source import DecodedImages, ImageSource, StoredImages
from stylegan2.data.toyfaces import FACTORS, HAIR_STYLES, ToyFaces, draw_faces

__all__ = ["FACTORS", "HAIR_STYLES", "DecodedImages", "ImageSource", "Loader", "StoredImages", "ToyFaces",
           "channels_of", "check_resolution", "draw_faces", "open_source", "shuffled_indices"]
