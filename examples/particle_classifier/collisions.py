"""Proton collisions at 13 TeV by Pythia 8: stable particles of events with a lepton, as flat numpy arrays.

Units: GeV for momenta and energies, mm for positions (c = 1).

QCD events hold a hard isolated lepton so rarely that each one is used several times: hadrons with a b or c quark are
kept whole at first, and then decayed `redecays` times, each time anew. The first decay that passes the lepton filter
is taken, and the event's weight is the fraction of its decays that pass; so weighted sums are unbiased, and no two
events share a collision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pythia8mc

BOTTOM = (511, 521, 531, 541, 5122, 5132, 5232, 5332)
CHARM = (411, 421, 431, 4122, 4132, 4232, 4332)
HEAVY = BOTTOM + CHARM
LEPTONS = (11, 13)

BEAMS = ("Beams:eCM = 13000", "ParticleDecays:limitTau0 = on", "ParticleDecays:tau0Max = 10")
MINIMUM_BIAS = ("SoftQCD:inelastic = on",)

PARTICLE = np.dtype(
    [(name, np.int32) for name in ("event", "pid", "charge")]
    + [(name, np.float64) for name in ("pt", "eta", "phi", "energy", "x", "y", "z")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What Pythia is told, and how often an event's heavy hadrons are decayed anew (1: only once, as usual)."""

    settings: tuple[str, ...]
    redecays: int = 1


PROCESSES = {
    "qcd": Process(
        settings=("HardQCD:hardbbbar = on", "HardQCD:hardccbar = on", "PhaseSpace:pTHatMin = 40"), redecays=100
    ),
    "ttbar": Process(settings=("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")),
    "wjets": Process(settings=("WeakSingleBoson:ffbar2W = on", "24:onMode = off", "24:onIfAny = 11 13 15")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeptonFilter:
    """An electron or muon of at least `pt_min` GeV within |eta| < `eta_max`.

    With `isolation_max`, the other visible particles of more than 0.5 GeV within dR < 0.3 add up to less than that
    fraction of its pT.
    """

    pt_min: float = 20.0
    eta_max: float = 2.5
    isolation_max: float | None = None

    def kinematic(self, particles: np.ndarray) -> np.ndarray:
        leptons = np.isin(np.abs(particles["pid"]), LEPTONS)
        return particles[leptons & (particles["pt"] >= self.pt_min) & (np.abs(particles["eta"]) < self.eta_max)]

    def passes(self, particles: np.ndarray) -> bool:
        leptons = self.kinematic(particles)
        if self.isolation_max is None:
            return len(leptons) > 0
        return any(relative_isolation(lepton, particles) < self.isolation_max for lepton in leptons)


def relative_isolation(lepton: np.void, particles: np.ndarray) -> float:
    phi = np.abs(particles["phi"] - lepton["phi"])
    distance = np.hypot(particles["eta"] - lepton["eta"], np.minimum(phi, 2 * np.pi - phi))
    cone = (distance < 0.3) & (particles["pt"] > 0.5)
    return float(particles["pt"][cone].sum() / lepton["pt"] - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collision:
    particles: np.ndarray  # stable and visible, of dtype PARTICLE
    hadrons: np.ndarray  # that hold a b or c quark and decayed, of dtype PARTICLE
    weight: float


def generator(settings: Sequence[str], seed: int) -> pythia8mc.Pythia:
    pythia = pythia8mc.Pythia("", False)
    quiet = ("Print:quiet = on", "Random:setSeed = on", f"Random:seed = {seed}")
    for line in (*quiet, *BEAMS, *settings):
        if not pythia.readString(line):
            raise ValueError(f"Pythia does not know, or does not take, the setting {line!r}")
    if not pythia.init():
        raise RuntimeError(f"Pythia cannot start with {', '.join(settings)}")
    return pythia


def table(entries: Sequence[pythia8mc.Particle]) -> np.ndarray:
    rows = [
        (0, p.id(), round(p.charge()), p.pT(), p.eta(), p.phi(), p.e(), p.xProd(), p.yProd(), p.zProd())
        for p in entries
    ]
    return np.array(rows, dtype=PARTICLE)


def stable(entries: Sequence[pythia8mc.Particle]) -> np.ndarray:
    return table([p for p in entries if p.isFinal() and p.isVisible()])


@dataclass(slots=True, kw_only=True)
class Source:
    """Collisions of one process that pass the filter; counts those tried and kept, and the weights of the kept ones."""

    process: Process
    lepton_filter: LeptonFilter
    seed: int
    tried: int = 0
    kept: int = 0
    weights: float = 0.0
    squared_weights: float = 0.0
    pythia: pythia8mc.Pythia = field(init=False)

    def __post_init__(self) -> None:
        held = tuple(f"{pid}:mayDecay = off" for pid in HEAVY) if self.process.redecays > 1 else ()
        self.pythia = generator(self.process.settings + held, self.seed)

    def __iter__(self) -> Iterator[Collision]:
        while True:
            if not self.pythia.next():
                continue
            self.tried += 1
            if collision := self.collision():
                self.kept += 1
                self.weights += collision.weight
                self.squared_weights += collision.weight**2
                yield collision

    def collision(self) -> Collision | None:
        entries = self.pythia.event.particles()
        heavy = [i for i, p in enumerate(entries) if p.idAbs() in HEAVY]
        if self.process.redecays > 1:
            return self.redecayed([i for i in heavy if entries[i].isFinal()])
        hard = any(self.hard_lepton(p) for p in entries)
        if not hard or not self.lepton_filter.passes(particles := stable(entries)):
            return None
        return Collision(particles=particles, hadrons=table([entries[i] for i in heavy]), weight=1.0)

    def redecayed(self, held: list[int]) -> Collision | None:
        """The event with the first decay that passes, of as many as the process asks for."""
        event = self.pythia.event
        hard = [i for i in held if event[i].pT() >= self.lepton_filter.pt_min]
        if not hard or not (decays := list(self.decays(held, hard))):
            return None
        kept_whole = set(held)
        rest = stable([p for i, p in enumerate(event.particles()) if i not in kept_whole])
        passed = [p for decay in decays if self.lepton_filter.passes(p := np.concatenate([rest, decay]))]
        if not passed:
            return None
        hadrons = table([event[i] for i in held])
        return Collision(particles=passed[0], hadrons=hadrons, weight=len(passed) / self.process.redecays)

    def decays(self, held: list[int], hard: list[int]) -> Iterator[np.ndarray]:
        """The products of each decay that has a lepton hard enough; the event is as before afterwards."""
        event, size = self.pythia.event, self.pythia.event.size()
        event.saveSize()
        self.may_decay(True)
        for _ in range(self.process.redecays):
            for i in hard:
                self.pythia.moreDecays(i)
            if any(self.promising(event[i]) for i in range(size, event.size())):
                self.pythia.moreDecays()
                products = [event[i] for i in range(size, event.size())]
                if any(self.hard_lepton(p) for p in products):
                    yield stable(products)
            event.restoreSize()
            for i in held:
                event[i].statusPos()
                event[i].daughters(0, 0)
        self.may_decay(False)

    def promising(self, product: pythia8mc.Particle) -> bool:
        """Whether it, or what it decays to, can be a lepton that is hard enough."""
        return product.pT() >= self.lepton_filter.pt_min and (product.idAbs() in LEPTONS or product.canDecay())

    def hard_lepton(self, particle: pythia8mc.Particle) -> bool:
        return particle.idAbs() in LEPTONS and particle.isFinal() and particle.pT() >= self.lepton_filter.pt_min

    def may_decay(self, allowed: bool) -> None:
        for pid in HEAVY:
            self.pythia.particleData.mayDecay(pid, allowed)

    def cross_section_mb(self) -> tuple[float, float]:
        """Pythia's cross-section before the filter, and its statistical error, in mb."""
        info = self.pythia.infoPython()
        return info.sigmaGen(), info.sigmaErr()


def minimum_bias(events: int, seed: int) -> np.ndarray:
    """Stable particles of `events` inelastic collisions, in order of their event number."""
    pythia = generator(MINIMUM_BIAS, seed)
    pool = []
    while len(pool) < events:
        if pythia.next():
            pool.append(numbered(stable(pythia.event.particles()), len(pool)))
    return np.concatenate(pool)


def numbered(particles: np.ndarray, event: int) -> np.ndarray:
    particles["event"] = event
    return particles
