"""On what, and with which code, a run is made."""

import platform
import subprocess
from pathlib import Path

import torch

from stylegan2.files import SOFTWARE


def provenance(device: torch.device, processes: int = 1) -> dict[str, str]:
    """Commit, device, processes, threads and versions."""
    git = subprocess.run(["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=12"],
                         capture_output=True, text=True, check=False)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {"software": SOFTWARE, "commit": git.stdout.strip() or "unknown", "device": name,
            "processes": str(processes), "threads": str(torch.get_num_threads()), "torch": torch.__version__,
            "python": platform.python_version()}


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
