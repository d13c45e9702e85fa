"""Small tensors only: one thread is quickest, however many the machine has to spare."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
