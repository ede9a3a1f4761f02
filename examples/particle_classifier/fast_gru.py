"""Keras' GRU layer, quicker on processors: equal weights, equal results, another order of the work.

Keras leaves the loop over a sequence's steps to TensorFlow, a dozen operations a step, keeps what each of them gave,
and goes back through the loop as TensorFlow derives it. Here XLA compiles both loops, once, for stretches of a fixed number
of steps. Only the states are kept, and the rest of a step is computed again on the way back, where it is in the
processor's cache: that costs less than memory does.
Padding costs no operation of its own: it opens the update gate, through which the state passes as it was.

On GPUs the layer is Keras' own, which calls cuDNN there.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

keras = tf.keras
STRETCH = 32  # steps
OPEN = 40.0  # sigmoid(OPEN) is 1 in float32
LEAST = 128  # events, for which it pays to start another thread


class FastGRU(keras.layers.GRU):
    """GRU(units) with Keras' defaults, from the state 0 to the last state. No gradient is made for the sequences."""

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
        if tf.config.list_logical_devices("GPU"):
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        if mask is None:
            mask = tf.ones(tf.shape(sequences)[:2], tf.bool)
        weights = [tf.convert_to_tensor(w) for w in (self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias)]
        threads = threads_for(sequences.shape[0] or 1)
        parts = zip(tf.split(sequences, threads), tf.split(mask, threads), strict=True)
        last = tf.concat([last_state(*part, *weights) for part in parts], 0)
        last.set_shape([sequences.shape[0], self.units])
        return last


def threads_for(batch: int) -> int:
    """Among how many threads a batch is shared, in equal parts of at least LEAST events."""
    most = min(len(os.sched_getaffinity(0)), max(1, batch // LEAST))
    return next(n for n in range(most, 0, -1) if batch % n == 0)


@tf.custom_gradient
def last_state(sequences: tf.Tensor, mask: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> Any:
    """The GRU's state (batch, units) after the last step of (batch, steps, width) that the mask leaves.

    Its gradient is for tf.function, within which Keras trains: TensorFlow records XLA's loops otherwise, and cannot.
    Gates in Keras' order, update, reset, candidate; bias (2, 3 units), of the input and of the recurrence.
    """
    weights = kernel, recurrent, bias
    given, opened = _by_stretch(sequences, mask)
    stretches, units = tf.shape(given)[0], recurrent.shape[0]

    def forward(n: Any, state: Any, kept: Any) -> tuple[Any, ...]:
        after, states = _forward(state, given[n], opened[n], *weights)
        return n + 1, tf.ensure_shape(after, state.shape), kept.write(n, states)

    kept = tf.TensorArray(tf.float32, stretches, element_shape=[STRETCH, None, units], clear_after_read=False)
    start = (0, tf.zeros([tf.shape(sequences)[0], units]), kept)
    _, state, kept = tf.while_loop(lambda n, *_: n < stretches, forward, start, parallel_iterations=1)

    def gradient(change: tf.Tensor) -> tuple[Any, ...]:
        def backward(n: Any, *changes: Any) -> tuple[Any, ...]:
            before = _backward(given[n], opened[n], kept.read(n), changes, *weights)
            return n - 1, *(tf.ensure_shape(one, other.shape) for one, other in zip(before, changes, strict=True))

        start = (stretches - 1, change, *map(tf.zeros_like, weights))
        return None, None, *tf.while_loop(lambda n, *_: n >= 0, backward, start, parallel_iterations=1)[2:]

    return state, gradient


@tf.function(jit_compile=True, autograph=False)
def _forward(state: Any, given: Any, opened: Any, *weights: Any) -> tuple[Any, Any]:
    """The state after a stretch, and that before each of its steps (steps, batch, units)."""

    def step(t: Any, state: Any, states: Any) -> tuple[Any, ...]:
        update, _, candidate, _ = _gates(given[t], opened[t], state, *weights)
        return t + 1, candidate + update * (state - candidate), states.write(t, state)

    states = tf.TensorArray(tf.float32, STRETCH, element_shape=[None, state.shape[1]])
    _, state, states = tf.while_loop(lambda t, *_: t < STRETCH, step, (0, state, states), maximum_iterations=STRETCH)
    return state, states.stack()


@tf.function(jit_compile=True, autograph=False)
def _backward(given: Any, opened: Any, states: Any, changes: Any, *weights: Any) -> tuple[Any, ...]:
    """The gradients of the state before a stretch, and those of the weights with what the stretch adds to them."""
    back = tf.transpose(weights[1])

    def step(t: Any, change: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, ...]:
        state = states[t]
        update, reset, candidate, returned = _gates(given[t], opened[t], state, *weights)
        to_candidate = change * (1.0 - update) * (1.0 - candidate * candidate)
        to_update = change * (state - candidate) * update * (1.0 - update)
        to_reset = to_candidate * returned * reset * (1.0 - reset)
        to_input = tf.concat([to_update, to_reset, to_candidate], 1)
        to_recurrence = tf.concat([to_update, to_reset, to_candidate * reset], 1)
        kernel += tf.matmul(given[t], to_input, transpose_a=True)
        recurrent += tf.matmul(state, to_recurrence, transpose_a=True)
        bias += tf.stack([tf.reduce_sum(to_input, 0), tf.reduce_sum(to_recurrence, 0)])
        return t - 1, change * update + to_recurrence @ back, kernel, recurrent, bias

    return tf.while_loop(lambda t, *_: t >= 0, step, (STRETCH - 1, *changes), maximum_iterations=STRETCH)[1:]


def _by_stretch(sequences: Any, mask: Any) -> tuple[Any, Any]:
    """(stretches, steps, batch, width), and (stretches, steps, batch, 1) of OPEN for padding, 0 for others."""
    batch, steps, width = tf.unstack(tf.shape(sequences))
    lacking = -steps % STRETCH
    given = tf.transpose(tf.pad(sequences, [[0, 0], [0, lacking], [0, 0]]), [1, 0, 2])
    opened = tf.where(tf.transpose(tf.pad(mask, [[0, 0], [0, lacking]])), 0.0, OPEN)
    return tf.reshape(given, [-1, STRETCH, batch, width]), tf.reshape(opened, [-1, STRETCH, batch, 1])


def _gates(given: Any, opened: Any, state: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, Any, Any, Any]:
    """A step's update, reset and candidate, and what the recurrence gave to the candidate."""
    update_in, reset_in, candidate_in = tf.split(given @ kernel + bias[0], 3, 1)
    update_h, reset_h, candidate_h = tf.split(state @ recurrent + bias[1], 3, 1)
    update, reset = tf.sigmoid(update_in + update_h + opened), tf.sigmoid(reset_in + reset_h)
    return update, reset, tf.tanh(candidate_in + reset * candidate_h), candidate_h
