// One row per backend: how full its KV cache is, of what, and how far the numbers can be trusted.

import { byId, fill, list, mark, measure, say } from "./dom.js";
import { count, names, percent, span, things } from "./words.js";

const MANY = 4;
const STATES = { ready: "good", busy: "waited", ejected: "bad", cold: "idle", draining: "waited", down: "bad" };
const TELEMETRY = { fresh: "good", stale: "waited", lost: "bad", frozen: "bad", none: "idle" };

/** The parts of a pool in the order in which they are drawn; they add up to its capacity. */
export function parts(b) {
  const growing = Math.max(0, b.reserved_tokens - b.resident_tokens);
  const taken = b.resident_tokens + growing + b.draining_tokens + b.foreign_tokens + b.held_back_tokens;
  const free = Math.max(0, b.capacity_tokens - taken);
  return {
    resident: b.resident_tokens, growing, draining: b.draining_tokens,
    foreign: b.foreign_tokens, held: b.held_back_tokens, free,
  };
}

/** Show all backends. */
export function showBackends(backends) {
  say(byId("backends-count"), backends.length > 1 ? `${backends.length}` : "");
  document.body.classList.toggle("many", backends.length > MANY);
  byId("backends").hidden = backends.length === 0;
  byId("backends-empty").hidden = backends.length > 0;
  list(byId("backends"), byId("backend"), backends, (b) => b.name, showBackend);
}

function showBackend(element, b) {
  const known = !b.hosted && b.capacity_tokens > 0;
  element.classList.toggle("unknown", !known);
  mark(element, "data-state", b.state);
  fill(element, {
    name: b.name,
    about: [`${b.kind}${b.engine_version ? ` ${b.engine_version}` : ""}`, names(b.models)].filter(Boolean).join(" · "),
    state: b.state,
    telemetry: telemetry(b),
    ...room(b),
    forecast: known && b.state !== "down" ? forecast(b) : "",
    engine: engine(b),
    warning: b.kv_layout?.warning ? `KV layout: ${b.kv_layout.warning}` : "",
  });
  mark(element.querySelector('[data-f="state"]'), "data-tone", STATES[b.state] ?? "idle");
  mark(element.querySelector('[data-f="telemetry"]'), "data-tone", TELEMETRY[b.telemetry] ?? "idle");
  if (known) showBar(element, b);
}

function room(b) {
  if (b.hosted) return { headroom: things(b.requests, "request"), "headroom-more": "in flight; its provider looks after the memory" };
  if (!b.capacity_tokens) return { headroom: "capacity unknown", "headroom-more": "until the engine answers" };
  const share = `${percent(b.headroom_tokens, b.capacity_tokens)} of ${count(b.capacity_tokens)}`;
  const nothing = { down: "nothing is sent while it is down", busy: "nothing is sent while it asks for a pause", ejected: "nothing is sent for a while, as one after the other failed", draining: "nothing is sent while it drains" }[b.state];
  return { headroom: `${count(b.headroom_tokens)} tokens`, "headroom-more": `headroom, ${share}${nothing ? `; ${nothing}` : ""}` };
}

function showBar(element, b) {
  const sizes = parts(b);
  const peak = b.state === "down" ? 0 : Math.max(b.peak_forecast_30s_tokens ?? 0, b.peak_forecast_300s_tokens ?? 0);
  const sum = Object.values(sizes).reduce((total, size) => total + size, 0);
  for (const [name, size] of Object.entries(sizes)) {
    measure(element.querySelector(`.bar [data-part="${name}"]`), "--part", size / sum);
    const term = element.querySelector(`.parts [data-part="${name}"]`);
    term.classList.toggle("none", size === 0);
    say(term.querySelector("dd"), count(size));
  }
  const line = element.querySelector("[data-mark]");
  line.hidden = peak === 0;
  measure(line, "--at", Math.min(1, peak / sum));
}

function telemetry(b) {
  if (b.telemetry === "none") return "no telemetry";
  const since = b.telemetry_age_s == null ? "" : `, ${span(b.telemetry_age_s)} old`;
  return `telemetry ${b.telemetry}${since}`;
}

function forecast(b) {
  const within = [["30\u00a0s", b.peak_forecast_30s_tokens], ["5\u00a0min", b.peak_forecast_300s_tokens]]
    .filter(([, peak]) => peak > 0)
    .map(([time, peak]) => `${count(peak)} (${percent(peak, b.capacity_tokens)}) within ${time}`);
  const said = [];
  if (within.length) said.push(`Forecast peak ▾ ${within.join(", ")}`);
  if (b.exhaustion_s != null) said.push(b.exhaustion_s > 0 ? `full in ${span(b.exhaustion_s)}` : "full now");
  if (b.margin_share > 0) said.push(`safety margin ${percent(b.margin_share, 1)}`);
  return said.join(" · ");
}

function engine(b) {
  const said = [];
  if (!b.hosted) said.push(`${things(b.requests, "request")} of ours`);
  if (b.running != null && b.state !== "down") said.push(`engine: ${count(b.running)} running, ${count(b.waiting ?? 0)} waiting`);
  if (b.preemptions > 0) said.push(things(b.preemptions, "preemption"));
  if (b.drain_timeouts > 0) said.push(things(b.drain_timeouts, "end", "ends") + " that telemetry never showed");
  return said.join(" · ");
}
