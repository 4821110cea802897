// A model's words as Markdown. Text becomes elements one by one and never markup: HTML in it is shown
// as it is written, images are not loaded, and only web and mail addresses become links.
import { Lexer, type Token, type Tokens } from "marked";
import { type ComponentChildren, createElement } from "preact";
import { CopyButton } from "./copy";

const MAX_DEPTH = 24;

export function Markdown({ text }: { text: string }) {
  return <div class="markdown">{blocks(parse(text), 0)}</div>;
}

function parse(text: string): Token[] {
  try {
    return new Lexer({ gfm: true }).lex(text);
  } catch {
    return [{ type: "text", raw: text, text }];
  }
}

function blocks(tokens: Token[], depth: number): ComponentChildren {
  if (depth > MAX_DEPTH) return tokens.map((token) => token.raw).join("");
  return tokens.map((token) => block(token, depth + 1));
}

function block(token: Token, depth: number): ComponentChildren {
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading": {
      // The page has headings of its own above these.
      return createElement(`h${Math.min(6, token["depth"] + 3)}` as "h4", null, inline(token.tokens, depth));
    }
    case "paragraph":
      return <p>{inline(token.tokens, depth)}</p>;
    case "text":
      return <p>{token.tokens ? inline(token.tokens, depth) : decode(token["text"])}</p>;
    case "code":
      return <Code text={token["text"]} language={token["lang"] ?? ""} />;
    case "blockquote":
      return <blockquote>{blocks(token.tokens ?? [], depth)}</blockquote>;
    case "list":
      return list(token as Tokens.List, depth);
    case "table":
      return table(token as Tokens.Table, depth);
    case "hr":
      return <hr />;
    default:
      return <p>{token.raw}</p>;
  }
}

function list(token: Tokens.List, depth: number): ComponentChildren {
  const items = token.items.map((item) => (
    <li>
      {item.task && <span>{item.checked ? "☑ " : "☐ "}</span>}
      {item.tokens.map((part) =>
        part.type === "text" && !token.loose
          ? inline((part as Tokens.Text).tokens ?? [part], depth)
          : block(part, depth + 1),
      )}
    </li>
  ));
  return token.ordered ? <ol start={Number(token.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function table(token: Tokens.Table, depth: number): ComponentChildren {
  const cells = (row: Tokens.TableCell[], Tag: "th" | "td") => (
    <tr>
      {row.map((cell) => (
        <Tag>{inline(cell.tokens, depth)}</Tag>
      ))}
    </tr>
  );
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label="table">
      <table>
        <thead>{cells(token.header, "th")}</thead>
        <tbody>{token.rows.map((row) => cells(row, "td"))}</tbody>
      </table>
    </div>
  );
}

function inline(tokens: Token[] | undefined, depth: number): ComponentChildren {
  if (depth > MAX_DEPTH) return tokens?.map((token) => token.raw).join("");
  return tokens?.map((token) => span(token, depth + 1));
}

function span(token: Token, depth: number): ComponentChildren {
  switch (token.type) {
    case "strong":
      return <strong>{inline(token.tokens, depth)}</strong>;
    case "em":
      return <em>{inline(token.tokens, depth)}</em>;
    case "del":
      return <del>{inline(token.tokens, depth)}</del>;
    case "codespan":
      return <code>{token["text"]}</code>;
    case "br":
      return <br />;
    case "link":
      return <Link href={token["href"]}>{inline(token.tokens, depth)}</Link>;
    case "image":
      return <Link href={token["href"]}>{`🖼 ${token["text"] || token["href"]}`}</Link>;
    case "escape":
      return token["text"];
    case "text":
      return token.tokens ? inline(token.tokens, depth) : decode(token["text"]);
    default:
      return token.raw;
  }
}

function Link({ href, children }: { href: string; children: ComponentChildren }) {
  let url: URL;
  try {
    url = new URL(href);
  } catch {
    return <>{children}</>;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return <>{children}</>;
  return (
    <a href={url.href} target="_blank" rel="noopener noreferrer nofollow" title={url.href}>
      {children}
    </a>
  );
}

export function Code({ text, language }: { text: string; language: string }) {
  return (
    <div class="code">
      <div class="code-head">
        <span>{language.split(/\s/)[0]?.slice(0, 24) || "text"}</span>
        <CopyButton text={text} what="code" />
      </div>
      <pre tabIndex={0} role="group" aria-label={`code ${language}`.trim()}>
        <code>{text}</code>
      </pre>
    </div>
  );
}

const NAMED: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: " " };

/** The few character references that models write, as the characters that they stand for. */
function decode(text: string): string {
  return text.replace(/&(#x[0-9a-f]{1,6}|#\d{1,7}|[a-z]{2,5});/gi, (whole, name: string) => {
    if (!name.startsWith("#")) return NAMED[name] ?? whole;
    const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}
