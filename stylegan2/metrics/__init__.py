"""Measuring a generator: distances between sets of images, path length, separability; and what they look at.

Distances in the features of the ToyFaces classifier are always there, offline. They are no FID: a number is told with
the name of its features.
"""

from stylegan2.metrics.classifier import FaceClassifier, load_classifier
from stylegan2.metrics.distances import (
    Estimate,
    Moments,
    PrecisionRecall,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from stylegan2.metrics.features import FeatureExtractor, InceptionFeatures, extract
from stylegan2.metrics.path_length import feature_distance, path_lengths, trimmed_mean
from stylegan2.metrics.report import METRICS, Metric, Row, measure, usable_count
from stylegan2.metrics.separability import Separability, separability

__all__ = [
    "METRICS", "Estimate", "FaceClassifier", "FeatureExtractor", "InceptionFeatures", "Metric", "Moments",
    "PrecisionRecall", "Row", "Separability", "extract", "feature_distance", "frechet_distance", "kernel_distance",
    "load_classifier", "measure", "path_lengths", "precision_recall", "separability", "trimmed_mean", "usable_count",
]
