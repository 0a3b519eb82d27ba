// Who waits, what became of requests, and the figures at the top.

import { byId, fill, list, mark, say } from "./dom.js";
import { count, NONE, percent, reasonRank, reasonWords, span, things, tone, verdict } from "./words.js";

const LATELY_S = 60;
const ENDS_OF_WAITS = new Set(["queue_timeout", "client_gone"]);
const history = [];

/** The queue, by model and class. */
export function showQueues(state) {
  const queues = state.queues.filter((queue) => queue.depth > 0);
  say(byId("queue-limit"), `up to ${things(state.queue_requests_max, "request")} per model`);
  byId("queues").hidden = queues.length === 0;
  byId("queues-empty").hidden = queues.length > 0;
  list(byId("queues").tBodies[0], byId("queue"), queues, (q) => `${q.priority} ${q.model}`, (row, q) => {
    fill(row, {
      model: q.model, priority: q.priority,
      depth: count(q.depth), tokens: count(q.tokens), oldest: span(q.oldest_wait_s),
    });
  });
}

/** How long the last requests waited. */
export function showWaits(decisions) {
  const waits = decisions.map((d) => d.wait_s ?? 0).sort((a, b) => a - b);
  const at = (share) => waits[Math.min(waits.length - 1, Math.floor(share * waits.length))];
  byId("waits").hidden = waits.length === 0;
  if (waits.length === 0) return;
  const last = `the last ${things(waits.length, "request")}`;
  const half = at(0.5) < 0.001 ? "half did not wait" : `half waited ${span(at(0.5))} or less`;
  say(byId("waits"), at(1) < 0.001 ? `None of ${last} had to wait.` : `Of ${last}, ${half}; nine in ten waited ${span(at(0.9))} or less.`);
}

/** Counts of decisions, ever and lately; returns how many were turned away lately, and in all. */
export function showReasons(counts, now) {
  const ever = new Map();
  for (const each of counts) {
    const key = `${each.outcome} ${each.reason}`;
    const sum = ever.get(key) ?? { outcome: each.outcome, reason: each.reason, ever: 0 };
    sum.ever += each.count;
    ever.set(key, sum);
  }
  const before = remember(ever, now);
  const rows = [...ever.values()].filter((each) => each.ever > 0);
  for (const each of rows) {
    const known = before.get(`${each.outcome} ${each.reason}`)?.ever ?? 0;
    each.lately = each.ever >= known ? each.ever - known : each.ever; // a restart begins at 0 again
  }
  rows.sort((a, b) => rank(a) - rank(b) || a.outcome.localeCompare(b.outcome));
  byId("reasons").hidden = rows.length === 0;
  byId("reasons-empty").hidden = rows.length > 0;
  list(byId("reasons").tBodies[0], byId("reason"), rows, (each) => `${each.outcome} ${each.reason}`, showReason);
  return {
    refused: rows.filter((each) => tone(each.outcome, each.reason) === "bad"),
    lately: rows.reduce((sum, each) => sum + each.lately, 0),
  };
}

const rank = (each) => (each.outcome === "admitted" ? 0 : 100) + reasonRank(each.reason);

function showReason(row, each) {
  const [word, meaning] = reasonWords(each.reason);
  fill(row, {
    reason: word === "admitted" ? word : verdict(each.outcome, each.reason),
    meaning: each.outcome === "evicted" && !ENDS_OF_WAITS.has(each.reason) ? `${meaning}; while it waited` : meaning,
    lately: count(each.lately), ever: count(each.ever),
  });
  mark(row.querySelector(".verdict"), "data-tone", tone(each.outcome, each.reason));
}

function remember(counts, now) {
  history.push({ now, counts: structuredClone(counts) });
  while (history.length > 1 && history[1].now <= now - LATELY_S) history.shift();
  return history[0].counts;
}

/** The figures at the top, and the part of all memory that is free. */
export function showFigures(state, turnedAway) {
  const own = state.backends.filter((b) => !b.hosted && b.capacity_tokens > 0);
  const capacity = own.reduce((sum, b) => sum + b.capacity_tokens, 0);
  const headroom = own.reduce((sum, b) => sum + b.headroom_tokens, 0);
  const ready = state.backends.filter((b) => b.state === "ready").length;
  const free = capacity ? percent(headroom, capacity) : NONE;
  figure("headroom", free, capacity ? `${count(headroom)} of ${count(capacity)} KV tokens` : "no memory is known yet", capacity > 0 && headroom < 0.05 * capacity ? "waited" : "");
  showFull(own);
  const live = state.backends.reduce((sum, b) => sum + b.requests, 0);
  const none = state.backends.length > 0 && ready === 0;
  figure("running", count(live), `${ready} of ${things(state.backends.length, "backend")} ready`, none ? "bad" : ready < state.backends.length ? "note" : "");
  const depth = state.queues.reduce((sum, q) => sum + q.depth, 0);
  const oldest = Math.max(0, ...state.queues.map((q) => (q.depth ? q.oldest_wait_s : 0)));
  figure("waiting", count(depth), depth ? `oldest ${span(oldest)}` : "nobody", "");
  showRefused(turnedAway);
  return { capacity, headroom, depth, free };
}

function showFull(own) {
  const said = own.filter((b) => b.exhaustion_s !== undefined);
  document.querySelector('[data-figure="full"]').hidden = said.length === 0;
  const soonest = said.filter((b) => b.exhaustion_s !== null && b.state === "ready").sort((a, b) => a.exhaustion_s - b.exhaustion_s)[0];
  if (soonest) figure("full", soonest.exhaustion_s > 0 ? span(soonest.exhaustion_s) : "now", soonest.name, soonest.exhaustion_s < 30 ? "waited" : "");
  else figure("full", NONE, "not in sight", "");
}

function showRefused({ refused, lately }) {
  const number = refused.reduce((sum, each) => sum + each.lately, 0);
  const most = [...refused].sort((a, b) => b.lately - a.lately)[0];
  const more = number ? `${percent(number, lately)}, most: ${reasonWords(most.reason)[0]}` : lately ? `of ${things(lately, "request")}` : "no request";
  figure("refused", count(number), more, number ? "bad" : "");
}

function figure(name, value, more, toneName) {
  const element = document.querySelector(`[data-figure="${name}"]`);
  say(element.querySelector(".value"), value);
  say(element.querySelector(".more"), more);
  mark(element, "data-tone", toneName);
}
