// The page: its head, the conversation, and beside it (or behind tabs, on a narrow screen) the engine
// and the settings.
import { useEffect, useState } from "preact/hooks";
import { ApiError, key, model as loadModel, type Model } from "./api";
import { Chat } from "./chat";
import { useConversation } from "./conversation";
import { Engine } from "./engine";
import { load, save, type Settings, SettingsPanel } from "./settings";

type View = "chat" | "engine" | "settings";
type Theme = "auto" | "light" | "dark";

const WIDE = matchMedia("(min-width: 1040px)");

export function App() {
  const [model, setModel] = useState<Model | null>(null);
  const [settings, setSettings] = useState(load);
  const [view, setView] = useState<View>("chat");
  const [needsKey, setNeedsKey] = useState(false);
  const [problem, setProblem] = useState("");
  const [visit, setVisit] = useState(0);
  const wide = useMatch(WIDE);

  const refused = (error: ApiError) => {
    if (error.status === 401) setNeedsKey(true);
    // The model may be gone, or another one: see what there is now.
    if ([0, 404, 503].includes(error.status)) setVisit((count) => count + 1);
  };
  const talk = useConversation(model, settings, refused);

  useEffect(() => {
    let timer = 0;
    let over = false;
    const ask = async () => {
      try {
        const found = await loadModel();
        if (over) return;
        setModel(found);
        setNeedsKey(false);
        setProblem("");
        document.title = `${found.name} · Tupelo`;
      } catch (error) {
        if (over) return;
        const { status, message } = error as ApiError;
        if (status === 401) {
          setNeedsKey(true);
          setProblem(key.get() ? "The server does not know this key." : "");
        } else {
          setProblem(message);
          setModel(null);
          timer = setTimeout(ask, 1000);
        }
      }
    };
    void ask();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [visit]);

  const change = (next: Settings) => {
    setSettings(next);
    save(next);
  };
  const side = view === "chat" ? "engine" : view;
  const showsChat = wide || view === "chat";
  const showsSide = wide || view !== "chat";
  const tabs: View[] = wide ? ["engine", "settings"] : ["chat", "engine", "settings"];
  const current = wide ? side : view;
  return (
    <div class="page">
      <header class="head">
        <h1 class="brand">
          <Mark /> Tupelo
        </h1>
        <p class="model" title={model?.name ?? ""}>
          <i class={model ? "dot up" : "dot"} aria-hidden="true" />
          {model?.name ?? "no model yet"}
        </p>
        <ThemeButton />
      </header>
      {needsKey && (
        <KeyForm
          problem={problem}
          open={(value) => {
            key.set(value);
            setVisit(visit + 1);
          }}
        />
      )}
      {!needsKey && problem && (
        <p class="banner" role="alert">
          {problem}
        </p>
      )}
      <nav class="tabs" role="tablist" aria-label="Views">
        {tabs.map((name) => (
          <button
            type="button"
            role="tab"
            id={`tab-${name}`}
            aria-selected={current === name}
            aria-controls={`panel-${name}`}
            tabIndex={current === name ? 0 : -1}
            onClick={() => setView(name)}
            onKeyDown={(event) => {
              const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
              if (!by) return;
              const next = tabs[(tabs.indexOf(name) + by + tabs.length) % tabs.length]!;
              setView(next);
              document.getElementById(`tab-${next}`)?.focus();
            }}
          >
            {{ chat: "Chat", engine: "Engine", settings: "Settings" }[name]}
          </button>
        ))}
      </nav>
      <main class="main">
        <div
          class="panel chat-panel"
          id="panel-chat"
          hidden={!showsChat}
          {...(wide ? {} : { role: "tabpanel", "aria-labelledby": "tab-chat" })}
        >
          <Chat model={model} talk={talk} />
        </div>
        <div
          class="panel side-panel"
          id="panel-engine"
          role="tabpanel"
          aria-labelledby="tab-engine"
          tabIndex={0}
          hidden={!(showsSide && side === "engine")}
        >
          {showsSide && side === "engine" && model && <Engine refused={refused} />}
        </div>
        <div
          class="panel side-panel"
          id="panel-settings"
          role="tabpanel"
          aria-labelledby="tab-settings"
          tabIndex={0}
          hidden={!(showsSide && side === "settings")}
        >
          <SettingsPanel settings={settings} model={model} change={change} />
        </div>
      </main>
    </div>
  );
}

function KeyForm({ problem, open }: { problem: string; open: (value: string) => void }) {
  const [value, setValue] = useState("");
  return (
    <form
      class="banner key"
      onSubmit={(event) => {
        event.preventDefault();
        open(value.trim());
      }}
    >
      <label>
        <span>{problem || "This server asks for an API key."}</span>
        <input
          type="password"
          autocomplete="off"
          aria-label="API key"
          placeholder="API key, kept in this tab only"
          value={value}
          onInput={(event) => setValue(event.currentTarget.value)}
        />
      </label>
      <button type="submit" disabled={!value.trim()}>
        Open
      </button>
    </form>
  );
}

function ThemeButton() {
  const [theme, setTheme] = useState<Theme>(
    () => (localStorage.getItem("tupelo.theme") as Theme | null) ?? "auto",
  );
  useEffect(() => {
    if (theme === "auto") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
    localStorage.setItem("tupelo.theme", theme);
  }, [theme]);
  const next: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
  return (
    <button
      type="button"
      class="quiet"
      aria-label={`Colours: ${theme}; change`}
      onClick={() => setTheme(next[theme])}
    >
      {{ auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[theme]}
    </button>
  );
}

function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" />
      <path d="M16 27V12M16 20l-6-5M16 17l6-5M16 12l-4-5M16 12l4-5" />
    </svg>
  );
}

function useMatch(query: MediaQueryList): boolean {
  const [matches, setMatches] = useState(query.matches);
  useEffect(() => {
    const change = () => setMatches(query.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  return matches;
}
