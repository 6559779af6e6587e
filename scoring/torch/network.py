"""The scoring network in PyTorch, from the tensors of a model folder.

Written from the model's description, with PyTorch's own cells, so that it can referee the served one (`referee.py`) and
race it (`race.py`). One member of a model; sizes as in `pipeline.yaml`.
"""

import dataclasses
import math

import torch
from torch.nn import functional

CLIP = 5.0
TAIL_QUANTILES = 4
FIRST_STAGE_SCALE = 1 / 3


@dataclasses.dataclass
class Sizes:
    """What a model is made of. `features` is one (name, entity or None, from_label) a feature."""

    features: list
    entities: list
    bins: int = 12
    splits: int = 3
    embedding: int = 4
    first_stage: int = 48
    token: int = 8
    lstm: int = 64
    gru: int = 16
    own_events: int = 16
    endpoint_events: int = 16
    heads: int = 4
    head_size: int = 4
    days: bool = False
    members: int = 1
    hidden: tuple = (128, 64)

    @property
    def all_bins(self):
        return self.bins + TAIL_QUANTILES + 2 * self.splits

    @property
    def first(self):
        """Features of the first stage: those that no label went into."""
        return [i for i, (_, _, from_label) in enumerate(self.features) if not from_label]

    @property
    def remembered(self):
        """Features by which an event is remembered: of the event or its own entity, without labels."""
        return [i for i in self.first if self.features[i][1] in (None, 0)]

    @property
    def key(self):
        return self.heads * self.head_size

    @property
    def scalars(self):
        return 3 if self.days else 2

    @property
    def label_extras(self):
        return 6 if self.days else 4

    def embedded(self, features):
        return features * (self.embedding + 2)

    def events(self, memory):
        return self.own_events if memory == 0 else self.endpoint_events

    def read_out(self, memory):
        return (self.lstm if memory == 0 else self.gru) + self.scalars + self.key

    def shapes(self):
        """Name and shape of each trained tensor; matrices are outputs x inputs."""
        n, first, memories = len(self.features), len(self.first), len(self.entities)
        embedded = self.embedded(n)
        out = {}

        def dense(name, outputs, inputs):
            out[f"{name}.weight"] = (outputs, inputs)
            out[f"{name}.bias"] = (outputs,)

        def cell(name, gates, inputs, size, biases):
            out[f"{name}.input"] = (gates * size, inputs)
            out[f"{name}.hidden"] = (gates * size, size)
            out.update({f"{name}.{bias}": (gates * size,) for bias in biases})

        for name, inputs in (("first.embed", first), ("embed", n)):
            out[f"{name}.weight"] = (inputs, self.all_bins, self.embedding)
            out[f"{name}.bias"] = (inputs, self.embedding)
        dense("first.hidden", self.first_stage, self.embedded(first))
        dense("first.out", 1, self.first_stage)
        dense("linear", 1, 2 * n)
        dense("token", self.token, len(self.remembered))
        cell("memory.0", 4, self.token + 2, self.lstm, ["bias"])
        for memory in range(1, memories):
            cell(f"memory.{memory}", 3, self.token + self.label_extras, self.gru, ["bias_input", "bias_hidden"])
        for memory in range(memories):
            dense(f"attention.{memory}.query", self.key, embedded)
            dense(f"attention.{memory}.event", 2 * self.key, self.token + 1 + self.lstm)
            out[f"attention.{memory}.decay"] = (self.heads,)
        a, b = self.hidden
        for name, memories, (a, b) in (
            ("head.full", memories, (a, b)),
            ("head.no_graph", 1, (-(-a // 2), -(-b // 2))),
        ):
            dense(f"{name}.0", a, embedded + sum(self.read_out(m) for m in range(memories)))
            dense(f"{name}.1", b, a)
            dense(f"{name}.2", 1, b)
        return out

    def random(self, generator):
        """Tensors as a fresh model has them, with biases that are not 0 and statistics of a standard front."""
        tensors = {}
        for name, shape in self.shapes().items():
            bound = 1 / math.sqrt(shape[-2] if len(shape) == 3 else shape[-1])
            tensors[name] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        n = len(self.features)
        tensors["front.mean"] = torch.rand(n, generator=generator)
        tensors["front.deviation"] = 0.5 + torch.rand(n, generator=generator)
        edges = torch.sort(torch.randn(n, self.all_bins + 1, generator=generator) * 2).values
        # The last feature has fewer bins than there is room for.
        edges[-1, self.all_bins // 2 :] = math.inf
        tensors["front.edges"] = edges
        tensors["front.medians"] = torch.zeros(n)
        return tensors


def elapsed(us):
    """How long microseconds are, to a network."""
    return torch.log1p(us.clamp(min=0) * 1e-6) / 5


def since(us, seen):
    """Whether there was one before, and how long ago: by its logarithm and in tens of days."""
    days = (us.clamp(min=0) / 864e9).clamp(max=3)
    return torch.stack([seen, elapsed(us) * seen, days * seen], -1)


class Network:
    """One network; every method takes and gives tensors whose first dimension is rows."""

    def __init__(self, sizes, tensors):
        self.sizes = sizes
        self.tensors = tensors
        self.first = torch.tensor(sizes.first)
        self.remembered = torch.tensor(sizes.remembered)
        edges = tensors["front.edges"]
        self.low, high = edges[:, :-1], edges[:, 1:]
        self.there = torch.isfinite(high)
        self.width = torch.where(self.there, high - self.low, 1)
        self.low = torch.where(self.there, self.low, 0)

    def dense(self, x, name):
        return functional.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def front(self, features):
        """Signed logarithms, clipped z-scores and missing flags; NaN is missing."""
        logs = torch.sign(features) * torch.log1p(features.abs())
        missing = features.isnan()
        z = ((logs - self.tensors["front.mean"]) / self.tensors["front.deviation"]).clamp(-CLIP, CLIP)
        return logs, z.masked_fill(missing, 0), missing.to(z.dtype)

    def embed(self, front, name, used=None):
        """Piecewise-linear embeddings after ReLU, z-scores and flags, of all inputs or those used."""
        logs, z, missing = front
        low, width, there = self.low, self.width, self.there
        if used is not None:
            logs, z, missing = logs[:, used], z[:, used], missing[:, used]
            low, width, there = low[used], width[used], there[used]
        code = ((logs.unsqueeze(-1) - low) / width).clamp(0, 1)
        code = torch.where(there & ~logs.isnan().unsqueeze(-1), code, 0)
        cells = torch.einsum("rib,ibd->rid", code, self.tensors[f"{name}.weight"])
        cells = functional.relu(cells + self.tensors[f"{name}.bias"])
        return torch.cat([cells.flatten(1), z, missing], 1)

    def first_stage(self, front):
        hidden = self.dense(self.embed(front, "first.embed", self.first), "first.hidden")
        return self.dense(functional.gelu(hidden, approximate="tanh"), "first.out").squeeze(-1)

    def linear(self, front):
        _, z, missing = front
        return self.dense(torch.cat([z, missing], 1), "linear").squeeze(-1)

    def token(self, z):
        return self.dense(z, "token")

    def lstm(self, token, first, log_since, h, c):
        x = torch.cat([token, (first * FIRST_STAGE_SCALE).unsqueeze(-1), log_since.unsqueeze(-1)], -1)
        bias = self.tensors["memory.0.bias"]
        weights = self.tensors["memory.0.input"], self.tensors["memory.0.hidden"]
        return torch.lstm_cell(x, (h, c), *weights, bias, torch.zeros_like(bias))

    def gru(self, memory, x, h):
        parts = ("input", "hidden", "bias_input", "bias_hidden")
        return torch.gru_cell(x, h, *(self.tensors[f"memory.{memory}.{part}"] for part in parts))

    def label(self, token, first, label, last, age):
        """What a GRU step reads of a known label; `last` is as `since` gives it."""
        log, seen, days = last[..., 1], last[..., 0], last[..., 2]
        extras = torch.stack([first * FIRST_STAGE_SCALE, label, log, age, seen, days], -1)
        return torch.cat([token, extras[..., : self.sizes.label_extras]], -1)

    def entry(self, memory, token, first, h):
        """Key and value by which an event is remembered."""
        x = torch.cat([token, (first * FIRST_STAGE_SCALE).unsqueeze(-1), h], -1)
        return self.dense(x, f"attention.{memory}.event")

    def attend(self, memory, embedded, ring, ages, there):
        """What each row's query finds: ring is rows x events x 2 keys, ages and there rows x events."""
        sizes = self.sizes
        heads = (sizes.heads, sizes.head_size)
        query = self.dense(embedded, f"attention.{memory}.query").unflatten(-1, heads)
        keys, values = (part.unflatten(-1, heads) for part in ring.split(sizes.key, -1))
        dots = torch.einsum("rhd,rehd->reh", query, keys) / math.sqrt(sizes.head_size)
        decay = functional.softplus(self.tensors[f"attention.{memory}.decay"])
        weights = dots - ages.unsqueeze(-1) * decay
        weights = weights.masked_fill(~there.unsqueeze(-1), -math.inf).softmax(1)
        # Nothing is found where nothing is remembered.
        return torch.einsum("reh,rehd->rhd", weights.nan_to_num(0), values).flatten(1)

    def head(self, name, embedded, read_outs):
        x = torch.cat([embedded, *read_outs], -1)
        for layer in range(2):
            x = functional.gelu(self.dense(x, f"{name}.{layer}"), approximate="tanh")
        return self.dense(x, f"{name}.2").squeeze(-1)
