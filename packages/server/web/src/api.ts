// The server's routes, relative to this page, so that a proxy's prefix stays in front.

export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string | Part[] | null;
  tool_calls?: { id: string; type: "function"; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
}

export type Part =
  | { type: "text"; text: string }
  | { type: "image_url"; image_url: { url: string } };

export interface Model {
  name: string;
  generates: boolean;
  seesImages: boolean;
  tools: boolean;
  contextLength: number;
  defaults: Record<string, number>;
}

export interface TopToken {
  token: string;
  logprob: number;
}

export interface ScoredToken extends TopToken {
  top_logprobs: TopToken[];
}

/** A piece of a streamed reply. */
export interface Piece {
  text?: string;
  reasoning?: string;
  calls?: { index: number; id?: string; name?: string; arguments?: string }[];
  tokens?: ScoredToken[];
  finish?: string;
  usage?: { prompt: number; completion: number; cached: number };
}

/** A server's refusal, or none at all (`status` 0). */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

const KEY = "tupelo.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value: string) =>
    value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY),
};

export async function call(path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = {};
  if (key.get()) headers["authorization"] = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server does not answer.", 0);
  }
  if (!response.ok) throw new ApiError(await reason(response), response.status);
  return response;
}

async function reason(response: Response): Promise<string> {
  const fallback = `The server answered ${response.status}.`;
  try {
    const body = await response.json();
    const error = body.error;
    return (typeof error === "string" ? error : error?.message) || fallback;
  } catch {
    return fallback;
  }
}

export async function model(): Promise<Model> {
  const info = await (await call("model_info")).json();
  return {
    name: info.served_model_name,
    generates: info.is_generation !== false,
    seesImages: info.has_image_understanding === true,
    tools: Boolean(info.tool_call_parser),
    contextLength: info.context_length,
    defaults: info.preferred_sampling_params ?? {},
  };
}

/** A streamed chat completion, piece by piece. */
export async function* chat(body: object, signal: AbortSignal): AsyncGenerator<Piece> {
  const response = await call("v1/chat/completions", body, signal);
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, 500);
    yield piece(chunk);
  }
}

function piece(chunk: any): Piece {
  const found: Piece = {};
  const choice = chunk.choices?.[0];
  if (choice) {
    const delta = choice.delta ?? {};
    if (delta.content) found.text = delta.content;
    if (delta.reasoning_content) found.reasoning = delta.reasoning_content;
    if (delta.tool_calls) {
      found.calls = delta.tool_calls.map((call: any) => ({
        index: call.index,
        id: call.id,
        name: call.function?.name,
        arguments: call.function?.arguments,
      }));
    }
    if (choice.logprobs?.content) found.tokens = choice.logprobs.content;
    if (choice.finish_reason) found.finish = choice.finish_reason;
  }
  if (chunk.usage) {
    found.usage = {
      prompt: chunk.usage.prompt_tokens,
      completion: chunk.usage.completion_tokens,
      cached: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0,
    };
  }
  return found;
}

/** The data of each server-sent event. */
async function* events(response: Response): AsyncGenerator<string> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop()!;
    for (const block of blocks) {
      for (const line of block.split("\n")) {
        if (line.startsWith("data: ")) yield line.slice(6);
      }
    }
  }
}

export interface LiveRequest {
  phase: string;
  slot: number;
  prompt_tokens: number;
  computed_tokens: number;
  cached_tokens: number;
  generated_tokens: number;
  max_new_tokens: number;
  age_s: number;
}

/** serial, parent, start, pages, pins, locks, hits, age, hidden */
export type TreeNode = [
  number, number, number, number, number, number, number, number, number,
];

/** number, began_s, took_s, decode rows, prompt tokens */
export type Step = [number, number, number, number, number];

export interface Live {
  now_s: number;
  num_running: number;
  num_waiting: number;
  max_running: number;
  paused: boolean;
  counters: Record<
    | "steps"
    | "prefill_tokens"
    | "decode_tokens"
    | "cached_tokens"
    | "retractions"
    | "finished"
    | "aborted",
    number
  >;
  page_size: number;
  pages: Record<"total" | "free" | "owned" | "cached" | "evicted", number>;
  steps: Step[];
  requests: LiveRequest[];
  tree: { nodes: TreeNode[]; num_nodes: number; hidden: number; shown: "all" | "own" | "none" };
}

export async function live(after: number, signal: AbortSignal): Promise<Live> {
  return (await call(`live?after=${after}`, undefined, signal)).json();
}
