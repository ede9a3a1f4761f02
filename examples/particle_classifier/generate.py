"""Generates QCD, tt and W+jets events with a lepton at 13 TeV and writes them as ROOT files laid out as Delphes'.

    python generate.py --events 1000 --output raw                       1000 events of each class, on all cores
    tf-spawner run generate.py -w 4 -- --events 100000 --shards 40      the same by four workers, shard by shard

A shard holds the same events whatever the number of processes or workers: its seeds are made of --seed, the process
and the shard's number. Beside each file lies one with .json: what it was made with, its cross-section, weights and
the filter's efficiency. Shards that are already there, made with the same arguments, are kept.
"""

import argparse
import hashlib
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import delphes
import numpy as np
from collisions import BEAMS, MINIMUM_BIAS, PROCESSES, Collision, LeptonFilter, Source, minimum_bias, numbered
from detector import simulate
from pileup import PileUp, displaced

BATCH = 250  # events simulated, and written, together


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One shard of one process."""

    process: str
    shard: int
    shards: int
    events: int
    seed: int
    redecays: int
    lepton_filter: LeptonFilter
    pile_up: float
    pool: int
    mantissa_bits: int
    compression: str

    @property
    def name(self) -> str:
        return self.process if self.shards == 1 else f"{self.process}-{self.shard:05}-of-{self.shards:05}"

    @property
    def settings(self) -> tuple[str, ...]:
        return BEAMS + PROCESSES[self.process].settings

    def entropy(self, purpose: str) -> np.random.SeedSequence:
        return entropy(f"{self.process}/{self.shard}/{purpose}", self.seed)


def entropy(name: str, seed: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, *hashlib.sha256(name.encode()).digest()])


def pythia_seed(sequence: np.random.SeedSequence) -> int:
    """Pythia takes 1 to 900,000,000."""
    return int(sequence.generate_state(1)[0] % 900_000_000) + 1


def simulated(collisions: list[Collision], pile_up: PileUp, rng: np.random.Generator) -> dict[str, delphes.Objects]:
    events = len(collisions)
    hadrons = np.concatenate([numbered(collision.hadrons, i) for i, collision in enumerate(collisions)])
    particles = np.concatenate([numbered(collision.particles, i) for i, collision in enumerate(collisions)])
    particles = pile_up.overlay(displaced(particles, events, rng), events, rng)
    weights = np.array([collision.weight for collision in collisions])
    event = delphes.Objects(counts=np.ones(events, dtype=int), leaves={"Weight": weights})
    return {"Event": event} | simulate(particles, hadrons, events, rng)


def batches(job: Job, source: Source, pool: np.ndarray) -> Iterator[dict[str, delphes.Objects]]:
    rng = np.random.default_rng(job.entropy("detector"))
    collisions = itertools.islice(source, job.events)
    while batch := list(itertools.islice(collisions, BATCH)):
        yield simulated(batch, PileUp(pool=pool, mean=job.pile_up), rng)


def generate(job: Job, pool: np.ndarray, output: Path) -> str:
    """Writes a shard and its JSON, the JSON last; gives one line about it."""
    path, record = output / f"{job.name}.root", output / f"{job.name}.json"
    if made_before(job, path, record):
        return f"{path}: is there"
    began = time.perf_counter()
    source = Source(
        process=PROCESSES[job.process], lepton_filter=job.lepton_filter, seed=pythia_seed(job.entropy("pythia"))
    )
    delphes.write(path, batches(job, source, pool), mantissa_bits=job.mantissa_bits, compression=job.compression)
    facts = account(job, source) | {"seconds": round(time.perf_counter() - began, 1), "bytes": path.stat().st_size}
    write_json(record, facts)
    return f"{path}: {source.kept} events of {source.tried} in {facts['seconds']} s, {facts['bytes'] / 1e6:.1f} MB"


def made_with(job: Job) -> dict:
    """What decides a shard's events, as JSON holds it."""
    process = {"settings": job.settings, "minimum_bias_settings": BEAMS + MINIMUM_BIAS}
    seeds = {"pythia_seed": pythia_seed(job.entropy("pythia")), "pool_seed": pythia_seed(entropy("pool", job.seed))}
    versions = {name: version(name) for name in ("pythia8mc", "fastjet", "numpy", "awkward", "uproot")}
    versions["python"] = platform.python_version()
    return json.loads(json.dumps(asdict(job) | process | seeds | {"versions": versions}))


def made_before(job: Job, path: Path, record: Path) -> bool:
    if not (path.exists() and record.exists()):
        return False
    facts = json.loads(record.read_text())
    return facts["made_with"] == made_with(job) and facts["bytes"] == path.stat().st_size


def account(job: Job, source: Source) -> dict:
    """The cross-section times the filter's efficiency, over the sum of weights, is what an event of weight 1 stands
    for."""
    cross_section, error = source.cross_section_mb()
    return {
        "process": job.process,
        "made_with": made_with(job),
        "tried": source.tried,
        "kept": source.kept,
        "sum_of_weights": source.weights,
        "sum_of_squared_weights": source.squared_weights,
        "filter_efficiency": source.weights / source.tried,
        "cross_section_mb": cross_section,
        "cross_section_error_mb": error,
    }


def write_json(path: Path, facts: dict) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(facts, indent=1) + "\n")
    partial.replace(path)


def jobs(args: argparse.Namespace) -> list[Job]:
    """All shards of all processes asked for, in an order that is the same everywhere."""
    common = {
        "shards": args.shards,
        "seed": args.seed,
        "lepton_filter": LeptonFilter(pt_min=args.lepton_pt, isolation_max=args.isolation),
        "pile_up": args.pile_up,
        "pool": args.pool,
        "mantissa_bits": args.mantissa_bits,
        "compression": args.compression,
    }
    processes = list(PROCESSES) if args.process == "all" else [args.process]
    return [
        Job(process=process, shard=shard, events=events, redecays=PROCESSES[process].redecays, **common)
        for shard, events in enumerate(shares(args.events, args.shards))
        for process in processes
    ]


def shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def place_among_workers(tf_config: str) -> tuple[int, int]:
    """This process's number and how many there are, by TF_CONFIG: (0, 1) without one."""
    config = json.loads(tf_config)
    chiefs, workers = (len(config.get("cluster", {}).get(role, [])) for role in ("chief", "worker"))
    task = config.get("task", {"type": "worker", "index": 0})
    return task["index"] + (chiefs if task["type"] == "worker" else 0), max(chiefs + workers, 1)


def run(mine: list[Job], args: argparse.Namespace, processes: int) -> None:
    pool = minimum_bias(args.pool, pythia_seed(entropy("pool", args.seed)))
    if processes == 1:
        for job in mine:
            print(generate(job, pool, args.output), flush=True)
        return
    with ProcessPoolExecutor(processes) as executor:
        for done in [executor.submit(generate, job, pool, args.output) for job in mine]:
            print(done.result(), flush=True)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(os.environ.get("TFSPAWNER_OUTPUT", "."))
    parser.add_argument("--process", choices=[*PROCESSES, "all"], default="all")
    parser.add_argument("--events", type=positive, default=1000, help="of each process, all shards together")
    parser.add_argument("--shards", type=positive, default=4, help="files of each process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=here, help="folder (default: $TFSPAWNER_OUTPUT, or this one)")
    parser.add_argument("--jobs", type=positive, help="processes (default: one per core; 1 for one of several workers)")
    parser.add_argument("--lepton-pt", type=float, default=20.0, help="the filter's threshold in GeV")
    parser.add_argument("--isolation", type=float, help="the filter's greatest relative isolation (default: any)")
    parser.add_argument("--pile-up", type=float, default=9.0, help="mean number of other collisions per event")
    parser.add_argument("--pool", type=positive, default=500, help="collisions that pile-up is drawn from")
    parser.add_argument("--mantissa-bits", type=int, choices=range(6, 24), default=23, metavar="6..23")
    parser.add_argument("--compression", choices=delphes.COMPRESSIONS, default="zlib")
    args = parser.parse_args(argv)
    if args.shards > args.events:
        parser.error(f"--shards {args.shards} is more than --events {args.events}: take fewer shards")
    return args


def main() -> None:
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    number, workers = place_among_workers(os.environ.get("TF_CONFIG", "{}"))
    if mine := jobs(args)[number::workers]:
        run(mine, args, min(len(mine), args.jobs or (os.cpu_count() if workers == 1 else 1)))
    else:
        print(f"no shard for worker {number} of {workers}: take more --shards", file=sys.stderr)


if __name__ == "__main__":
    main()
