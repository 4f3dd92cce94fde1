"""Free memory by the system, a container or a limit of the process, and errors that mean that memory ran out."""

from __future__ import annotations

import sys

import pytest
import torch
from wavemorph.errors import is_out_of_memory
from wavemorph.system import machine

CPU = torch.device("cpu")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def group(folder, limit, used, cached=0, version=2):
    """A control group's files as the kernel shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 77\n{names[2]} {cached}\nactive_file 5\n")


def named(tmp_path, *lines):
    own = tmp_path / "own"
    own.write_text("".join(f"{line}\n" for line in lines))
    return own


def test_a_group_without_a_limit_sets_no_bound(tmp_path):
    root = tmp_path / "cgroup"
    group(root / "user", "max", 500)
    assert machine._free_in_groups(named(tmp_path, "0::/user"), root) is None


def test_a_limit_leaves_what_is_not_used_and_the_cache_that_can_be_dropped(tmp_path):
    root = tmp_path / "cgroup"
    group(root / "user" / "job", 8000, 3000, cached=1000)
    assert machine._free_in_groups(named(tmp_path, "0::/user/job"), root) == 6000


def test_the_tightest_of_the_groups_above_counts(tmp_path):
    root = tmp_path / "cgroup"
    group(root / "user" / "job", 8000, 3000)
    group(root / "user", 9000, 7000)
    group(root / "other", 10, 9)
    assert machine._free_in_groups(named(tmp_path, "0::/user/job"), root) == 2000


def test_a_container_finds_its_limit_at_the_root_whatever_its_path(tmp_path):
    root = tmp_path / "cgroup"
    group(root, 8000, 3000)
    for path in ("/", "/kubepods/pod7/abc", "/../../abc"):
        assert machine._free_in_groups(named(tmp_path, f"0::{path}"), root) == 5000


def test_the_first_version_of_groups_is_read_too(tmp_path):
    root = tmp_path / "cgroup"
    group(root / "memory" / "docker" / "abc", 4000, 3500, cached=200, version=1)
    group(root / "cpu" / "docker" / "abc", 1, 1, version=1)
    own = named(tmp_path, "9:cpu,cpuacct:/docker/abc", "4:memory:/docker/abc", "0::/")
    assert machine._free_in_groups(own, root) == 700


def test_where_nothing_can_be_read_no_limit_is_known(tmp_path):
    assert machine._free_in_groups(tmp_path / "absent", tmp_path) is None
    assert machine._free_in_system(tmp_path / "absent") is None


@ON_LINUX
def test_free_memory_is_at_most_what_a_group_leaves(monkeypatch):
    monkeypatch.setattr(machine, "_free_in_groups", lambda: 12345)
    assert machine.free_memory(CPU) == 12345
    monkeypatch.setattr(machine, "_free_in_groups", lambda: -5)  # over its limit
    assert machine.free_memory(CPU) == 0


@ON_LINUX
def test_free_memory_is_at_most_what_a_limit_of_the_process_leaves():
    import resource  # absent on Windows

    limit, before = 2**36, resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        free, left = machine.free_memory(CPU), machine._free_address_space()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert limit - 2**33 < left < limit
    assert 0 < free <= left


def test_failed_allocations_are_recognized_and_other_errors_are_not():
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        torch.empty(2**50)  # with the message of this system's torch
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    for message in (
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "itkImportImageContainer.hxx:179:\nFailed to allocate memory for image.",
        "std::bad_alloc",
    ):
        assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match that of b (4)"))


@pytest.mark.parametrize(
    ("capabilities", "device", "expected"),
    [
        ({"avx512_bf16": True}, "cpu", True),
        ({"amx_bf16": True, "avx512_bf16": False}, "cpu", True),
        ({"avx2": True}, "cpu", False),
        ({"avx512_bf16": True}, "meta", False),
        (None, "cpu", False),
    ],
)
def test_bfloat16_is_used_where_the_cpu_is_known_to_multiply_in_it(monkeypatch, capabilities, device, expected):
    if capabilities is None:  # an older torch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert machine.computes_in_bfloat16(torch.device(device)) is expected
