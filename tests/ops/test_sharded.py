"""DTensors over two processes, sharded by boxes and by channels, and FSDP2."""

import subprocess
import sys

import pytest
import torch


@pytest.mark.rare
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_pool_what_one_does(tmp_path):
    commands = [[sys.executable, "-m", "tests.ops.sharded", str(rank), str(tmp_path / "group")] for rank in (0, 1)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
