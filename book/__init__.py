"""The workshop of the book: what turns notebooks into a site, and what notebooks share.

In a notebook: `book.budget` (how big a run this machine gets), `book.figures` (plots and image grids),
`book.controls` (sliders, with a twin for the built page). From a shell: `python -m book --help`.
"""
