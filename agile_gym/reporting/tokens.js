"use strict";
// The token strip: every token that was recorded, who wrote it, and what it is trained with.

const LOWEST_LOGP = -6; // Log-probabilities from here down have the strongest colour.
let tokensOpen = false; // Stays as the reader left it when another episode is opened.

/** Return the section of an episode's tokens, or null if none were recorded; chips are made when it is opened. */
function tokenSection(record, place) {
  const segments = DATA.segments(place);
  if (segments === null) return null;
  const written = (segment) => segment.mask.reduce((sum, [start, end]) => sum + end - start, 0);
  const total = segments.reduce((sum, segment) => sum + segment.length, 0);
  const model = segments.reduce((sum, segment) => sum + written(segment), 0);
  const body = element("div.tokens");
  const fill = () => {
    if (body.hasChildNodes()) return;
    append(body, [
      tokenLegend(segments.some((segment) => segment.advantages !== null)),
      segments.map((segment, number) => [
        segments.length > 1
          ? element("h4", {}, `Segment ${number + 1} of ${segments.length}: `, segmentSize(segment, written(segment)))
          : null,
        tokenStrip(segment, `Tokens of segment ${number + 1}`),
      ]),
    ]);
  };
  const section = element(
    "details.fold",
    {
      id: "tokens",
      open: tokensOpen,
      toggle: () => {
        tokensOpen = section.open;
        if (tokensOpen) fill();
      },
    },
    element(
      "summary",
      {},
      "Tokens ",
      element("span.quiet", {}, `${total.toLocaleString("en")}, of which the model wrote ${model.toLocaleString("en")}`),
    ),
    body,
  );
  if (tokensOpen) fill();
  return section;
}

function segmentSize(segment, written) {
  return `${counted(segment.length, "token")}, ${written} written by the model, ${counted(segment.images.length, "image")}`;
}

function tokenLegend(withAdvantages) {
  const sample = (name, text, style = {}) => {
    const chip = element(`span.token.${name}`, { "aria-hidden": "true" }, text);
    for (const [key, value] of Object.entries(style)) chip.style.setProperty(key, value);
    return chip;
  };
  return element(
    "p.legend",
    {},
    element("span", {}, sample("token-read", "text"), " read"),
    element("span", {}, sample("token-image", "image \u00d764"), " image tokens, counted"),
    element(
      "span",
      {},
      sample("token-model", "sure", { "--unsure": "0%" }),
      sample("token-model", "\u22123", { "--unsure": "50%" }),
      sample("token-model", "\u22126", { "--unsure": "100%" }),
      " written by the model: log-probability",
    ),
    withAdvantages
      ? element("span", {}, sample("token-model.better", "+"), sample("token-model.worse", "\u2212"), " advantage: line below")
      : null,
  );
}

/** Return the entries of a segment: {id, count, start, mask, logp, turn, advantage}. */
function tokenEntries(segment) {
  const turnAt = runReader(segment.turns);
  const advantageAt = segment.advantages === null ? () => null : runReader(segment.advantages);
  const entries = [];
  let start = 0;
  let span = 0;
  let marked = 0;
  for (const entry of segment.ids) {
    const [id, count] = Array.isArray(entry) ? entry : [entry, 1];
    while (span < segment.mask.length && segment.mask[span][1] <= start) span += 1;
    const mask = span < segment.mask.length && segment.mask[span][0] <= start;
    entries.push({
      id, count, start, mask, logp: mask ? segment.logps[marked] : null, turn: turnAt(start), advantage: advantageAt(start),
    });
    if (mask) marked += 1;
    start += count;
  }
  return entries;
}

/** Return a function from positions, which must not fall, to the values of [value, count] runs. */
function runReader(runs) {
  let run = 0;
  let end = runs.length ? runs[0][1] : 0;
  return (position) => {
    while (position >= end && run + 1 < runs.length) {
      run += 1;
      end += runs[run][1];
    }
    return runs.length ? runs[run][0] : null;
  };
}

/** Join neighbours that stand for images, where it is known which tokens do. */
function joinImages(entries, imageTokens) {
  const joined = [];
  for (const entry of entries) {
    const last = joined.at(-1);
    const isImage = !entry.mask && (imageTokens.size ? imageTokens.has(entry.id) : entry.count > 1);
    if (isImage && last?.isImage && last.id === entry.id) last.count += entry.count;
    else joined.push({ ...entry, isImage });
  }
  return joined;
}

function tokenStrip(segment, label) {
  const { texts, imageTokens } = DATA.vocabulary();
  const entries = joinImages(tokenEntries(segment), imageTokens);
  const largest = Math.max(1e-9, ...entries.map(({ advantage }) => Math.abs(Number(advantage)) || 0));
  const strip = element("div.strip", { role: "group", "aria-label": label });
  entries.forEach((entry, number) => {
    const text = texts[entry.id];
    const chip = element(
      `span.token.${entry.mask ? "token-model" : entry.isImage ? "token-image" : "token-read"}`,
      { tabindex: number === 0 ? 0 : -1 },
      readable(visibleText(text === undefined ? String(entry.id) : text)),
      entry.count > 1 || entry.isImage ? ` \u00d7${entry.count}` : "",
    );
    if (entry.mask) {
      const share = typeof entry.logp === "number" ? Math.min(1, entry.logp / LOWEST_LOGP) : 1;
      chip.style.setProperty("--unsure", `${Math.round(100 * Math.max(0, share))}%`);
      if (typeof entry.advantage === "number" && entry.advantage !== 0) {
        chip.classList.add(entry.advantage > 0 ? "better" : "worse");
        chip.style.setProperty("--weight", `${Math.round(25 + (75 * Math.abs(entry.advantage)) / largest)}%`);
      }
    }
    chip.dataset.entry = number;
    strip.append(chip);
    if (text !== undefined && text.includes("\n")) strip.append(element("br"));
  });
  const chipOf = (event) => event.target.closest?.(".token");
  const show = (event) => chipOf(event) && showTip(chipOf(event), describeToken(entries[chipOf(event).dataset.entry], texts));
  strip.addEventListener("mouseover", show);
  strip.addEventListener("focusin", show);
  strip.addEventListener("mouseleave", hideTip);
  strip.addEventListener("focusout", hideTip);
  strip.addEventListener("keydown", (event) => stepTokens(event, strip));
  return strip;
}

/** Return a token's text with its white space made visible. */
function visibleText(text) {
  return text === "" ? "\u2205" : text.replace(/\n/g, "\u23ce").replace(/\t/g, "\u21e5").replace(/ /g, "\u00b7");
}

function describeToken(entry, texts) {
  const lines = [["token", JSON.stringify(texts[entry.id] ?? null)], ["id", entry.id]];
  if (texts[entry.id] === undefined) lines.shift();
  lines.push(["position", entry.count > 1 ? `${entry.start} to ${entry.start + entry.count - 1}` : entry.start]);
  if (entry.mask) {
    lines.push(["written in", `turn ${entry.turn + 1}`]);
    const chance = typeof entry.logp === "number" ? ` (${percent(Math.exp(entry.logp))})` : "";
    lines.push(["log-prob", fixed(entry.logp, 3) + chance]);
  } else {
    lines.push(["mask", "0, not written by the model"]);
  }
  if (entry.advantage !== null) lines.push(["advantage", signed(entry.advantage, 3)]);
  return lines;
}

function stepTokens(event, strip) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
  const chips = strip.querySelectorAll(".token");
  const from = event.target.closest(".token");
  const to = chips[Number(from.dataset.entry) + step];
  event.preventDefault();
  event.stopPropagation();
  if (!to) return;
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

function showTip(chip, lines) {
  const tip = byId("tip");
  tip.replaceChildren(element("dl", {}, lines.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
  tip.hidden = false;
  chip.setAttribute("aria-describedby", "tip");
  placeTip(chip);
}

function placeTip(chip) {
  const tip = byId("tip");
  const at = chip.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(4, at.left), document.documentElement.clientWidth - own.width - 4);
  const above = at.top - own.height - 6;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${above > 4 ? above : at.bottom + 6}px`;
}

/** Keep the tip beside a token that has the focus; hide it otherwise. */
function followTip() {
  const chip = document.activeElement;
  if (byId("tip").hidden) return;
  if (chip?.classList.contains("token")) placeTip(chip);
  else hideTip();
}

function hideTip() {
  byId("tip").hidden = true;
}
