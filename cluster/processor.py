"""What the processors of this machine compute themselves, and what they only emulate."""

from __future__ import annotations


def has_bf16(on_gpu: bool) -> bool:
    """Whether the GPU, or else the processor, multiplies bfloat16 by instructions of its own.

    Where they are lacking torch emulates them and says all the same that it has bfloat16: a Xeon of AVX-512
    alone then takes 3.5 times as long for a product as in float32.
    """
    import torch  # late: it takes seconds, and most of `cluster` computes nothing

    if on_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last is ARM's
