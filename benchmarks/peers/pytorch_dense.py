"""The stack as one would write it in PyTorch: scores of all rows and keys, then the mask. Eager, or torch.compile."""

import torch
import torch._inductor.config

from peers import Absent, Job, Prepared, dense, pytorch


class Stack(torch.nn.Module):
    def __init__(self, job: Job):
        super().__init__()
        self.layers = torch.nn.ModuleList(pytorch.Layer(job, weights) for weights in job.stack.layer_weights())
        self.heads, self.head = job.stack.heads, job.stack.head
        self.register_buffer("mask", torch.from_numpy(dense.mask(job)).to(pytorch.dtype(job)))

    def attention(self, q, k, v):
        batch, rows = q.shape[:2]
        q, k, v = (t.view(batch, rows, self.heads, self.head).transpose(1, 2) for t in (q, k, v))
        scores = torch.nn.functional.silu(q @ k.transpose(2, 3), inplace=True).mul_(self.mask)
        return (scores @ v).transpose(1, 2).reshape(batch, rows, -1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, self.attention)
        return x


def prepare(job: Job, is_compiled: bool) -> Prepared:
    dense.refuse_what_is_too_long(job)
    pytorch.set_up(job)
    stack = Stack(job).eval()
    x = torch.from_numpy(dense.padded(job)).to(pytorch.dtype(job))
    if is_compiled:
        # Weights become constants, in the layout that the matrix products like best.
        torch._inductor.config.freezing = True
        stack = torch.compile(stack, dynamic=False)
        try:
            stack(x)
        except Exception as error:  # whatever the compiler's compiler says
            raise Absent(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    return Prepared(lambda: stack(x), lambda y: dense.unpadded(job, y.float().numpy()), pytorch.VERSION)
