"""A run's folder, runs/<job>: spells each path in it once, and finds the folder by a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfspawner.base.names import ID_FILE
from tfspawner.errors import ConfigurationError

SPEC_FILE, MANIFESTS_FILE, REPORT_FILE, EVENTS_FILE = "spec.json", "manifests.yaml", "report.json", "events.jsonl"
SWEEP_FILE, LOCK_FILE, BASES_FILE = "sweep.json", ".lock", ".bases"
PAGE_FILE, SWEEP_PAGE_FILE = "report.html", "sweep.html"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths in a run's folder, or in a sweep's, whether or not the files exist."""

    path: Path

    @property
    def spec(self) -> Path:
        """The job's options; missing if the run was fetched on another machine."""
        return self.path / SPEC_FILE

    @property
    def manifests(self) -> Path:
        """What was created in the cluster, secrets masked."""
        return self.path / MANIFESTS_FILE

    @property
    def report(self) -> Path:
        """How the job ended; written last."""
        return self.path / REPORT_FILE

    @property
    def events(self) -> Path:
        """What happened when, one event a line."""
        return self.path / EVENTS_FILE

    @property
    def page(self) -> Path:
        """The run as a page for a browser."""
        return self.path / PAGE_FILE

    @property
    def sweep(self) -> Path:
        """A sweep's points, and how far each has come."""
        return self.path / SWEEP_FILE

    @property
    def sweep_page(self) -> Path:
        """A sweep's points side by side, as a page for a browser."""
        return self.path / SWEEP_PAGE_FILE

    @property
    def id(self) -> Path:
        """The id of the job whose run this is."""
        return self.path / ID_FILE

    @property
    def lock(self) -> Path:
        """Held by the process that writes here."""
        return self.path / LOCK_FILE

    @property
    def logs(self) -> Path:
        """A log for each replica."""
        return self.path / "logs"

    @property
    def bases(self) -> Path:
        """Where in each replica's log the output of its last pod begins."""
        return self.logs / BASES_FILE

    @property
    def files(self) -> Path:
        """What the replicas left, a folder for each."""
        return self.path / "files"

    def log(self, replica: str) -> Path:
        """A replica's whole output."""
        return self.logs / f"{replica}.log"


def find_run(name: str, out: Path, *, with_files: bool = False) -> RunFolder | None:
    """The run with this path, or of the job with this name in `out`; None if there is neither."""
    runs = (RunFolder(Path(name)), RunFolder(out / name))
    return next((run for run in runs if (run.files if with_files else run.path).is_dir()), None)


def run_folder(name: str, out: Path) -> Path:
    """The folder that find_run() finds. Raises ConfigurationError if there is none."""
    run = find_run(name, out)
    if run is None:
        raise ConfigurationError(
            f"there is no run {name!r}, neither here nor in {out}", hint="give its folder, or --out"
        )
    return run.path
