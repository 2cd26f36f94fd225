"""Generators on the Hugging Face Hub (needs the package `huggingface_hub`).

    from stylegan2.hub import HubGenerator
    HubGenerator(load("runs/faces")).push_to_hub("me/faces")
    generator = HubGenerator.from_pretrained("me/faces")

The files are those of a record: generator.safetensors and settings.json, nothing that is executed.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download

from stylegan2.training.players import TrainedGenerator
from stylegan2.weights import load, save

FILES = ("generator.safetensors", "settings.json")


class HubGenerator(TrainedGenerator, ModelHubMixin, library_name="annotated-stylegan2-gradnorm",
                   pipeline_tag="unconditional-image-generation", tags=["stylegan2", "gan"],
                   paper_url="https://arxiv.org/abs/1912.04958"):
    """A `TrainedGenerator` with `save_pretrained`, `push_to_hub` and `from_pretrained`.

    Args:
        trained: whose networks these are; the weights are shared.
    """

    def __init__(self, trained: TrainedGenerator):
        super().__init__(trained.settings, trained.mapping, trained.generator)
        self.train(trained.training)

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None,
                         force_download: bool, local_files_only: bool, token: str | bool | None,
                         **_: Any) -> "HubGenerator":
        folder = model_id if Path(model_id).is_dir() else snapshot_download(
            model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
            local_files_only=local_files_only, token=token, allow_patterns=list(FILES))
        return cls(load(folder))
