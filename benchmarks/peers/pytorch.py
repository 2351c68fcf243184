"""What both ways of writing the stack in PyTorch share."""

import torch

from peers import Job
from stacks import EPSILON

VERSION = f"PyTorch {torch.__version__.partition('+')[0]}"


def set_up(job: Job) -> None:
    torch.set_num_threads(job.threads)
    # Leaves no graph for gradients behind, and lets constants be folded.
    torch.inference_mode().__enter__()


def dtype(job: Job) -> torch.dtype:
    return torch.bfloat16 if job.is_bf16 else torch.float32


class Layer(torch.nn.Module):
    """One layer on packed rows or a padded batch; how rows attend is the caller's."""

    def __init__(self, job: Job, weights: dict):
        super().__init__()
        stack = job.stack
        self.heads, self.head, self.inner, self.alpha = stack.heads, stack.head, stack.inner, stack.alpha
        # Matrices turned round, as torch.nn.functional.linear takes them.
        for name, values in weights.items():
            tensor = torch.from_numpy(values.T.copy() if values.ndim == 2 else values).to(dtype(job))
            self.register_buffer(name, tensor.contiguous())

    def forward(self, x, attention):
        linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm
        n = norm(x, x.shape[-1:], self.input_norm_weight, self.input_norm_bias, EPSILON)
        uvqk = torch.nn.functional.silu(linear(n, self.uvqk_weight, self.uvqk_beta))
        u, v, q, k = uvqk.split(self.inner, dim=-1)
        a = attention(q * self.alpha, k, v)
        y = u * norm(a, (self.inner,), self.output_norm_weight, self.output_norm_bias, EPSILON)
        return x + linear(y, self.output_weight)

