// One turn of the conversation.
import { useState } from "preact/hooks";
import type { Call, Turn } from "./conversation";
import { CopyButton } from "./copy";
import { Code, Markdown } from "./markdown";
import { TokenView } from "./tokens";

interface Props {
  turn: Turn;
  last: boolean;
  again: () => void;
  answer: (results: { id: string; text: string }[]) => void;
}

const NAMES = { user: "You", assistant: "Model", tool: "Tool" };

export function MessageView({ turn, last, again, answer }: Props) {
  const [asTokens, setAsTokens] = useState(true);
  const waits = turn.state === "running" && !turn.text && !turn.reasoning && !turn.calls.length;
  return (
    <article class={`turn ${turn.role} ${turn.state}`} aria-busy={turn.state === "running"}>
      <h3 class="who">{NAMES[turn.role]}</h3>
      {turn.images.map((url, index) => (
        <img class="picture" src={url} alt={`image ${index + 1} of the message`} />
      ))}
      {turn.reasoning && (
        <details class="reasoning" open={!turn.text}>
          <summary>Thoughts</summary>
          <Markdown text={turn.reasoning} />
        </details>
      )}
      {waits && (
        <p class="waiting" role="status">
          <span class="dots" aria-hidden="true" />
          <span class="visually-hidden">waiting for the first token</span>
        </p>
      )}
      <Body turn={turn} asTokens={asTokens} />
      {turn.calls.filter(Boolean).map((call) => (
        <CallView call={call} />
      ))}
      {last && turn.state === "done" && turn.calls.length > 0 && (
        <Results calls={turn.calls} answer={answer} />
      )}
      {turn.state === "stopped" && <p class="note">Stopped.</p>}
      {turn.finish === "length" && <p class="note">It reached its longest length.</p>}
      {turn.problem && (
        <p class="problem" role="alert">
          {turn.problem}
        </p>
      )}
      {turn.role === "assistant" && turn.state !== "running" && (
        <footer class="foot">
          <span class="figures">{figures(turn)}</span>
          {turn.tokens.length > 0 && (
            <button type="button" class="quiet" onClick={() => setAsTokens(!asTokens)}>
              {asTokens ? "Show text" : "Show tokens"}
            </button>
          )}
          {turn.text && <CopyButton text={turn.text} what="reply" />}
          {last && (
            <button type="button" class="quiet" onClick={again}>
              Try again
            </button>
          )}
        </footer>
      )}
    </article>
  );
}

function Body({ turn, asTokens }: { turn: Turn; asTokens: boolean }) {
  if (!turn.text) return null;
  if (turn.role !== "assistant") return <p class="said">{turn.text}</p>;
  if (turn.tokens.length && asTokens) return <TokenView tokens={turn.tokens} />;
  if (turn.isJson) return <JsonReply text={turn.text} done={turn.state === "done"} />;
  return <Markdown text={turn.text} />;
}

function JsonReply({ text, done }: { text: string; done: boolean }) {
  let shown = text;
  let valid = false;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
    valid = true;
  } catch {
    // it is not whole yet, or was cut
  }
  const verdict = valid ? "valid JSON" : done ? "not valid JSON" : "…";
  return (
    <div class="json-reply" data-valid={valid}>
      <Code text={shown} language="json" />
      <p class={valid ? "verdict good" : "verdict"}>{verdict}</p>
    </div>
  );
}

function CallView({ call }: { call: Call }) {
  let shown = call.arguments;
  try {
    shown = JSON.stringify(JSON.parse(call.arguments), null, 2);
  } catch {
    // shown as far as it has come
  }
  return (
    <div class="call">
      <p class="call-name">
        <span class="chip">calls</span> <code>{call.name}</code>
      </p>
      <pre tabIndex={0} role="group" aria-label={`arguments of ${call.name}`}>
        <code>{shown}</code>
      </pre>
    </div>
  );
}

function Results({ calls, answer }: { calls: Call[]; answer: Props["answer"] }) {
  const [texts, setTexts] = useState<string[]>(calls.map(() => ""));
  const send = (event: Event) => {
    event.preventDefault();
    answer(calls.map((call, index) => ({ id: call.id, text: texts[index] ?? "" })));
  };
  return (
    <form class="results" onSubmit={send}>
      {calls.map((call, index) => (
        <label class="field wide">
          <span>{`Result of ${call.name}`}</span>
          <textarea
            class="mono"
            rows={2}
            value={texts[index] ?? ""}
            onInput={(event) => {
              const value = event.currentTarget.value;
              setTexts(texts.map((text, i) => (i === index ? value : text)));
            }}
          />
        </label>
      ))}
      <button type="submit">Send results</button>
    </form>
  );
}

function figures(turn: Turn): string {
  const parts: string[] = [];
  const { usage, firstS, totalS } = turn;
  if (usage) parts.push(`${usage.completion} tokens`);
  if (usage && usage.completion > 1 && totalS > firstS) {
    parts.push(`${((usage.completion - 1) / (totalS - firstS)).toFixed(1)} a second`);
  }
  if (firstS) parts.push(`first after ${firstS < 1 ? `${(1000 * firstS).toFixed(0)} ms` : `${firstS.toFixed(1)} s`}`);
  if (usage) parts.push(`prompt ${usage.prompt}${usage.cached ? `, ${usage.cached} cached` : ""}`);
  return parts.join(" · ");
}
