"""Cutting the order of an epoch into global batches, and bringing like sizes together.

A batch is a number of samples or a budget of tokens. With few samples on a rank no dealing makes
ranks even, so batches can be made of samples of about one size (`bucketed`). Neither knows how many
ranks there are.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.draws import raw_draws

Ints = NDArray[np.int64]
Numbers = NDArray[Any]

# A window inside which samples change places by their size holds at least so many batches, and so
# many samples of each stream.
BUCKET_BATCHES = 16
BUCKET_SAMPLES = 32
SORTED_AT_ONCE = 2**17  # samples: several small windows are sorted together
FEW_BATCHES = 100_000  # up to here each cut is searched for by itself


def cut_samples(count: int, batch_samples: int) -> Ints:
    """[batches + 1] batch i is order[cuts[i]:cuts[i + 1]]: equal sizes, up to one sample."""
    batches = -(-count // batch_samples)
    return np.arange(batches + 1, dtype=np.int64) * count // batches


def cut_tokens(tokens: Numbers, budget: int) -> Ints:
    """The same for a budget of tokens; a sample above it gets a batch of its own.

    Args:
        tokens: [n] in the order of the epoch.
    """
    count = len(tokens)
    total = np.empty(count + 1, dtype=np.int64)
    total[0] = 0
    np.cumsum(tokens, out=total[1:])
    cuts = [0]
    if total[-1] // budget <= min(FEW_BATCHES, count // 8):
        while cuts[-1] < count:
            reach = int(np.searchsorted(total, total[cuts[-1]] + budget, side="right")) - 1
            cuts.append(max(reach, cuts[-1] + 1))
    else:
        ends = np.searchsorted(total, total[:-1] + budget, side="right") - 1
        following = np.maximum(ends, np.arange(1, count + 1)).tolist()  # end of a batch from i
        while cuts[-1] < count:
            cuts.append(following[cuts[-1]])
    return np.asarray(cuts, dtype=np.int64)


def bucketed(
    order: Numbers, cuts: Ints, tokens: Numbers, stream: Numbers, seed: int, epoch: int
) -> Numbers:
    """The order of an epoch whose batches, cut as before, each hold samples of about one size.

    In a window of K batches the samples of each stream are sorted by size, and batch j takes slice
    j of every stream: the order goes through all streams' sizes side by side. Then the batches of
    the window change places, so that sizes alternate. Only batches of equal size change places.

    Args:
        order: [n] sample indices; cuts: [batches + 1].
        tokens, stream: [n] of each sample of `order`.
    """
    streams = int(stream.max()) + 1
    batch = max(1, len(order) // (len(cuts) - 1))
    window = max(BUCKET_BATCHES, -(-BUCKET_SAMPLES * streams // batch))
    result = np.empty_like(order)
    borders = np.unique(np.append(cuts[::window], cuts[-1]))
    for part, inner in _together(borders):
        number = np.repeat(np.arange(len(inner) - 1), np.diff(inner))
        by_size = np.lexsort((tokens[part], stream[part], number))
        # Runs of one stream in one window, and how far along in its run each sample is.
        run = number[by_size] * streams + stream[part][by_size]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(run)) + 1])
        lengths = np.diff(starts, append=len(run))
        along = (np.arange(len(run)) - np.repeat(starts, lengths)) / np.repeat(lengths, lengths)
        merged = np.lexsort((along, number[by_size]))
        result[part] = order[part][by_size[merged]]
    return _shuffled_batches(result, cuts, raw_draws(len(cuts) - 1, seed, "buckets", epoch), window)


def _shuffled_batches(order: Numbers, cuts: Ints, keys: NDArray[np.uint64], window: int) -> Numbers:
    """The batches of each window sorted by `keys`, among those of their own size."""
    sizes = np.diff(cuts)
    places = np.lexsort((np.arange(len(sizes)), sizes, np.arange(len(sizes)) // window))
    chosen = np.empty(len(sizes), dtype=np.int64)  # the batch that comes to each place
    chosen[places] = np.lexsort((keys, sizes, np.arange(len(sizes)) // window))
    shift = np.repeat(cuts[chosen] - cuts[:-1], sizes)
    return order[np.arange(len(order)) + shift]


def _together(borders: Ints) -> Iterator[tuple[slice, Ints]]:
    """Windows in lots that are large enough to be worth a call: (their samples, their borders)."""
    known, begin = borders.tolist(), 0
    while begin < len(known) - 1:
        end = max(begin + 1, bisect.bisect_right(known, known[begin] + SORTED_AT_ONCE) - 1)
        yield slice(known[begin], known[end]), borders[begin : end + 1]
        begin = end
