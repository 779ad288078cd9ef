"use strict";
// Shows the same puzzles before and after, side by side; the episodes of the page are such pairs.

const CAPITAL = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

/** Return the puzzle whose episodes are at a place of the index and the one behind it. */
function pair(place, titles) {
  const records = [DATA.episode(place), DATA.episode(place + 1)];
  const { level } = records[1].task;
  const grid = `${records[1].rows}x${records[1].cols}`;
  const turns = Math.max(...records.map((record) => record.turns.length));
  return element(
    "article.pair",
    { "aria-label": records[1].id },
    element(
      "header.pair-head",
      {},
      element("h3", {}, records[1].id),
      element("span.quiet", {}, level === null || level === undefined ? grid : `${grid}, level ${level}`),
      records.map((record, side) => [element("span.quiet", {}, titles[side]), badge(record)]),
    ),
    element("ol.film", { "aria-label": "Boards", tabindex: 0 }, [
      frame(records[1], records[1].start, "Start", "as shown"),
      records.map((record, side) => frame(record, lastBoard(record), titles[side], lastTitle(record))),
      frame(records[1], records[1].solution_tiles, "Solution", "", null, false, "solution"),
    ]),
    element(
      "details",
      { open: place === 0 },
      element("summary", {}, counted(turns, "turn")),
      element(
        "div.sides",
        {},
        records.map((record, side) =>
          element(
            "section.side",
            { "aria-label": `${titles[side]}, ${record.id}` },
            element("h4", {}, titles[side], " ", badge(record)),
            record.turns.map((_, number) => turnCard(record, number, `episode-${place + side}-turn`)),
            record.truncated ? element("p.quiet", {}, "The turns ran out.") : null,
          ),
        ),
      ),
    ),
  );
}

function badge(record) {
  const pieces = record.rows * record.cols;
  const right = typeof record.score === "number" ? Math.round(record.score * pieces) : record.score;
  return record.solved
    ? element("span.result.good", {}, "\u2713 right")
    : element("span.result.bad", {}, `\u2717 wrong, ${right} of ${pieces} pieces right`);
}

/** Return the answer, or the last board where none was given. */
function lastBoard(record) {
  return record.turns.reduce((tiles, turn) => turn.answer_tiles ?? turn.tiles ?? tiles, record.start);
}

function lastTitle(record) {
  if (record.turns.at(-1)?.answer_tiles) return "answer";
  return record.truncated ? "last board" : "no whole board";
}

const PAIRS = byId("pairs");
if (PAIRS !== null) {
  const titles = [PAIRS.dataset.before, PAIRS.dataset.after].map(CAPITAL);
  for (let place = 0; place < DATA.rows.length; place += 2) PAIRS.append(pair(place, titles));
}
