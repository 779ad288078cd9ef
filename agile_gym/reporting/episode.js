"use strict";
// Shows one episode: its result, the boards it went through, the prompt, the turns and the tokens.

/** Return the content of the page's main part for the episode at a place of the index. */
function episodeView(place) {
  const record = DATA.episode(place);
  return [
    episodeHead(record, DATA.rows[place]),
    filmstrip(record),
    promptFold(record),
    record.turns.map((_, number) => turnCard(record, number)),
    tokenSection(record, place),
    detailsFold(record),
  ];
}

function episodeHead(record, row) {
  const facts = [
    record.names.length ? `grid ${row.grid}` : row.grid,
    record.names.length && row.level !== null ? `level ${row.level}` : levelName(row.level),
    counted(row.turns, "turn"),
    record.truncated ? "turns ran out" : null,
    duration(row.seconds),
    row.tokens === null ? null : `${counted(row.tokens, "token")} written`,
    record.policy,
  ];
  return element(
    "header.episode-head",
    {},
    element(
      "div.title-line",
      {},
      element("h2", { id: "episode-title", tabindex: -1 }, record.id),
      element(`span.result.${record.solved ? "good" : "bad"}`, {}, record.solved ? "\u2713 Solved" : "\u2717 Not solved"),
      element(
        "nav.step",
        { "aria-label": "Episodes" },
        element("a.narrow-only", { href: "#/" }, "List"),
        element("button", { type: "button", id: "previous", click: () => stepEpisode(-1) }, "\u2190 Previous"),
        element("button", { type: "button", id: "next", click: () => stepEpisode(1) }, "Next \u2192"),
      ),
    ),
    element("p.facts", {}, facts.filter(Boolean).map((fact) => element("span", {}, fact))),
    behaviourChips(row, (turn) => `#${encodeURIComponent(record.id)}/${turn}`),
    rewardParts(record.reward),
  );
}

/** Return the behaviours that an episode shows, each leading to its first turn; null for none. */
function behaviourChips(row, link) {
  const shown = Object.entries(row.behaviours).filter(([, turn]) => turn !== null);
  if (!shown.length) return null;
  return element(
    "p.behaviours",
    {},
    shown.map(([name, turn]) => element("a", { href: link(turn) }, `${DATA.behaviours[name]} (turn ${turn})`)),
  );
}

/** Return the boards of the episode in a row, from the start to the solution; those of turns lead to them. */
function filmstrip(record) {
  if (!record.names.length) return null;
  const link = (number) => `#${encodeURIComponent(record.id)}/${number}`;
  const frames = [frame(record, record.start, "Start", "as shown")];
  record.turns.forEach((turn, number) => {
    const tiles = turn.primitives[0] === "Answer" ? turn.answer_tiles : turn.tiles;
    const what = turn.error ? turn.error : turn.primitives.join(", ") || "no action";
    frames.push(frame(record, tiles, `${number + 1}`, what, link(number + 1), turn.error !== null));
  });
  frames.push(frame(record, record.solution_tiles, "Solution", "", null, false, "solution"));
  return element("ol.film", { "aria-label": "Boards", tabindex: 0 }, frames);
}

function frame(record, tiles, title, what, href = null, failed = false, kind = "") {
  const content = [
    element("span.frame-title", {}, title, what ? element(`span.what${failed ? ".bad" : ""}`, { title: what }, what) : null),
    tiles ? board(record, tiles, { marks: kind !== "solution" }) : element("span.missing", {}, "not a whole board"),
    element("span.size", {}, tiles && kind !== "solution" ? placeCount(record, tiles) : "\u00a0"),
  ];
  const holder = href === null ? element("span.frame", {}, content) : element("a.frame", { href }, content);
  return element("li", { class: kind }, holder);
}

function fold(title, note, ...children) {
  return element(
    "details.fold",
    {},
    element("summary", {}, title, " ", element("span.quiet", {}, note)),
    element("div.fold-body", {}, children),
  );
}

function promptFold(record) {
  return fold(
    "Prompt",
    counted(record.prompt_images.length, "image"),
    record.system === null ? null : [element("h4", {}, "System"), element("p.said", {}, record.system)],
    record.system === null ? null : element("h4", {}, "User"),
    textWithImages(record, record.prompt, record.prompt_images),
  );
}

function detailsFold(record) {
  const facts = { ...record.task, solution: record.solution, ...record.details };
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return fold(
    "Details",
    "task, seeds, policy",
    element(
      "dl.details",
      {},
      Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, shown(value)))),
    ),
  );
}
