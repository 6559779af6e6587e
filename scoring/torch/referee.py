"""Writes a model with random tensors, a small stream, and what PyTorch makes of it in double precision.

    python scoring/torch/referee.py scoring/torch/referee

The tests of the scorer read that folder and must agree with its scores to 1e-5. Needs torch, numpy and safetensors.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib

import torch
from network import Network, Sizes, elapsed, since
from safetensors.torch import save_file

MINUTE_US = 60_000_000
NO_SLOT = -1
EVENTS = 400
SLOTS = (23, 9, 5)
FEATURES = [
    ("amount", None, False),
    ("noise", None, False),
    ("card_count", 0, False),
    ("terminal_count", 1, False),
    ("terminal_rate", 1, True),
    ("few_bins", None, False),
]


class Referee:
    """The stream, event by event, as one network folds it."""

    def __init__(self, sizes, tensors):
        self.network = Network(sizes, {name: tensor.double() for name, tensor in tensors.items()})
        self.sizes = sizes
        # By memory and slot: carry, steps, time of the last one, remembered events.
        self.carries = {}
        self.steps = {}
        self.last = {}
        self.rings = {}

    def since(self, memory, slot, time):
        key = memory, slot
        us = torch.tensor([float(time - self.last.get(key, time))], dtype=torch.float64)
        return since(us, torch.tensor([float(key in self.last)], dtype=torch.float64))

    def advance(self, memory, slot, time, carry):
        key = memory, slot
        self.carries[key] = carry
        self.steps[key] = self.steps.get(key, 0) + 1
        self.last[key] = max(self.last.get(key, time), time)

    def carry(self, memory, slot):
        size = self.sizes.lstm if memory == 0 else self.sizes.gru
        zero = torch.zeros(1, size, dtype=torch.float64)
        return self.carries.get((memory, slot), (zero, zero) if memory == 0 else zero)

    def label(self, event, value, time):
        """The label of an event becomes known: the carries of its endpoints move."""
        age = elapsed(torch.tensor([float(time - event["time"])], dtype=torch.float64))
        value = torch.tensor([value], dtype=torch.float64)
        for memory, slot in enumerate(event["slots"][1:], 1):
            if slot == NO_SLOT:
                continue
            last = self.since(memory, slot, time)
            x = self.network.label(event["token"], event["first"], value, last, age)
            self.advance(memory, slot, time, self.network.gru(memory, x, self.carry(memory, slot)))

    def event(self, features, slots, time):
        """Scores an event on the three rungs, then remembers it."""
        sizes, network = self.sizes, self.network
        front = network.front(features.double().unsqueeze(0))
        first, token = network.first_stage(front), network.token(front[1][:, network.remembered])
        embedded = network.embed(front, "embed")
        read_outs = []
        for memory, slot in enumerate(slots):
            key = memory, slot
            carry = self.carry(memory, slot)
            last = self.since(memory, slot, time)
            if memory > 0:
                steps = torch.tensor([float(self.steps.get(key, 0))], dtype=torch.float64)
                last = torch.cat([(torch.log1p(steps) / 3).unsqueeze(-1), last[:, 1:]], -1)
            ring = self.rings.get(key, [])
            if slot == NO_SLOT:
                last, ring = torch.zeros_like(last), []
            events = sizes.events(memory)
            entries = torch.zeros(1, events, 2 * sizes.key, dtype=torch.float64)
            ages = torch.zeros(1, events, dtype=torch.float64)
            there = torch.zeros(1, events, dtype=torch.bool)
            for place, (then, entry) in enumerate(ring):
                entries[0, place] = entry
                ages[0, place] = elapsed(torch.tensor(float(time - then), dtype=torch.float64))
                there[0, place] = True
            found = network.attend(memory, embedded, entries, ages, there)
            read = carry[0] if memory == 0 else carry
            read_outs.append(torch.cat([read, last[:, : sizes.scalars], found], -1))
        outputs = [
            network.head("head.full", embedded, read_outs),
            network.head("head.no_graph", embedded, read_outs[:1]),
            network.linear(front),
        ]
        h, c = self.carry(0, slots[0])
        for memory, slot in enumerate(slots):
            if slot == NO_SLOT:
                continue
            ring = self.rings.setdefault((memory, slot), [])
            ring.append((time, network.entry(memory, token, first, h)[0]))
            del ring[: -sizes.events(memory)]
        log_since = self.since(0, slots[0], time)[:, 1]
        self.advance(0, slots[0], time, network.lstm(token, first, log_since, h, c))
        return torch.cat(outputs), {"token": token, "first": first, "slots": slots, "time": time}


def stream(generator):
    """Features, slots, times; and labels as (events before it, its event, value, time)."""
    n = len(FEATURES)
    features = torch.randn(EVENTS, n, generator=generator) * 3
    features[torch.rand(EVENTS, n, generator=generator) < 0.1] = float("nan")
    features[:, 0] = features[:, 0].nan_to_num(1).abs().exp()
    draw = lambda high: torch.randint(high, (EVENTS,), generator=generator)
    slots = torch.stack([draw(high) for high in SLOTS], 1)
    # Half of all events at one terminal, and some without a device.
    slots[::2, 1] = 3
    slots[draw(10) == 0, 2] = NO_SLOT
    # Some come out of order.
    times = torch.arange(EVENTS) * 7 * MINUTE_US - draw(2) * draw(20 * MINUTE_US)
    labels = []
    for of in range(EVENTS):
        at = of + 1 + int(torch.randint(60, (1,), generator=generator))
        if at <= EVENTS and of % 5:
            value = float(torch.rand(1, generator=generator) < 0.3)
            labels.append((at, of, value, int(times[of]) + (at - of) * 7 * MINUTE_US))
    return features, slots, times, sorted(labels)


def manifest(sizes, weights_sha256):
    affine = {"slope": 1.0, "intercept": 0.0}
    options = dataclasses.asdict(sizes)
    features, entities = options.pop("features"), options.pop("entities")
    return {
        "features": "referee",
        "inputs": [
            {"name": name, "data_type": "Float64", "entity": entity, "from_label": from_label, "used": True}
            for name, entity, from_label in features
        ],
        "output": "log_odds",
        "sizes": options,
        "entities": entities,
        "calibration": {rung: affine for rung in ("full", "no_graph", "linear", "rules")},
        "groups": [],
        "baseline": [0.0] * len(features),
        "training": {"from_us": 0, "to_us": 0, "rows": 0, "positives": 0, "seed": 0, "weights": 0},
        "metrics": {"loss": 0.0, "auc": None, "average_precision": None, "calibration_rows": 0},
        "weights_sha256": weights_sha256,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    sizes = Sizes(
        features=FEATURES,
        entities=["card", "terminal", "device"],
        bins=5,
        splits=1,
        embedding=3,
        first_stage=10,
        token=7,
        lstm=9,
        gru=6,
        own_events=5,
        endpoint_events=6,
        heads=2,
        head_size=3,
        days=True,
        members=2,
        hidden=(25, 12),
    )
    members = [sizes.random(generator) for _ in range(sizes.members)]
    front = {name: tensor for name, tensor in members[0].items() if name.startswith("front.")}
    weights = {"calibration": torch.tensor([[1.0, 0.0]] * 4), "label": torch.tensor([0.0, 1.0])}
    for number, member in enumerate(members):
        member.update(front)
        prefix = f"member.{number}." if number else ""
        weights.update({f"{prefix}{name}": tensor for name, tensor in member.items() if name not in front})
    weights.update(front)
    features, slots, times, labels = stream(generator)
    referees = [Referee(sizes, member) for member in members]
    outputs = torch.zeros(EVENTS, 3, dtype=torch.float64)
    with torch.inference_mode():
        for referee in referees:
            events, waiting = [], list(labels)
            for event in range(EVENTS):
                while waiting and waiting[0][0] <= event:
                    _, of, value, time = waiting.pop(0)
                    referee.label(events[of], value, time)
                raw, kept = referee.event(features[event], slots[event].tolist(), int(times[event]))
                outputs[event] += raw / len(referees)
                events.append(kept)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.float().contiguous() for name, tensor in weights.items()}, args.out / "model.safetensors")
    written = (args.out / "model.safetensors").read_bytes()
    text = json.dumps(manifest(sizes, hashlib.sha256(written).hexdigest()), indent=2)
    (args.out / "manifest.json").write_text(text + "\n")
    at, of, value, time = zip(*labels)
    save_file(
        {
            "features": features,
            "slots": slots,
            "times": times,
            "labels.at": torch.tensor(at),
            "labels.of": torch.tensor(of),
            "labels.value": torch.tensor(value),
            "labels.time": torch.tensor(time),
            "outputs": outputs,
        },
        args.out / "stream.safetensors",
    )
    print(f"{EVENTS} events, {len(labels)} labels; outputs from {outputs.min():.3f} to {outputs.max():.3f}")


if __name__ == "__main__":
    main()
