"""BIDS in and out: the subjects of a data set, and the outputs of a study or a template as a BIDS derivative."""

from .dataset import scans_of_person, subjects_from_bids
from .derivative import BidsLayout, BidsTemplate, template_label

__all__ = ["BidsLayout", "BidsTemplate", "scans_of_person", "subjects_from_bids", "template_label"]
