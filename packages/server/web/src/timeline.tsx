// The engine's steps over the last seconds: as wide as they took, as high as they had tokens.
import type { Step } from "./api";

export const SHOWN_S = 8;
const WIDTH = 600;
const HEIGHT = 84;

export function Timeline({ steps, now }: { steps: Step[]; now: number }) {
  const from = now - SHOWN_S;
  const shown = steps.filter((step) => step[1] + step[2] > from);
  const most = Math.max(16, ...shown.map((step) => step[3] + step[4]));
  const high = (tokens: number) => (tokens ? (HEIGHT * Math.log2(1 + tokens)) / Math.log2(1 + most) : 0);
  const last = shown.at(-1);
  const label = last
    ? `${shown.length} steps in ${SHOWN_S} seconds; the last took ${(1000 * last[2]).toFixed(0)} ms`
    : "no steps lately";
  return (
    <figure class="timeline">
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`Step timeline: ${label}`}
        data-steps={shown.length}
      >
        {shown.map(([number, began, took, rows, prompt]) => {
          const x = (WIDTH * Math.max(0, began - from)) / SHOWN_S;
          const width = Math.max(1, (WIDTH * took) / SHOWN_S - 0.6);
          const whole = high(rows + prompt);
          const part = rows + prompt ? (whole * prompt) / (rows + prompt) : 0;
          return (
            <g key={number}>
              <rect class="prefill" x={x} width={width} y={HEIGHT - part} height={part} />
              <rect class="decode" x={x} width={width} y={HEIGHT - whole} height={whole - part} />
            </g>
          );
        })}
      </svg>
      <figcaption>
        <span>{label}</span>
        <span class="legend">
          <span>
            <i class="swatch decode" /> decode
          </span>
          <span>
            <i class="swatch prefill" /> prompt
          </span>
        </span>
      </figcaption>
    </figure>
  );
}
