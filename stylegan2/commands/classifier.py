"""python -m stylegan2 train-classifier"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from stylegan2.fields import Count, Seed, check_fields
from stylegan2.files import new_folder, save_tensors, write_text
from stylegan2.metrics.learning import held_out_scores, train
from stylegan2.training.provenance import provenance


@dataclass
class TrainClassifier:
    """Train the network that reads the factors of ToyFaces, whose features the toy distances use."""

    out: Path = Path("runs/toyfaces-classifier")
    """New folder for classifier.safetensors, history.jsonl and run.json, which has the scores on held-out faces."""
    images: Count = 100_000
    """Faces to learn from, each drawn for the purpose and seen once."""
    seed: Seed = 0
    """Of the weights."""

    def __post_init__(self) -> None:
        check_fields(self)

    def execute(self) -> None:
        with new_folder(self.out) as folder:
            self.train_into(folder)
        print(f"wrote {self.out}")

    def train_into(self, folder: Path) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        start = time.monotonic()
        classifier, history = train(self.images, seed=self.seed, device=device)
        minutes = round((time.monotonic() - start) / 60, 2)
        tensors = {f"classifier.{name}": tensor for name, tensor in classifier.state_dict().items()}
        save_tensors(folder / "classifier.safetensors", tensors, state={})
        write_text(folder / "history.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        held_out = held_out_scores(classifier)
        made = {"command": f"python -m stylegan2 train-classifier --images {self.images} --seed {self.seed}",
                **provenance(device), "images": self.images, "seed": self.seed, "minutes": minutes,
                "held_out": held_out}
        write_text(folder / "run.json", json.dumps(made, indent=2) + "\n")
        for name, score in held_out.items():
            print(f"{name:18}" + "   ".join(f"{key} {value:.3f}" for key, value in score.items()))
