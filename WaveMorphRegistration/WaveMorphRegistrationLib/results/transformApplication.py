"""Apply the transform of a result to other nodes."""

from __future__ import annotations

from wavemorph.errors import InputError

from ..translation import _


def applyTransform(transformNode, nodes, harden: bool = False) -> None:
    """Put nodes in the space of the moving volume under the transform, and harden it where requested.

    A hardened volume keeps its own voxel grid; the registered volume is the one on the fixed voxels.
    Raises InputError, before any node is changed, where a node is under another transform.
    """
    for node in nodes:
        parent = node.GetParentTransformNode()
        if node is transformNode:
            raise InputError(_("A transform cannot be applied to itself; choose other nodes."))
        if parent is not None and parent is not transformNode:
            raise InputError(
                _("{node} is under the transform {parent}; harden that transform or remove it first.").format(
                    node=node.GetName(), parent=parent.GetName()
                )
            )
    for node in nodes:
        node.SetAndObserveTransformNodeID(transformNode.GetID())
        if harden:
            node.HardenTransform()
