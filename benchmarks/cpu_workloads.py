#!/usr/bin/env python3
"""The four CPU serving workloads, and a runner for an engine that is a Python object.

  C1 single stream  : one prompt of 128 tokens -> 128 new      TTFT (ms), decode tokens/s
  C2 batched        : 16 requests at once, 128 -> 64           output tokens/s, all together
  C3 shared prefix  : 16 requests, 1024 shared + 32 own -> 16  output tokens/s; `cold` (prefix never
                      seen) and `warm` (a second set of 16 with the same prefix, new suffixes)
  C4 prefill        : one prompt of 1024 tokens -> 1 new       input tokens/s

Token ids are drawn from a seeded generator; every repetition has its own seed, so a prefix cache
can only help where the workload means it to (C3).

An engine is any object with
    generate(prompts: list[list[int]], max_tokens: int, on_token=None) -> list[list[int]]
greedy, never stopping at EOS; on_token(i, n) is called when request i has its n-th new token (only
C1 and C4 need it; an engine without it is timed with an extra run of max_tokens=1).

  python cpu_workloads.py --engine module:factory [--arg key=value ...] [--only C1,C4] [--reps 3]
  python cpu_workloads.py --engine module:factory --worker      # one JSON job a line on stdin
  python cpu_workloads.py --limits [--threads 2]                # memory bandwidth, GEMM GFLOP/s
"""
import argparse, importlib, json, os, random, statistics, sys, time

VOCAB_LO, VOCAB_HI = 1000, 40000
SPEC = {
    "C1": dict(n=1, prefix=0, unique=128, new=128),
    "C2": dict(n=16, prefix=0, unique=128, new=64),
    "C3": dict(n=16, prefix=1024, unique=32, new=16),
    "C4": dict(n=1, prefix=0, unique=1024, new=1),
}


def ids(seed, n, lo=VOCAB_LO, hi=VOCAB_HI):
    r = random.Random(seed)
    return [r.randrange(lo, hi) for _ in range(n)]


def prompts(name, rep, part=0, lo=VOCAB_LO, hi=VOCAB_HI):
    """The prompts of one repetition; `part` is 0, or 1 for C3's second (warm) set."""
    s = SPEC[name]
    pre = ids(f"{name}/{rep}/prefix", s["prefix"], lo, hi)
    return [pre + ids(f"{name}/{rep}/{part}/{i}", s["unique"], lo, hi) for i in range(s["n"])]


# ---- what the rest of the machine did meanwhile --------------------------------------------------
def _busy():
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return sum(v) - v[3] - v[4], sum(v)


def _tree_cpu(pids):
    """CPU ticks of these processes and all their descendants."""
    kids, t = {}, {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                with open(f"/proc/{d}/stat") as f:
                    a = f.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            kids.setdefault(int(a[1]), []).append(int(d))
            t[int(d)] = int(a[11]) + int(a[12])
    todo, seen, s = list(pids), set(), 0
    while todo:
        p = todo.pop()
        if p in seen:
            continue
        seen.add(p)
        s += t.get(p, 0)
        todo += kids.get(p, [])
    return s


class Noise:
    """others = CPU used by processes that are not ours, as a fraction of the whole machine."""

    def __init__(self, pids):
        self.pids = set(pids) | {os.getpid()}

    def __enter__(self):
        self.b, self.o, self.t = _busy(), _tree_cpu(self.pids), time.time()
        return self

    def __exit__(self, *a):
        b, o = _busy(), _tree_cpu(self.pids)
        tot = max(1, b[1] - self.b[1])
        self.others = max(0.0, (b[0] - self.b[0] - (o - self.o)) / tot)
        self.own = (o - self.o) / tot


# ---- the runner for a Python engine --------------------------------------------------------------
def run_engine(eng, name, rep, lo=VOCAB_LO, hi=VOCAB_HI, parts=2):
    s = SPEC[name]
    out = {}

    def go(ps, new):
        stamps = []
        t0 = time.perf_counter()
        r = eng.generate(ps, new, lambda i, n: stamps.append(time.perf_counter()))
        t1 = time.perf_counter()
        got = [len(x) for x in r]
        if any(g != new for g in got):
            out["short"] = got
        return t0, t1, stamps, sum(got)

    if name in ("C1", "C4"):
        p = prompts(name, rep, 0, lo, hi)
        t0, t1, st, n = go(p, s["new"])
        if not st and name == "C1":  # no callback: TTFT from a run of one token on a fresh prompt
            a, b, _, _ = go(prompts(name, f"{rep}/ttft", 0, lo, hi), 1)
            out.update(ttft_ms=(b - a) * 1e3, decode_tok_s=(n - 1) / ((t1 - t0) - (b - a)))
        elif name == "C1":
            out.update(ttft_ms=(st[0] - t0) * 1e3, decode_tok_s=(len(st) - 1) / (st[-1] - st[0]))
        else:
            out.update(prefill_tok_s=len(p[0]) / ((st[0] if st else t1) - t0))
    elif name == "C2":
        t0, t1, _, n = go(prompts(name, rep, 0, lo, hi), s["new"])
        out.update(out_tok_s=n / (t1 - t0), wall_s=t1 - t0)
    else:
        t0, t1, _, n = go(prompts(name, rep, 0, lo, hi), s["new"])
        out.update(cold_tok_s=n / (t1 - t0), cold_wall_s=t1 - t0)
        if parts > 1:
            t0, t1, _, n = go(prompts(name, rep, 1, lo, hi), s["new"])
            out.update(warm_tok_s=n / (t1 - t0), warm_wall_s=t1 - t0)
    return out


# ---- the machine's own limits --------------------------------------------------------------------
def limits(threads=2):
    import torch
    torch.set_num_threads(threads)
    a = torch.ones(64 << 20, dtype=torch.float32)  # 256 MiB
    b = torch.empty_like(a)
    b.copy_(a)
    best = {"copy_GB_s": [], "read_GB_s": [], "gemm_fp32_GFLOP_s": [], "gemm_bf16_GFLOP_s": []}
    for _ in range(7):
        t = time.perf_counter(); b.copy_(a); dt = time.perf_counter() - t
        best["copy_GB_s"].append(2 * a.numel() * 4 / dt / 1e9)
        t = time.perf_counter(); a.sum(); dt = time.perf_counter() - t
        best["read_GB_s"].append(a.numel() * 4 / dt / 1e9)
    for dt_, key in ((torch.float32, "gemm_fp32_GFLOP_s"), (torch.bfloat16, "gemm_bf16_GFLOP_s")):
        n = 2048 if dt_ == torch.float32 else 768
        x = torch.randn(n, n).to(dt_); y = torch.randn(n, n).to(dt_); x @ y
        for _ in range(7):
            t = time.perf_counter(); x @ y; dt = time.perf_counter() - t
            best[key].append(2 * n ** 3 / dt / 1e9)
    return {k: dict(best=round(max(v), 2), median=round(statistics.median(v), 2)) for k, v in best.items()}


def load_engine(spec, args):
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    mod, fac = spec.split(":")
    return getattr(importlib.import_module(mod), fac)(**args)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engine"); p.add_argument("--arg", action="append", default=[])
    p.add_argument("--only", default="C1,C2,C3,C4"); p.add_argument("--reps", type=int, default=3)
    p.add_argument("--worker", action="store_true")
    p.add_argument("--limits", action="store_true"); p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    if a.limits:
        with Noise([]) as z:
            r = limits(a.threads)
        print(json.dumps(dict(r, others=round(z.others, 3)), indent=1))
        return
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # an engine's own chatter goes to stderr
    eng = load_engine(a.engine, dict(x.split("=", 1) for x in a.arg))
    eng.generate([ids("warmup", 64)], 8, lambda i, n: None)
    if a.worker:
        print(json.dumps({"ready": True}), file=out)
        for line in sys.stdin:
            j = json.loads(line)
            try:
                with Noise([]) as z:
                    r = run_engine(eng, j["name"], j["rep"], parts=j.get("parts", 2))
                r.update(others=round(z.others, 3), own=round(z.own, 3))
            except Exception as e:  # the driver reports it
                r = {"error": f"{type(e).__name__}: {e}"}
            print(json.dumps(r), file=out)
        return
    for name in a.only.split(","):
        for rep in range(a.reps):
            with Noise([]) as z:
                r = run_engine(eng, name, f"{os.getpid()}/{rep}")
            print(json.dumps(dict(workload=name, rep=rep, **r, others=round(z.others, 3))), file=out)


if __name__ == "__main__":
    main()
