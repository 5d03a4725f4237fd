#!/usr/bin/env python3
"""The cost of a byte in training over the length of the context, at fixed models.

    bench/context_sweep.py measure build/megabyte > sweep.jsonl    on a machine with a GPU, minutes
    bench/context_sweep.py draw sweep.jsonl docs/context.svg        a Markdown table, and the plot

A MEGABYTE of the paper's Image640 sizes (global width 768 and 12 blocks, local width 768 and 8) in
patches of 128 bytes, and a byte Transformer of as many blocks. Neither has a table of positions
(rotary ones in the global stage and in the Transformer), so that nothing but the context changes.
Short contexts go side by side, so that every step sees about as many bytes. Each point is a run of
`megabyte bench --train`: whole steps in bf16 with activation checkpointing, median of at least
three after a warm-up.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile

PATCH = 128
LENGTHS = [2**i for i in range(13, 20)] + [1228800]


def stage(length, layers, positions):
    return {"length": length, "dim": 768, "layers": layers, "heads": 12, "ffn": 3072, "positions": positions}


MODELS = {
    "MEGABYTE": lambda length: [stage(length // PATCH, 12, "rotary"), stage(PATCH, 8, "none")],
    "byte Transformer": lambda length: [stage(length, 20, "rotary")],
}
COLORS = {"MEGABYTE": "#1b6ca8", "byte Transformer": "#c0392b"}


def run(megabyte, device, model, length, bytes_a_step):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        json.dump({"activation": "relu", "stages": MODELS[model](length)}, config)
        config.flush()
        command = [megabyte, "bench", "--train", "--json", "--seconds", "0", "--device", device, "--dtype", "bf16",
                   "--checkpoint-activations", "--batch", str(max(1, bytes_a_step // length)), "--config", config.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{model} of {length} bytes: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    return {"model": model, "machine": result["machine"], **result["train"]}


def measure(options):
    for model, longest, bytes_a_step in (("MEGABYTE", LENGTHS[-1], options.bytes),
                                         ("byte Transformer", options.transformer, options.transformer)):
        for length in LENGTHS:
            if length > longest:
                break
            point = run(options.megabyte, options.device, model, length, bytes_a_step)
            print(json.dumps(point), flush=True)
            print(f"{model} {length}: {point['bytes_per_s']:.0f} bytes/s", file=sys.stderr, flush=True)


def milliseconds(point):
    return 1e6 / point["bytes_per_s"]  # a thousand bytes


def table(points):
    print("| model | context | rows a step | ms a kilobyte | bytes/s | peak memory |")
    print("|---|---|---|---|---|---|")
    for p in points:
        print(f"| {p['model']} | {p['length']:,} | {p['batch']} | {milliseconds(p):.2f} | {p['bytes_per_s']:,.0f} "
              f"| {p['peak_memory'] / 2**30:.1f} GiB |")


def plot(points, path):
    """Both axes logarithmic."""
    left, top, width, height = 70, 46, 560, 300
    x_low, x_high = math.log2(LENGTHS[0]), math.log2(LENGTHS[-1])
    costs = [math.log2(milliseconds(p)) for p in points]
    y_low, y_high = math.floor(min(costs)), math.ceil(max(costs))

    def x(length):
        return left + width * (math.log2(length) - x_low) / (x_high - x_low)

    def y(cost):
        return top + height * (y_high - cost) / (y_high - y_low)

    def text(at_x, at_y, words, anchor="middle", color="#333", size=13):
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" fill="{color}" font-size="{size}">{words}</text>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {top + height + 66}" '
           'font-family="sans-serif">', '<rect width="100%" height="100%" fill="white"/>',
           text(left, 26, "Training: milliseconds a kilobyte, over the context", "start", size=15)]
    for cost in range(y_low, y_high + 1):
        out.append(f'<path d="M{left} {y(cost):.1f}h{width}" stroke="#ddd"/>')
        out.append(text(left - 8, y(cost) + 4, f"{2.0**cost:g}", "end"))
    for length in LENGTHS:
        out.append(f'<path d="M{x(length):.1f} {top}v{height}" stroke="#eee"/>')
        label = f"{length // 1024} Ki" if length % 1024 == 0 and length < 2**20 else f"{length:,}"
        out.append(text(x(length), top + height + 20, label))
    out.append(text(left + width / 2, top + height + 48, "bytes of the context"))
    for model, color in COLORS.items():
        line = [(x(p["length"]), y(math.log2(milliseconds(p)))) for p in points if p["model"] == model]
        if not line:
            continue
        out.append('<polyline fill="none" stroke-width="2.5" stroke="%s" points="%s"/>' %
                   (color, " ".join(f"{a:.1f},{b:.1f}" for a, b in line)))
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{color}"/>' for a, b in line]
        out.append(text(line[-1][0], line[-1][1] - 12, model, "end", color, 14))
    with open(path, "w") as file:
        file.write("\n".join(out + ["</svg>", ""]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure", help="run the models; a line of JSON to stdout for each point")
    measuring.add_argument("megabyte", help="the program")
    measuring.add_argument("--device", default="cuda")
    measuring.add_argument("--bytes", type=int, default=2**19, help="of a MEGABYTE's step, at least (default: %(default)s)")
    measuring.add_argument("--transformer", type=int, default=2**17, metavar="BYTES",
                           help="longest context of the Transformer, and bytes of its steps (default: %(default)s)")
    measuring.set_defaults(command=measure)
    drawing = commands.add_parser("draw", help="a table to stdout, a plot to a file")
    drawing.add_argument("points", help="what `measure` wrote")
    drawing.add_argument("svg", help="the plot's file")
    drawing.set_defaults(command=lambda options: draw(options.points, options.svg))
    options = parser.parse_args()
    options.command(options)


def draw(results, svg):
    with open(results) as file:
        points = [json.loads(line) for line in file]
    table(points)
    plot(points, svg)


if __name__ == "__main__":
    main()
