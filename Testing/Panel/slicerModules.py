"""Stand-ins for what the scene core lacks of Slicer's Python layer: module base classes, translation, parameter node.

They do what the module needs of them and no more. The parameter node keeps its values in a real
vtkMRMLScriptedModuleNode and follows the rules that matter: enumerations are stored by name, types are strict, and a
connection sets the node types of a selector to the one class of its parameter.
"""

from __future__ import annotations

import enum
import sys
import types
import typing

import slicer
import vtk


def parameterNodeWrapper(cls):
    hints = typing.get_type_hints(cls)
    defaults = {name: getattr(cls, name) for name in hints if hasattr(cls, name)}

    def initialize(self, node):
        object.__setattr__(self, "parameterNode", node)
        object.__setattr__(self, "_connections", {})

    body = {name: _parameter(name, kind, defaults.get(name)) for name, kind in hints.items()}
    body.update(
        __init__=initialize,
        connectParametersToGui=_connectParametersToGui,
        disconnectGui=_disconnectGui,
        _kinds=hints,
        __doc__=cls.__doc__,
    )
    return type(cls.__name__, (), body)


def _parameter(name: str, kind, default):
    isNode = isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)

    def read(self):
        if isNode:
            return self.parameterNode.GetNodeReference(name)
        text = self.parameterNode.GetParameter(name)
        if text == "":
            return default if default is not None else kind()
        if kind is bool:
            return text == "true"
        return kind[text] if issubclass(kind, enum.Enum) else kind(text)

    def write(self, value):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} takes {kind.__name__}, not {type(value).__name__}")
        if isNode:
            self.parameterNode.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        elif kind is bool:
            self.parameterNode.SetParameter(name, "true" if value else "false")
        else:
            self.parameterNode.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))

    return property(read, write)


def _connectParametersToGui(self, widgets: dict) -> int:
    connections = []
    for name, widget in widgets.items():
        kind = self._kinds[name]
        if hasattr(widget, "setCurrentNode"):
            widget.nodeTypes = [kind().GetClassName()]
            show, read, signal = widget.setCurrentNode, widget.currentNode, widget.currentNodeChanged
        elif issubclass(kind, enum.Enum):
            widget.blockSignals(True)
            widget.clear()
            for member in kind:
                widget.addItem(member.label(), member.name)
            widget.blockSignals(False)
            show, signal = _shower(widget), widget.currentIndexChanged
            read = _reader(widget, kind)
        else:
            show, signal = _checker(widget), widget.toggled
            read = _checked(widget)
        show(getattr(self, name))
        connections.append((name, show, read))
        signal.connect(_writer(self, name, read, connections))

    def refresh(*_):
        for name, show, _read in list(connections):
            show(getattr(self, name))

    tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, refresh)
    self._connections[tag] = connections
    return tag


def _shower(box):
    return lambda member: box.setCurrentIndex(box.findData(member.name))


def _reader(box, kind):
    return lambda: kind[box.itemData(box.currentIndex)]


def _checker(box):
    def check(on):
        box.checked = on

    return check


def _checked(box):
    return lambda: box.checked


def _writer(wrapper, name, read, connections):
    def write():
        if connections and getattr(wrapper, name) is not read() and getattr(wrapper, name) != read():
            setattr(wrapper, name, read())

    return write


def _disconnectGui(self, tag) -> None:
    self.parameterNode.RemoveObserver(tag)
    self._connections.pop(tag).clear()


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        import qt

        self.parent = parent if parent is not None else slicer.qMRMLWidget()
        if self.parent.layout() is None:
            self.parent.setLayout(qt.QVBoxLayout())
        self.layout = self.parent.layout()

    def setup(self):
        pass

    def onReload(self):
        pass

    def resourcePath(self, name: str) -> str:
        from pathlib import Path

        return str(Path(sys.modules[type(self).__module__].__file__).parent / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def getParameterNode(self):
        name = type(self).__name__[: -len("Logic")]
        scene = slicer.mrmlScene
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode")):
            node = scene.GetNthNodeByClass(index, "vtkMRMLScriptedModuleNode")
            if node.GetAttribute("ModuleName") == name:
                return node
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetSingletonTag(name)
        node.SetModuleName(name)
        node.SetAttribute("ModuleName", name)
        return scene.AddNode(node)


class ScriptedLoadableModuleTest:
    def delayDisplay(self, message):
        self.messages = [*getattr(self, "messages", []), message]


class Application:
    """What the module asks of slicer.app; `connected` holds what it connected."""

    def __init__(self, qtApplication):
        self._qt, self.connected, self.slicerHome = qtApplication, {}, sys.prefix

    def connect(self, signal, slot):
        self.connected[signal] = slot

    def processEvents(self):
        self._qt.processEvents()

    def layoutManager(self):
        return None

    def translate(self, context, text):
        return text


def install(qtApplication) -> None:
    """Complete `slicer` so that the module can be imported."""
    layer = {
        "i18n": {"tr": lambda text: text, "translate": lambda context, text: text},
        "parameterNodeWrapper": {"parameterNodeWrapper": parameterNodeWrapper},
        "ScriptedLoadableModule": {
            cls.__name__: cls
            for cls in (
                ScriptedLoadableModule,
                ScriptedLoadableModuleWidget,
                ScriptedLoadableModuleLogic,
                ScriptedLoadableModuleTest,
            )
        },
    }
    for name, content in layer.items():
        module = types.ModuleType(f"slicer.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
        setattr(slicer, name, module)
    slicer.app = Application(qtApplication)
    slicer.modules = types.SimpleNamespace()
