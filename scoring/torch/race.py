"""The same network in PyTorch and in Sanderling, side by side in one run, on one thread each.

    python scoring/torch/race.py [--rounds 3] [--threads 1] [--history 16,32,64]

Batches of 256 events: 40 features, card LSTM of 64, GRU of 16 over a terminal's known labels, attention over 16 events of each.
In each round Sanderling's scorer (`cargo bench --bench score`), then PyTorch with carried state (carries and
remembered keys are gathered and scattered by index, one step of each cell), then PyTorch that runs histories again (the
last events of a card through the LSTM, as many labels of a terminal through the GRU, and the keys of the last 16), then PyTorch that
runs each history that the network looks at, also those of the cards at the terminal's last 16 events, each up to that event: what they remembered then is
in the keys that attention reads, and without a store of memories it has to be found again. Then the
matrix products of one batch alone. A carry has no end, so the same network has to run all of a history; cut off, it is
another. PyTorch is spared what is not tensors: the times and counts of an event come
ready-made, it looks for no label's event, and an entity that comes twice in a batch takes one step. Needs torch and cargo.
"""

import argparse
import re
import statistics
import subprocess
import time

import torch
from network import Network, Sizes

BATCH = 256
CARDS, TERMINALS = 5_000, 10_000
BATCHES = 24
SANDERLING = "cargo bench --locked --profile measure -p sanderling-scoring --bench score -- full"


def sizes():
    features = [(f"f{i}", (None, 0, 1)[i % 3], i % 6 == 2) for i in range(40)]
    return Sizes(features=features, entities=["card", "terminal"])


class Batch:
    """What one batch brings; nothing of it is timed."""

    def __init__(self, sizes, history, generator, neighbours=False):
        rand = lambda *shape: torch.rand(*shape, generator=generator)
        draw = lambda high: torch.randint(high, (BATCH,), generator=generator)
        self.features = torch.where(rand(BATCH, 40) < 0.02, torch.nan, rand(BATCH, 40).mul(8).exp())
        self.card, self.terminal, self.labelled = draw(CARDS), draw(TERMINALS), draw(TERMINALS)
        self.card_since, self.terminal_since = rand(BATCH, 2), rand(BATCH, 2)
        self.card_ages, self.terminal_ages = rand(BATCH, sizes.own_events), rand(BATCH, sizes.endpoint_events)
        # Of the events whose label became known.
        self.label = (rand(BATCH) < 0.01).float()
        self.label_last, self.label_age = rand(BATCH, 3), rand(BATCH)
        self.label_token, self.label_first = rand(BATCH, sizes.token), rand(BATCH)
        # Histories, as a feature store would hand them over.
        n = len(sizes.remembered)
        self.card_z, self.card_first = rand(BATCH, history, n), rand(BATCH, history)
        self.card_gaps = rand(BATCH, history)
        self.terminal_z = rand(BATCH, sizes.endpoint_events, n)
        self.terminal_first = rand(BATCH, sizes.endpoint_events)
        self.terminal_h = rand(BATCH, sizes.endpoint_events, sizes.lstm)
        self.labels = rand(BATCH, history, sizes.token + sizes.label_extras)
        if neighbours:
            n_events = BATCH * sizes.endpoint_events
            self.neighbours = rand(n_events, history, n), rand(n_events, history), rand(n_events, history)


class Carried:
    """State in tables by entity; a batch gathers its rows and writes them back."""

    def __init__(self, network):
        sizes = network.sizes
        self.network = network
        self.h, self.c = torch.zeros(CARDS, sizes.lstm), torch.zeros(CARDS, sizes.lstm)
        self.terminal_h = torch.zeros(TERMINALS, sizes.gru)
        self.card_ring = torch.randn(CARDS, sizes.own_events, 2 * sizes.key)
        self.terminal_ring = torch.randn(TERMINALS, sizes.endpoint_events, 2 * sizes.key)
        self.card_next = torch.zeros(CARDS, dtype=torch.long)
        self.terminal_next = torch.zeros(TERMINALS, dtype=torch.long)
        self.there = torch.ones(BATCH, sizes.own_events, dtype=torch.bool)

    def score(self, batch):
        network, sizes = self.network, self.network.sizes
        x = network.label(batch.label_token, batch.label_first, batch.label, batch.label_last, batch.label_age)
        self.terminal_h[batch.labelled] = network.gru(1, x, self.terminal_h[batch.labelled])
        front = network.front(batch.features)
        first, token = network.first_stage(front), network.token(front[1][:, network.remembered])
        embedded = network.embed(front, "embed")
        h, c = self.h[batch.card], self.c[batch.card]
        found = [
            network.attend(0, embedded, self.card_ring[batch.card], batch.card_ages, self.there),
            network.attend(1, embedded, self.terminal_ring[batch.terminal], batch.terminal_ages, self.there),
        ]
        read_outs = [h, batch.card_since, found[0], self.terminal_h[batch.terminal], batch.terminal_since, found[1]]
        scores = network.head("head.full", embedded, read_outs)
        self.card_ring[batch.card, self.card_next[batch.card]] = network.entry(0, token, first, h)
        self.terminal_ring[batch.terminal, self.terminal_next[batch.terminal]] = network.entry(1, token, first, h)
        self.card_next[batch.card] = (self.card_next[batch.card] + 1) % sizes.own_events
        self.terminal_next[batch.terminal] = (self.terminal_next[batch.terminal] + 1) % sizes.endpoint_events
        self.h[batch.card], self.c[batch.card] = network.lstm(token, first, batch.card_since[:, 1], h, c)
        return scores


class Rerun:
    """No state: every event's histories go through PyTorch's own LSTM and GRU again, and those of the cards that were at its
    terminal too if `neighbours`; if not, what these remembered is there."""

    def __init__(self, network, neighbours=False):
        sizes, tensors = network.sizes, network.tensors
        self.network, self.neighbours = network, neighbours
        self.lstm = torch.nn.LSTM(sizes.token + 2, sizes.lstm, batch_first=True)
        self.gru = torch.nn.GRU(sizes.token + sizes.label_extras, sizes.gru, batch_first=True)
        zero = torch.zeros(4 * sizes.lstm)
        biases = tensors["memory.1.bias_input"], tensors["memory.1.bias_hidden"]
        for cell, memory, bias in ((self.lstm, 0, (tensors["memory.0.bias"], zero)), (self.gru, 1, biases)):
            weights = tensors[f"memory.{memory}.input"], tensors[f"memory.{memory}.hidden"], *bias
            for own, weight in zip(cell.parameters(), weights):
                own.data.copy_(weight)
        self.there = torch.ones(BATCH, sizes.own_events, dtype=torch.bool)

    def remember(self, z, first, gaps):
        """Tokens of some histories, and what the cards remember after each event."""
        token = self.network.token(z)
        h, _ = self.lstm(torch.cat([token, first.unsqueeze(-1) / 3, gaps.unsqueeze(-1)], -1))
        return token, h

    def score(self, batch):
        network = self.network
        front = network.front(batch.features)
        embedded = network.embed(front, "embed")
        token, h = self.remember(batch.card_z, batch.card_first, batch.card_gaps)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        last = -network.sizes.own_events
        card_ring = network.entry(0, token[:, last:], batch.card_first[:, last:], before[:, last:])
        terminal_token = network.token(batch.terminal_z)
        terminal_h = batch.terminal_h
        if self.neighbours:
            terminal_h = self.remember(*batch.neighbours)[1][:, -1].view_as(terminal_h)
        terminal_ring = network.entry(1, terminal_token, batch.terminal_first, terminal_h)
        terminal_h, _ = self.gru(batch.labels)
        found = [
            network.attend(0, embedded, card_ring, batch.card_ages, self.there),
            network.attend(1, embedded, terminal_ring, batch.terminal_ages, self.there),
        ]
        read_outs = [h[:, -1], batch.card_since, found[0], terminal_h[:, -1], batch.terminal_since, found[1]]
        return network.head("head.full", embedded, read_outs)


class Products:
    """The matrix products of a batch with carried state, one after the other, and nothing else."""

    def __init__(self, network):
        names = ("first.hidden", "first.out", "token", "attention.0.query", "attention.0.event")
        names += ("attention.1.query", "attention.1.event", "head.full.0", "head.full.1", "head.full.2")
        matrices = [network.tensors[f"{name}.weight"] for name in names]
        cells = ("memory.0.input", "memory.0.hidden", "memory.1.input", "memory.1.hidden")
        matrices += [network.tensors[name] for name in cells]
        self.pairs = [(torch.randn(BATCH, weight.shape[1]), weight.t()) for weight in matrices]
        self.flops = sum(2 * x.numel() * weight.shape[1] for x, weight in self.pairs)

    def score(self, _):
        return [x @ weight for x, weight in self.pairs]


def rate(runner, batches, seconds=5):
    """Events a second at the median batch."""
    took = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for batch in batches:
            begun = time.perf_counter()
            runner.score(batch)
            took.append(time.perf_counter() - begun)
    # The first rounds warm up.
    return BATCH / statistics.median(took[len(took) // 4 :])


def sanderling():
    out = subprocess.run(SANDERLING.split(), check=True, capture_output=True, text=True).stdout
    return float(re.search(r"^full +(\d+) at the median", out, re.MULTILINE).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch; Sanderling has one")
    parser.add_argument("--history", default="16,32,64", help="events and labels that are run again; 16 at least")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(1)
    network = Network(sizes(), sizes().random(generator))
    histories = [int(history) for history in args.history.split(",")]
    batches = {
        history: [Batch(network.sizes, history, generator, history == histories[0]) for _ in range(BATCHES)]
        for history in histories
    }
    products = Products(network)
    runners = [("PyTorch, carried state", Carried(network), histories[0])]
    runners += [(f"PyTorch, last {history} run again", Rerun(network), history) for history in histories]
    runners += [(f"PyTorch, all last {histories[0]} run again", Rerun(network, neighbours=True), histories[0])]
    runners += [("its matrix products alone", products, histories[0])]
    print(f"torch {torch.__version__}, {args.threads} thread(s); events/s at the median batch of {BATCH}")
    with torch.inference_mode():
        for number in range(args.rounds):
            own = sanderling()
            print(f"round {number + 1}: Sanderling {own:,.0f}")
            for name, runner, history in runners:
                other = rate(runner, batches[history])
                print(f"    {name:<30} {other:>9,.0f}   Sanderling is {own / other:.2f} times as fast")
    print(f"products of a batch: {products.flops / 1e6:.1f} million floating-point operations")


if __name__ == "__main__":
    main()
