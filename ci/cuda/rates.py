"""What this GPU gives: copy and matmul rates, measured beside every benchmark."""

import torch


def copy_tb_per_s(num_bytes: int = 4 << 30, repeats: int = 10) -> float:
    """Device-to-device copy, bytes read plus bytes written."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device="cuda").random_(0, 255)
    target = torch.empty_like(source)
    seconds = _median_s(lambda: target.copy_(source), repeats)
    return 2 * num_bytes / seconds / 1e12


def matmul_tflops(size: int = 8192, repeats: int = 10) -> float:
    """bf16 product of two random square matrices."""
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    seconds = _median_s(lambda: torch.matmul(a, b, out=out), repeats)
    return 2 * size**3 / seconds / 1e12


def rates() -> dict[str, float]:
    """Both, rounded."""
    found = {"copy_tb_per_s": round(copy_tb_per_s(), 3), "matmul_tflops": round(matmul_tflops(), 1)}
    torch.cuda.empty_cache()
    return found


def _median_s(fn: object, repeats: int) -> float:
    assert callable(fn)
    for _ in range(3):
        fn()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        fn()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]
