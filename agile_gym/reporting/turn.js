"use strict";
// Shows a turn: what the model wrote, cut at its tags, and what the environment answered.

const BLOCK_NAMES = { think: "Think", code: "Code", tool_call: "Tool call", answer: "Answer" };
const LONGEST_STYLED = 20000; // Longer code is shown without colours.

/**
 * Cut a turn's text at its tags; where its thoughts are the record tells.
 * @returns {Array} of {kind, text, open}: kind is a tag's name or "outside"; open tells that the tag is not closed.
 */
function textBlocks({ text, thoughts }) {
  const blocks = [];
  let place = 0;
  for (const [start, end] of thoughts) {
    const thought = text.slice(start, end);
    const inside = thought.replace(/^<think>/, "").replace(/<\/think>$/, "");
    blocks.push(...outsideBlocks(text.slice(place, start)));
    blocks.push({ kind: "think", text: inside, open: !thought.endsWith("</think>") });
    place = end;
  }
  return [...blocks, ...outsideBlocks(text.slice(place))];
}

/** Cut what stands outside the thoughts. */
function outsideBlocks(text) {
  const blocks = [];
  const outside = (part) => part.trim() && blocks.push({ kind: "outside", text: part, open: false });
  let place = 0;
  const tag = /<(code|tool_call|answer)>/g;
  for (let found = tag.exec(text); found; found = tag.exec(text)) {
    outside(text.slice(place, found.index));
    const start = tag.lastIndex;
    const close = `</${found[1]}>`;
    const end = text.indexOf(close, start);
    blocks.push({ kind: found[1], text: text.slice(start, end < 0 ? undefined : end), open: end < 0 });
    place = end < 0 ? text.length : end + close.length;
    tag.lastIndex = place;
  }
  outside(text.slice(place));
  return blocks;
}

const CODE_PARTS =
  /(?<comment>#[^\n]*)|(?<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?<number>\b\d+(?:\.\d+)?\b)|(?<call>\b[A-Za-z_]\w*(?=\s?\())|(?<name>\b(?:state|image_list|true|false|null)\b)/g;

/** Return code with its parts in colour. */
function styledCode(code) {
  if (code.length > LONGEST_STYLED) return readable(code);
  const nodes = [];
  let place = 0;
  for (const found of code.matchAll(CODE_PARTS)) {
    nodes.push(readable(code.slice(place, found.index)));
    const [kind] = Object.entries(found.groups).find(([, part]) => part !== undefined);
    nodes.push(element(`span.code-${kind}`, {}, readable(found[0])));
    place = found.index + found[0].length;
  }
  nodes.push(readable(code.slice(place)));
  return nodes;
}

function writtenBlock({ kind, text, open }) {
  const plain = kind === "think" || kind === "outside";
  const shown = text.replace(/^\n+|\s+$/g, "");
  return element(
    `div.written.${kind}`,
    {},
    element(
      "h4",
      {},
      BLOCK_NAMES[kind] ?? "Outside the tags",
      open ? element("span.flag", {}, "not closed") : null,
    ),
    plain ? element("p", {}, readable(shown)) : element("pre", { tabindex: 0 }, element("code", {}, styledCode(shown))),
  );
}

/** Return the parts of a reward as a row of names and numbers. */
function rewardParts(reward) {
  const names = { accuracy: "accuracy", format: "format", step: "step", score: "score" };
  return element(
    "dl.reward",
    {},
    element("div.total", {}, element("dt", {}, "reward"), element("dd", {}, signed(reward.total, 3))),
    Object.entries(names)
      .filter(([key]) => key in reward)
      .map(([key, name]) => element("div", {}, element("dt", {}, name), element("dd", {}, fixed(reward[key])))),
  );
}

function rewarded(turn) {
  return Object.values(turn.reward).some((part) => part !== 0);
}

function turnCost(turn) {
  const { seconds, context_tokens: context, computed_tokens: computed, new_tokens: written } = turn.usage;
  const parts = [`policy ${duration(seconds)}`, `environment ${duration(turn.env_seconds)}`];
  if (typeof written === "number") parts.push(`${counted(written, "token")} written`);
  if (typeof context === "number") {
    parts.push(`context ${context.toLocaleString("en")}` + (typeof computed === "number" ? ` (${computed.toLocaleString("en")} computed)` : ""));
  }
  if (!rewarded(turn)) parts.push("reward 0");
  return parts.join(" \u00b7 ");
}

/** Return the card of a turn; `name` begins its id, which is the page's own. */
function turnCard(record, number, name = "turn") {
  const turn = record.turns[number];
  const blocks = textBlocks(turn);
  const title = `${name}-${number + 1}-title`;
  return element(
    "article.turn",
    { id: `${name}-${number + 1}`, tabindex: -1, "aria-labelledby": title, class: turn.error ? "turn failed" : "turn" },
    element(
      "header",
      {},
      element("h3", { id: title }, `Turn ${number + 1}`),
      turn.primitives.map((name) => element("span.chip-label", {}, name)),
      turn.error ? element("span.chip-label.bad", {}, `Error: ${turn.error}`) : null,
      element("span.cost", {}, turnCost(turn)),
    ),
    element(
      "div.exchange",
      {},
      element(
        "section.model",
        { "aria-label": "Model" },
        blocks.length ? blocks.map(writtenBlock) : element("p.quiet", {}, "The model wrote nothing."),
      ),
      element("section.environment", { "aria-label": "Environment" }, answerOf(record, number)),
    ),
    rewarded(turn) ? rewardParts(turn.reward) : null,
  );
}

/** Return what the environment answered, and the board where it changed unseen. */
function answerOf(record, number) {
  const turn = record.turns[number];
  const nodes = [element("h4", {}, "Environment"), textWithImages(record, turn.feedback, turn.images)];
  const figure = (tiles, title) =>
    element(
      "figure.picture",
      {},
      board(record, tiles, { marks: true, large: true }),
      element("figcaption", {}, title, " ", element("span.size", {}, placeCount(record, tiles))),
    );
  const before = number ? record.turns[number - 1].tiles : record.start;
  const seen = turn.images.some((image) => image.board && sameTiles(image.board, turn.tiles));
  if (turn.answer_tiles) nodes.push(element("div.pictures", {}, figure(turn.answer_tiles, "The answer")));
  else if (turn.tiles && !seen && !sameTiles(turn.tiles, before)) {
    nodes.push(element("div.pictures", {}, figure(turn.tiles, "The board now, which the model did not see")));
  }
  return nodes;
}
