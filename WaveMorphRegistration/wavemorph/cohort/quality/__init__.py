"""One static page that shows the quality of a study's registrations. Does not import torch."""

from .page import write_quality_page

__all__ = ["write_quality_page"]
