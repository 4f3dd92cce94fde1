"""Opens the clusters that work on many subjects: processes of this machine, a running scheduler, jobs of Slurm."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import ClusterError, SettingsError

try:
    import dask
    import distributed
except ImportError as error:
    raise ClusterError("Work on many subjects needs Dask; install it: pip install 'wavemorph[cohort]'.") from error

from ...system.private_folders import private_folder
from .dask_runner import DaskRunner, Progress
from .plan import PEAK_BYTES, Plan, plan_workers, this_machine
from .task import versions

_SECONDS_TO_ANSWER = 10  # of a scheduler in the same network; Dask's own limit is 30
_SECONDS_TO_HAVE_WORKERS = 30
# A worker holds little of Dask's own data: neither spilled nor paused, and the system ends it where memory runs out.
# Dask looks at itself 50 to 100 times a second, which took 3.5 % of a core in each process; now 0.4 %, and 1 % here.
_CONFIGURATION = {
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": 1,  # and once more alone
    "distributed.scheduler.worker-saturation": 1.0,  # jobs are long: a worker needs no queue
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.large-graph-warning-threshold": "1GB",
}
_SLURM_NUMBERS, _SLURM_LISTS = ("cores", "processes"), ("job_extra_directives", "job_script_prologue")
_SLURM_KEYS = (
    *_SLURM_NUMBERS,
    *("memory", "walltime", "queue", "account", "interface", "python", "local_directory", "log_directory"),
    *_SLURM_LISTS,
)


@contextlib.contextmanager
def local_runner(
    workers: int | None = None, device: str = "auto", progress: Progress | None = None
) -> Iterator[DaskRunner]:
    """A runner on processes of this machine, which end with the context. See `plan_workers`.

    A script that calls this needs `if __name__ == "__main__":`, because each process imports it.

    Raises:
        SettingsError: more workers than GPUs.
        ClusterError: the processes cannot be started.
    """
    plan = plan_workers(this_machine(), workers, device)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        stack.enter_context(dask.config.set(_CONFIGURATION))
        stack.enter_context(_quiet())
        cluster = stack.enter_context(_local_cluster(plan, folder))
        client = stack.enter_context(distributed.Client(cluster))
        client.register_plugin(_EndedByClient())
        words = f"{plan.workers} worker{'s' * (plan.workers > 1)} of {plan.threads} thread{'s' * (plan.threads > 1)}"
        yield DaskRunner(
            client,
            progress,
            threads=plan.threads,
            gpus=plan.gpus,
            description=f"{words} on this machine{_dashboard(client)}",
        )


@contextlib.contextmanager
def tcp_runner(address: str, progress: Progress | None = None) -> Iterator[DaskRunner]:
    """A runner on the workers of a Dask scheduler that runs. They stay.

    Raises ClusterError where it does not answer, has no worker, or where a worker has other versions.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        client = stack.enter_context(_connected(address))
        _check_versions(client, address)
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        words = f"{count} worker{'s' * (count > 1)} of {address}"
        yield DaskRunner(client, progress, description=words + _dashboard(client))


@contextlib.contextmanager
def slurm_runner(keys: Sequence[str], workers: int, progress: Progress | None = None) -> Iterator[DaskRunner]:
    """A runner on jobs of Slurm, which are canceled after the context.

    keys: "cores=4", "memory=8GB", ... of dask-jobqueue's SLURMCluster; a job has 1 core and the memory of one
    registration where they say nothing else. Those that are lists may be given several times.

    Raises:
        SettingsError: a key is unknown or has no value.
        ClusterError: dask-jobqueue is not installed, or Slurm refuses the jobs.
    """
    job = {"cores": 1, "processes": 1, "memory": f"{1.2 * PEAK_BYTES / 1e9:.1f}GB", **slurm_job(keys)}
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ClusterError("Slurm needs dask-jobqueue; install it: pip install 'wavemorph[cohort]'.") from error
    threads = max(1, job["cores"] // job["processes"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIGURATION))
        stack.enter_context(_quiet())
        try:
            cluster = stack.enter_context(
                SLURMCluster(
                    worker_extra_args=["--nthreads", "1"], scheduler_options={"dashboard_address": ":0"}, **job
                )
            )
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise ClusterError(f"Dask cannot use Slurm ({_reason(error)}); check the keys.") from error
        _check_job(cluster.job_script())
        cluster.scale(n=workers)
        client = stack.enter_context(distributed.Client(cluster))
        words = f"{workers} worker{'s' * (workers > 1)} asked from Slurm"
        yield DaskRunner(client, progress, threads=threads, description=words + _dashboard(client))


def _check_job(script: str) -> None:
    """Ask Slurm whether it would take a job: Dask waits for one that it refuses. Raises ClusterError."""
    try:
        answer = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ClusterError("Slurm's command sbatch is not here; run this where jobs are submitted.") from error
    if answer.returncode:
        raise ClusterError(f"Slurm does not take the jobs ({' '.join(answer.stderr.split())[:200]}); check the keys.")


def slurm_job(keys: Sequence[str]) -> dict[str, Any]:
    """The keywords of SLURMCluster. Raises SettingsError where a key is unknown, or its value no number."""
    job: dict[str, Any] = {}
    for each in keys:
        name, _, value = each.partition("=")
        if name not in _SLURM_KEYS or not value:
            raise SettingsError(f"Slurm has no {each!r}; give KEY=VALUE with one of {', '.join(_SLURM_KEYS)}.")
        if name in _SLURM_LISTS:
            job.setdefault(name, []).append(value)
        elif name in _SLURM_NUMBERS:
            if not value.isdigit() or int(value) < 1:
                raise SettingsError(
                    f"The value of {name} for Slurm must be a whole number of 1 or more, not {value!r}."
                )
            job[name] = int(value)
        else:
            job[name] = value
    return job


class _EndedByClient(distributed.WorkerPlugin):
    """A Ctrl-C of the terminal goes to all processes; workers leave it to the client, which ends them."""

    def setup(self, worker: distributed.Worker) -> None:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _local_cluster(plan: Plan, folder: Path) -> Iterator[distributed.LocalCluster]:
    try:
        cluster = distributed.LocalCluster(
            n_workers=plan.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            memory_limit=plan.bytes_each,
            local_directory=str(folder),
            dashboard_address="127.0.0.1:0",  # the default listens to all hosts
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            security=True if importlib.util.find_spec("cryptography") else None,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise ClusterError(
            f"The {plan.workers} worker processes could not be started ({_reason(error)}); give fewer --workers, and "
            'in a script of your own put the call under `if __name__ == "__main__":`.'
        ) from error
    with cluster:
        yield cluster


@contextlib.contextmanager
def _connected(address: str) -> Iterator[distributed.Client]:
    try:
        client = distributed.Client(address, timeout=_SECONDS_TO_ANSWER)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address!r} within {_SECONDS_TO_ANSWER} s; start one with `dask scheduler`, "
            "and give the address that it prints, such as tcp://10.0.0.1:8786."
        ) from error
    with client:
        yield client


def _check_versions(client: distributed.Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_SECONDS_TO_HAVE_WORKERS)
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"The Dask scheduler {address} has no worker; start some with `dask worker {address} --nthreads 1`."
        ) from error
    here = versions()
    for worker, there in client.run(versions, on_error="return").items():
        if not isinstance(there, dict):
            raise ClusterError(
                f"The Dask worker {worker} cannot use WaveMorph ({_reason(there)}); install the same version there."
            )
        for name, version in here.items():
            if there[name] != version:
                raise ClusterError(
                    f"The Dask worker {worker} has {name} {there[name]}, and this program {version}; install the same "
                    "version in both places."
                )


def _dashboard(client: distributed.Client) -> str:
    """Where Dask shows its work, as the end of a sentence; nothing where it does not."""
    link = client.dashboard_link if importlib.util.find_spec("bokeh") else ""
    return f"; dashboard: {link}" if link else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's log stays off the terminal: what the user must know is in the table and in messages."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
