"""Too little memory, or a card or compiler that fails, is one line; a fault of ours is not hidden."""

from pathlib import Path

import pytest

from tests.inputs.conftest import Refusal


def test_too_little_memory_is_one_line(bare: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        MemoryError(),
        MemoryError("Unable to allocate 4.00 TiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"),
    ):

        def fail(path: Path, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("ofq.workflow.targets.planned", fail)
        assert refusal("tables", "plain").startswith("out of memory; ")


class InductorError(RuntimeError):
    """As torch's, by its module."""


InductorError.__module__ = "torch._inductor.exc"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB"),
            "the card is out of memory; lower hardware.runs_per_gpu, or batch_size, in params.yaml; what was saved is kept",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "the card is out of memory; "),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "the card is out of memory; ",
        ),
        (
            RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported"),
            "the card failed (CUDA error: uncorrectable ECC error encountered); what was saved is kept, and the same",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            "the card failed (cuDNN error: CUDNN_STATUS_EXECUTION_FAILED); ",
        ),
        (
            RuntimeError("CUDA driver error: invalid argument"),
            "the card failed (CUDA driver error: invalid argument); ",
        ),
        (
            RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use"),
            "cumsum_cuda_kernel does not have a deterministic implementation on this device; use another operation",
        ),
        (
            InductorError("InvalidCxxCompiler: No working C++ compiler found\nmore"),
            "the model could not be compiled (InductorError: InvalidCxxCompiler: No working C++ compiler found); torch",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_fault_of_the_hardware_is_one_line(
    bare: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("ofq.workflow.targets.planned", fail)
    assert refusal("tables", "plain").startswith(said)


def test_an_error_of_ours_is_not_hidden(bare: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("ofq.workflow.targets.planned", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        refusal("tables", "plain")
