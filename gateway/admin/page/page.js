// Asks the gateway once a second and shows what it says: less often while it is away, and never while nobody looks.

import { showBackends } from "./backends.js";
import { prepareDecisions, showDecisions } from "./decisions.js";
import { byId, mark, say } from "./dom.js";
import { addSecond, prepareTimeline } from "./timeline.js";
import { askForToken, credentials, Locked, prepareToken } from "./token.js";
import { showFigures, showQueues, showReasons, showWaits } from "./waiting.js";
import { span } from "./words.js";

const EVERY_MS = 1_000;
const AWAY_MAX_MS = 15_000;
const ANSWER_MAX_MS = 5_000;
const DECISIONS_SHOWN = 50;

let timer = 0;
let asking = null;
let failures = 0;
let answeredAt = 0;
let refusedBefore = null;
let told = new Map();

/** The gateway cannot be asked now; the message is a sentence. */
class NoAnswer extends Error {}

async function fetchJson(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { signal, cache: "no-store", credentials: "same-origin", headers: credentials() });
  } catch {
    throw new NoAnswer(`The gateway does not answer${signal.aborted ? ` within ${span(ANSWER_MAX_MS / 1000)}` : ""}.`);
  }
  if (answer.status === 401) throw new Locked();
  if (!answer.ok) throw new NoAnswer(`The gateway answers with status ${answer.status}.`);
  try {
    return await answer.json();
  } catch {
    throw new NoAnswer("The gateway answers with something else than its state.");
  }
}

/** The last decisions, newest first; none where this gateway keeps no journal. */
async function fetchDecisions(signal) {
  try {
    const body = await fetchJson(`api/v1/decisions?limit=${DECISIONS_SHOWN}`, signal);
    return body.decisions.sort((a, b) => b.arrived_monotonic_s - a.arrived_monotonic_s);
  } catch (error) {
    if (signal.aborted || error instanceof Locked) throw error;
    return [];
  }
}

async function look() {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController());
  const late = setTimeout(() => mine.abort(), ANSWER_MAX_MS);
  const started = performance.now();
  try {
    const [state, decisions] = await Promise.all([fetchJson("api/v1/state", mine.signal), fetchDecisions(mine.signal)]);
    if (mine !== asking) return;
    show(state, decisions);
    answered();
  } catch (error) {
    if (mine !== asking || document.hidden) return;
    if (error instanceof Locked) return locked();
    away(error);
  } finally {
    clearTimeout(late);
  }
  const pause = failures ? Math.min(AWAY_MAX_MS, EVERY_MS * 2 ** (failures - 1)) : Math.max(100, EVERY_MS - (performance.now() - started));
  if (!document.hidden) timer = setTimeout(look, pause);
  if (failures) say(byId("away-more"), `${awayFor()} Next try in ${span(pause / 1000)}.`);
}

function show(state, decisions) {
  const counts = showReasons(state.decisions ?? [], state.now);
  const figures = showFigures(state, counts);
  showBackends(state.backends);
  showQueues(state);
  showWaits(decisions);
  showDecisions(decisions, state.now);
  addSecond(Date.now() / 1000, point(state, figures, counts));
  byId("draining").hidden = !state.draining;
  say(byId("version"), state.version ? `KVGate ${state.version}` : "KVGate");
  document.title = figures.capacity ? `${figures.free} free · KVGate` : "KVGate";
  announce(state);
}

function point(state, figures, counts) {
  const own = state.backends.filter((b) => !b.hosted && b.capacity_tokens > 0);
  const shares = own.map((b) => (100 * b.headroom_tokens) / b.capacity_tokens);
  const refused = counts.refused.reduce((sum, each) => sum + each.ever, 0);
  const before = refusedBefore;
  refusedBefore = { refused, now: state.now };
  const passed = before === null ? 0 : state.now - before.now;
  return {
    free: figures.capacity ? (100 * figures.headroom) / figures.capacity : null,
    tightest: shares.length ? Math.min(...shares) : null,
    depth: figures.depth,
    refused: passed > 0 ? Math.max(0, refused - before.refused) / passed : null,
  };
}

/** Tell a screen reader what has changed for the whole gateway; numbers it finds where they stand. */
function announce(state) {
  const now = new Map(state.backends.map((b) => [b.name, `${b.state}${["stale", "lost", "frozen"].includes(b.telemetry) ? `, telemetry ${b.telemetry}` : ""}`]));
  const changes = [...now].filter(([name, word]) => told.size && told.get(name) !== word).map(([name, word]) => `Backend ${name}: ${word}.`);
  if (changes.length) say(byId("announce"), changes.slice(0, 5).join(" ") + (changes.length > 5 ? ` And ${changes.length - 5} more.` : ""));
  told = now;
}

function answered() {
  if (failures) say(byId("announce"), "The gateway answers again.");
  failures = 0;
  answeredAt = performance.now();
  byId("away").hidden = true;
  document.body.classList.remove("old");
  pulse("good", "live");
}

function away(error) {
  failures += 1;
  if (failures === 1) say(byId("announce"), "The gateway does not answer.");
  const expected = error instanceof NoAnswer;
  if (!expected) console.error(error);
  say(byId("away-what"), expected ? error.message : `This page failed: ${error.message}.`);
  byId("away").hidden = false;
  document.body.classList.add("old");
  pulse("bad", "away");
  addSecond(Date.now() / 1000, null);
  refusedBefore = null;
}

/** Nothing is asked until there is a token. */
function locked() {
  askForToken();
  document.body.classList.add("old");
  pulse("bad", "locked");
}

function awayFor() {
  return answeredAt ? `What you see is ${span(Math.max(1, Math.round((performance.now() - answeredAt) / 1000)))} old.` : "";
}

function pulse(tone, text) {
  mark(byId("pulse"), "data-tone", tone);
  say(byId("pulse").querySelector("span"), text);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return look();
  clearTimeout(timer);
  asking?.abort();
  return pulse("idle", "paused");
});
byId("retry").addEventListener("click", look);
prepareToken(look);
prepareDecisions();
prepareTimeline();
look();
