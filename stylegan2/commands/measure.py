"""python -m stylegan2 measure"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from stylegan2.data import open_source
from stylegan2.metrics import METRICS, InceptionFeatures, Metric, Row, load_classifier, measure, usable_count
from stylegan2.training.checkpoint import write_text
from stylegan2.training.provenance import provenance
from stylegan2.weights import load_generator


@dataclass
class Measure:
    """Measure a trained generator against the set that it was trained on, and that set against itself as the floor."""

    run: Path = Path("runs/toyfaces-32")
    """Folder of a run or of a record."""
    metrics: tuple[Metric, ...] = METRICS
    """What to measure."""
    features: Literal["toyfaces", "inception"] = "toyfaces"
    """toyfaces: of the classifier that comes with the package. inception: those of the published FID; needs
    torch-fidelity, and a network the first time."""
    images: int = 10_000
    """On each side of a distance; at most half the set."""
    pairs: int = 1000
    """Pairs of latents for a path length."""
    psi: float = 1.0
    """Truncation of the images that are compared with real ones."""
    data: str | None = None
    """The set, where it is no longer at the place that the run knows."""
    seed: int = 0
    """Of the latents, and of the choice among the real images."""
    out: Path | None = None
    """File for the numbers, as JSON; none is written when not given."""

    def execute(self) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trained = load_generator(self.run).to(device)
        s = trained.settings
        source = open_source(self.data or s.data, s.resolution, s.background)
        classifier = load_classifier().to(device)
        extractor = classifier if self.features == "toyfaces" else InceptionFeatures().to(device)
        count = usable_count(self.images, source)
        rows = measure(trained, source, extractor, classifier, self.metrics, count, self.pairs, self.psi, self.seed)
        print(f"{self.run} against {self.data or s.data}: {count} images a side, {self.pairs} pairs of latents, "
              f"psi {self.psi:g}, seed {self.seed}")
        print(f"features: {extractor.name}" + self.caution(s.data))
        print(table(rows))
        if self.out:
            made = {"run": str(self.run), "data": self.data or s.data, "features": extractor.name, "images": count,
                    "pairs": self.pairs, "psi": self.psi, "seed": self.seed, **provenance(device),
                    "results": {row.name: row._asdict() for row in rows}}
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.out, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
            print(f"wrote {self.out}")

    def caution(self, data: str) -> str:
        """What the features are not."""
        if self.features == "inception":
            return ""
        weak = "" if data == "toyfaces" else "; they were learned on cartoon faces and see little in other images"
        return f" (no Inception: compare with numbers in these features only{weak})"


def table(rows: list[Row]) -> str:
    """The numbers in columns; an error is the spread over subsets, or for a path length the standard error."""
    lines = [f"{'':28}{'generated':>12}{'±':>11}{'real':>12}"]
    for row in rows:
        value, error, floor = (f"{number:.4g}" if number is not None else "" for number in row[1:])
        lines.append(f"{row.name:28}{value:>12}{error:>11}{floor:>12}")
    return "\n".join(lines)
