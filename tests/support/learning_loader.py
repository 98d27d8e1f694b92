"""python -m tests.support.learning_loader ARCHIVE WHERE WORKERS START: what a training's own process reads, as JSON.

A process of its own, since forks of one that has run other tests inherit what those have left behind.
"""

import hashlib
import json
import sys

import torch
from torch.utils.data import DataLoader

from tasks.learning import ArchivePictures, ArchiveStream, Order


def main(archive: str, where: str, workers: int, start: str) -> dict[str, object]:
    """Batches by digest, and the keys of a stream: from the beginning, after a resume, and of the next epoch."""
    pictures = ArchivePictures(archive, columns=("key",), where=where)
    _ = pictures[0]  # the parent has loaded a codec, which must not reach the workers
    options = {"batch_size": 2, "num_workers": workers, "multiprocessing_context": start if workers else None}
    batches = []
    for pixels, labels in DataLoader(pictures, **options):  # type: ignore[arg-type]
        batches.append([hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), labels["key"]])
    summed = ArchivePictures(archive, columns=("key",), where=where, transform=torch.sum)
    stream = ArchiveStream(summed, 2, order=Order(seed=5))
    orders = []
    for epoch, samples in ((0, 0), (0, 2), (1, 0)):
        stream.resume(epoch, samples)
        loader = DataLoader(stream, **options)  # type: ignore[arg-type]
        orders.append([key for _, labels in loader for key in labels["key"]])
    return {"batches": batches, "orders": orders}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))
