"""Shapes in signatures: jaxtyping's types where it is installed, the plain type where it is not.

`Float[Tensor, "tasks"]` is `Tensor` without jaxtyping, so the package needs torch and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int
else:
    try:
        from jaxtyping import Bool, Float, Float64, Int
    except ImportError:

        class Float:
            """Stands in for the types of jaxtyping: subscripted, it is the first of its arguments."""

            def __class_getitem__(cls, item: tuple[type, str]) -> Any:
                return item[0]

        Bool = Float64 = Int = Float

__all__ = ["Bool", "Float", "Float64", "Int"]
