"""Transform files: ITK's own and displacement fields are read, those of other programs are refused by name."""

from .reader import FIELD_EXTENSIONS, read_transform

__all__ = ["FIELD_EXTENSIONS", "read_transform"]
