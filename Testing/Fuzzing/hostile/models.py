"""Hostile models, jobs of the worker and saved results. Torch is imported before the children are forked."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import struct
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk

from .images import written
from .mutations import LONG_INTEGERS, changed_bytes, changed_text, changed_value, cut, odd_value
from .runner import Case, Wrong
from .texts import json_text

_TINY = {"channels": [4, 8], "flow_level": 0, "bottleneck_blocks": 1, "dysample_groups": 2, "output": "velocity"}


@functools.cache
def _model() -> tuple[dict, bytes]:
    """(card, weights) of a valid model."""
    from wavemorph.models.weights import ModelCard, save_model
    from wavemorph.network import NetworkConfig, WaveMorphNetwork

    with tempfile.TemporaryDirectory() as folder:
        network = WaveMorphNetwork(NetworkConfig.from_dict(_TINY))
        path = save_model(network, ModelCard("tiny", "a tiny model", {}), folder)
        card = json.loads(path.with_suffix(".json").read_text())
        card.pop("checksum", None)  # an attacker makes a card that fits
        return card, path.read_bytes()


def _model_case(folder: Path, card: bytes, weights: bytes, reason: str) -> Case:
    (folder / "tiny.safetensors").write_bytes(weights)
    (folder / "tiny.json").write_bytes(card)

    def read() -> None:
        from wavemorph.models.weights import load

        model = load(folder / "tiny.safetensors", "cpu")
        import torch

        if not all(bool(torch.isfinite(value).all()) for value in model.network.state_dict().values()):
            raise Wrong("weights that are no numbers")

    return Case(read, reason)


class Cards:
    """Cards of models, beside valid weights."""

    name, title = "model-card", "model cards (.json)"

    def prepare(self) -> None:
        _model()

    def make(self, generator: random.Random, folder: Path) -> Case:
        card, weights = _model()
        if generator.random() < 0.6:  # the configuration is what a network is built from
            config = dict(card["config"])
            for name in generator.sample(sorted(config), generator.choice((1, 1, 2))):
                config[name] = generator.choice(
                    (
                        odd_value(generator),
                        generator.choice((*LONG_INTEGERS, 1e9, 0.5)),
                        [generator.choice(LONG_INTEGERS)] * 4,
                        [4] * generator.choice((2, 3, 40, 5000)),
                        changed_value(generator, config[name]),
                    )
                )
            text = json.dumps({**card, "config": config})
        else:
            text = json_text(generator, card)
        return _model_case(folder, text.encode("utf-8", "surrogatepass"), weights, "")


class Weights:
    """Safetensors files, beside cards that have their checksum."""

    name, title = "safetensors", "weights (.safetensors)"

    def prepare(self) -> None:
        _model()

    def make(self, generator: random.Random, folder: Path) -> Case:
        card, weights = _model()
        (length,) = struct.unpack_from("<Q", weights)
        what, reason = generator.randrange(8), ""
        if what == 0:
            weights = changed_bytes(generator, weights)
        elif what == 1:
            weights, reason = cut(generator, weights), "they are cut short"
        elif what == 2:
            weights = struct.pack("<Q", generator.choice(LONG_INTEGERS) & (2**64 - 1)) + weights[8:]
        elif what == 3:
            weights = _pickled(generator)
            reason = "they are a pickle"
        elif what == 4:
            header = changed_text(generator, weights[8 : 8 + length].decode())
            weights = _with_header(header, weights[8 + length :])
        else:
            header = json.dumps(changed_value(generator, json.loads(weights[8 : 8 + length])))
            weights = _with_header(header, weights[8 + length :])
        if generator.random() < 0.95:
            card = {**card, "sha256": hashlib.sha256(weights).hexdigest()}
        else:
            reason = reason or ("their checksum is another one" if weights != _model()[1] else "")
        return _model_case(folder, json.dumps(card).encode(), weights, reason)


def _with_header(header: str, tensors: bytes) -> bytes:
    content = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content + tensors


def _pickled(generator: random.Random) -> bytes:
    """A pickle that runs a program when it is loaded, as weights of torch may hold one."""
    call = b"cposix\nsystem\n(S'touch pwned'\ntR."
    return generator.choice((call, b"\x80\x02" + call, b"PK\x03\x04" + call, struct.pack("<Q", len(call)) + call))


class Jobs:
    """Lines that the worker reads, in front of a registration that takes no time."""

    name, title = "worker-jobs", "jobs of the worker (lines of JSON)"

    def prepare(self) -> None:
        from wavemorph.registration import pipeline  # noqa: F401  # is imported before the children are forked

        written(".nrrd", "f4")

    def make(self, generator: random.Random, folder: Path) -> Case:
        job = {"job": 1, "folder": str(folder), "outputs": ["warped", "jacobian", "field", "inverse"]}
        job["settings"] = {
            "preset": "Instant",
            "spacing_mm": 2.0,
            "threads": 1,
            "seed": 0,
            "inverse": False,
            "weights": "none",
        }
        if generator.random() < 0.3:
            job["store_spacing_mm"] = 2.0
        for name in ("fixed", "moving"):
            (folder / f"{name}.nrrd").write_bytes(written(".nrrd", "f4"))
        lines = [
            json_text(generator, generator.choice((job, job, job, {"cancel": 1})))
            for _ in range(generator.choice((1, 1, 3)))
        ]
        lines.append(json.dumps({**job, "job": "last", "outputs": []}))
        return Case(functools.partial(_work, "\n".join(line.replace("\n", " ") for line in lines) + "\n", folder))


def _instant(fixed: sitk.Image, moving: sitk.Image, settings: Any, progress: Any, **_: Any) -> Any:
    from wavemorph.io.result import Registration

    progress("Registering", 0.5, "")
    report = {"transform_type": "affine", "settings": settings.to_dict()}
    return Registration(sitk.AffineTransform(3), None, None, None, None, report=report, fixed=fixed, moving=moving)


def _work(lines: str, folder: Path) -> None:
    """Give lines to a worker; Wrong where one of its jobs ended with anything but a result or a sentence."""
    from wavemorph import errors
    from wavemorph.registration import pipeline
    from wavemorph.worker import Worker

    sink = io.StringIO()
    worker = Worker(io.StringIO(), sink)
    with mock.patch.object(pipeline, "register", _instant):  # what is tried is the reading of jobs
        for line in lines.splitlines():
            job = worker._understood(line)
            if job is not None:
                worker._do(job)
    events = [json.loads(line) for line in sink.getvalue().splitlines()]
    kinds = {name for name in dir(errors) if name.endswith(("Error", "Cancelled"))}
    for event in events:
        if event["event"] == "error" and event["kind"] not in kinds:
            raise Wrong(f"the worker failed: {event['message'][:80]}")
        json.dumps(event)
    if not events or events[-1]["event"] != "result" or events[-1]["job"] != "last":
        raise Wrong("the last job, a valid one, was not done")
    if not (folder / "result").is_dir():
        raise Wrong("there is no result")
    (folder / "result").rename(folder / "written")


class Results:
    """Folders of results, which `Registration.load` reads."""

    name, title = "results", "saved results (report.json, .tfm, .nrrd, .npy)"

    def prepare(self) -> None:
        _result()

    def make(self, generator: random.Random, folder: Path) -> Case:
        files = dict(_result())
        reason = ""
        for name in generator.sample(sorted(files), generator.choice((1, 1, 2))):
            content = files[name]
            what = generator.randrange(4)
            if name.endswith(".json") and what != 3:
                content = json_text(generator, json.loads(content)).encode("utf-8", "surrogatepass")
            elif what == 0 and len(content) > 200 and name != "affine.tfm":
                content, reason = (
                    cut(generator, content),
                    reason or ("a file is cut short" if name.endswith((".nrrd", ".npy")) else ""),
                )
            elif what == 1 and name.endswith(".npy"):
                content = generator.choice((content[:10] + changed_bytes(generator, content[10:]), _pickled_array()))
            elif what == 2:
                content = changed_text(generator, content.decode("latin-1")).encode("latin-1", "replace")
            else:
                content = changed_bytes(generator, content)
            files[name] = content
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return Case(functools.partial(_load, folder), reason)


@functools.cache
def _result() -> dict[str, bytes]:
    """The files of a valid result."""
    from wavemorph.io.result import Field, Registration

    lattice = sitk.Image([6, 5, 4], sitk.sitkFloat32)
    vectors = np.zeros((4, 5, 6, 3), np.float32)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    report = {
        "transform_type": "deformable",
        "verdict": {"level": "good", "reasons": []},
        "warnings": [],
        "anatomy": {"a": 1},
    }
    registration = Registration(
        sitk.AffineTransform(3),
        field,
        field,
        field,
        lattice + 1,
        None,
        report,
        lattice,
        lattice,
        Field(vectors, lattice),
    )
    with tempfile.TemporaryDirectory() as folder:
        registration.save(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _pickled_array() -> bytes:
    """A .npy file of objects."""
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    return stream.getvalue()


def _load(folder: Path) -> None:
    from wavemorph.io.result import Registration

    result = Registration.load(folder)
    if not isinstance(result.report, dict):
        raise Wrong("a report that is none")
    if result.displacement is not None or result.is_linear:
        point = result.transform.TransformPoint((1.0, 2.0, 3.0))
        if not np.all(np.isfinite(point)):
            raise Wrong("points that are mapped to no place")
    json.dumps(result.report)
