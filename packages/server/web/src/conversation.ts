// A conversation: what was said, and how it goes on.
import { useRef, useState } from "preact/hooks";
import { ApiError, chat, type Message, type Model, type Part, type ScoredToken } from "./api";
import { fields, type Settings } from "./settings";

export interface Call {
  id: string;
  name: string;
  arguments: string;
}

export interface Turn {
  id: number;
  role: "user" | "assistant" | "tool";
  text: string;
  images: string[];
  reasoning: string;
  calls: Call[];
  callId: string;
  tokens: ScoredToken[];
  state: "running" | "done" | "stopped" | "failed";
  problem: string;
  finish: string;
  isJson: boolean;
  firstS: number;
  totalS: number;
  usage: { prompt: number; completion: number; cached: number } | null;
}

let turns = 0;

function turn(role: Turn["role"], part: Partial<Turn> = {}): Turn {
  return {
    id: ++turns,
    role,
    text: "",
    images: [],
    reasoning: "",
    calls: [],
    callId: "",
    tokens: [],
    state: "done",
    problem: "",
    finish: "",
    isJson: false,
    firstS: 0,
    totalS: 0,
    usage: null,
    ...part,
  };
}

export interface Conversation {
  turns: Turn[];
  running: boolean;
  say: (text: string, images: string[]) => void;
  answer: (results: { id: string; text: string }[]) => void;
  again: () => void;
  stop: () => void;
  clear: () => void;
}

export function useConversation(
  model: Model | null,
  settings: Settings,
  refused: (error: ApiError) => void,
): Conversation {
  const [list, setList] = useState<Turn[]>([]);
  const [running, setRunning] = useState(false);
  const stopper = useRef<AbortController | null>(null);

  async function reply(said: Turn[]) {
    const mine = turn("assistant", { state: "running", isJson: settings.format !== "text" });
    let request: object;
    try {
      request = {
        model: model!.name,
        messages: messages(settings.system, said),
        stream: true,
        stream_options: { include_usage: true },
        ...fields(settings, model!),
      };
    } catch (error) {
      setList([...said, { ...mine, state: "failed", problem: (error as Error).message }]);
      return;
    }
    const controller = (stopper.current = new AbortController());
    setRunning(true);
    const began = performance.now();
    const current = () => stopper.current === controller;
    const elapsed = () => (performance.now() - began) / 1000;
    // Pieces come faster than a screen shows them: what is shown is brought up to date once a frame.
    let frame = 0;
    const show = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        if (current()) setList([...said, { ...mine }]);
      });
    };
    show();
    try {
      for await (const piece of chat(request, controller.signal)) {
        if (!mine.firstS && (piece.text || piece.reasoning || piece.calls)) mine.firstS = elapsed();
        mine.text += piece.text ?? "";
        mine.reasoning += piece.reasoning ?? "";
        mine.finish = piece.finish ?? mine.finish;
        mine.usage = piece.usage ?? mine.usage;
        mine.totalS = elapsed();
        if (piece.tokens) mine.tokens = [...mine.tokens, ...piece.tokens];
        for (const part of piece.calls ?? []) {
          const known = mine.calls[part.index] ?? { id: "", name: "", arguments: "" };
          mine.calls[part.index] = {
            id: part.id ?? known.id,
            name: known.name + (part.name ?? ""),
            arguments: known.arguments + (part.arguments ?? ""),
          };
        }
        show();
      }
      mine.state = "done";
    } catch (error) {
      mine.state = controller.signal.aborted ? "stopped" : "failed";
      if (mine.state === "failed") mine.problem = (error as Error).message;
      if (error instanceof ApiError) refused(error);
    }
    mine.totalS ||= elapsed();
    cancelAnimationFrame(frame);
    if (!current()) return; // the conversation has been cleared meanwhile
    setList([...said, { ...mine }]);
    setRunning(false);
  }

  return {
    turns: list,
    running,
    say: (text, images) => void reply([...list, turn("user", { text, images })]),
    answer: (results) =>
      void reply([
        ...list,
        ...results.map(({ id, text }) => turn("tool", { text, callId: id })),
      ]),
    again: () => void reply(list.slice(0, list.findLastIndex((t) => t.role !== "assistant") + 1)),
    stop: () => stopper.current?.abort(),
    clear: () => {
      stopper.current?.abort();
      stopper.current = null;
      setList([]);
      setRunning(false);
    },
  };
}

/** The turns as a request has them; a reply that brought nothing is left out. */
function messages(system: string, said: Turn[]): Message[] {
  const found: Message[] = system.trim() ? [{ role: "system", content: system }] : [];
  for (const each of said) {
    if (each.role === "tool") {
      found.push({ role: "tool", content: each.text, tool_call_id: each.callId });
    } else if (each.role === "user") {
      found.push({ role: "user", content: content(each) });
    } else if (each.calls.length) {
      found.push({
        role: "assistant",
        content: each.text || null,
        tool_calls: each.calls.map((call) => ({
          id: call.id,
          type: "function",
          function: { name: call.name, arguments: call.arguments },
        })),
      });
    } else if (each.text) {
      found.push({ role: "assistant", content: each.text });
    }
  }
  return found;
}

function content(said: Turn): string | Part[] {
  if (!said.images.length) return said.text;
  return [
    ...said.images.map((url): Part => ({ type: "image_url", image_url: { url } })),
    { type: "text", text: said.text },
  ];
}
