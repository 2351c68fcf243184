"""What `prefill` keeps on the card and `score` makes of it, beside `forward` on the whole sequence."""

import torch

KINDS = {"f32": torch.float32, "bf16": torch.bfloat16, "f8e4m3": torch.uint8, "i64": torch.int64}


def most(model, extent, known):
    """The number that an extent is, or at most can be: a number, or the name of a dimension."""
    if not isinstance(extent, str):
        return extent
    if extent in known:
        return known[extent]
    dimension = next(d for d in model.manifest["dimensions"] if d["name"] == extent)
    bound = dimension["atMost"]
    if isinstance(bound, str):
        return most(model, bound, known)
    return bound.get("constant", 0) + sum(term["times"] * most(model, term["dimension"], known) for term in bound["terms"])


def prepare(model, entry, inputs, known):
    """A call of an entry, and its outputs by name: offsets in the host's memory, all else on the card, filled with NaN."""
    ports = model.ports(entry)
    outputs = {}
    for port in ports["outputs"]:
        if port["kind"] == "offsets":
            outputs[port["name"]] = torch.full([most(model, port["sequences"], known) + 1], -1)
            continue
        shape = [most(model, extent, known) for extent in port["shape"]]
        size = torch.Size(shape).numel() * KINDS[port["element"]].itemsize
        data = torch.full([size], 0xFF, dtype=torch.uint8, device="cuda")
        outputs[port["name"]] = data.view(KINDS[port["element"]]).reshape(shape)
    return model.prepare(inputs, [known[name] for name in ports["dimensions"]], outputs, entry), outputs


def cut(lengths):
    return torch.tensor([0] + list(lengths)).cumsum(0)


def continued(model, x, lengths, targets):
    """The call of `score` on what `prefill` gave of each sequence's history, and the call's outputs."""
    histories = [length - count for length, count in zip(lengths, targets)]
    starts = cut(lengths)
    old = torch.cat([x[:0]] + [x[first:first + count] for first, count in zip(starts, histories)])
    new = torch.cat([x[:0]] + [x[first + count:end] for first, count, end in zip(starts, histories, starts[1:])])
    inputs = {"x": old, "offsets": cut(histories), "candidate_offsets": cut(targets)}
    run, kept = prepare(model, "prefill", inputs, {"rows": len(old), "sequences": len(lengths), "candidates": len(new)})
    run()
    torch.cuda.synchronize()
    # Of layers that keep some rows only, as many as their offsets say.
    rows = {port["rows"]: int(kept[port["name"]][-1]) for port in model.ports("prefill")["outputs"] if port["kind"] == "offsets"}
    for port in model.ports("prefill")["outputs"]:
        if port["kind"] != "offsets" and port["shape"][0] in rows:
            kept[port["name"]] = kept[port["name"]][:rows[port["shape"][0]]].contiguous()
    given = {"x": new, "offsets": cut(targets), "cached_offsets": cut(histories)} | kept
    known = {"rows": len(new), "sequences": len(lengths)}
    for port in model.ports("score")["inputs"]:
        if port["kind"] != "offsets" and isinstance(port["shape"][0], str):
            known.setdefault(port["shape"][0], len(given[port["name"]]))
    return prepare(model, "score", given, known)


def check(model, x, lengths, targets, expected, bound):
    """Whether `score` gives what `forward` gave, and the same bits again."""
    run, outputs = continued(model, x, lengths, targets)
    found = []
    for _ in range(2):
        outputs["targets"].fill_(float("nan"))
        run.workspace.fill_(0xFF)
        run()
        torch.cuda.synchronize()
        found.append(outputs["targets"].clone())
    error = ((found[0] - expected).double().norm() / expected.double().norm()).item() if expected.numel() else 0.0
    fine, same = error < bound, torch.equal(found[0], found[1])
    print(f"  from what is kept, lengths {lengths}, targets {targets}: {error:.2e} off forward{'' if fine else ', TOO FAR'}"
          f"{'' if same else ', OTHER BITS the second time'}", flush=True)
    return fine and same
