// What is sent along with each message. An empty field leaves the choice to the server.
import type { Model } from "./api";

export interface Settings {
  system: string;
  numbers: Record<string, string>;
  stop: string;
  format: "text" | "json_object" | "json_schema";
  schema: string;
  tools: string;
  probabilities: boolean;
}

interface Field {
  name: string;
  label: string;
  min: number;
  max: number;
  step: number;
}

const FIELDS: Field[] = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05 },
  { name: "top_p", label: "Top-p", min: 0.01, max: 1, step: 0.01 },
  { name: "top_k", label: "Top-k", min: -1, max: 1000, step: 1 },
  { name: "min_p", label: "Min-p", min: 0, max: 1, step: 0.01 },
  { name: "max_tokens", label: "Longest reply (tokens)", min: 1, max: 1_000_000, step: 1 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.1, max: 2, step: 0.05 },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1 },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1 },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 31, step: 1 },
];

export const DEFAULTS: Settings = {
  system: "",
  numbers: {},
  stop: "",
  format: "text",
  schema: JSON.stringify(
    {
      type: "object",
      properties: {
        name: { type: "string", maxLength: 40 },
        year: { type: "integer", minimum: 0, maximum: 2100 },
        tags: { type: "array", items: { type: "string", maxLength: 20 }, maxItems: 3 },
      },
      required: ["name", "year", "tags"],
      additionalProperties: false,
    },
    null,
    2,
  ),
  tools: "",
  probabilities: false,
};

export const EXAMPLE_TOOLS = JSON.stringify(
  [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather of a city, now",
        parameters: {
          type: "object",
          properties: { city: { type: "string" } },
          required: ["city"],
        },
      },
    },
  ],
  null,
  2,
);

const STORE = "tupelo.settings";

export function load(): Settings {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(STORE) ?? "{}") };
  } catch {
    return DEFAULTS;
  }
}

export function save(settings: Settings) {
  localStorage.setItem(STORE, JSON.stringify(settings));
}

/** What is wrong with the text of a JSON field, or nothing. */
export function complaint(text: string, list: boolean): string {
  try {
    const value = JSON.parse(text);
    if (list ? !Array.isArray(value) : value === null || typeof value !== "object") {
      return list ? "It must be a list." : "It must be an object.";
    }
    return "";
  } catch (error) {
    return (error as Error).message;
  }
}

/** The fields of a request that the settings stand for. Throws where a JSON field is wrong. */
export function fields(settings: Settings, model: Model): object {
  const body: Record<string, unknown> = {};
  for (const { name } of FIELDS) {
    const text = settings.numbers[name];
    if (text !== undefined && text !== "") body[name] = Number(text);
  }
  const stop = settings.stop.split("\n").filter(Boolean);
  if (stop.length) body["stop"] = stop;
  if (settings.format === "json_object") body["response_format"] = { type: "json_object" };
  if (settings.format === "json_schema") {
    body["response_format"] = {
      type: "json_schema",
      json_schema: { name: "reply", schema: parsed(settings.schema, "The JSON schema", false) },
    };
  }
  if (model.tools && settings.tools.trim()) {
    body["tools"] = parsed(settings.tools, "The list of tools", true);
  }
  if (settings.probabilities) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  return body;
}

function parsed(text: string, what: string, list: boolean): unknown {
  const wrong = complaint(text, list);
  if (wrong) throw new Error(`${what} cannot be used: ${wrong}`);
  return JSON.parse(text);
}

interface Props {
  settings: Settings;
  model: Model | null;
  change: (settings: Settings) => void;
}

export function SettingsPanel({ settings, model, change }: Props) {
  const set = (part: Partial<Settings>) => change({ ...settings, ...part });
  const wrongSchema = settings.format === "json_schema" ? complaint(settings.schema, false) : "";
  const wrongTools = settings.tools.trim() ? complaint(settings.tools, true) : "";
  return (
    <div class="settings">
      <label class="field wide">
        <span>Instructions (system message)</span>
        <textarea
          rows={3}
          value={settings.system}
          onInput={(event) => set({ system: event.currentTarget.value })}
          placeholder="You are …"
        />
      </label>
      <fieldset>
        <legend>Sampling</legend>
        <div class="grid">
          {FIELDS.map((field) => (
            <label class="field">
              <span>{field.label}</span>
              <input
                type="number"
                name={field.name}
                min={field.min}
                max={field.max}
                step={field.step}
                value={settings.numbers[field.name] ?? ""}
                placeholder={String(model?.defaults[field.name] ?? "default")}
                onInput={(event) =>
                  set({
                    numbers: { ...settings.numbers, [field.name]: event.currentTarget.value },
                  })
                }
              />
            </label>
          ))}
          <label class="field">
            <span>Stop strings, one a line</span>
            <textarea
              rows={1}
              value={settings.stop}
              onInput={(event) => set({ stop: event.currentTarget.value })}
            />
          </label>
        </div>
      </fieldset>
      <fieldset>
        <legend>Form of the reply</legend>
        <div class="choices" role="radiogroup" aria-label="Form of the reply">
          {(
            [
              ["text", "Text"],
              ["json_object", "JSON"],
              ["json_schema", "JSON by a schema"],
            ] as const
          ).map(([value, label]) => (
            <label class="choice">
              <input
                type="radio"
                name="format"
                checked={settings.format === value}
                onChange={() => set({ format: value })}
              />
              <span>{label}</span>
            </label>
          ))}
        </div>
        {settings.format === "json_schema" && (
          <label class="field wide">
            <span>JSON schema</span>
            <textarea
              class="mono"
              rows={12}
              spellcheck={false}
              value={settings.schema}
              aria-invalid={Boolean(wrongSchema)}
              onInput={(event) => set({ schema: event.currentTarget.value })}
            />
            {wrongSchema && <span class="wrong">{wrongSchema}</span>}
          </label>
        )}
      </fieldset>
      {model?.tools && (
        <fieldset>
          <legend>Tools</legend>
          <label class="field wide">
            <span>Functions that the model may call, as OpenAI's list</span>
            <textarea
              class="mono"
              rows={settings.tools ? 10 : 2}
              spellcheck={false}
              value={settings.tools}
              aria-invalid={Boolean(wrongTools)}
              onInput={(event) => set({ tools: event.currentTarget.value })}
            />
            {wrongTools && <span class="wrong">{wrongTools}</span>}
          </label>
          {!settings.tools && (
            <button type="button" class="quiet" onClick={() => set({ tools: EXAMPLE_TOOLS })}>
              Insert an example
            </button>
          )}
        </fieldset>
      )}
      <label class="choice">
        <input
          type="checkbox"
          checked={settings.probabilities}
          onChange={(event) => set({ probabilities: event.currentTarget.checked })}
        />
        <span>Show how likely each token was</span>
      </label>
      <div>
        <button type="button" class="quiet" onClick={() => change(DEFAULTS)}>
          Reset all
        </button>
      </div>
    </div>
  );
}
