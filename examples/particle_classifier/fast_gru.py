"""Keras' GRU layer, quicker on processors: equal weights, equal results, another order of the work.

Keras walks a sequence step by step, and multiplies each step's particles by the kernel there; what TensorFlow
derives from that loop does the same backwards. Here all steps' products with the kernel are one multiplication
before the loop, the gradients of both kernels are one after it, and in between XLA compiles the loop, which has
one multiplication a step, forwards and backwards. Padding costs no operation of its own: it opens the update gate,
through which the state passes as it was.

On GPUs the layer is Keras' own, which calls cuDNN there.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

keras = tf.keras
OPEN = 40.0  # sigmoid(OPEN) is 1 in float32


class FastGRU(keras.layers.GRU):
    """GRU(units) with Keras' defaults, from the state 0 to the last state.

    The sequences are data: no gradient is made for them.
    """

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
        if tf.config.list_logical_devices("GPU"):
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        if mask is None:
            mask = tf.ones(tf.shape(sequences)[:2], tf.bool)
        cell = self.cell
        weights = (tf.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
        last = last_state(sequences, mask, *weights)
        last.set_shape([sequences.shape[0], self.units])
        return last


@tf.custom_gradient
def last_state(sequences: tf.Tensor, mask: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> Any:
    """The GRU's state (batch, units) after the last step of (batch, steps, width) that the mask leaves.

    Gates in Keras' order, update, reset, candidate; bias (2, 3 units), of the input and of the recurrence.
    """
    state, states, gates = _forward(sequences, mask, kernel, recurrent, bias)

    def gradient(change: tf.Tensor) -> tuple[Any, ...]:
        return None, None, *_backward(change, sequences, recurrent, states, gates)

    return state, gradient


@tf.function(jit_compile=True, autograph=False)
def _forward(sequences: Any, mask: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, Any, Any]:
    """The last state; each step's state before it (steps, batch, units); and its gates (steps, batch, 4 units):
    update, reset, candidate, and what the recurrence gave to the candidate."""
    units = recurrent.shape[0]
    batch, steps = tf.unstack(tf.shape(sequences)[:2])
    passes = tf.where(tf.transpose(mask), 0.0, OPEN)[:, :, tf.newaxis]
    given = tf.einsum("bti,ij->tbj", sequences, kernel) + bias[0]
    given = tf.concat([given[:, :, :units] + passes, given[:, :, units:]], 2)

    def step(t: Any, state: Any, states: Any, gates: Any) -> tuple[Any, ...]:
        update_in, reset_in, candidate_in = tf.split(given[t], 3, 1)
        update_h, reset_h, candidate_h = tf.split(state @ recurrent + bias[1], 3, 1)
        update, reset = tf.sigmoid(update_in + update_h), tf.sigmoid(reset_in + reset_h)
        candidate = tf.tanh(candidate_in + reset * candidate_h)
        kept = tf.concat([update, reset, candidate, candidate_h], 1)
        after = update * state + (1.0 - update) * candidate
        return t + 1, after, states.write(t, state), gates.write(t, kept)

    arrays = [tf.TensorArray(tf.float32, steps, element_shape=[None, n * units]) for n in (1, 4)]
    start = (0, tf.zeros([batch, units]), *arrays)
    _, state, states, gates = tf.while_loop(lambda t, *_: t < steps, step, start, maximum_iterations=steps)
    return state, states.stack(), gates.stack()


@tf.function(jit_compile=True, autograph=False)
def _backward(change: Any, sequences: Any, recurrent: Any, states: Any, gates: Any) -> tuple[Any, Any, Any]:
    """The gradients of kernel, recurrent kernel and bias."""
    units = recurrent.shape[0]
    steps = tf.shape(states)[0]
    back = tf.transpose(recurrent)

    def step(n: Any, change: Any, given: Any, returned: Any) -> tuple[Any, ...]:
        t = steps - 1 - n
        update, reset, candidate, candidate_h = tf.split(gates[t], 4, 1)
        to_candidate = change * (1.0 - update) * (1.0 - candidate * candidate)
        to_update = change * (states[t] - candidate) * update * (1.0 - update)
        to_reset = to_candidate * candidate_h * reset * (1.0 - reset)
        to_recurrence = tf.concat([to_update, to_reset, to_candidate * reset], 1)
        to_input = tf.concat([to_update, to_reset, to_candidate], 1)
        return n + 1, change * update + to_recurrence @ back, given.write(t, to_input), returned.write(t, to_recurrence)

    arrays = [tf.TensorArray(tf.float32, steps, element_shape=[None, 3 * units]) for _ in range(2)]
    _, _, given, returned = tf.while_loop(
        lambda n, *_: n < steps, step, (0, change, *arrays), maximum_iterations=steps
    )  # fmt: skip
    given, returned = given.stack(), returned.stack()
    kernel = tf.einsum("bti,tbj->ij", sequences, given)
    recurrence = tf.einsum("tbi,tbj->ij", states, returned)
    biases = tf.stack([tf.reduce_sum(given, [0, 1]), tf.reduce_sum(returned, [0, 1])])
    return kernel, recurrence, biases
