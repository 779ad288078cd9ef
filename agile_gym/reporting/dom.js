"use strict";
// Makes elements. All text goes into the page as text nodes, never as markup.

/**
 * Return a new element.
 * @param {string} tag Its name, with classes after dots, such as "p.quiet".
 * @param {Object} attributes Attributes; a function is a listener, false, null and undefined leave one out.
 * @param {...(Node|string|number|null|Array)} children What is in it; null is left out.
 */
function element(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  node.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/** Return what a level is called; of another environment than the jigsaw, it is the label of the episode. */
function levelName(level) {
  return typeof level === "number" ? `L${level}` : level;
}

function byId(id) {
  return document.getElementById(id);
}

const UNSEEN =
  /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Return a text as nodes in which characters that cannot be seen, or that reorder others, stand by their number. */
function readable(text) {
  const nodes = [];
  let place = 0;
  for (const found of text.matchAll(UNSEEN)) {
    const code = found[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    nodes.push(text.slice(place, found.index), element("span.unseen", {}, `U+${code}`));
    place = found.index + found[0].length;
  }
  nodes.push(text.slice(place));
  return nodes;
}

// Numbers. A value that is no number is shown as it is: what was not finite is kept as text.

function fixed(value, digits = 2) {
  return typeof value === "number" ? value.toFixed(digits).replace("-", "\u2212") : String(value);
}

function signed(value, digits = 2) {
  return (typeof value === "number" && value > 0 ? "+" : "") + fixed(value, digits);
}

function percent(share, digits = 1) {
  return typeof share === "number" ? `${(100 * share).toFixed(digits)}%` : String(share);
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function duration(seconds) {
  if (typeof seconds !== "number") return String(seconds);
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} \u00b5s`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return seconds < 120 ? `${seconds.toFixed(seconds < 10 ? 2 : 1)} s` : `${Math.round(seconds / 60)} min`;
}
