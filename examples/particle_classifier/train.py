"""Trains a classifier of collision events, in one process or on any number of workers.

    python train.py --data prepared/hlf --model hlf
    tf-spawner run train.py -w 2 -- --data $PWD/prepared/small --model inclusive --fast
    tf-spawner run train.py -w 8 --on kubernetes --env-file s3.env -- --data s3://bucket/small --model inclusive

Plain Keras: the strategy reads TF_CONFIG. Each worker has a batch of --batch-size events at every step, and the
learning rate grows with the number of workers. All workers print the same losses; each saves model.keras,
history.json and tensorboard/ into a folder of its own, $TFSPAWNER_OUTPUT or --output.

A restarted job goes on after its last whole epoch, from $TFSPAWNER_CHECKPOINTS or --checkpoints.

--fast leaves out the padding, puts events of like numbers of particles into a batch, and takes another GRU of the same
results. What comes out is a Keras model of plain layers and as many parameters, which wants its padding to be zero.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")  # where there are such: a sixth less time

import batches
import models
import tensorflow as tf
from fast_gru import FastGRU
from models import keras, load_model
from reporting import Checkpoints, Reports, Validation

from tfspawner.data.sharding import worker_from
from tfspawner.errors import ConfigurationError, SpawnerError

# A worker's learning rate until an epoch, counted from 0.
SCHEDULES = {"published": ((3, 0.0005), (5, 0.0002), (None, 0.0001)), "constant": ((None, 0.001),)}
STEPS_AT_ONCE = 8  # between two looks of Python at a --fast training
load = load_model


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of train/ and test/: a path, s3://… or root://…")
    parser.add_argument("--model", choices=models.PARAMETERS, default="hlf")
    parser.add_argument("--epochs", type=positive, default=6)
    parser.add_argument("--batch-size", type=positive, default=128, help="events of each worker at a step")
    parser.add_argument("--steps-per-epoch", type=positive, help="else as many as all training events take")
    parser.add_argument(
        "--schedule", choices=SCHEDULES, default="published",
        help="learning rates: 0.0005 for three epochs, 0.0002 for two, then 0.0001; or 0.001 throughout",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=1.0, help="multiplies the learning rates")
    parser.add_argument(
        "--fast", action="store_true",
        help="no padding for sequence, inclusive and lstm; a quicker GRU for the first two; more steps at once for all",
    )  # fmt: skip
    parser.add_argument("--xla", action="store_true", help="compile the whole step by XLA; on one worker")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("TFSPAWNER_OUTPUT", ".")))
    parser.add_argument(
        "--checkpoints", default=os.environ.get("TFSPAWNER_CHECKPOINTS"), help="a folder that all share"
    )
    return parser.parse_args(argv)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def learning_rate(schedule: str, epoch: int) -> float:
    """A worker's rate in an epoch, counted from 0."""
    return next(rate for until, rate in SCHEDULES[schedule] if until is None or epoch < until)


def model_for(args: argparse.Namespace) -> Any:
    masked = args.fast and models.can_mask(args.model)
    model = models.build(args.model, masked=masked, gru=FastGRU if args.fast else None)
    return models.compiled(model, 0.001, jit_compile=args.xla, steps_per_execution=STEPS_AT_ONCE if args.fast else 1)


def plan(args: argparse.Namespace, workers: int) -> dict[str, int]:
    """How many events there are, and how many steps an epoch takes. Raises ConfigurationError for too few."""
    events, counted = batches.count(args.data, "train")
    at_once = args.batch_size * workers
    steps = args.steps_per_epoch or events // at_once
    if not steps:
        raise ConfigurationError(
            f"{args.data} has {events} events to train on, and a step takes {at_once}", hint="a smaller --batch-size"
        )
    print(
        f"{'' if counted else 'about '}{events:,} events to train on: {steps} steps an epoch of {workers} x {args.batch_size}"
        + (f", which leaves out {events - steps * at_once} of them, others each time" if not args.steps_per_epoch else ""),
        flush=True,
    )  # fmt: skip
    return {"events": events, "steps_per_epoch": steps}


def train(args: argparse.Namespace) -> None:
    number, several = worker_from(os.environ)
    if args.xla and several > 1:
        raise ConfigurationError("--xla is for one worker", hint="--fast uses XLA on any number of them")
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several > 1 else tf.distribute.get_strategy()
    workers = strategy.num_replicas_in_sync
    planned = plan(args, workers)
    keras.utils.set_random_seed(args.seed)
    with strategy.scope():
        model = model_for(args)
        checkpoints = Checkpoints(args.checkpoints, model, is_first=number == 0)
        epochs = checkpoints.restored()
    history = {
        "model": model.name, "parameters": model.count_params(), "workers": workers, "batch_size": args.batch_size,
        **planned, "fast": args.fast, "xla": args.xla, "schedule": args.schedule, "rate": args.rate, "seed": args.seed,
        "keras": keras.__name__.partition(".")[0], "epochs": epochs,
    }  # fmt: skip
    if epochs:
        print(f"goes on after epoch {len(epochs)} of {args.epochs}", flush=True)
    data = training_data(args, model, strategy, done=len(epochs), **planned)
    args.output.mkdir(parents=True, exist_ok=True)
    with strategy.scope():
        validation = Validation(model, batches.labelled(args.data, model.name, args.batch_size, share=True))
        model.fit(
            data, initial_epoch=len(epochs), epochs=args.epochs, steps_per_epoch=planned["steps_per_epoch"], verbose=2, shuffle=False,
            callbacks=[
                keras.callbacks.LearningRateScheduler(lambda n: learning_rate(args.schedule, n) * workers * args.rate),
                Reports(history, args.output, validation, checkpoints),
            ],
        )  # fmt: skip
    save(model, args)


def training_data(
    args: argparse.Namespace, model: Any, strategy: Any, *, done: int, events: int, steps_per_epoch: int
) -> Any:
    """What fit takes: this worker's batches, from the pass that comes after the epochs that are done."""
    workers = strategy.num_replicas_in_sync
    passes = round(done * steps_per_epoch * args.batch_size * workers / events)

    def data(_: Any = None) -> tf.data.Dataset:
        return batches.training(args.data, model.name, args.batch_size, seed=args.seed, first_pass=passes)

    return strategy.distribute_datasets_from_function(data) if workers > 1 else data()


def save(model: Any, args: argparse.Namespace) -> None:
    """Saves the same weights in a model of Keras' own layers, under its name when it is whole."""
    plain = models.compiled(models.build(args.model, masked=models.kind_of(model.name)[1]), 0.001)
    plain.set_weights(model.get_weights())
    plain.optimizer.build(plain.trainable_variables)
    plain.save(args.output / "model.part.keras")
    os.replace(args.output / "model.part.keras", args.output / "model.keras")


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    try:
        train(args)
    except SpawnerError as error:
        print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
