"""Trees on the 14 high-level features, by Spark: a random forest, gradient-boosted trees or XGBoost.

    python trees.py --data prepared/hlf --method forest --output forest
    python trees.py --data prepared/hlf --method xgboost --output xgboost --raw prepared/prepared.json
    python trees.py --data other/hlf --load forest --output forest-on-other          # measure what was trained before
    spark-submit --master yarn trees.py --data hdfs-mount/hlf --method gbt --output gbt

--data holds train*/part-* and test*/part-*, in TFRecord or Parquet, wherever tf-spawner reads from. Writes model/, in
Spark's own form, trees.json, which says how it was made, and metrics.json, which evaluate.py takes among its models.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hlf
import metrics
import numpy as np
import spark
from console import errors_told, write
from physics import HIGH_LEVEL

from tfspawner.data import File
from tfspawner.errors import ConfigurationError

TREES = {"forest": 100, "gbt": 20, "xgboost": 100}
SCHEMA = "features array<double>, label double"
Ranges = list[list[float]]  # [lowest, highest] of each feature


def events(session: Any, data: str, part: str, ranges: Ranges | None) -> Any:
    """A data frame of (features: vector, label) of a part's events, a task for each file; GeV, not 0 to 1, by ranges."""
    from pyspark.ml.functions import array_to_vector

    files = [(file.uri, file.size) for file in hlf.files_of(data, part)]
    listed = session.createDataFrame(files, "uri string, size long").repartition(len(files), "uri")

    def read(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            for row in batch.to_pylist():
                for features, encoded in hlf.read_file(File(row["uri"], row["size"])):
                    yield as_arrow(features if ranges is None else unscaled(features, ranges), encoded)

    read_in = listed.mapInArrow(read, SCHEMA).repartition(session.sparkContext.defaultParallelism)
    return read_in.select(array_to_vector("features").alias("features"), "label")


def as_arrow(features: Any, encoded: Any) -> Any:
    import pyarrow as pa

    flat = pa.array(features.astype(np.float64).ravel())
    offsets = pa.array(np.arange(0, features.size + 1, features.shape[1], dtype=np.int32))
    label = pa.array(encoded.argmax(axis=1).astype(np.float64))
    return pa.record_batch([pa.ListArray.from_arrays(offsets, flat), label], names=["features", "label"])


def unscaled(features: Any, ranges: Ranges) -> Any:
    """Features as they were before MinMax scaled them to 0 to 1."""
    low, high = np.array(ranges, np.float64).T
    return low + features * (high - low)


def estimator(method: str, trees: int, tasks: int, seed: int) -> Any:
    """Published: the forest, and XGBoost as it comes; Spark's boosted trees know two classes, so that each has its own."""
    if method == "forest":
        from pyspark.ml.classification import RandomForestClassifier

        return RandomForestClassifier(numTrees=trees, maxDepth=10, seed=seed)
    if method == "gbt":
        from pyspark.ml.classification import GBTClassifier, OneVsRest

        return OneVsRest(classifier=GBTClassifier(maxIter=trees, maxDepth=5, seed=seed), parallelism=3)
    from xgboost.spark import SparkXGBClassifier

    logging.getLogger("XGBoost-PySpark").setLevel(logging.WARNING)
    return SparkXGBClassifier(n_estimators=trees, num_workers=tasks, random_state=seed, verbose=False)


def load(method: str, path: str) -> Any:
    """A model that this script saved."""
    if method == "forest":
        from pyspark.ml.classification import RandomForestClassificationModel

        return RandomForestClassificationModel.load(path)
    if method == "gbt":
        from pyspark.ml.classification import OneVsRestModel

        return OneVsRestModel.load(path)
    from xgboost.spark import SparkXGBClassifierModel

    return SparkXGBClassifierModel.load(path)


def predicted(model: Any, method: str, frame: Any) -> tuple[Any, Any]:
    """(labels, probabilities) of all events of a frame."""
    column = "rawPrediction" if method == "gbt" else "probability"
    from pyspark.ml.functions import vector_to_array

    rows = model.transform(frame).select("label", vector_to_array(column).alias("scores")).toArrow()
    scores = np.array(rows["scores"].combine_chunks().flatten()).reshape(len(rows), -1)
    return np.array(rows["label"]).astype(np.int64), shares(scores) if method == "gbt" else scores


def shares(margins: Any) -> Any:
    """Probabilities of one-vs-rest margins: each boosted model's own, 1 / (1 + exp(-2 margin)), and then made to sum to 1."""
    own = 1 / (1 + np.exp(-2 * margins))
    return own / own.sum(axis=1, keepdims=True)


def importances(model: Any, method: str) -> dict[str, float]:
    """How much each feature contributes, the sum being 1."""
    if method == "forest":
        values = model.featureImportances.toArray()
    elif method == "gbt":
        values = np.mean([one.featureImportances.toArray() for one in model.models], axis=0)
    else:
        gains = model.get_feature_importances(importance_type="total_gain")
        values = np.array([gains.get(f"f{k}", 0.0) for k in range(len(HIGH_LEVEL))])
    return dict(zip(HIGH_LEVEL, (values / values.sum()).round(6).tolist(), strict=True))


def run(args: argparse.Namespace) -> None:
    about = json.loads((args.load / "trees.json").read_text()) if args.load else {"method": args.method}
    method = about["method"]
    ranges = about.get("ranges") if args.load else ranges_of(args.raw)
    session = spark.session(len(os.sched_getaffinity(0)), args.master)
    test = events(session, args.data, "test", ranges)
    if args.load:
        model = load(method, str((args.load / "model").resolve()))
    else:
        model, about = trained(session, args, ranges)
        args.output.mkdir(parents=True, exist_ok=True)
        model.write().overwrite().save(str((args.output / "model").resolve()))
    began = time.perf_counter()
    labels, probabilities = predicted(model, method, test)
    measures = metrics.measured(labels, probabilities)
    timed = {"evaluation_s": round(time.perf_counter() - began, 3)}
    result = {"model": method, **about, **timed, "importances": importances(model, method), **measures}
    args.output.mkdir(parents=True, exist_ok=True)
    write(args.output / "trees.json", json.dumps(about, indent=1))
    write(args.output / "metrics.json", json.dumps(result, indent=1))
    areas = ", ".join(f"{name} {area:.4f}" for name, area in zip(metrics.CLASSES, measures["auc"], strict=True))
    print(f"{method}: accuracy {measures['accuracy']:.4f} on {measures['events']:,} events; AUC {areas}; {args.output}")


def trained(session: Any, args: argparse.Namespace, ranges: Ranges | None) -> tuple[Any, dict[str, Any]]:
    train = events(session, args.data, "train", ranges).cache()
    number, tasks = train.count(), session.sparkContext.defaultParallelism
    trees = args.trees or TREES[args.method]
    began = time.perf_counter()
    model = estimator(args.method, trees, tasks, args.seed).fit(train)
    seconds = time.perf_counter() - began
    train.unpersist()
    about = {
        "method": args.method,
        "trees": trees,
        "seed": args.seed,
        "ranges": ranges,
        "trained_events": number,
        "workers": tasks,
    }
    return model, {**about, "time_s": round(seconds, 3), "events_per_s": round(number / seconds, 1)}


def ranges_of(path: Path | None) -> Ranges | None:
    """The lowest and highest value of each feature, from prepared.json."""
    if path is None:
        return None
    ranges = json.loads(path.read_text())["ranges"]
    return [ranges[name] for name in HIGH_LEVEL]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of train/ and test/ with HLF records")
    parser.add_argument("--method", choices=TREES, default="forest")
    parser.add_argument("--trees", type=int, help="of the forest, or rounds of boosting; else 100, of gbt 20")
    parser.add_argument("--load", type=Path, metavar="FOLDER", help="measure the model there in place of training one")
    parser.add_argument(
        "--raw", type=Path, metavar="prepared.json", help="undo the scaling, by the ranges of that file"
    )
    parser.add_argument("--master", help="Spark's, such as spark://HOST:7077; else this machine, or spark-submit's")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, default=Path("trees"))
    args = parser.parse_args(argv)
    with errors_told():
        if args.trees is not None and args.trees < 1:
            raise ConfigurationError(f"--trees is {args.trees}; it takes 1 or more")
        if args.load and not (args.load / "trees.json").exists():
            raise ConfigurationError(
                f"--load {args.load}: there is no trees.json", hint="give the --output of a training"
            )
        run(args)


if __name__ == "__main__":
    main()
