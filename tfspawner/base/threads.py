"""Work on many things at once, for which a program that is interrupted does not wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], most: int) -> list[Result]:
    """What work makes of each item, in their order, by so many threads at most; raises what the first of them raised.

    An executor's threads are waited for when Python ends, also those that hang in a request; these are not.
    """
    todo: queue.SimpleQueue[tuple[Item, Future[Result]]] = queue.SimpleQueue()
    futures: list[Future[Result]] = []
    for item in items:
        futures.append(Future())
        todo.put((item, futures[-1]))

    def take() -> None:
        with suppress(queue.Empty):
            while True:
                item, future = todo.get_nowait()
                try:
                    future.set_result(work(item))
                except BaseException as error:
                    future.set_exception(error)

    for _ in range(min(most, len(futures))):
        threading.Thread(target=take, daemon=True).start()
    wait(futures)
    return [future.result() for future in futures]
