"""Lays other collisions of the same bunch crossing over an event, and gives each collision a vertex of its own."""

from dataclasses import dataclass

import numpy as np
from detector import wrapped

VERTEX_SIGMA_MM = 53.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PileUp:
    """Overlays a Poisson number of collisions of `pool` (in order of event), each turned and moved at random."""

    pool: np.ndarray
    mean: float

    def overlay(self, particles: np.ndarray, events: int, rng: np.random.Generator) -> np.ndarray:
        """The particles with the pile-up after them, event by event, every collision with a vertex of its own."""
        sizes = np.bincount(self.pool["event"])
        event = np.repeat(np.arange(events), rng.poisson(self.mean, events))
        collision = rng.integers(0, len(sizes), len(event))
        copies = sizes[collision]
        first = (np.cumsum(sizes) - sizes)[collision]
        within = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
        added = self.pool[np.repeat(first, copies) + within]
        added["event"] = np.repeat(event, copies)
        turn(added, np.repeat(rng.uniform(0, 2 * np.pi, len(event)), copies))
        added["z"] += np.repeat(rng.normal(0, VERTEX_SIGMA_MM, len(event)), copies)
        together = np.concatenate([particles, added])
        return together[np.argsort(together["event"], kind="stable")]


def turn(particles: np.ndarray, angle: np.ndarray) -> None:
    x, y = particles["x"].copy(), particles["y"].copy()
    particles["x"] = x * np.cos(angle) - y * np.sin(angle)
    particles["y"] = x * np.sin(angle) + y * np.cos(angle)
    particles["phi"] = wrapped(particles["phi"] + angle)


def displaced(particles: np.ndarray, events: int, rng: np.random.Generator) -> np.ndarray:
    """The particles with their collision's vertex drawn along the beam."""
    particles = particles.copy()
    particles["z"] += rng.normal(0, VERTEX_SIGMA_MM, events)[particles["event"]]
    return particles
