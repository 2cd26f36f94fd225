"""The commands of `python -m stylegan2`, one module each."""
