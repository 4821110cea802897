// The conversation and the place to write.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Model } from "./api";
import type { Conversation } from "./conversation";
import { MessageView } from "./message";

const MAX_IMAGE_BYTES = 10 << 20;
const EXAMPLES = [
  "Explain how a radix tree works, with an example.",
  "Write a Python function that reverses a linked list.",
  "Make a table of three planets with their moons.",
];

export function Chat({ model, talk }: { model: Model | null; talk: Conversation }) {
  const [text, setText] = useState("");
  const [images, setImages] = useState<string[]>([]);
  const log = useRef<HTMLDivElement>(null);
  const box = useRef<HTMLTextAreaElement>(null);
  const follows = useRef(true);
  const ready = Boolean(model?.generates);

  useLayoutEffect(() => {
    const place = log.current;
    if (place && follows.current) place.scrollTop = place.scrollHeight;
  }, [talk.turns]);

  useLayoutEffect(() => {
    const place = box.current;
    if (!place) return;
    place.style.height = "auto";
    place.style.height = `${Math.min(place.scrollHeight + 2, 220)}px`;
  }, [text]);

  useEffect(() => {
    const stop = (event: KeyboardEvent) => {
      if (event.key === "Escape" && talk.running) talk.stop();
    };
    addEventListener("keydown", stop);
    return () => removeEventListener("keydown", stop);
  });

  const send = () => {
    if (!ready || talk.running || !(text.trim() || images.length)) return;
    follows.current = true;
    talk.say(text.trim(), images);
    setText("");
    setImages([]);
  };
  const take = async (files: Iterable<File>) => {
    const found = [...files].filter((f) => f.type.startsWith("image/") && f.size < MAX_IMAGE_BYTES);
    const urls = await Promise.all(found.map(dataUrl));
    setImages((known) => [...known, ...urls]);
  };
  const sees = model?.seesImages ?? false;
  const said = talk.turns;
  const state = talk.running ? "The model is replying." : said.length ? "The reply has ended." : "";
  return (
    <section
      class="chat"
      aria-label="Conversation"
      onDragOver={(event) => sees && event.preventDefault()}
      onDrop={(event) => {
        if (!sees) return;
        event.preventDefault();
        void take(event.dataTransfer?.files ?? []);
      }}
    >
      <div
        class="log"
        ref={log}
        tabIndex={0}
        role="region"
        aria-label="Messages"
        onScroll={(event) => {
          const place = event.currentTarget;
          follows.current = place.scrollHeight - place.scrollTop - place.clientHeight < 60;
        }}
      >
        {said.length === 0 && <Welcome model={model} choose={(words) => setText(words)} />}
        {said.map((turn, index) => (
          <MessageView
            key={turn.id}
            turn={turn}
            last={index === said.length - 1}
            again={talk.again}
            answer={talk.answer}
          />
        ))}
      </div>
      <p class="visually-hidden" role="status">
        {state}
      </p>
      <form
        class="composer"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        {images.length > 0 && (
          <div class="pictures">
            {images.map((url, index) => (
              <button
                type="button"
                class="picture-button"
                aria-label={`Remove image ${index + 1}`}
                onClick={() => setImages(images.filter((_, i) => i !== index))}
              >
                <img src={url} alt="" />
              </button>
            ))}
          </div>
        )}
        <textarea
          ref={box}
          rows={1}
          value={text}
          disabled={!ready}
          aria-label="Your message"
          placeholder={ready ? "Ask something …" : ""}
          onInput={(event) => setText(event.currentTarget.value)}
          onPaste={(event) => sees && void take(event.clipboardData?.files ?? [])}
          onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
              event.preventDefault();
              send();
            }
          }}
        />
        <div class="composer-row">
          {sees && (
            <label class="quiet file">
              <span>Add an image</span>
              <input
                type="file"
                accept="image/*"
                multiple
                class="visually-hidden"
                onChange={(event) => void take(event.currentTarget.files ?? [])}
              />
            </label>
          )}
          <span class="hint keys">Enter sends, Shift+Enter begins a line, Escape stops</span>
          {said.length > 0 && (
            <button type="button" class="quiet" onClick={talk.clear}>
              New chat
            </button>
          )}
          {talk.running ? (
            <button type="button" class="stop" onClick={talk.stop}>
              Stop
            </button>
          ) : (
            <button type="submit" disabled={!ready || !(text.trim() || images.length)}>
              Send
            </button>
          )}
        </div>
      </form>
    </section>
  );
}

function Welcome({ model, choose }: { model: Model | null; choose: (words: string) => void }) {
  if (model && !model.generates) {
    return (
      <div class="welcome">
        <h2>{model.name}</h2>
        <p>This model makes vectors, not text: see /v1/embeddings. The engine can be watched.</p>
      </div>
    );
  }
  return (
    <div class="welcome">
      <h2>{model ? model.name : "Waiting for the model …"}</h2>
      {model && (
        <>
          <p>
            Prompt and reply may have {model.contextLength.toLocaleString("en")} tokens. What you write
            goes to this server only.
          </p>
          <ul class="examples">
            {EXAMPLES.map((words) => (
              <li>
                <button type="button" class="example" onClick={() => choose(words)}>
                  {words}
                </button>
              </li>
            ))}
          </ul>
        </>
      )}
    </div>
  );
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
