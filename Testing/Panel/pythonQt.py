"""The modules `qt` and `ctk`, and the qMRML widgets of the panel, on PySide6: for tests only.

In PythonQt every Qt property is an attribute, new attributes on C++ objects are refused, and a slot gets as many of a
signal's arguments as it takes. The behavior of the widgets was observed in Slicer; their drawing differs.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import os
import sys
import types

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "2")

import slicer
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import Property, QObject, Signal

_VIRTUAL = {"sizeHint", "minimumSizeHint"}


def _converted(target, name: str, value):
    current = QObject.property(target, name)
    if isinstance(current, bool):
        return bool(value)
    if type(current) is int:
        if not isinstance(value, float) and not hasattr(value, "__index__"):
            raise AttributeError(f"Property '{name}' of type 'int' does not accept {type(value).__name__}")
        return int(value)
    if isinstance(current, float):
        return float(value)
    return str(value) if isinstance(current, str) else value


def _attribute(name: str) -> property:
    return property(
        lambda self: QObject.property(self, name),
        lambda self, value: QObject.setProperty(self, name, _converted(self, name, value)),
    )


class _BoundSignal:
    def __init__(self, owner, name: str, instance):
        self._owner, self._name, self._instance = owner, name, instance

    def connect(self, slot) -> bool:
        meta, most = self._owner.metaObject(), 0
        for index in range(meta.methodCount()):
            method = meta.method(index)
            if method.methodType() == QtCore.QMetaMethod.Signal and bytes(method.name()).decode() == self._name:
                most = max(most, method.parameterCount())
        kinds = [parameter.kind for parameter in inspect.signature(slot).parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            parameters = [p for p in inspect.signature(slot).parameters.values() if p.kind in positional]
            most = min(most, len(parameters))
        calls = (lambda: slot(), lambda a: slot(a), lambda a, b: slot(a, b))
        self._instance.connect(calls[most])
        return True

    def emit(self, *arguments) -> None:
        self._instance.emit(*arguments)


class _SignalAttribute:
    def __init__(self, name: str, signal):
        self._name, self._signal = name, signal

    def __get__(self, owner, kind=None):
        if owner is None:
            return self._signal
        held = "_signal_" + self._name
        if held not in owner.__dict__:
            instance = self._signal.__get__(owner, kind)
            owner.__dict__.pop(self._name, None)
            owner.__dict__[held] = instance
        return _BoundSignal(owner, self._name, owner.__dict__[held])

    def __set__(self, owner, value):
        if type(value) is not QtCore.SignalInstance:
            raise AttributeError(f"Signal '{self._name}' can not be overwritten")
        owner.__dict__["_signal_" + self._name] = value


def _isCpp(cls) -> bool:
    return cls.__module__.startswith("PySide6") or cls in CUSTOM


def _strictly(self, name: str, value) -> None:
    found = inspect.getattr_static(type(self), name, None)
    if type(found) is Property:
        QObject.setProperty(self, name, _converted(self, name, value))
    elif hasattr(type(found), "__set__"):
        found.__set__(self, value)
    elif not _UiLoader.busy and name[0] != "_" and _isCpp(type(self)):
        raise AttributeError(f"'{name}' does not exist on {type(self).__name__}")
    else:
        self.__dict__[name] = value


def _likePythonQt(cls) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in _VIRTUAL and name != "singleShot" and type(cls.__dict__.get(name)) is not Property:
            setattr(cls, name, _attribute(name))
    for name, value in list(vars(cls).items()):
        if type(value) is Signal:
            setattr(cls, name, _SignalAttribute(name, value))


class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene) -> None:
        for widget in self.findChildren(QtWidgets.QWidget):
            if hasattr(widget, "setMRMLScene"):
                widget.setMRMLScene(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Follows the scene; when its node is removed it selects the next one, as the real one does."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._values = {"nodeTypes": [], "hideChildNodeTypes": [], "noneDisplay": "None"}
        self._values.update(noneEnabled=False, addEnabled=True, removeEnabled=True, renameEnabled=False)
        self._scene, self._observed, self._current, self._ids, self._attributes = None, [], "", [], []
        self._box.activated.connect(lambda index: self.setCurrentNodeID(self._box.itemData(index)))

    def _set(self, name, value) -> None:
        self._values[name] = value
        self._refresh()

    def _made(name, kind):
        return Property(kind, lambda self: self._values[name], lambda self, value: self._set(name, value))

    nodeTypes, hideChildNodeTypes = _made("nodeTypes", "QStringList"), _made("hideChildNodeTypes", "QStringList")
    noneEnabled, addEnabled = _made("noneEnabled", bool), _made("addEnabled", bool)
    removeEnabled, renameEnabled = _made("removeEnabled", bool), _made("renameEnabled", bool)
    noneDisplay = _made("noneDisplay", str)

    def addAttribute(self, nodeType: str, name: str, value: str) -> None:
        self._attributes.append((nodeType, name, value))
        self._refresh()

    def setMRMLScene(self, scene) -> None:
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._scene, self._current, self._ids, self._observed = scene, "", [], []
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
                self._observed.append((scene, scene.AddObserver(event, lambda *_: self._refresh())))
            self._refresh(first=True)

    def _nodes(self) -> list:
        nodes = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        hidden = self._values["hideChildNodeTypes"]
        return [
            node
            for node in nodes
            if any(node.IsA(kind) for kind in self._values["nodeTypes"])
            and not node.GetHideFromEditors()
            and not any(node.IsA(kind) for kind in hidden)
            and all(not node.IsA(kind) or node.GetAttribute(name) == value for kind, name, value in self._attributes)
        ]

    def _refresh(self, first: bool = False) -> None:
        if self._scene is None or self._scene.IsBatchProcessing():
            return
        before, current, nodes = self._ids, self._current, self._nodes()
        self._ids = [node.GetID() for node in nodes]
        if current and current not in self._ids:
            place = before.index(current) if current in before else 0
            after = [i for i in before[place + 1 :] if i in self._ids]
            after += [i for i in reversed(before[:place]) if i in self._ids]
            current = after[0] if after else ""
        elif not current and nodes and not self._values["noneEnabled"] and first:
            current = self._ids[0]
        self._box.blockSignals(True)
        self._box.clear()
        if self._values["noneEnabled"]:
            self._box.addItem(self._values["noneDisplay"], "")
        for node in nodes:
            self._box.addItem(node.GetName(), node.GetID())
        self._box.blockSignals(False)
        self._select(current)

    def _select(self, nodeId: str) -> None:
        changed, self._current = nodeId != self._current, nodeId
        self._box.blockSignals(True)
        self._box.setCurrentIndex(self._box.findData(nodeId))
        self._box.blockSignals(False)
        if changed:
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(nodeId)

    def setCurrentNodeID(self, nodeId: str) -> None:
        self._select(nodeId if nodeId in self._ids else "")

    def setCurrentNode(self, node) -> None:
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def currentNode(self):
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None


class ctkCollapsibleButton(QtWidgets.QWidget):
    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._text, self._folded = "", False

    def _setText(self, text) -> None:
        self._text = text

    def _fold(self, folded) -> None:
        self._folded = bool(folded)
        for child in self.children():
            if child.isWidgetType():
                child.setVisible(not folded)
        self.updateGeometry()

    def showEvent(self, event) -> None:
        self.layout().setContentsMargins(12, 26, 6, 8)
        self._fold(self._folded)
        super().showEvent(event)

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        painter.fillRect(0, 0, self.rect.width(), 22, QtGui.QColor(215, 222, 230))
        painter.drawText(8, 16, ("\u25b8 " if self._folded else "\u25be ") + self._text)
        painter.end()

    text = Property(str, lambda self: self._text, lambda self, value: self._setText(value))
    collapsed = Property(bool, lambda self: self._folded, lambda self, value: self._fold(value))


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.setCheckable(True)

    def _fold(self, folded) -> None:
        self.setChecked(not folded)
        for child in self.children():
            if child.isWidgetType():
                child.setVisible(not folded)

    def showEvent(self, event) -> None:
        self._fold(not self.isChecked())
        super().showEvent(event)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self._fold(value))


class ctkSliderWidget(QtWidgets.QWidget):
    valueChanged = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._values = {"value": 0.0, "minimum": 0.0, "maximum": 99.0, "singleStep": 1.0, "decimals": 2, "suffix": ""}
        self._values["tracking"] = True
        self._bar, self._number = QtWidgets.QSlider(QtCore.Qt.Horizontal, self), QtWidgets.QLabel(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._bar)
        layout.addWidget(self._number)
        self._bar.setMaximum(1000)

    def _set(self, name, value) -> None:
        before = self._values["value"]
        self._values[name] = value
        low, high = self._values["minimum"], self._values["maximum"]
        now = round(min(max(float(self._values["value"]), low), high), self._values["decimals"])
        self._values["value"] = now
        self._bar.setValue(round(1000 * (now - low) / max(high - low, 1e-9)))
        QtWidgets.QLabel.setText(self._number, f"{now:g}{self._values['suffix']}")
        if now != before:
            self.valueChanged.emit(now)

    def setValue(self, value) -> None:
        self._set("value", float(value))

    def _made(name, kind):
        return Property(kind, lambda self: self._values[name], lambda self, value: self._set(name, value))

    value, minimum, maximum = _made("value", float), _made("minimum", float), _made("maximum", float)
    singleStep, decimals, suffix = _made("singleStep", float), _made("decimals", int), _made("suffix", str)
    tracking = _made("tracking", bool)


class qMRMLTableView(QtWidgets.QTableWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None

    def setMRMLScene(self, scene) -> None:
        pass

    def mrmlTableNode(self):
        return self._node

    def setMRMLTableNode(self, node) -> None:
        self._node = node
        self.setRowCount(0)
        self.setColumnCount(0)
        if node is None:
            return
        table = node.GetTable()
        columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
        self.setColumnCount(len(columns))
        self.setRowCount(table.GetNumberOfRows())
        self.setHorizontalHeaderLabels([column.GetName() for column in columns])
        for index, column in enumerate(columns):
            for row in range(table.GetNumberOfRows()):
                self.setItem(row, index, QtWidgets.QTableWidgetItem(column.GetValue(row)))
        self.resizeColumnsToContents()


CUSTOM = (
    qMRMLWidget,
    qMRMLNodeComboBox,
    qMRMLTableView,
    ctkCollapsibleButton,
    ctkCollapsibleGroupBox,
    ctkSliderWidget,
)


class _UiLoader(QtUiTools.QUiLoader):
    busy = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        for cls in CUSTOM:
            self.registerCustomWidget(cls)

    def createWidget(self, *arguments):
        """Keep the Python side of every widget: one that is collected meanwhile would be a plain QWidget ever after."""
        self._made.append(super().createWidget(*arguments))
        return self._made[-1]

    def load(self, *arguments):
        _UiLoader.busy = True
        self._made = []
        gc.disable()
        try:
            loaded = super().load(*arguments)
            loaded._kept = self._made
            return loaded
        finally:
            gc.enable()
            _UiLoader.busy = False


def _keepNoneAlive() -> None:
    """PySide6 6.12 returns None from many methods without a new reference, which ends Python before 3.12 at exit."""
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 10**9


def install():
    """Put `qt` and `ctk` among the modules and the qMRML classes into `slicer`; the running QApplication."""
    if "qt" in sys.modules:
        return QtWidgets.QApplication.instance()
    _keepNoneAlive()
    QtCore.qInstallMessageHandler(lambda *_: None)  # a .ui file names signals with vtk pointers, unknown here
    qt, ctk = types.ModuleType("qt"), types.ModuleType("ctk")
    for module in (QtCore, QtGui, QtWidgets, QtUiTools):
        for name in dir(module):
            if not name.startswith("_"):
                setattr(qt, name, getattr(module, name))
    for name in ("QThread", "QSignalBlocker"):
        delattr(qt, name)
    classes = [c for m in (QtCore, QtGui, QtWidgets) for c in vars(m).values() if isinstance(c, type)]
    for cls in classes:
        if issubclass(cls, QObject):
            _likePythonQt(cls)
            cls.__setattr__ = _strictly
    QObject.name = QObject.objectName = _attribute("objectName")
    QObject.className = lambda self: self.metaObject().className()
    for cls in CUSTOM:
        setattr(slicer if cls.__name__.startswith("qMRML") else ctk, cls.__name__, cls)
        for name, value in list(vars(cls).items()):
            if type(value) is Signal:
                setattr(cls, name, _SignalAttribute(name, value))
    qt.QUiLoader = _UiLoader
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
