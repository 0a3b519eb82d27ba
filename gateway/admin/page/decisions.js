// The last decisions with their numbers: "why was this refused?", and what was predicted against what came.

import { byId, facts, fill, list, mark, measure } from "./dom.js";
import { age, count, letIn, NONE, span, tone, verdict, why } from "./words.js";

const SHOWN_FIRST = 12;
let decisions = [];
let now = 0;
let all = false;
let heldByWhy = false;

/** Listen to the switches. */
export function prepareDecisions() {
  byId("only-refused").addEventListener("change", show);
  byId("hold").addEventListener("change", () => (heldByWhy = false));
  byId("decisions").addEventListener("toggle", holdForReading, true);
  byId("more-button").addEventListener("click", () => {
    all = true;
    show();
    byId("decisions").querySelectorAll("summary")[SHOWN_FIRST]?.focus();
  });
}

/** A row that is being read must not run away: while one is open, the table holds still. */
function holdForReading() {
  const open = byId("decisions").querySelector("details[open]") !== null;
  if (open && !byId("hold").checked) byId("hold").checked = heldByWhy = true;
  if (!open && heldByWhy) byId("hold").checked = heldByWhy = false;
}

/** Take in what the gateway decided; held still, the table keeps what it shows. */
export function showDecisions(newest, at) {
  if (byId("hold").checked) return;
  decisions = newest;
  now = at;
  show();
}

function show() {
  const wanted = byId("only-refused").checked ? decisions.filter((d) => !letIn(d.decision)) : decisions;
  const shown = all ? wanted : wanted.slice(0, SHOWN_FIRST);
  byId("decisions").hidden = wanted.length === 0;
  const empty = byId("decisions-empty");
  empty.hidden = wanted.length > 0;
  empty.textContent = decisions.length ? "None was turned away." : "No request yet.";
  byId("more").hidden = shown.length === wanted.length;
  byId("more-button").textContent = `Show all ${wanted.length}`;
  list(byId("decisions"), byId("decision"), shown, (d) => `${d.arrived_monotonic_s} ${d.request_id}`, showDecision);
}

function showDecision(element, d) {
  fill(element, {
    age: age(Math.max(0, now - d.arrived_monotonic_s)),
    decision: verdict(d.decision, d.reason),
    model: d.model, priority: [d.priority, d.tenant].filter(Boolean).join(", "),
    backend: d.backend || NONE,
    prompt: count(d.prompt_tokens),
    predicted: predicted(d), real: count(real(d)),
    need: count(d.need_tokens || d.kv_tokens || null),
    headroom: count(d.headroom_tokens),
    wait: d.wait_s > 0.0005 ? span(d.wait_s) : NONE,
    ttft: span(d.ttft_s), took: d.duration_s == null ? "running" : span(d.duration_s),
    why: why(d),
  });
  element.querySelector(".age").classList.toggle("past", now - d.arrived_monotonic_s >= 1);
  mark(element.querySelector(".verdict"), "data-tone", tone(d.decision, d.reason));
  showGuess(element.querySelector(".guess"), d);
  facts(element.querySelector(".facts"), everything(d));
}

function predicted(d) {
  if (d.output_tokens_p50 == null) return NONE;
  return d.output_tokens_p90 == null || d.output_tokens_p90 === d.output_tokens_p50 ? count(d.output_tokens_p50) : `${count(d.output_tokens_p50)}–${count(d.output_tokens_p90)}`;
}

/** Predictions are for one of the answers that a request may ask for side by side: so is this. */
const real = (d) => (d.output_tokens == null ? null : d.output_tokens / (d.sequences || 1));

function showGuess(element, d) {
  const [middle, high, came] = [d.output_tokens_p50, d.output_tokens_p90 ?? d.output_tokens_p50, real(d)];
  const scale = Math.max(high ?? 0, came ?? 0) * 1.1;
  element.hidden = middle == null || scale === 0;
  if (element.hidden) return;
  measure(element, "--from", middle / scale);
  measure(element, "--to", high / scale);
  measure(element, "--real", (came ?? 0) / scale);
  element.lastElementChild.hidden = came == null;
  element.classList.toggle("over", came > high);
}

function everything(d) {
  const pairs = [
    ["request", d.request_id], ["trace", d.trace_id], ["endpoint", d.endpoint],
    ["class", d.priority], ["tenant", d.tenant], ["outcome", d.outcome], ["status", d.code],
    ["prompt", tokens(d.prompt_tokens)], ["prompt, predicted", tokens(d.prompt_tokens_predicted)],
    ["max_tokens", d.max_tokens == null ? "" : count(d.max_tokens)],
    ["output, predicted middle", tokens(d.output_tokens_p50)], ["nine in ten below", tokens(d.output_tokens_p90)],
    ["output, reserved", tokens(d.output_tokens_reserved)], ["output, real", tokens(d.output_tokens)],
    ["answers", d.sequences > 1 ? count(d.sequences) : ""],
    ["needs", tokens(d.need_tokens)], ["reserved", tokens(d.kv_tokens)], ["headroom then", tokens(d.headroom_tokens)],
    ["waited", span(d.wait_s)], ["retry after", d.retry_after_s == null ? "" : span(d.retry_after_s)],
    ["first token", d.ttft_s == null ? "" : span(d.ttft_s)], ["took", d.duration_s == null ? "" : span(d.duration_s)],
  ];
  return pairs.filter(([, value]) => value != null && value !== "").map(([term, value]) => [term, String(value)]);
}

const tokens = (value) => (value == null ? "" : `${count(value)} tokens`);
