"""HSTU layers of the production form in PyTorch, in any precision: what compiled programs are held to."""

import torch


def visible(mask, length, targets, device):
    """Which keys each row of a sequence sees; without contextual rows."""
    history = length - targets
    identity = torch.clamp(torch.arange(length, device=device), max=history)
    row, key = identity[:, None], identity[None, :]
    seen = row > key
    if mask["form"] == "windowed":
        near = row - key <= mask["window"]
        if mask.get("full_tail", 0) > 0:
            near |= row >= history - mask["full_tail"]
        seen &= near
    elif mask["form"] == "key_prefix":
        place = torch.arange(length, device=device)
        p, c = place[:, None], place[None, :]
        end = mask["global"]
        seen = (c < torch.clamp(p + 1, max=end)) | ((c >= torch.clamp(p - mask["local"] + 1, min=end)) & (c <= p))
        isTarget = p >= history
        seen = torch.where(isTarget, c < history, seen)
        return seen
    return seen | torch.eye(length, dtype=torch.bool, device=device)


def norm(x, weight, bias, epsilon):
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, epsilon)


def codes(x, kind, dim):
    """x as lower-precision quantizes it: codes, as numbers, and one scale for each row or channel along `dim`."""
    largest = {"int8": 127.0, "fp8": 448.0}[kind]
    scale = x.abs().amax(dim, keepdim=True) / largest
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    if kind == "int8":
        return (x / scale).round().clamp(-largest, largest), scale
    return (x / scale).float().to(torch.float8_e4m3fn).to(x.dtype), scale


def product(x, weight, kind):
    """x times a weight [in, out], both as codes where `kind` is int8 or fp8."""
    if kind is None:
        return x @ weight
    (left, rows), (right, channels) = codes(x, kind, -1), codes(weight, kind, 0)
    return (left @ right) * rows * channels


def layer(x, w, config, sequences, dtype, kind=None):
    """One layer on rows of sequences, given as (start, length, targets); `w` gives a weight by its short name."""
    heads, dqk, dv = config["heads"], config["attention_dim"], config["hidden_dim"]
    n = norm(x, w("_input_norm_weight"), w("_input_norm_bias"), 1e-6)
    u, v, q, k = torch.split(product(n, w("_uvqk_weight"), kind) + w("_uvqk_beta"), [heads * dv, heads * dv, heads * dqk, heads * dqk], -1)
    u = torch.nn.functional.silu(u)
    parts = []
    for start, length, targets in sequences:
        rows = slice(start, start + length)
        own = [t[rows].view(length, heads, -1).transpose(0, 1) for t in (q, k, v)]
        scores = torch.nn.functional.silu(own[0] @ own[1].transpose(1, 2) / dqk) / config["divisor"]
        scores = scores * visible(config["mask"], length, targets, x.device)
        parts.append((scores @ own[2]).transpose(0, 1).reshape(length, heads * dv))
    attention = torch.cat(parts) if parts else v[:0]
    gated = u * norm(attention, w("_output_norm_weight"), w("_output_norm_bias"), 1e-6)
    return x + product(torch.cat([u, attention, gated], -1), w("_output_weight"), kind)


def model(x, weights, description, offsets, targets, dtype, kind=None):
    """The whole stack, the rows of targets, and their norm to length 1; products of codes where `kind` is int8 or fp8."""
    sequences = [(int(offsets[s]), int(offsets[s + 1] - offsets[s]), int(targets[s])) for s in range(len(targets))]
    for index in range(description["layer_count"]):
        prefix = f"_hstu_transducer._stu_module._stu_layers.{index}."
        x = layer(x, lambda name: weights[prefix + name].to(x.device, dtype), description["layer"], sequences, dtype, kind)
    rows = torch.cat([torch.arange(0)] + [torch.arange(s + n - t, s + n) for s, n, t in sequences]).to(x.device)
    x = x[rows]
    return x / torch.clamp(x.norm(dim=-1, keepdim=True), min=1e-6)
