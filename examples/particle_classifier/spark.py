"""The Spark session of tune.py, trees.py and spark_train.py, whose tasks find tf-spawner and these scripts."""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from engines import spark_session

import tfspawner

HERE = Path(__file__).parent
CODE = "particle_classifier_code.zip"


def session(tasks: int, master: str | None = None, tries: int = 1) -> Any:
    """The session that spark-submit made, one at `master`, or else one on this machine of so many tasks at once.

    tries: how often a barrier stage is started at most. Raises ConfigurationError where Spark does not start.
    """
    words = (
        f"--driver-memory 4g --conf spark.stage.maxConsecutiveAttempts={tries} --conf spark.task.maxFailures={tries}"
    )
    os.environ.setdefault("PYSPARK_SUBMIT_ARGS", f"{words} pyspark-shell")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # by spark-submit, which knows the master
    spark = spark_session(master or (None if submitted else f"local[{tasks},{tries}]"))
    ship(spark.sparkContext)
    return spark


def ship(context: Any) -> None:
    """Gives the tasks the package tfspawner and this folder's modules, as a file on their sys.path, once."""
    if any(path.endswith(CODE) for path in context.listFiles):
        return
    folder = Path(tempfile.mkdtemp(prefix="particle-classifier-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # tasks fetch it at any time
    (folder / CODE).write_bytes(packed(HERE))
    context.addPyFile(str(folder / CODE))


def packed(folder: Path) -> bytes:
    """A zip file of a folder's Python modules and of the package tfspawner."""
    content = io.BytesIO()
    package = Path(tfspawner.__file__).parent
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("*.py")):
            archive.write(path, path.name)
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, Path(package.name) / path.relative_to(package))
    return content.getvalue()
