"""Work on many items at once, in threads that do not keep an interrupted program alive."""

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
    """Calls work for each item in at most `most` threads. Returns the results in order; raises the first error.

    Not an executor: Python waits for an executor's threads when it ends, even for one that hangs in a request.
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
