"""Training batches that are read one optimizer step ahead, by a thread of the same process.

Without workers a data loader fetches and collates a batch while the step waits; a worker process
takes 2 ms to hand one over, longer than most of ours take to make. So the loader deals in orders,
and a thread fills them, one after the other, while the model computes:

    loader    order 1   order 2   order 3 ...      keys of examples, nothing else
    thread    fetch and collate 1, 2, 3 ...
    trainer             step 1      step 2 ...     takes what is there and orders what comes next

The thread reads during the backward pass, which leaves the interpreter to it; amid the forward pass
it would only take turns with the trainer. Small batches are read several at a time, since a call
costs more than what it does for a few examples (benchmarks/waiting.py). The loader's order of keys
is untouched and a batch depends on its keys alone, so batches are the same as without the thread,
after a resume as well.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import torch
from torch.utils.data import Dataset

Batch = dict[str, torch.Tensor]
EXAMPLES_PER_READ = 128
SECONDS_TO_CLOSE = 5.0


class Order:
    """A batch that was asked for. A loader may pin and move it: that is done once it is there."""

    def __init__(self, keys: Sequence[int]):
        self.keys = keys
        self.filled: Future[Batch] = Future()
        self._moves: list[Callable[[torch.Tensor], torch.Tensor]] = []

    def pin_memory(self) -> Order:
        self._moves.append(lambda tensor: tensor.pin_memory())
        return self

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Order:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=non_blocking or tensor.is_pinned())

        self._moves.append(move)
        return self

    def result(self) -> Batch:
        """The batch, waited for; an error of reading it is raised here."""
        batch = self.filled.result()
        for move in self._moves:
            batch = {name: move(tensor) for name, tensor in batch.items()}
        return batch


def fetch(examples: Dataset, keys: Sequence[int]) -> Sequence:
    """The examples of these keys, as a loader gives them to a collator."""
    if hasattr(examples, "__getitems__"):
        return examples.__getitems__(keys)
    return [examples[key] for key in keys]


class _Keys(Dataset):
    """A data set whose examples are their keys."""

    def __init__(self, examples: Dataset):
        self.num_examples = len(examples)
        self.reads_in_order = getattr(examples, "reads_in_order", False)

    def __len__(self) -> int:
        return self.num_examples

    def __getitems__(self, keys: Sequence[int]) -> list[int]:
        return list(keys)


class BatchReader:
    """Makes batches of `examples` in a thread, in the order in which `order` was called.

    A loader takes `keys` for its data set and `order` for its collator; `batches` gives what it
    then yields. Batches of less than 128 examples are made several at a time where the collator can
    (`several`). Nothing else may read `examples` meanwhile, until `close`.
    """

    def __init__(self, examples: Dataset, *, collate: Callable[[Sequence], Batch], batch_size: int):
        self.keys = _Keys(examples)
        self.batches_per_read = 1
        if hasattr(collate, "several"):
            self.batches_per_read = max(1, EXAMPLES_PER_READ // batch_size)
        self._examples = examples
        self._collate = collate
        self._orders: Iterator[Order] | None = None
        self._batches: Iterator[Batch] = iter(())
        self._put_off: list[Order] = []
        self._to_read: queue.SimpleQueue[list[Order] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def order(self, keys: Sequence[int]) -> Order:
        """Asks for a batch, which is read some time after the next `start_reading`."""
        order = Order(keys)
        self._put_off.append(order)
        return order

    def start_reading(self, *, all_orders: bool = False) -> None:
        """Gives the thread what is on order: as many batches as are made at a time, or all."""
        if self._thread is None:
            # A daemon: a read that never ends must not keep the program from ending.
            self._thread = threading.Thread(target=self._work, name="read_ahead", daemon=True)
            self._thread.start()
        while self._put_off and (all_orders or len(self._put_off) >= self.batches_per_read):
            self._to_read.put(self._put_off[: self.batches_per_read])
            del self._put_off[: self.batches_per_read]

    def batches(self, orders: Iterator[Order], *, batches_per_step: int) -> Iterator[Batch]:
        """Every batch in turn; asked again for the same iterator, it goes on.

        When one is handed out, those of the next step are read or being read.
        """
        if self._orders is not orders:
            num_ahead = batches_per_step + self.batches_per_read
            self._orders, self._batches = orders, self._taken(orders, num_ahead=num_ahead)
        return self._batches

    def _taken(self, orders: Iterator[Order], *, num_ahead: int) -> Iterator[Batch]:
        ahead: deque[Order] = deque()
        for order in orders:
            ahead.append(order)
            if len(ahead) > num_ahead:
                yield self._take(ahead.popleft())
        while ahead:
            yield self._take(ahead.popleft())

    def _take(self, order: Order) -> Batch:
        if order in self._put_off:  # an epoch begins or ends
            self.start_reading(all_orders=True)
        return order.result()

    def close(self) -> None:
        """Ends the thread after the batch it is at; what is still on order is never read."""
        self._is_closed = True
        self._to_read.put(None)
        if self._thread is not None:
            self._thread.join(SECONDS_TO_CLOSE)

    def _work(self) -> None:
        while (orders := self._to_read.get()) is not None and not self._is_closed:
            try:
                batches = self._make(orders)
            except BaseException as error:  # whatever it is, the trainer must not wait forever
                for order in orders:
                    order.filled.set_exception(error)
            else:
                for order, batch in zip(orders, batches, strict=True):
                    order.filled.set_result(batch)

    def _make(self, orders: list[Order]) -> list[Batch]:
        if len(orders) == 1:
            return [self._collate(fetch(self._examples, orders[0].keys))]
        keys = [key for order in orders for key in order.keys]
        sizes = [len(order.keys) for order in orders]
        return self._collate.several(fetch(self._examples, keys), sizes=sizes)
