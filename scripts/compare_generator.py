"""Compare generated traces with recorded ones: writes docs/results/generator.md and its picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import typer
from numpy.typing import NDArray

from moeopt._files import write_whole
from moeopt.traces import Trace, generate, read_trace
from moeopt.traces.synthetic import TOP_K

SEEDS = range(20)
TIME_SEEDS = range(5)
IN_TIME = ("windows", "decode")
COLOURS = {"prefill": ("tab:red", "tab:orange"), "decode": ("tab:blue", "tab:cyan")}


def relative_load(trace: Trace) -> NDArray[np.float64]:
    """Load over mean load of the layer, ``[layers, experts]``."""
    values = trace.total().values
    return np.asarray(values / values.mean(axis=1, keepdims=True))


def statistics(relative: NDArray[np.float64]) -> dict[str, float]:
    """The rows of the table; all are means or extremes over layers."""
    peak = relative.max(axis=1)
    ordered = np.sort(relative, axis=1)
    groups = relative.reshape(len(relative), 8, -1).mean(axis=2)
    return {
        "max/mean, mean over layers": peak.mean(),
        "max/mean, median layer": np.median(peak),
        "max/mean, mildest layer": peak.min(),
        "max/mean, worst layer": peak.max(),
        "standard deviation of ln(max/mean) over layers": np.log(peak).std(),
        "coefficient of variation of the experts": relative.std(axis=1).mean(),
        "2nd hottest expert / mean": ordered[:, -2].mean(),
        "8th hottest expert / mean": ordered[:, -8].mean(),
        "median expert / mean": np.median(relative, axis=1).mean(),
        "coldest expert / mean": ordered[:, 0].mean(),
        "experts above 4 x mean, %": 100 * (relative > 4).mean(),
        "experts above 2 x mean, %": 100 * (relative > 2).mean(),
        "experts below mean / 2, %": 100 * (relative < 0.5).mean(),
        "experts below mean / 4, %": 100 * (relative < 0.25).mean(),
        "experts without load, %": 100 * (relative == 0).mean(),
        "standard deviation of the 8 groups' mean loads": groups.std(axis=1).mean(),
    }


def table(recorded: dict[str, list[Trace]]) -> str:
    """Markdown table: recordings one by one, the generator as mean and range over seeds."""
    heads, columns = [], []
    for preset, traces in recorded.items():
        for trace in traces:
            heads.append(trace.source)
            columns.append([f"{value:.2f}" for value in statistics(relative_load(trace)).values()])
        runs = [list(statistics(relative_load(generate(preset, seed=seed))).values()) for seed in SEEDS]
        heads.append(f'**`generate("{preset}")`**')
        columns.append([f"{np.mean(run):.2f} ({min(run):.2f} to {max(run):.2f})" for run in zip(*runs, strict=True)])
    names = list(statistics(relative_load(generate("prefill", tokens=1))))
    lines = ["| | " + " | ".join(heads) + " |", "|---" + "|---:" * len(heads) + "|"]
    lines += [
        f"| {name} | " + " | ".join(row) + " |" for name, row in zip(names, zip(*columns, strict=True), strict=True)
    ]
    return "\n".join(lines)


def time_statistics(windows: NDArray[np.int64]) -> dict[str, float]:
    """The rows of the table in time, for ``[windows, layers, experts]``: means over layers."""
    counts = windows.astype(float)
    total = counts.sum(axis=2, keepdims=True)
    usual = counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None]
    expected = total * usual
    squares = np.divide((counts - expected) ** 2, expected, out=np.zeros_like(counts), where=expected > 0)
    freedom = (len(counts) - 1) * ((usual > 0).sum(axis=1) - 1)
    rows = [_movements(share, total.mean()) for share in np.moveaxis(counts / total, 1, 0)]
    summed = windows.sum(axis=0)
    relative = summed / summed.mean(axis=1, keepdims=True)
    return {
        "max/mean of the sum": relative.max(axis=1).mean(),
        "coefficient of variation of the experts": relative.std(axis=1).mean(),
        "chi2/df against a fixed distribution": (squares.sum(axis=(0, 2)) / freedom).mean(),
        "standard deviation in time of ln(share)": np.log((counts + 0.5) / total).std(axis=0).mean(),
        **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
    }


def _movements(share: NDArray[np.float64], total: float) -> dict[str, float]:
    """How the shares of one layer's experts, ``[windows, experts]``, move together and keep their course."""
    known = share[:, share.mean(axis=0) * total > 5]
    away = (known - known.mean(axis=0)) / np.sqrt(known.mean(axis=0))
    scaled = away / away.std(axis=0)
    correlation = scaled.T @ scaled / len(scaled)
    squares = np.linalg.svd(scaled, compute_uv=False) ** 2
    found = {
        "mean size of the correlation of two experts": np.abs(correlation[np.triu_indices(len(correlation), 1)]).mean(),
        "share of the first principal component": squares[0] / squares.sum(),
        "share of the second": squares[1] / squares.sum(),
    }
    for lag in (1, 4):
        pairs = (away[lag:] * away[:-lag]).sum() / (len(away) - lag)
        found[f"autocorrelation, lag {lag}"] = pairs / (away**2).sum() * len(away)
    return found


def independent(trace: Trace) -> NDArray[np.int64]:
    """Multinomial windows with the trace's own totals, from its own sums: nothing drifts, nothing moves together."""
    usual = trace.total().values / trace.total().values.sum(axis=1, keepdims=True)
    totals = np.asarray(trace.windows, int).sum(axis=2)
    return np.random.default_rng(0).multinomial(totals, usual[None])


def time_table(recorded: list[Trace]) -> str:
    """Markdown table: every recording in time, and the generator in its shape as mean over seeds."""
    heads, columns = [], []
    for trace in recorded:
        heads.append(trace.source)
        columns.append([f"{value:.2f}" for value in time_statistics(np.asarray(trace.windows, int)).values()])
        shape = {"num_windows": len(trace), "num_layers": trace.num_layers, "num_experts": trace.num_experts}
        tokens = round(trace.windows.sum(axis=2).mean() / TOP_K)
        for preset in IN_TIME:
            alike = [generate(preset, **shape, tokens=tokens, seed=seed).windows for seed in TIME_SEEDS]
            runs = [list(time_statistics(windows).values()) for windows in alike]
            heads.append(f'**`generate("{preset}")`** in its shape')
            columns.append([f"{np.mean(run):.2f}" for run in zip(*runs, strict=True)])
        heads.append("independent draws")
        columns.append([f"{value:.2f}" for value in time_statistics(independent(trace)).values()])
    names = list(time_statistics(generate(num_layers=1, tokens=1000, num_windows=12).windows))
    lines = ["| | " + " | ".join(heads) + " |", "|---" + "|---:" * len(heads) + "|"]
    lines += [
        f"| {name} | " + " | ".join(row) + " |" for name, row in zip(names, zip(*columns, strict=True), strict=True)
    ]
    return "\n".join(lines)


def picture(recorded: dict[str, list[Trace]]) -> bytes:
    """PNG: max/mean over depth above, sorted load profiles below; a column per preset."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), sharey="row", layout="constrained")
    for column, (preset, traces) in enumerate(recorded.items()):
        runs = [relative_load(generate(preset, seed=seed)) for seed in SEEDS]
        peaks = np.array([run.max(axis=1) for run in runs])
        profiles = np.array([np.sort(run, axis=1)[:, ::-1].mean(axis=0) for run in runs])
        above, below = axes[:, column]
        above.fill_between(
            np.arange(peaks.shape[1]), *np.quantile(peaks, [0.1, 0.9], axis=0), color="0.85", label="generated, 10-90 %"
        )
        above.plot(peaks[0], color="0.35", lw=1, ls="--", label="generated, seed 0")
        below.fill_between(
            np.arange(1, 257), profiles.min(axis=0), profiles.max(axis=0), color="0.8", label="generated"
        )
        for trace, colour in zip(traces, COLOURS[preset], strict=False):
            relative = relative_load(trace)
            above.plot(relative.max(axis=1), color=colour, lw=1.4, label=trace.source)
            below.plot(
                np.arange(1, 257),
                np.sort(relative, axis=1)[:, ::-1].mean(axis=0),
                color=colour,
                lw=1.4,
                label=trace.source,
            )
        above.set(title=preset, xlabel="MoE layer", ylabel="hottest expert / mean" if column == 0 else "")
        below.set(xlabel="expert, hottest first", ylabel="load / mean, mean over layers" if column == 0 else "")
        below.set(xscale="log", yscale="log")
        above.set(ylim=(2, 19))
        above.legend(fontsize=7, loc="upper right")
        below.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=75, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)
    return buffer.getvalue()


def main(
    prefill: Annotated[list[Path], typer.Option(help="Recorded prefill trace; repeatable.")],
    decode: Annotated[list[Path], typer.Option(help="Recorded decode trace; repeatable.")],
    windows: Annotated[list[Path], typer.Option(help="Recorded windows in time order; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder to write generator.md and generator.png to.")],
) -> None:
    """Compare generated traces with recorded ones: of 256 experts, in a table and a picture, and in time."""
    recorded = {"prefill": [read_trace(path) for path in prefill], "decode": [read_trace(path) for path in decode]}
    kinds = {"prefill": prefill, "decode": decode, "windows": windows}
    options = [f"  --{kind} {path.name}" for kind, paths in kinds.items() for path in paths]
    command = " \\\n".join(["python scripts/compare_generator.py", *options, "  --out docs/results"])
    write_whole(out / "generator.png", picture(recorded))
    in_time = time_table([read_trace(path) for path in windows])
    facts = {"table": table(recorded), "in_time": in_time, "seeds": len(SEEDS), "time_seeds": len(TIME_SEEDS)}
    write_whole(out / "generator.md", PAGE.format(**facts, command=command))


PAGE = """\
# Generated against recorded loads

`moeopt.traces.generate` is the default input of this project: loads like those of DeepSeek-V3
(58 MoE layers, 256 experts, 8 per token) that contain nobody's data. This page shows how alike they are to
four recordings, the expert statistics of DeepSeek-V3/R1 that were published with
[SGLang issue 6017](https://github.com/sgl-project/sglang/issues/6017). They are cited here by summary
statistics only; their files are not part of this repository.

Every load is divided by the mean load of its layer. The generator's columns are the mean and, in
brackets, the range over {seeds} seeds.

{table}

![Hottest expert by depth, and sorted load profiles, recorded and generated](generator.png)

Above: max/mean of every layer, the recordings as lines, the generator as the 10-90 % range over
{seeds} seeds and as seed 0. Below: the loads of a layer sorted and averaged over the layers, on logarithmic axes.

What the generator takes from the recordings is the shape of a layer's loads (log-normal body, wider above than below,
a tail of its own), how that shape depends on depth (wide in the first layers, narrow after a sixth of the depth, wide
again at three quarters; with very hot experts in the first half during prefill), and that consecutive experts of one
of 8 routing groups are popular together, which matters to the contiguous layout and to hierarchical
placement. What it does not take is which expert is hot. Decode recordings have a slightly heavier top (2nd to 8th
hottest expert) than the generator gives them; single layers of the generator can be more extreme than any
recorded one.

## In time

Windows (`num_windows`) drift as a first-order autoregression of log popularity. For the presets `"prefill"` and
`"decode"` that is about 0.1 from one window to the next and 0.2 in the long run, expert by expert; the
recordings above have one window each and say nothing about it. The preset `"windows"` is fitted to a recording
in time order: its log popularity is moved by a few topics that all experts and layers share, without memory,
and its counts are Dirichlet-multinomial. `drift`, `memory`, `co_movement` and `over_dispersion` set that for
every preset.

Two recordings of other models stand beside it, cited by summary statistics only: 32 windows of DeepSeek-V2-Lite
(26 layers of 64 experts, derived from the `ngavhane/moe-beyond` data set), and 481 decode steps of gpt-oss-20b
(24 layers of 32 experts, derived from `AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting`; 703 sequences in
lockstep from their 30th token on, so that time is position in the answer). Means over layers, and for the
generator over {time_seeds} seeds, with as many windows, layers, experts and assignments as the recording;
*independent draws* are multinomial, from the recording's own sums:

{in_time}

*chi2/df* is 1 where counts are multinomial draws from one distribution. Correlations and principal components
are those of the experts' shares over windows, noise included: what noise alone gives stands in the column of
independent draws.

**What it does not reproduce.** The preset `"windows"` was fitted to the first recording alone, by its mean
statistics; 32 windows say little about memory beyond a few of them. gpt-oss's steps are another thing: steady
popularity that differs more between experts, far less dispersion, a long memory, and a strong common movement;
no preset has all four. Topics are Gaussian and drawn again for every trace: that some layers or experts hardly
move, that topics come and go suddenly, start transients, requests that end, and anything that repeats within a
day are absent. Whoever learns a few topics does better on generated windows than on real ones. **Time that is
generated shows that code works, not what a policy is worth.**

Written by

```text
{command}
```
"""

if __name__ == "__main__":
    typer.run(main)
