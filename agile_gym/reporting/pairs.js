"use strict";
// Shows the same puzzles before and after, side by side; the episodes of the page are such pairs.

const CAPITAL = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

/** Return the puzzle whose episodes are at a place of the index and the one behind it. */
function pair(place, titles) {
  const records = [DATA.episode(place), DATA.episode(place + 1)];
  const turns = Math.max(...records.map((record) => record.turns.length));
  return element(
    "article.pair",
    { "aria-label": records[1].id },
    element(
      "header.pair-head",
      {},
      element("h3", {}, records[1].id),
      element("span.quiet", {}, kindOf(records[1], DATA.rows[place + 1])),
      records.map((record, side) => [element("span.quiet", {}, titles[side]), badge(record)]),
    ),
    records[1].names.length ? ends(records, titles) : shown(records[1]),
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
            behaviourChips(DATA.rows[place + side], (turn) => `#episode-${place + side}-turn-${turn}`),
            record.turns.map((_, number) => turnCard(record, number, `episode-${place + side}-turn`)),
            record.truncated ? element("p.quiet", {}, "The turns ran out.") : null,
          ),
        ),
      ),
    ),
  );
}

/** Return grid and level, or, of another environment than the jigsaw, the label of the episode. */
function kindOf(record, { grid, level }) {
  if (!record.names.length) return level;
  return level === null ? grid : `${grid}, level ${level}`;
}

/** Return the board as it was shown, the last one of each episode, and the solution. */
function ends(records, titles) {
  return element("ol.film", { "aria-label": "Boards", tabindex: 0 }, [
    frame(records[1], records[1].start, "Start", "as shown"),
    records.map((record, side) => frame(record, lastBoard(record), titles[side], lastTitle(record))),
    frame(records[1], records[1].solution_tiles, "Solution", "", null, false, "solution"),
  ]);
}

/** Return the images that an episode of another environment than the jigsaw begins with. */
function shown(record) {
  return element(
    "div.pictures",
    {},
    record.prompt_images.map((reference, number) => seenImage(record, reference, `Image ${number + 1}`)),
  );
}

function badge(record) {
  if (record.solved) return element("span.result.good", {}, "\u2713 right");
  const pieces = record.rows * record.cols;
  const right = typeof record.score === "number" ? Math.round(record.score * pieces) : record.score;
  const told = pieces ? `${right} of ${pieces} pieces right` : `score ${percent(record.score, 0)}`;
  return element("span.result.bad", {}, `\u2717 wrong, ${told}`);
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
