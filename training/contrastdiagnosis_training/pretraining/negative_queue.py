"""`NegativeQueue`: the last embeddings of a level, and whose negatives they may be."""

from __future__ import annotations

import torch
from torch import Tensor


class NegativeQueue:
    """First in, first out: the last embeddings, each with the number of its patient.

    Attributes:
        size: Most entries that are kept.
        embedding: (n, q) float32 without gradient, n <= size, oldest first.
        patient: (n,) int64.
    """

    def __init__(self, size: int, length: int) -> None:
        """An empty queue for `size` embeddings of `length` numbers, on the CPU."""
        if size < 1 or length < 1:
            raise ValueError(f"wanted a size and a length of at least 1, got {size} and {length}")
        self.size = size
        self.embedding = torch.empty(0, length)
        self.patient = torch.empty(0, dtype=torch.int64)

    def add(self, embedding: Tensor, patient: Tensor) -> None:
        """Appends entries; the oldest beyond the size drop out.

        Args:
            embedding: (B, q).
            patient: (B,) whole numbers.
        """
        length = self.embedding.shape[1]
        if embedding.shape != (len(patient), length) or patient.ndim != 1:
            raise ValueError(
                f"wanted (B, {length}) embeddings and (B,) patients,"
                f" got {tuple(embedding.shape)} and {tuple(patient.shape)}"
            )
        # New tensors, not written in place: a loss whose gradient is still to come holds the old.
        device = self.embedding.device
        added = embedding.detach().to(device, torch.float32)
        self.embedding = torch.cat([self.embedding, added])[-self.size :]
        self.patient = torch.cat([self.patient, patient.to(device, torch.int64)])[-self.size :]

    def to(self, device: torch.device | str) -> NegativeQueue:
        """The queue itself, moved to a device."""
        self.embedding, self.patient = self.embedding.to(device), self.patient.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The entries, for a checkpoint."""
        return {"embedding": self.embedding.clone(), "patient": self.patient.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replaces the entries by those of a checkpoint; the queue stays on its device.

        Raises:
            ValueError: They are more than fit in, or of another length.
        """
        embedding, patient = state["embedding"], state["patient"]
        if len(embedding) > self.size:
            raise ValueError(f"wanted at most {self.size} entries, got {len(embedding)}")
        whole = NegativeQueue(self.size, self.embedding.shape[1]).to(self.embedding.device)
        whole.add(embedding, patient)
        self.embedding, self.patient = whole.embedding, whole.patient


def allowed_negatives(anchor_patient: Tensor, negative_patient: Tensor) -> Tensor:
    """(B, N) bool: whose negatives may count for an anchor: those of every other patient.

    A degraded copy of the anchor's own nodule as a negative would teach the encoder to tell
    quality where it is to be ignored.

    Args:
        anchor_patient: (B,) numbers of the patients.
        negative_patient: (N,).
    """
    return anchor_patient[:, None] != negative_patient[None]
