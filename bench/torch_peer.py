#!/usr/bin/python3
"""MEGABYTE in PyTorch as a practitioner would write it, timed: the peer of `megabyte bench`.

    bench/torch_peer.py --preset tiny                      times PyTorch alone, one JSON object
    bench/torch_peer.py --preset tiny --beside build/megabyte   ours in the same run, and a table of ratios

Training is one step of AdamW with gradient clipping on random bytes, in float32 and under bfloat16
autocast; generation is batch 1 in float32, with keys and values cached in both stages. Times are
medians after a warm-up. Needs Debian's python3-torch.
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

PRESETS = {  # (positions, width, layers, heads) of both stages, rows of a step
    "tiny": ((128, 256, 4, 4), (8, 128, 2, 4), 16),
    "small": ((128, 512, 6, 8), (8, 256, 4, 4), 8),
}


class Layer(nn.Module):
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
        if cache is not None:
            keys, values = cache
            keys[:, :, at], values[:, :, at] = k[:, :, 0], v[:, :, 0]
            k, v = keys[:, :, : at + 1], values[:, :, : at + 1]
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + mask
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
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in self.layers]

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
            slices = self.down(self.coarse.step(x, caches, place).view(1, self.patch, -1))
            y, fine, patch = self.fine.pad.view(1, 1, -1), self.fine.caches(self.patch), []
            for i in range(self.patch):
                logits = F.linear(self.fine.step(y + slices[:, i: i + 1], fine, i), self.fine_bytes.weight)
                patch.append(torch.multinomial(logits[0, 0].softmax(-1), 1))
                y = self.fine_bytes(patch[-1]).view(1, 1, -1) + self.fine_places[i]
            x = (self.coarse_bytes(torch.cat(patch)).view(1, -1) + self.coarse_places[place])[None]
            out += patch
        return torch.cat(out)


def median_seconds(work, seconds):
    work()
    times = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(preset, seconds):
    coarse, fine, rows = PRESETS[preset]
    torch.manual_seed(0)
    model = Megabyte(coarse, fine)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, betas=(0.9, 0.98), weight_decay=0.1)
    x = torch.randint(0, 256, (rows, coarse[0] * fine[0]))
    result = {}

    def train(half):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = model(x)
        F.cross_entropy(logits.float().view(-1, 256), x.view(-1)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for name, half in ("train_f32", False), ("train_bf16", True):
        result[name] = x.numel() / median_seconds(lambda: train(half), seconds)
    result["generate_f32"] = 256 / median_seconds(lambda: model.generate(256), seconds)
    return result


def ours(program, preset, seconds, threads):
    def run(*options):
        command = [program, "bench", "--preset", preset, "--seconds", str(seconds), "--json",
                   "--threads", str(threads), *options]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    return {"train_f32": run("--train", "--dtype", "f32")["train"]["bytes_per_s"],
            "train_bf16": run("--train", "--dtype", "bf16")["train"]["bytes_per_s"],
            "generate_f32": run("--generate", "--dtype", "f32", "--bytes", "256")["generate"]["bytes_per_s"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--beside", metavar="PROGRAM", help="the program megabyte, to compare with")
    parser.add_argument("--seconds", type=float, default=5, help="time for each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peer = measure(arguments.preset, arguments.seconds)
    if not arguments.beside:
        json.dump(peer, sys.stdout, indent=2)
        print()
        return
    mine = ours(arguments.beside, arguments.preset, arguments.seconds, arguments.threads)
    print(f"{arguments.preset}, {arguments.threads} threads, bytes/s   megabyte   PyTorch {torch.__version__}   ratio")
    for name, speed in peer.items():
        print(f"{name:<34} {mine[name]:>10.0f} {speed:>15.0f} {mine[name] / speed:>10.2f}")
    fastest = max(peer["train_f32"], peer["train_bf16"])
    print(f"training bf16 / PyTorch's fastest: {mine['train_bf16'] / fastest:.2f}")


if __name__ == "__main__":
    main()
