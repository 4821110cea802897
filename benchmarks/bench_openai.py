#!/usr/bin/env python3
"""The same four workloads against any OpenAI-compatible HTTP server (standard library only).

  python bench_openai.py --base-url http://127.0.0.1:8080 [--model NAME] [--only C1,C2,C3,C4]
         [--reps 3] [--extra '{"ignore_eos": true}'] [--server-pid PID] [--prompt ids|text]

POST {base}/v1/completions, stream, temperature 0, prompt as token ids (--prompt text sends words
that
are about one token each, for servers that take no ids). EOS: what the server wants goes in --extra:
{"ignore_eos": true} for vLLM and llama-server, {"logit_bias": {"2": -100}} where there is no such
flag. Tokens are counted from `usage` in the last chunk when the server sends one, else one a chunk.
"""
import argparse, http.client, json, os, random, statistics, sys, threading, time, urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cpu_workloads import SPEC, Noise, prompts  # noqa: E402

WORDS = ("time year people way day man thing woman life child world school state family student group "
         "country problem hand part place case week company system program question work government number "
         "night point home water room mother area money story fact month lot right study book eye job word "
         "business issue side kind head house service friend father power hour game line end member law car").split()


def as_text(tokens):
    return " ".join(WORDS[t % len(WORDS)] for t in tokens)


class Client:
    def __init__(self, base_url, model=None, extra=None, prompt="ids", pid=None, timeout=600):
        u = urllib.parse.urlparse(base_url)
        self.host, self.port, self.path = u.hostname, u.port or 80, u.path.rstrip("/")
        if not self.path.endswith("/v1"):
            self.path += "/v1"
        self.model, self.extra, self.prompt, self.timeout = model, extra or {}, prompt, timeout
        self.pids = [pid] if pid else []

    def one(self, toks, new, res, gate=None):
        body = dict(prompt=as_text(toks) if self.prompt == "text" else toks, max_tokens=new, temperature=0,
                    stream=True, stream_options={"include_usage": True}, **self.extra)
        if self.model:
            body["model"] = self.model
        c = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        data = json.dumps(body)
        if gate:
            gate.wait()
        t0 = time.perf_counter()
        stamps, usage, n, text = [], None, 0, []
        try:
            c.request("POST", self.path + "/completions", data, {"Content-Type": "application/json"})
            r = c.getresponse()
            if r.status != 200:
                raise RuntimeError(f"HTTP {r.status}: {r.read(500)!r}")
            for line in r:
                if not line.startswith(b"data:"):
                    continue
                d = line[5:].strip()
                if d == b"[DONE]":
                    break
                j = json.loads(d)
                if "error" in j:
                    raise RuntimeError(str(j["error"])[:500])
                usage = j.get("usage") or usage
                ch = j.get("choices") or []
                if ch and not (ch[0].get("finish_reason") and not ch[0].get("text")):
                    stamps.append(time.perf_counter()); n += 1
                    text.append(ch[0].get("text") or "")
            t1 = time.perf_counter()
            res.append(dict(t0=t0, t1=t1, stamps=stamps, n=(usage or {}).get("completion_tokens", n), chunks=n,
                            usage=usage, text="".join(text)))
        except Exception as e:
            res.append(dict(error=f"{type(e).__name__}: {e}"))
        finally:
            c.close()

    def many(self, ps, new):
        res, gate, th = [], threading.Event(), []
        for p in ps:
            t = threading.Thread(target=self.one, args=(p, new, res, gate)); t.start(); th.append(t)
        time.sleep(0.05); gate.set()
        for t in th:
            t.join()
        for r in res:
            if "error" in r:
                raise RuntimeError(r["error"])
        return res

    def run(self, name, rep):
        s, out = SPEC[name], {}
        if name in ("C1", "C4"):
            r = self.many(prompts(name, rep), s["new"])[0]
            st = r["stamps"] or [r["t1"]]
            if name == "C1":
                out.update(ttft_ms=(st[0] - r["t0"]) * 1e3, decode_tok_s=(r["n"] - 1) / max(1e-9, st[-1] - st[0]))
            else:
                n = (r["usage"] or {}).get("prompt_tokens", s["unique"])
                out.update(prefill_tok_s=n / (st[0] - r["t0"]))
            if r["n"] != s["new"]:
                out["short"] = r["n"]
        else:
            for part, key in ((0, "cold"), (1, "warm")) if name == "C3" else ((0, ""),):
                rs = self.many(prompts(name, rep, part), s["new"])
                t0, t1 = min(r["t0"] for r in rs), max(r["t1"] for r in rs)
                n = sum(r["n"] for r in rs)
                k = key + "_" if key else "out_"
                out.update({k + "tok_s": n / (t1 - t0), (key + "_" if key else "") + "wall_s": t1 - t0,
                            (key + "_" if key else "") + "ttft_ms": statistics.median(
                                (r["stamps"] or [r["t1"]])[0] - r["t0"] for r in rs) * 1e3})
                if n != s["new"] * s["n"]:
                    out["short"] = n
        return out

    def job(self, name, rep):
        try:
            with Noise(self.pids) as z:
                r = self.run(name, rep)
            r.update(others=round(z.others, 3), own=round(z.own, 3))
            return r
        except Exception as e:
            return {"error": f"{type(e).__name__}: {e}"}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base-url", required=True); p.add_argument("--model")
    p.add_argument("--only", default="C1,C2,C3,C4"); p.add_argument("--reps", type=int, default=3)
    p.add_argument("--extra", type=json.loads, default={"ignore_eos": True})
    p.add_argument("--prompt", choices=("ids", "text"), default="ids")
    p.add_argument("--server-pid", type=int, help="counts the server's CPU as ours, not as noise")
    a = p.parse_args()
    c = Client(a.base_url, a.model, a.extra, a.prompt, a.server_pid)
    run = random.random()
    c.job("C1", f"warm/{run}")
    rows = {}
    for rep in range(a.reps):
        for name in a.only.split(","):
            r = c.job(name, f"{run}/{rep}")
            print(json.dumps(dict(workload=name, rep=rep, **r)), flush=True)
            for k, v in r.items():
                if isinstance(v, float) and k not in ("others", "own"):
                    rows.setdefault((name, k), []).append(v)
    for (name, k), v in rows.items():
        print(f"{name} {k:14s} min {min(v):10.2f}  median {statistics.median(v):10.2f}  max {max(v):10.2f}")


if __name__ == "__main__":
    main()
