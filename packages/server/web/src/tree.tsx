// The prefix tree as a picture: from left to right the positions of a prompt, each box a run of pages
// that prompts share up to there. Boxes appear as prompts are computed and redden as they are evicted.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Live, TreeNode } from "./api";

const MIN_HEIGHT = 90;
const MAX_HEIGHT = 260;
const ROW = 30;
const GONE_MS = 1400;

interface Box {
  node: TreeNode;
  x: number;
  y: number;
  width: number;
  height: number;
}

interface Gone extends Box {
  at: number;
}

export function TreeView({ tree, pageSize }: { tree: Live["tree"]; pageSize: number }) {
  const place = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  const before = useRef(new Map<number, Box>());
  const gone = useRef<Gone[]>([]);
  const [chosen, setChosen] = useState<TreeNode | null>(null);

  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry!.contentRect.width));
    observer.observe(place.current!);
    return () => observer.disconnect();
  }, []);

  const { boxes, end, pagePx, height } = layout(tree.nodes, width);
  const known = before.current;
  const now = performance.now();
  if (width) {
    const next = new Map(boxes.map((box) => [box.node[0], box]));
    for (const [serial, box] of known) {
      if (!next.has(serial)) gone.current.push({ ...box, at: now });
    }
    before.current = next;
  }
  gone.current = gone.current.filter((box) => now - box.at < GONE_MS);

  const used = tree.nodes.filter((node) => node[5] > 0).length;
  const pages = tree.nodes.reduce((sum, node) => sum + node[3], 0);
  const summary =
    `${tree.nodes.length} of ${tree.num_nodes} nodes, ${pages} pages, ` +
    `${used} nodes in use`;
  return (
    <div class="tree">
      <div ref={place} class="tree-place">
        {tree.nodes.length === 0 && gone.current.length === 0 ? (
          <p class="hint empty">
            {tree.shown === "none"
              ? "Callers share the cache here, so only the administrator sees what it holds."
              : "Nothing is cached. Send a message, and its prompt grows here."}
          </p>
        ) : (
          <svg
            width={width}
            height={height}
            role="img"
            aria-label={`Prefix tree: ${summary}`}
            data-nodes={tree.nodes.length}
            onMouseLeave={() => setChosen(null)}
          >
            <defs>
              <pattern id="pages" width={pagePx} height={height} patternUnits="userSpaceOnUse">
                <rect class="page-line" width={1} height={height} x={pagePx - 1} />
              </pattern>
            </defs>
            {gone.current.map((box) => (
              <rect key={`gone${box.node[0]}`} class="node evicted" {...shape(box)} rx={2} />
            ))}
            {boxes.map((box) => (
              <rect
                key={box.node[0]}
                class={`node ${look(box.node)}${known.has(box.node[0]) ? "" : " new"}`}
                {...shape(box)}
                rx={2}
                onMouseEnter={() => setChosen(box.node)}
              />
            ))}
            {pagePx >= 5 &&
              boxes.map((box) => (
                <rect
                  key={`lines${box.node[0]}`}
                  class="lines"
                  {...shape(box)}
                  fill="url(#pages)"
                />
              ))}
            {boxes.map(
              (box) =>
                box.node[8] > 0 && (
                  <text class="more" x={box.x + box.width + 3} y={box.y + box.height / 2 + 3}>
                    +{box.node[8]}
                  </text>
                ),
            )}
          </svg>
        )}
      </div>
      <div class="tree-axis" aria-hidden="true">
        <span>0</span>
        <span>tokens of the prompt</span>
        <span>{end * pageSize}</span>
      </div>
      <p class="tree-text">{chosen ? describe(chosen, pageSize) : summary}</p>
      <ul class="legend">
        <li>
          <i class="swatch used" /> read by a request
        </li>
        <li>
          <i class="swatch fresh" /> cached
        </li>
        <li>
          <i class="swatch old" /> least recently used
        </li>
        <li>
          <i class="swatch evicted" /> evicted
        </li>
      </ul>
    </div>
  );
}

function shape({ x, y, width, height }: Box) {
  return { x, y, width, height };
}

function look(node: TreeNode): string {
  if (node[5] > 0) return "used";
  const age = node[7];
  return age < 24 ? "age0" : age < 96 ? "age1" : age < 384 ? "age2" : "age3";
}

function describe(node: TreeNode, pageSize: number): string {
  const [, , start, pages, pins, locks, hits, age] = node;
  const tokens = `tokens ${start * pageSize} to ${(start + pages) * pageSize}`;
  const use = locks ? `${pins || "other"} requests read to its end` : `unused for ${age} accesses`;
  return `${tokens} (${pages} pages), found ${hits} times, ${use}`;
}

/** A row for each leaf; a node spans the rows of its leaves. Siblings keep their order. */
function layout(nodes: TreeNode[], width: number) {
  const children = new Map<number, TreeNode[]>();
  for (const node of nodes) {
    const list = children.get(node[1]);
    if (list) list.push(node);
    else children.set(node[1], [node]);
  }
  // A split gives the upper part a new number; the least number below it stays what it was.
  const least = new Map<number, number>();
  for (const node of [...nodes].reverse()) {
    const below = (children.get(node[0]) ?? []).map((child) => least.get(child[0])!);
    least.set(node[0], Math.min(node[0], ...below));
  }
  for (const list of children.values()) {
    list.sort((a, b) => least.get(a[0])! - least.get(b[0])!);
  }
  const rows = new Map<number, [number, number]>();
  let row = 0;
  const walk = (node: TreeNode) => {
    const first = row;
    const below = children.get(node[0]) ?? [];
    below.forEach(walk);
    if (!below.length) row += 1;
    rows.set(node[0], [first, row]);
  };
  (children.get(0) ?? []).forEach(walk);
  const end = Math.max(1, ...nodes.map((node) => node[2] + node[3]));
  const pagePx = Math.max(0.01, (width - 26) / end);
  const height = Math.max(MIN_HEIGHT, Math.min(MAX_HEIGHT, row * ROW));
  const step = Math.min(ROW, height / Math.max(1, row));
  const gap = step > 4 ? 2 : 0.5;
  const boxes = nodes.map((node): Box => {
    const [first, after] = rows.get(node[0]) ?? [0, 1];
    return {
      node,
      x: node[2] * pagePx,
      y: first * step,
      width: Math.max(1, node[3] * pagePx - 1.5),
      height: Math.max(1, (after - first) * step - gap),
    };
  });
  return { boxes, end, pagePx, height };
}
