// Filling the page: text goes in as text, never as markup, and nothing is touched that has not changed.

/** Elements of the page, by id. */
export const byId = (id) => document.getElementById(id);

/** Set an element's text. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set what an attribute says. */
export function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Set a custom property, which the style sheet turns into a length. */
export function measure(element, name, value) {
  const text = String(value);
  if (element.style.getPropertyValue(name) !== text) element.style.setProperty(name, text);
}

/** Fill the `data-f` places below an element; an empty text hides its place. */
export function fill(element, texts) {
  for (const [name, text] of Object.entries(texts)) {
    const place = element.querySelector(`[data-f="${name}"]`);
    say(place, text);
    place.hidden = text === "";
  }
}

/**
 * Show one copy of a template per item, in order. A copy stays with its item, so that the focus, an open "why" and a
 * screen reader's place survive what comes and goes around it.
 */
export function list(parent, template, items, keyOf, show) {
  const kept = new Map();
  for (const child of parent.children) if (child.dataset.key !== undefined) kept.set(child.dataset.key, child);
  const heads = [...parent.children].filter((child) => child.dataset.key === undefined);
  let before = heads.at(-1) ?? null;
  const taken = new Set();
  const shown = items.map((item) => {
    let key = keyOf(item);
    while (taken.has(key)) key += "+";
    taken.add(key);
    let element = kept.get(key);
    kept.delete(key);
    if (element === undefined) {
      element = template.content.firstElementChild.cloneNode(true);
      element.dataset.key = key;
    }
    return [element, item];
  });
  for (const element of kept.values()) element.remove();
  for (const [element, item] of shown) {
    const next = before === null ? parent.firstElementChild : before.nextElementSibling;
    if (next !== element) parent.insertBefore(element, next);
    show(element, item);
    before = element;
  }
}

/** Show a list of terms and values. */
export function facts(parent, pairs) {
  const text = JSON.stringify(pairs);
  if (parent.dataset.shown === text) return;
  parent.dataset.shown = text;
  parent.replaceChildren(
    ...pairs.map(([term, value]) => {
      const pair = document.createElement("div");
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = value;
      pair.append(dt, dd);
      return pair;
    }),
  );
}
