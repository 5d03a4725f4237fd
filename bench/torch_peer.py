#!/usr/bin/python3
"""MEGABYTE in PyTorch as a practitioner would write it, timed: the peer of `megabyte bench`.

    bench/torch_peer.py --preset tiny                      times PyTorch alone, one JSON object
    bench/torch_peer.py --preset tiny --beside build/megabyte   ours in the same run, and a table of ratios
    bench/torch_peer.py --device cuda --preset paper-text --beside build/megabyte   on a GPU

Training is one step of AdamW with gradient clipping on random bytes, in float32 and under bfloat16
autocast; generation is batch 1 in float32, with keys and values cached in both stages. Times are
medians after a warm-up. Needs Debian's python3-torch.

On a GPU: training in bfloat16 with fused AdamW, eager and compiled, attention by
scaled_dot_product_attention and, inside patches, also written out; generation in bfloat16 with one
CUDA graph for each patch. Needs PyTorch 2.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

PRESETS = {  # (positions, width, layers, heads) of both stages, rows of a step (0: generation only)
    "tiny": ((128, 256, 4, 4), (8, 128, 2, 4), 16),
    "small": ((128, 512, 6, 8), (8, 256, 4, 4), 8),
    "paper-text": ((1024, 2048, 14, 16), (8, 1024, 18, 16), 8),
    "paper-generation": ((1024, 2048, 24, 32), (8, 1024, 15, 16), 0),
}


class Layer(nn.Module):
    written_out = 1 << 30  # attention of longer sequences goes to PyTorch's fused kernel

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attend(self, x, mask, cache=None, at=None):
        rows, length, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(rows, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if isinstance(at, torch.Tensor):  # of a CUDA graph: any place of the cache
            keys, values = cache
            k, v = keys.index_copy_(2, at, k), values.index_copy_(2, at, v)
            mask = torch.where(torch.arange(keys.shape[2], device=x.device) <= at, 0.0, float("-inf"))
        elif cache is not None:
            keys, values = cache
            keys[:, :, at], values[:, :, at] = k[:, :, 0], v[:, :, 0]
            k, v = keys[:, :, : at + 1], values[:, :, : at + 1]
        elif length > self.written_out:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        mixed = scores.softmax(-1).to(v.dtype) @ v
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))

    def forward(self, x, mask=None, cache=None, at=None):
        x = x + self.attend(x, mask, cache, at)
        return x + self.ffn(self.before_ffn(x))


class Stack(nn.Module):
    def __init__(self, length, width, layers, heads):
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.pad = nn.LayerNorm(width), nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1), False)

    def shift(self, x):
        return torch.cat([self.pad.expand(len(x), 1, -1), x[:, :-1]], 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, self.mask)
        return self.norm(x)

    def caches(self, length):
        shape = (1, self.layers[0].heads, length, self.pad.numel() // self.layers[0].heads)
        return [(self.pad.new_zeros(shape), self.pad.new_zeros(shape)) for _ in self.layers]

    def step(self, x, caches, at):
        for layer, cache in zip(self.layers, caches):
            x = layer(x, None, cache, at)
        return self.norm(x)


class Megabyte(nn.Module):
    def __init__(self, coarse, fine):
        super().__init__()
        (self.patches, wide, *_), (self.patch, narrow, *_) = coarse, fine
        self.coarse, self.fine = Stack(*coarse), Stack(*fine)
        self.coarse_bytes = nn.Embedding(256, wide // self.patch)
        self.fine_bytes = nn.Embedding(256, narrow)
        self.coarse_places = nn.Parameter(torch.randn(self.patches, wide) * 0.02)
        self.fine_places = nn.Parameter(torch.randn(self.patch, narrow) * 0.02)
        self.down = nn.Linear(wide // self.patch, narrow, bias=False)
        for table in self.coarse_bytes, self.fine_bytes:
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x):
        rows = len(x)
        above = self.coarse_bytes(x).view(rows, self.patches, -1) + self.coarse_places
        above = self.coarse(self.coarse.shift(above)).view(rows * self.patches, self.patch, -1)
        below = self.fine_bytes(x).view(rows * self.patches, self.patch, -1) + self.fine_places
        below = self.fine(self.fine.shift(below) + self.down(above))
        return F.linear(below, self.fine_bytes.weight).view(rows, -1, 256)

    @torch.no_grad()
    def generate(self, count):
        out, caches = [], self.coarse.caches(self.patches)
        x = self.coarse.pad.view(1, 1, -1)
        for place in range(count // self.patch):
            patch, x = self.next_patch(x, caches, self.fine.caches(self.patch), place)
            out.append(patch)
        return torch.cat(out)

    # The bytes of the patch at `place`, and the coarse stage's next input.
    def next_patch(self, x, caches, fine, place):
        slices = self.down(self.coarse.step(x, caches, place).view(1, self.patch, -1))
        y, patch = self.fine.pad.view(1, 1, -1), []
        for i in range(self.patch):
            logits = F.linear(self.fine.step(y + slices[:, i: i + 1], fine, i), self.fine_bytes.weight)
            patch.append(torch.multinomial(logits[0, 0].float().softmax(-1), 1))
            y = self.fine_bytes(patch[-1]).view(1, 1, -1) + self.fine_places[i]
        patch = torch.cat(patch)
        return patch, (self.coarse_bytes(patch).view(1, -1) + self.coarse_places[place])[None]

    # The same with one CUDA graph that is replayed for each patch.
    @torch.no_grad()
    def generate_in_graphs(self, count):
        if not hasattr(self, "graph"):
            self.x, self.place = self.coarse.pad.view(1, 1, -1).clone(), torch.zeros(1, dtype=torch.long, device="cuda")
            state = self.coarse.caches(self.patches), self.fine.caches(self.patch)
            with torch.cuda.stream(torch.cuda.Stream()):
                self.next_patch(self.x, *state, self.place)  # warm-up
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.bytes, x = self.next_patch(self.x, *state, self.place)
                self.x.copy_(x.view_as(self.x))
                self.place += 1
        self.x.copy_(self.coarse.pad.view(1, 1, -1))
        self.place.zero_()
        out = []
        for _ in range(count // self.patch):
            self.graph.replay()
            out.append(self.bytes.cpu())
        return torch.cat(out)


def median_seconds(work, seconds):
    work()
    times = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def trainer(preset, device, **options):
    coarse, fine, rows = PRESETS[preset]
    torch.manual_seed(0)
    model = Megabyte(coarse, fine).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, betas=(0.9, 0.98), weight_decay=0.1, **options)
    x = torch.randint(0, 256, (rows, coarse[0] * fine[0]), device=device)

    def step(half=True, forward=model):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            logits = forward(x)
        F.cross_entropy(logits.float().view(-1, 256), x.view(-1)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return model, x.numel(), step


def measure(preset, seconds):
    model, count, train = trainer(preset, "cpu")
    return {"train_f32": count / median_seconds(lambda: train(False), seconds),
            "train_bf16": count / median_seconds(lambda: train(True), seconds),
            "generate_f32": 256 / median_seconds(lambda: model.generate(256), seconds)}


def measure_cuda(preset, seconds):
    coarse, fine, rows = PRESETS[preset]
    torch.set_default_device("cuda")
    result = {}
    for name, written_out, compiled in (("eager", 0, False), ("compiled", 0, True),
                                        ("compiled, attention inside patches written out", fine[0], True)):
        if not rows:
            break
        Layer.written_out = written_out
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model, count, train = trainer(preset, "cuda", fused=True)
        forward = torch.compile(model) if compiled else model
        result["train_bf16 " + name] = count / median_seconds(lambda: train(True, forward), seconds)
        print(f"{name}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", file=sys.stderr)
        del model, train, forward
        torch._dynamo.reset()
    model = Megabyte(coarse, fine).to("cuda", torch.bfloat16)
    count = min(2048, coarse[0] * fine[0])
    result["generate_bf16 CUDA graphs"] = count / median_seconds(lambda: model.generate_in_graphs(count), seconds)
    return result


def ours(program, arguments):
    def run(what, dtype, *options):
        command = [program, "bench", "--preset", arguments.preset, "--seconds", str(arguments.seconds), "--json",
                   "--device", arguments.device, "--dtype", dtype, "--" + what, *options]
        if arguments.device == "cpu":
            command += ["--threads", str(arguments.threads)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)[what]["bytes_per_s"]

    if arguments.device == "cpu":
        return {"train_f32": run("train", "f32"), "train_bf16": run("train", "bf16"),
                "generate_f32": run("generate", "f32", "--bytes", "256")}
    rows = PRESETS[arguments.preset][2]
    result = {"train_bf16": run("train", "bf16", "--batch", str(rows), "--set", "activation=gelu")} if rows else {}
    return {**result, "generate_bf16": run("generate", "bf16", "--bytes", "2048")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--beside", metavar="PROGRAM", help="the program megabyte, to compare with")
    parser.add_argument("--seconds", type=float, default=5, help="time for each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    if not cuda and not PRESETS[arguments.preset][2]:
        parser.error(f"{arguments.preset} is for --device cuda")
    torch.set_num_threads(arguments.threads)
    peer = (measure_cuda if cuda else measure)(arguments.preset, arguments.seconds)
    if not arguments.beside:
        json.dump(peer, sys.stdout, indent=2)
        print()
        return
    if cuda:
        torch.cuda.empty_cache()
    mine = ours(arguments.beside, arguments)
    place = torch.cuda.get_device_name() if cuda else f"{arguments.threads} threads"
    print(f"{arguments.preset}, {place}; bytes/s")
    print(f"{'':<60} {'megabyte':>10} {'PyTorch ' + torch.__version__:>20} {'ratio':>7}")
    for name, speed in peer.items():
        own = mine[name.split()[0]]
        print(f"{name:<60} {own:>10.0f} {speed:>20.0f} {own / speed:>7.2f}")


if __name__ == "__main__":
    main()
