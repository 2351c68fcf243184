"""Runs a trained model from ids to scores on the card at hand, and holds it to what it gives in float64.

    python3 trained.py model.ultra histories.safetensors expected.safetensors

The model is one of examples/ with `user_embeddings` and `scores`, in fp32 or with products and attention in bf16;
examples/movielens-100k/fetch_data.py makes the histories, of 200 films for movielens-100k and of 256 for movielens-ultra.
"""

import argparse
import sys

import torch

from artifact import Model
from run import is_narrow, read_weights, seconds

# What operands of bf16 cost: their errors are 2^-9 each, and films whose scores are as close change places; and what sums of fp32 do.
EMBEDDING_ERROR = {True: 4e-3, False: 1e-5}
SAME_FILMS = {True: 0.98, False: 0.999}


def call_of(model, histories, users):
    """A call for some users, and where its results go; their memory is filled with NaN."""
    offsets = histories["offsets"].long()
    chosen = torch.cat([torch.arange(offsets[user], offsets[user + 1]) for user in users])
    lengths = torch.stack([offsets[user + 1] - offsets[user] for user in users])
    inputs = {port["name"]: histories[port["name"]].long()[chosen if port["shape"][0] == "rows" else users].contiguous()
              for port in model.ports()["inputs"] if port["kind"] == "tensor"}
    inputs["offsets"] = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    outputs = {port["name"]: torch.full((len(users), port["shape"][1]), float("nan"), device="cuda")
               for port in model.ports()["outputs"]}
    run = model.prepare(inputs, [len(chosen), len(users)], outputs)
    run.workspace.fill_(0xFF)
    run()
    torch.cuda.synchronize()
    return run, outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("artifact", "histories", "expected"):
        parser.add_argument(name)
    parser.add_argument("--target")
    arguments = parser.parse_args()
    histories, expected = read_weights(arguments.histories), read_weights(arguments.expected)
    model = Model(arguments.artifact, arguments.target)
    users = list(range(len(expected["user_embeddings"])))
    run, found = call_of(model, histories, users)
    wanted = expected["user_embeddings"].double()
    embeddings = found["user_embeddings"].cpu()
    error = ((embeddings.double() - wanted).norm() / wanted.norm()).item()
    # Films are numbered from 1; those that a user has seen are not recommended.
    scores, offsets = found["scores"].cpu(), histories["offsets"].tolist()
    for user in users:
        scores[user, histories["item_ids"][offsets[user]:offsets[user + 1]].long() - 1] = -float("inf")
    best = scores.topk(10, dim=1).indices + 1
    same = sum(len(set(a) & set(b)) for a, b in zip(best.tolist(), expected["top10_ids"].tolist())) / (10 * len(users))
    targets = histories["target_ids"].long()
    hits, hits_wanted = (sum(t in row for t, row in zip(targets.tolist(), rows.tolist())) / len(users)
                         for rows in (best, expected["top10_ids"]))
    alone = all(torch.equal(call_of(model, histories, [user])[1]["scores"][0], found["scores"][user]) for user in users[::100])
    print(f"{torch.cuda.get_device_name()}; {arguments.artifact}: {model.target}, {len(users)} users, {run.keep[3][0].numel()} events: "
          f"embeddings {error:.1e} off, {100 * same:.1f} % of the ten best the same, HR@10 {hits:.4f} ({hits_wanted:.4f} in "
          f"float64), {'the same bits' if alone else 'OTHER BITS'} alone, {seconds(run) * 1e3:.2f} ms")
    narrow = is_narrow(model)
    fine = error < EMBEDDING_ERROR[narrow] and same > SAME_FILMS[narrow] and alone
    model.close()
    print("all right" if fine else "WRONG")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
