// A reply as its tokens, tinted by how likely each was; hovering or the arrow keys show what else
// the model might have said.
import { useState } from "preact/hooks";
import type { ScoredToken } from "./api";

export function TokenView({ tokens }: { tokens: ScoredToken[] }) {
  const [chosen, setChosen] = useState(-1);
  const token = tokens[chosen];
  const move = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") setChosen(-1);
    if (!by) return;
    event.preventDefault();
    setChosen(Math.max(0, Math.min(tokens.length - 1, chosen + by)));
  };
  return (
    <div class="token-view">
      <div
        class="tokens"
        tabIndex={0}
        role="group"
        aria-label={`${tokens.length} tokens with probabilities; arrow keys move`}
        onKeyDown={move}
        onMouseLeave={() => setChosen(-1)}
      >
        {tokens.map((each, index) => (
          <span
            class={`token p${grade(each.logprob)}${index === chosen ? " chosen" : ""}`}
            onMouseEnter={() => setChosen(index)}
          >
            {each.token}
          </span>
        ))}
      </div>
      <div class="alternatives" aria-live="polite">
        {token ? (
          <>
            <div class="alternative said-token">
              <span class="what">{shown(token.token)}</span>
              <span>{percent(token.logprob)}</span>
            </div>
            {token.top_logprobs.map((other) => (
              <div class={other.token === token.token ? "alternative same" : "alternative"}>
                <span class="what">{shown(other.token)}</span>
                <meter min={0} max={1} value={Math.exp(other.logprob)} aria-hidden="true" />
                <span>{percent(other.logprob)}</span>
              </div>
            ))}
          </>
        ) : (
          <span class="hint">Point at a token, or use the arrow keys, to see how likely it was.</span>
        )}
      </div>
    </div>
  );
}

/** 0 (unlikely) to 4 (nearly certain). */
function grade(logprob: number): number {
  const p = Math.exp(logprob);
  return p > 0.9 ? 4 : p > 0.6 ? 3 : p > 0.3 ? 2 : p > 0.1 ? 1 : 0;
}

function percent(logprob: number): string {
  const p = 100 * Math.exp(logprob);
  return p >= 10 ? `${p.toFixed(0)} %` : p >= 0.1 ? `${p.toFixed(1)} %` : "< 0.1 %";
}

function shown(token: string): string {
  return token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ | $/g, "␣") || "∅";
}
