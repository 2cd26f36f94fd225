"""python -m stylegan2 measure"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from stylegan2.commands.loading import load_here
from stylegan2.data import open_source
from stylegan2.fields import Count, Psi, Range, Seed, check_fields
from stylegan2.files import mark, output, write_text
from stylegan2.metrics import METRICS, InceptionFeatures, Metric, Row, load_classifier, measure, usable_count
from stylegan2.training.folder import check_same_set, last_stretch
from stylegan2.training.provenance import provenance


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
    images: Count = 10_000
    """On each side of a distance; at most half the set."""
    pairs: Annotated[int, Range(2, 10**7)] = 1000
    """Pairs of latents for a path length."""
    psi: Psi = 1.0
    """Truncation of the images that are compared with real ones."""
    data: str | None = None
    """The set, where it is no longer at the place that the run knows."""
    seed: Seed = 0
    """Of the latents, and of the choice among the real images."""
    out: Path | None = None
    """File for the numbers, as JSON; none is written when not given."""

    def __post_init__(self) -> None:
        check_fields(self)

    def execute(self) -> None:
        with output(self.out, "report") if self.out else contextlib.nullcontext() as part:
            made, told = self.measure()
            if part:  # before they are printed, which may fail
                write_text(part, json.dumps(made, indent=2, ensure_ascii=False) + "\n")
        print(told + (f"\nwrote {self.out}" if self.out else ""))

    def measure(self) -> tuple[dict[str, Any], str]:
        """The numbers with how they were made, for a file and in words."""
        trained = load_here(self.run)
        s, device = trained.settings, trained.mapping.mean_w.device
        source = open_source(self.data or s.data, s.resolution, s.background, white=s.white, channels=s.channels)
        if not self.data:
            check_same_set(self.run, s.data, source.fingerprint)
        classifier = load_classifier().to(device)
        extractor = classifier if self.features == "toyfaces" else InceptionFeatures().to(device)
        count = usable_count(self.images, source)
        rows = measure(trained, source, extractor, classifier, self.metrics, count, self.pairs, self.psi, self.seed)
        told = [f"{self.run} against {self.data or s.data}: {count} images a side, {self.pairs} pairs of latents, "
                f"psi {self.psi:g}, seed {self.seed}"]
        trained_on = last_stretch(self.run).get("set", {}).get("fingerprint")
        if trained_on not in (None, source.fingerprint):
            told.append("this is not the set that the run was trained on")
        told += [f"features: {extractor.name}" + self.caution(s.data), table(rows)]
        made = {"run": str(self.run), "data": self.data or s.data, "features": extractor.name, "images": count,
                "pairs": self.pairs, "psi": self.psi, "seed": self.seed, **provenance(device),
                "software": mark("report"), "results": {row.name: row._asdict() for row in rows}}
        return made, "\n".join(told)

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
