"""Full attention by others: what the sparse attention is compared with.

  FA2     FlashAttention-2 over packed samples: the package flash_attn where it is installed, else
          PyTorch's own copy of its kernels (`varlen_attn`), and so labelled
  FA3     through PyTorch's switch for it, where the package behind it is installed
  cuDNN   PyTorch's scaled_dot_product_attention with the cuDNN backend

All get the same queries and two KV heads. A version that does not take fewer KV heads than query
heads (tried out on a small case, both ways) gets them repeated, which is said beside its name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ssa.bench import Bench
from benchmarks.ssa.problem import Shape
from benchmarks.ssa.rows import Row, both_ways
from benchmarks.ssa.timing import peak_gib

RIVALS = ("FA2", "cuDNN", "FA3")
REFUSALS = (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError)
AGREES = 2e-2  # relative L2 in bf16, of a result and gradients that are right

Starts = tuple[Tensor, int]  # first row of each sample, int32 [B + 1], and the longest sample
Attend = Callable[[Tensor, Tensor, Tensor, Starts, Starts], Tensor]


@dataclass(frozen=True)
class Rival:
    """A full attention: q [N, H, D], k and v [N, G, D], samples of queries, samples of keys."""

    label: str
    attend: Attend
    active: Callable[[], Any] = nullcontext  # holds while it is called


def find(name: str, device: torch.device) -> Rival:
    """The rival, ready; one of REFUSALS, saying why, where there is none."""
    rival = {"FA2": _fa2, "FA3": _fa3, "cuDNN": _cudnn}[name]()
    with rival.active():
        if takes_groups(rival.attend, device):
            return rival
    return Rival(f"{rival.label}, KV heads repeated", repeating(rival.attend), rival.active)


def measure(bench: Bench, name: str, size: str, shape: Shape) -> dict[str, Any]:
    """Times and memory of a rival on the tokens of a size, or why there are none."""
    result: dict[str, Any] = {"rival": name, "size": size, "heads": str(shape)}
    try:
        rival = find(name, bench.device)
        problems = Row(size, 8, shape, "random").problems(bench)
        first = problems[0]
        samples = (first.plan.cu_seqlens, first.plan.longest_sample)
        with rival.active():

            def run(inputs: tuple[Tensor, ...]) -> Tensor:
                q, k, v = inputs[:3]
                return rival.attend(q, k, v, samples, samples)

            def once() -> object:
                inputs = tuple(x.detach().requires_grad_() for x in first.inputs[:3])
                return torch.autograd.grad(run(inputs), inputs, first.grad)

            once()
            result["peak_gib"] = peak_gib(once, bench.device)
            times = both_ways(
                [run] * len(problems), [one.inputs[:3] for one in problems],
                [one.grad for one in problems], bench.device,
            )  # fmt: skip
    except REFUSALS as err:
        if "CUDA error" in str(err):  # the GPU's state is lost, not just this rival
            raise
        return {**result, "refused": first_line(err)}
    return {**result, "label": rival.label, **times}


def varlen_options(function: Callable[..., Any], grouped: bool) -> dict[str, Any]:
    """Options of `varlen_attn`, whose names differ between PyTorch 2.10, 2.11 and 2.13."""
    known = inspect.signature(function).parameters
    options: dict[str, Any] = {}
    if "is_causal" in known:  # up to 2.10; later a window says it
        options["is_causal"] = False
    if grouped and "enable_gqa" in known:  # from 2.13; before, equal numbers of heads were assumed
        options["enable_gqa"] = True
    return options


def varlen(function: Callable[..., Any], return_lse: bool = False) -> Callable[..., Any]:
    """`varlen_attn` of any version with one signature; with the LSE [H, N] when asked for."""

    def attend(q: Tensor, k: Tensor, v: Tensor, of_q: Starts, of_k: Starts) -> Any:
        options = varlen_options(function, grouped=q.shape[1] != k.shape[1])
        if return_lse:
            varlen_module = importlib.import_module("torch.nn.attention.varlen")
            options["return_aux"] = varlen_module.AuxRequest(lse=True)
        got = function(q, k, v, of_q[0], of_k[0], of_q[1], of_k[1], **options)
        if not return_lse:
            return got
        out, lse = got  # documented as [N, H], in fact [H, N] so far
        return out, lse if lse.shape[0] == q.shape[1] else lse.T

    return attend


def takes_groups(attend: Attend, device: torch.device, width: int = 32) -> bool:
    """Whether 2 KV heads for 4 query heads give the right result and gradients."""
    generator = torch.Generator(device).manual_seed(0)
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32

    def draw(heads: int) -> Tensor:
        return torch.randn(96, heads, width, generator=generator, device=device).to(kind)

    q, k, v, grad = draw(4), draw(2), draw(2), draw(4)
    starts = torch.tensor([0, 40, 96], dtype=torch.int32, device=device), 56
    try:
        found = _with_gradients(lambda q, k, v: attend(q, k, v, starts, starts), q, k, v, grad)
    except REFUSALS as err:
        if "CUDA error" in str(err):
            raise
        return False
    wanted = _with_gradients(_plain(starts[0]), *(x.double() for x in (q, k, v, grad)))
    return all(
        a.shape == b.shape and bool((a.double() - b).norm() < AGREES * b.norm())
        for a, b in zip(found, wanted, strict=True)
    )


def _with_gradients(run: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    *inputs, grad = (x.detach() for x in tensors)
    inputs = [x.requires_grad_() for x in inputs]
    out = run(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad)


def _plain(starts: Tensor) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        bounds = starts.tolist()
        parts = []
        for a, b in zip(bounds[:-1], bounds[1:], strict=True):
            one, two, three = (x[a:b].transpose(0, 1) for x in (q, k, v))
            parts.append(F.scaled_dot_product_attention(one, two, three).transpose(0, 1))
        return torch.cat(parts)

    return run


def repeating(attend: Attend) -> Attend:
    def run(q: Tensor, k: Tensor, v: Tensor, of_q: Starts, of_k: Starts) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        return attend(q, k, v, of_q, of_k)

    return run


def _fa2() -> Rival:
    try:
        package: Any = importlib.import_module("flash_attn")
    except ImportError:
        return Rival(
            f"varlen_attn of torch {torch.__version__} (FA2 kernels)", varlen(torch_varlen())
        )

    def attend(q: Tensor, k: Tensor, v: Tensor, of_q: Starts, of_k: Starts) -> Tensor:
        out: Tensor = package.flash_attn_varlen_func(
            q, k, v, of_q[0], of_k[0], of_q[1], of_k[1], causal=False
        )
        return out

    return Rival(f"flash-attn {package.__version__}", attend)


def torch_varlen() -> Callable[..., Any]:
    try:
        module = importlib.import_module("torch.nn.attention.varlen")
    except ImportError as err:
        raise ImportError(
            f"torch {torch.__version__} has no varlen_attn (2.10 and later have) and flash_attn is "
            "not installed"
        ) from err
    function: Callable[..., Any] = module.varlen_attn
    return function


def _fa3() -> Rival:
    switch: Any = torch.nn.attention
    on = getattr(switch, "activate_flash_attention_impl", None)
    off = getattr(switch, "restore_flash_attention_impl", None)
    if on is None or off is None:
        raise ImportError(f"torch {torch.__version__} cannot switch to FA3 and back")

    @contextmanager
    def active() -> Iterator[None]:
        on("FA3")
        try:
            yield
        finally:
            off()

    with active():  # not installed: says so here
        pass
    return Rival("FA3 through varlen_attn", varlen(torch_varlen()), active)


def _cudnn() -> Rival:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def attend(q: Tensor, k: Tensor, v: Tensor, of_q: Starts, _: Starts) -> Tensor:
        if len(of_q[0]) == 2:
            return _of_one(q, k, v)
        bounds = of_q[0].tolist()
        pairs = zip(bounds[:-1], bounds[1:], strict=True)
        return torch.cat([_of_one(q[a:b], k[a:b], v[a:b]) for a, b in pairs])

    def _of_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # heads first
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)[0].transpose(0, 1)

    active = functools.partial(sdpa_kernel, [SDPBackend.CUDNN_ATTENTION])
    return Rival(f"cuDNN {torch.backends.cudnn.version() or '-'} through SDPA", attend, active)


def first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {(str(err) or 'no reason given').splitlines()[0][:120]}"
