// The live view: asks the server twice a second, and only while somebody looks.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, live, type Live, type LiveRequest, type Step } from "./api";
import { SHOWN_S, Timeline } from "./timeline";
import { TreeView } from "./tree";

const PERIOD_MS = 500;
const KEPT = 120;

interface Rate {
  at: number;
  decode: number;
  prefill: number;
}

interface View {
  now: Live;
  rates: Rate[];
  steps: Step[];
}

export function Engine({ refused }: { refused: (error: ApiError) => void }) {
  const [view, setView] = useState<View | null>(null);
  const [paused, setPaused] = useState(false);
  const [problem, setProblem] = useState("");
  const last = useRef<View | null>(null);

  useEffect(() => {
    if (paused) return;
    const controller = new AbortController();
    let timer = 0;
    const look = async () => {
      if (!document.hidden) {
        try {
          const after = last.current?.steps.at(-1)?.[0] ?? 0;
          last.current = join(last.current, await live(after, controller.signal));
          setView(last.current);
          setProblem("");
        } catch (error) {
          if (controller.signal.aborted) return;
          setProblem((error as Error).message);
          if (error instanceof ApiError) refused(error);
        }
      }
      timer = setTimeout(look, PERIOD_MS);
    };
    void look();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [paused]);

  return (
    <div class="engine">
      <div class="engine-head">
        <p class="hint">{problem || (paused ? "Paused." : "Live, twice a second.")}</p>
        <button type="button" class="quiet" onClick={() => setPaused(!paused)}>
          {paused ? "Go on" : "Pause"}
        </button>
      </div>
      {view && <Figures view={view} />}
    </div>
  );
}

function Figures({ view }: { view: View }) {
  const { now, rates, steps } = view;
  const rate = rates.at(-1) ?? { decode: 0, prefill: 0 };
  const { counters, pages } = now;
  const looked = counters.cached_tokens + counters.prefill_tokens;
  return (
    <>
      {now.paused && <p class="note">An operator holds the engine.</p>}
      <dl class="tiles">
        <Tile name="Running" value={`${now.num_running}`} of={`of ${now.max_running}`} />
        <Tile name="Waiting" value={`${now.num_waiting}`} />
        <Tile name="Generated" value={rate.decode.toFixed(rate.decode < 10 ? 1 : 0)} of="tokens/s" />
        <Tile name="Prompts" value={rate.prefill.toFixed(0)} of="tokens/s" />
        <Tile
          name="From the cache"
          value={looked ? `${((100 * counters.cached_tokens) / looked).toFixed(0)} %` : "–"}
        />
        <Tile name="Pages evicted" value={pages.evicted.toLocaleString("en")} data="evicted" />
      </dl>
      <Spark rates={rates} />
      <h3>K/V memory</h3>
      <Pages pages={pages} pageSize={now.page_size} />
      <h3>Prefix tree</h3>
      <TreeView tree={now.tree} pageSize={now.page_size} />
      <h3>Steps</h3>
      <Timeline steps={steps} now={now.now_s} />
      <h3>Requests</h3>
      <Requests list={now.requests} />
    </>
  );
}

function Tile(props: { name: string; value: string; of?: string; data?: string }) {
  return (
    <div class="tile" data-tile={props.data ?? props.name.toLowerCase()}>
      <dt>{props.name}</dt>
      <dd>
        <b>{props.value}</b> {props.of && <small>{props.of}</small>}
      </dd>
    </div>
  );
}

function Spark({ rates }: { rates: Rate[] }) {
  const most = Math.max(10, ...rates.map((r) => Math.max(r.decode, r.prefill)));
  const line = (name: "decode" | "prefill") =>
    rates
      .map((rate, i) => {
        const x = (600 * (KEPT - rates.length + i)) / (KEPT - 1);
        return `${i ? "L" : "M"}${x.toFixed(1)} ${(47 - (44 * rate[name]) / most).toFixed(1)}`;
      })
      .join("");
  return (
    <svg
      class="spark"
      viewBox="0 0 600 48"
      preserveAspectRatio="none"
      role="img"
      aria-label={`Tokens a second during the last minute, ${most.toFixed(0)} at most`}
    >
      <path class="line prefill" d={line("prefill")} />
      <path class="line decode" d={line("decode")} />
    </svg>
  );
}

function Pages({ pages, pageSize }: { pages: Live["pages"]; pageSize: number }) {
  if (!pages.total) return <p class="hint">This model keeps nothing of its inputs.</p>;
  const share = (count: number) => `${(100 * count) / pages.total}%`;
  return (
    <div class="memory">
      <div class="bar" aria-hidden="true">
        <i class="used" style={{ width: share(pages.owned) }} />
        <i class="fresh" style={{ width: share(pages.cached) }} />
      </div>
      <p class="tree-text">
        Pages: {pages.owned.toLocaleString("en")} with requests, {pages.cached.toLocaleString("en")}{" "}
        in the cache, {pages.free.toLocaleString("en")} free; {pageSize} tokens each
      </p>
    </div>
  );
}

function Requests({ list }: { list: LiveRequest[] }) {
  if (!list.length) return <p class="hint">None now.</p>;
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label="requests">
      <table class="requests">
        <thead>
          <tr>
            <th>phase</th>
            <th>prompt</th>
            <th>cached</th>
            <th>generated</th>
            <th>age</th>
          </tr>
        </thead>
        <tbody>
          {list.map((each) => (
            <tr>
              <td>
                <span class={`chip ${each.phase}`}>{each.phase}</span>
              </td>
              <td>{each.prompt_tokens}</td>
              <td>{each.cached_tokens}</td>
              <td>{each.generated_tokens}</td>
              <td>{each.age_s.toFixed(1)} s</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** What is shown after a look, given what was shown before. */
function join(before: View | null, now: Live): View {
  const began = now.now_s - SHOWN_S - 2;
  const rates = before?.rates ?? [];
  const steps = (before?.steps ?? []).filter((step) => step[1] > began);
  const seconds = before ? now.now_s - before.now.now_s : 0;
  if (!before || seconds < 0 || now.counters.steps < before.now.counters.steps) {
    return { now, rates: [], steps: now.steps }; // the first look, or the engine is another one
  }
  const rate = (name: "decode_tokens" | "prefill_tokens") =>
    Math.max(0, (now.counters[name] - before.now.counters[name]) / Math.max(seconds, 0.05));
  const next = { at: now.now_s, decode: rate("decode_tokens"), prefill: rate("prefill_tokens") };
  return { now, rates: [...rates, next].slice(-KEPT), steps: [...steps, ...now.steps] };
}
