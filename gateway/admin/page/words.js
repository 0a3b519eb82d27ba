// Numbers and decisions in words.

const COUNT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const NONE = "–";

/** 12,345. */
export const count = (value) => (value == null ? NONE : COUNT.format(value));

/** "1 request", "2 requests". */
export const things = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** A part of a whole in percent; what is there never reads 0, and what is not full never reads 100. */
export function percent(part, whole) {
  if (!(whole > 0)) return NONE;
  const value = (100 * part) / whole;
  if (value > 0 && value < 1) return unit("<1", "%");
  return unit(value > 99 && value < 100 ? 99 : Math.round(value), "%");
}

/** A time span, as exactly as a person wants it. */
export function span(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 0.0005) return unit(0, "s");
  if (seconds < 0.9995) return unit(Math.round(1000 * seconds), "ms");
  if (seconds < 9.95) return unit(seconds.toFixed(1), "s");
  if (seconds < 120) return unit(Math.round(seconds), "s");
  if (seconds < 7200) return unit(Math.round(seconds / 60), "min");
  return unit((seconds / 3600).toFixed(seconds < 36000 ? 1 : 0), "h");
}

/** An age: no need for milliseconds. */
export const age = (seconds) => (seconds < 1 ? "now" : seconds < 10 ? unit(Math.floor(seconds), "s") : span(Math.floor(seconds)));

/** A number and its unit, never parted by the end of a line. */
const unit = (number, name) => `${number}\u00a0${name}`;

/** A few names, and how many more there are. */
export function names(all, most = 3) {
  const shown = all.slice(0, most).join(", ");
  return all.length > most ? `${shown} and ${all.length - most} more` : shown;
}

const REASONS = {
  ok: ["admitted", "at once"],
  ok_after_wait: ["admitted", "after a wait"],
  headroom: ["no headroom", "the memory it needs is taken"],
  queue_full: ["queue full", "too many wait already"],
  queue_timeout: ["waited too long", "no room came free in time"],
  no_backend: ["no backend", "none of the model's backends can be used"],
  stale_telemetry: ["telemetry too old", "nothing certain is known of the memory"],
  too_large: ["too large", "more than the largest backend holds"],
  tenant_limit: ["tenant limit", "its tenant is at a limit of its own"],
  client_gone: ["client left", "before there was room"],
  shutdown: ["shutting down", "this gateway is being stopped"],
};

/** What a reason is called, and what it means. */
export const reasonWords = (reason) => REASONS[reason] ?? [reason ? String(reason) : "not decided", ""];

/** Always the same order, so that rows keep their places. */
export const reasonRank = (reason) => (Object.keys(REASONS).indexOf(reason) + 50) % 50;

const LET_IN = new Set(["admitted", "admitted_after_wait", "spilled"]);

/** Whether a decision let its request in. */
export const letIn = (decision) => LET_IN.has(decision);

/** The tone of a decision: good, waited, observed, gone or bad. */
export function tone(decision, reason) {
  if (letIn(decision)) return { ok: "good", ok_after_wait: "waited" }[reason] ?? "observed";
  return reason === "client_gone" ? "gone" : "bad";
}

/** A decision in one or two words. */
export function verdict(decision, reason) {
  const [word] = reasonWords(reason);
  if (!letIn(decision)) return word;
  if (decision === "spilled") return "spilled";
  return { ok: "admitted", ok_after_wait: "admitted later" }[reason] ?? `let through: ${word}`;
}

/** Why a decision was made, as a sentence with its numbers. */
export function why(d) {
  if (letIn(d.decision)) return admitted(d);
  const [word, meaning] = reasonWords(d.reason);
  const said = [`${capital(word)}: ${meaning || "refused"}.`];
  if (d.reason !== "client_gone" && d.need_tokens) {
    const free = d.headroom_tokens == null ? "" : `; at most ${count(d.headroom_tokens)} were free on one backend`;
    said.push(`It needs ${count(d.need_tokens)} KV tokens${free}.`);
  }
  if (d.wait_s > 0.0005) said.push(`It had waited ${span(d.wait_s)}.`);
  if (d.retry_after_s != null) said.push(`Told to come back after ${span(d.retry_after_s)}.`);
  return said.join(" ");
}

function admitted(d) {
  const where = d.backend ? ` on ${d.backend}` : "";
  const free = d.headroom_tokens == null ? "" : ` of ${count(d.headroom_tokens)} free`;
  const spilled = d.decision === "spilled" ? ", for want of room of our own" : "";
  const sent = d.kv_tokens ? `Reserved ${count(d.kv_tokens)}${free} KV tokens${where}` : `Sent on${d.backend ? ` to ${d.backend}` : ""}${spilled}`;
  const waited = d.wait_s > 0.0005 ? ` after ${span(d.wait_s)} in the queue` : "";
  const would = ["ok", "ok_after_wait"].includes(d.reason) ? "" : ` An enforcing gateway would have refused it: ${reasonWords(d.reason)[0]}.`;
  return `${sent}${waited}.${would}`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
