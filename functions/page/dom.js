// Elements and text, never markup: what an agent calls itself can only ever be text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element: `h("td", {class: "name"}, agent.name)`. */
export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);

/** The same in SVG. */
export const svg = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

/** Sets a text where it is another. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets, or with null or false takes away, an attribute where it is another. */
export function mark(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Brings a parent's children in line with items, each by its key: what stays keeps its focus and its place. */
export function sync(parent, items, keyOf, create, update) {
  parent.known ??= new Map();
  const before = parent.known;
  const after = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const node = before.get(key) ?? create(item);
    before.delete(key);
    after.set(key, node);
    update?.(node, item);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of before.values()) node.remove();
  parent.known = after;
}

// ---- Time ----

let skew = 0;

/** The server's time, in milliseconds: a browser's clock may be wrong. */
export const now = () => Date.now() + skew;

/** Learns the time from an answer's `Date`, which has whole seconds. */
export function learnTime(date) {
  const seen = Date.parse(date) + 500 - Date.now();
  if (Number.isFinite(seen) && Math.abs(seen - skew) > 1500) skew = seen;
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** A duration as people say it: `45 s`, `3 min`, `2 h 5 min`, `3 d 4 h`. */
export function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  const at = UNITS.findIndex(([size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [size, unit] = UNITS[at];
  const whole = Math.floor(seconds / size);
  const next = UNITS[at + 1];
  const rest = next && whole < 10 && at < 2 ? Math.floor((seconds % size) / next[0]) : 0;
  return `${whole} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

/** Date and time where the reader is. */
export const full = (moment) => FULL.format(new Date(moment));
/** The time of the day. */
export const clock = (moment) => CLOCK.format(new Date(moment));
/** The day. */
export const day = (moment) => DAY.format(new Date(moment));

/** Today the time alone, else with its day. */
export const when = (moment) => (day(moment) === day(now()) ? clock(moment) : `${day(moment)}, ${clock(moment)}`);

function age(node) {
  const seconds = (now() - Date.parse(node.dateTime)) / 1000;
  say(node, seconds < -1 ? `in ${span(-seconds * 1000)}` : seconds < 1.5 ? "now" : `${span(seconds * 1000)} ago`);
}

/** How long ago, or how soon: it goes on counting. */
export function ago(moment) {
  const node = h("time", { class: "ago" });
  setAgo(node, moment);
  return node;
}

/** Another moment for it. */
export function setAgo(node, moment) {
  if (node.dateTime === moment && node.textContent) return;
  node.dateTime = moment;
  node.title = full(moment);
  age(node);
}

/** Makes every age on the page right. */
export const tick = () => document.querySelectorAll("time.ago").forEach(age);

// ---- Dialogs: what a button does is said before it does it ----

let fields = 0;

function field({ name, label, hint, type = "text", options, value, ...rest }) {
  const id = `field-${++fields}`;
  const said = hint && h("small", { id: `${id}-hint` }, hint);
  const common = { id, name, "aria-describedby": hint && `${id}-hint`, ...rest };
  let input;
  if (options) input = h("select", common, options.map(([key, text]) => h("option", { value: key }, text)));
  else if (type === "area") input = h("textarea", { rows: 3, ...common });
  else input = h("input", { type, autocomplete: "off", spellcheck: "false", ...common });
  if (type === "checkbox") {
    input.checked = Boolean(value);
    return h("div", { class: "field check", "data-field": name }, input, h("label", { for: id }, label), said);
  }
  if (value !== undefined) input.value = value;
  return h("div", { class: "field", "data-field": name }, h("label", { for: id }, label), input, said);
}

function open(dialog, done) {
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) before.focus();
    done?.();
  });
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * Says what will happen, asks for what it needs, and does it: `run` gets the fields' values. The dialog stays open
 * with the reason if that fails, and resolves to true once it is done.
 */
export function ask({ title, text, fields: wanted = [], action, danger, run, change }) {
  return new Promise((resolve) => {
    let done = false;
    const problem = h("p", { class: "problem", role: "alert" });
    const go = h("button", { class: danger ? "danger" : "primary", type: "submit" }, action);
    const stop = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
    const form = h("form", {}, h("h2", { id: "dialog-title" }, title), [text].flat().map((line) => h("p", {}, line)),
      wanted.map(field), problem, h("div", { class: "buttons" }, stop, go));
    const values = () => {
      const read = {};
      for (const input of form.querySelectorAll("[name]")) {
        if (!input.closest("[hidden]")) read[input.name] = input.type === "checkbox" ? input.checked : input.value.trim();
      }
      return read;
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      say(problem, "");
      try {
        const after = await run(values());
        done = true;
        dialog.close();
        after?.();
      } catch (error) {
        say(problem, error.message);
        go.disabled = false;
      }
    });
    const changed = () => change?.((name, shown) => { form.querySelector(`[data-field="${name}"]`).hidden = !shown; }, values());
    form.addEventListener("change", changed);
    changed();
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    open(dialog, () => resolve(done));
    (form.querySelector("input, select, textarea") ?? (danger ? stop : go)).focus();
  });
}

/** Shows secrets, this once: pairs of a label and a text, each to be copied. */
export function reveal(title, text, secrets) {
  const copied = h("p", { role: "status", class: "muted" });
  const line = ([label, secret], at) => {
    const input = h("input", { id: `secret-${at}`, class: "secret", readonly: true, value: secret });
    const copy = async () => {
      input.select();
      try {
        await navigator.clipboard.writeText(secret);
      } catch {
        document.execCommand("copy");
      }
      say(copied, `${label} copied.`);
    };
    return h("div", { class: "field" }, h("label", { for: input.id }, label),
      h("div", { class: "copy" }, input, h("button", { type: "button", onclick: copy, "aria-label": `Copy ${label}` }, "Copy")));
  };
  const close = h("button", { class: "primary", type: "button", onclick: () => dialog.close() }, "I have kept it");
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, h("div", { class: "form" },
    h("h2", { id: "dialog-title" }, title), h("p", {}, text), secrets.map(line), copied, h("div", { class: "buttons" }, close)));
  open(dialog);
}
