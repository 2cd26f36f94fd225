"""Public sets by name, fetched once from where their makers or a public mirror keep them."""

from stylegan2.data.rows import Rows


class NamedSet:
    def open(self) -> Rows:
        raise NotImplementedError


NAMED_SETS: dict[str, NamedSet] = {}
